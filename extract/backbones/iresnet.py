"""Residual nets of face recognition ("IR"), registered with timm: `timm.create_model("iresnet50")`, `model = "ir50"`.

He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), in the form of Deng et al., "ArcFace: Additive
Angular Margin Loss for Deep Face Recognition" (CVPR 2019): blocks BN - conv - BN - PReLU - conv - BN, no pooling after
the first convolution, and at the end the 7 x 7 map that 112-pixel faces give, flattened and connected to 512 numbers.
Three families of published weights differ in small things, and each has models of its own here:

- `iresnet18` .. `iresnet200`: insightface (arcface_torch). A 1 x 1 convolution is the shortcut of every first block.
- `adaface_ir18` .. `adaface_ir101`: AdaFace. The first block of the first stage takes every other pixel instead, and
  the last norm has no weights. AdaFace's nets see BGR faces: loading their weights turns the first convolution round,
  so that these models take RGB as all others do.
- `ir50`, `ir101`, `ir152`, `irse50`, ...: face.evoLVe and InsightFace_Pytorch. As AdaFace's, but without the norm
  between convolution and PReLU and with weights in the last one; `se` with squeeze and excitation.

Inside, the tensors have insightface's names; `checkpoint_filter_fn` turns the other two families' names into them.
The fully connected layer belongs to the map of 112-pixel faces. Other maps are averaged to 7 x 7 first, so every model
takes faces of every size; checkpoints made for 224 pixels, whose layer wants 14 x 14, do not fit.

Letters: B faces, C channels, H and W of a map, D width, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, SEModule
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional

from extract.backbones.iresnet_families import ADAFACE, EVOLVE, EVOLVE_SE, INSIGHTFACE, Family, in_our_names

MAP = 7  # the side of the last map of 112-pixel faces
SE_RATIO = 1 / 16


class IBasicBlock(nn.Module):
    """BN - conv - (BN) - PReLU - conv - BN - (SE), and a shortcut: [B, C, H, W] to [B, C', H / stride, W / stride]."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, family: Family, drop_path: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chs)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs) if family.middle_norm else nn.Identity()
        self.prelu = nn.PReLU(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chs)
        self.se = SEModule(out_chs, SE_RATIO, rd_divisor=1, bias=False) if family.se else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(in_chs, out_chs, stride, family)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        residual = self.se(self.bn3(self.conv2(residual)))
        return self.drop_path(residual) + self.downsample(x)


class IResNet(nn.Module):
    """An IR net as timm's models are: [B, 3, S, S] -> [B, D] with `num_classes` 0, else [B, K].

    `head` is the classifier on top of the embedding, which `fc` and the norm `features` make of the last map.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 14, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        family: Family = INSIGHTFACE,
        num_features: int = 512,
        num_classes: int = 0,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.family, self.depths = family, tuple(depths)
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, num_features, num_features
        self.grad_checkpointing = False
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(in_chs, out_chs, stage_rates.tolist(), family)
            for in_chs, out_chs, stage_rates in zip((widths[0], *widths[:-1]), widths, rates, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.dropout = nn.Dropout(drop_rate)
        self.fc = nn.Linear(widths[-1] * MAP * MAP, num_features)
        self.features = nn.BatchNorm1d(num_features, affine=family.last_norm_weights)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups the parameters into layers: the stem, each block, and what makes the embedding."""
        return {
            "stem": r"^(?:conv1|bn1|prelu)\.",
            "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)",
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the backward pass computes the blocks again instead of keeping their maps."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The layer from the embedding to the classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh layer for `num_classes`; none for 0."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Faces [B, 3, S, S] to the last map [B, C, H, W]."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            again = self.grad_checkpointing and self.training
            x = checkpoint_seq(stage, x) if again else stage(x)
        return self.bn2(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to the embedding [B, D], and on to the classes."""
        if x.shape[-2:] != (MAP, MAP):  # nothing to average is left out: its backward is not repeatable on CUDA
            x = functional.adaptive_avg_pool2d(x, MAP)
        x = self.features(self.fc(self.dropout(torch.flatten(x, 1))))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class EveryOther(nn.Module):
    """Every `stride`-th pixel in both directions, which is max pooling with a kernel of 1."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]


def _shortcut(in_chs: int, out_chs: int, stride: int, family: Family) -> nn.Module:
    if in_chs != out_chs or (stride != 1 and not family.strided_shortcut):
        return nn.Sequential(nn.Conv2d(in_chs, out_chs, 1, stride, bias=False), nn.BatchNorm2d(out_chs))
    return EveryOther(stride) if stride != 1 else nn.Identity()


def _stage(in_chs: int, out_chs: int, rates: Sequence[float], family: Family) -> nn.Sequential:
    """One block for each rate of drop path; the first one halves the map."""
    first = IBasicBlock(in_chs, out_chs, 2, family, rates[0])
    return nn.Sequential(first, *(IBasicBlock(out_chs, out_chs, 1, family, rate) for rate in rates[1:]))


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: IResNet) -> dict[str, Tensor]:
    """The conversion that timm looks for under this name: a checkpoint of the model's family, in our names."""
    return in_our_names(state, model.family, model.depths)


CFG = {
    "url": "",
    "num_classes": 0,
    "input_size": (3, 112, 112),
    "pool_size": (MAP, MAP),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "conv1",
    "classifier": "head",
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "iresnet18": {"depths": (2, 2, 2, 2)},
    "iresnet34": {"depths": (3, 4, 6, 3)},
    "iresnet50": {"depths": (3, 4, 14, 3)},
    "iresnet100": {"depths": (3, 13, 30, 3)},
    "iresnet200": {"depths": (6, 26, 60, 6)},
    "adaface_ir18": {"depths": (2, 2, 2, 2), "family": ADAFACE},
    "adaface_ir34": {"depths": (3, 4, 6, 3), "family": ADAFACE},
    "adaface_ir50": {"depths": (3, 4, 14, 3), "family": ADAFACE},
    "adaface_ir101": {"depths": (3, 13, 30, 3), "family": ADAFACE},
    "ir50": {"depths": (3, 4, 14, 3), "family": EVOLVE},
    "ir101": {"depths": (3, 13, 30, 3), "family": EVOLVE},
    "ir152": {"depths": (3, 8, 36, 3), "family": EVOLVE},
    "irse50": {"depths": (3, 4, 14, 3), "family": EVOLVE_SE},
    "irse101": {"depths": (3, 13, 30, 3), "family": EVOLVE_SE},
    "irse152": {"depths": (3, 8, 36, 3), "family": EVOLVE_SE},
    "test_iresnet": {"depths": (1, 2, 1, 1), "widths": (8, 16, 24, 32), "num_features": 64},
}
default_cfgs = generate_default_cfgs(dict.fromkeys(ARCHITECTURES, CFG))


def _register(name: str) -> None:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        return build_model_with_cfg(IResNet, name, pretrained, **{**ARCHITECTURES[name], **options})

    create.__name__ = name
    register_model(create)


for _name in ARCHITECTURES:
    _register(_name)
