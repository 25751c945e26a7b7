"""A masked autoencoder (He et al., arXiv 2111.06377) around timm's own ViT: sees a quarter of a face, draws the rest.

Letters: B faces, S side of the input in pixels, P side of a patch, L patches of a face, V visible ones, D width of the
encoder, R tokens before the patches (class token, registers). An `order` [B, L] is a shuffle of each face's patches:
the first V are seen, the others are drawn.
"""

import difflib
from collections.abc import Sequence

import numpy as np
import timm
import torch
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

HEAD_WIDTH = 32  # of the decoder's attention, as in the paper: 16 heads of 512
EPS = 1e-6  # beside the variance of a patch, the paper's


class MaskedAutoencoder(nn.Module):
    """An encoder that sees V patches of each face, and a small decoder that draws the others.

    The encoder is timm's module and nothing else; its state dict is that of a plain headless model.
    """

    def __init__(
        self, encoder: nn.Module, *, mask_ratio: float, decoder_width: int, decoder_depth: int, normalise: bool
    ) -> None:
        super().__init__()
        assert isinstance(encoder, VisionTransformer)
        self.patch_px: int = encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = tuple(encoder.patch_embed.grid_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = self.num_patches - round(self.num_patches * mask_ratio)
        self.normalise = normalise
        self.encoder = encoder
        self.encoder.patch_drop = Visible(encoder.num_prefix_tokens)
        for parameter in encoder.attn_pool.parameters() if encoder.attn_pool is not None else ():
            parameter.requires_grad_(False)  # pools after the last token; pretraining does not reach it
        self.decoder = Decoder(encoder, self.grid, 3 * self.patch_px**2, width=decoder_width, depth=decoder_depth)

    def forward(self, pixels: Tensor, order: Tensor) -> Tensor:
        """[B] float32: the mean squared error of each face over its masked patches."""
        drawn = self.draw(pixels, order).float()
        error = (drawn - self.targets(pixels)).square().mean(dim=-1)
        return error.gather(1, order[:, self.num_visible :]).mean(dim=1)

    def draw(self, pixels: Tensor, order: Tensor) -> Tensor:
        """[B, L, 3 P P]: all patches as the decoder draws them, those that were seen included."""
        return self.decoder(self.encode(pixels, order), order)

    def encode(self, pixels: Tensor, order: Tensor) -> Tensor:
        """[B, R + V, D]: timm's forward pass over the visible patches alone, normed wherever the model has its norm."""
        visible = self.encoder.patch_drop
        visible.order = order[:, : self.num_visible]
        try:
            return self.encoder.fc_norm(self.encoder.forward_features(pixels))
        finally:
            visible.order = None

    def targets(self, pixels: Tensor) -> Tensor:
        """[B, L, 3 P P]: the patches of `pixels`, each with mean 0 and deviation 1 where targets are normalised."""
        patches = patches_of(pixels, self.patch_px)
        if not self.normalise:
            return patches
        mean, deviation = spread_of(patches)
        return (patches - mean) / deviation

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor, order: Tensor) -> Tensor:
        """[B, 3, S, S]: the faces with their masked patches drawn and the visible ones as they were.

        What is drawn of a normalised patch gets the mean and deviation of the true one, for the model never says them.
        """
        patches = patches_of(pixels, self.patch_px)
        drawn = self.draw(pixels, order).float()
        if self.normalise:
            mean, deviation = spread_of(patches)
            drawn = drawn * deviation + mean
        seen = self.seen(order)[..., None]
        return pixels_of(torch.where(seen, patches, drawn), self.grid)

    def seen(self, order: Tensor) -> Tensor:
        """[B, L] bool: which patches are visible."""
        return torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, : self.num_visible], True)


class Visible(nn.Module):
    """Stands where timm drops patches at random, and lets through those of `order` [B, V], in that order."""

    order: Tensor | None = None

    def __init__(self, num_prefix: int = 0) -> None:
        super().__init__()
        self.num_prefix = num_prefix

    def forward(self, tokens: Tensor) -> Tensor:
        if self.order is None:
            return tokens
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        return torch.cat([prefix, pick(patches, self.order)], dim=1)


class Decoder(nn.Module):
    """A few transformer blocks over visible tokens and, in the place of the others, one learnt token [W]."""

    def __init__(
        self, encoder: VisionTransformer, grid: Sequence[int], patch_values: int, *, width: int, depth: int
    ) -> None:
        super().__init__()
        self.num_prefix: int = encoder.num_prefix_tokens
        self.positions: Tensor
        self.embed = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, patch_values)
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), width), persistent=False)
        self.apply(_initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """[B, R + V, D] and [B, L] -> [B, L, 3 P P], the patches in their places."""
        prefix, visible = self.embed(tokens).tensor_split([self.num_prefix], dim=1)
        num_masked = order.shape[1] - visible.shape[1]
        masked = self.mask_token.to(visible.dtype).expand(len(visible), num_masked, -1)
        patches = pick(torch.cat([visible, masked], dim=1), order.argsort(dim=1)) + self.positions
        tokens = self.blocks(torch.cat([prefix, patches], dim=1))
        return self.output(self.norm(tokens[:, self.num_prefix :]))


def check_vit(module: nn.Module, model: str, size_px: int) -> None:
    """Raises `ValueError` unless `module` is a ViT whose patches can be hidden and cover a face of `size_px`."""
    if not (isinstance(module, VisionTransformer) and type(module.patch_embed) is PatchEmbed):
        vits = timm.list_models("vit_*_patch*", module="vision_transformer")
        close = difflib.get_close_matches(model.partition(".")[0], vits, n=1)
        raise ValueError(
            f"--model {model}: masked pretraining is for ViTs whose patches are cut straight from the face "
            f"(timm's VisionTransformer); name one, as {(close or ['vit_small_patch16_224'])[0]}"
        )
    height, width = module.patch_embed.patch_size
    if height != width or size_px % height:
        raise ValueError(
            f"--model {model}: faces of {size_px} px cannot be cut into patches of {width} px; set pretrain.size_px "
            f"to a multiple, as {max(height, size_px // height * height)}"
        )


def spread_of(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch's values, [B, L, 1] both."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPS).sqrt()


def patches_of(pixels: Tensor, patch_px: int) -> Tensor:
    """[B, 3, S, S] -> [B, L, P P 3], row by row."""
    num_faces, channels, height, width = pixels.shape
    cut = pixels.reshape(num_faces, channels, height // patch_px, patch_px, width // patch_px, patch_px)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def pixels_of(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patches_of`: [B, L, P P 3] -> [B, 3, S, S]."""
    side = round((patches.shape[-1] // 3) ** 0.5)
    cut = patches.reshape(len(patches), *grid, side, side, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, grid[0] * side, grid[1] * side)


def draw_orders(num_faces: int, num_patches: int, rng: np.random.Generator) -> np.ndarray:
    """[B, L] int64: a shuffle of the patches for each face."""
    return rng.random((num_faces, num_patches), dtype=np.float32).argsort(axis=1)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """[B, L, D] and [B, V] -> [B, V, D]: the tokens at `index`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def _initialise(module: nn.Module) -> None:
    """As the paper's: uniform by Glorot and Bengio."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
