"""A backbone so small that it is compiled in seconds.

`compiled_pass SCALE` compiles a wider one, its weights times SCALE, and prints the hits and misses of the kernels kept
before, and how far its embeddings are from those of the plain pass.
"""

import sys
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from extract.backbones import passes
from extract.backbones.build import Backbone
from extract.backbones.runtime import Runtime, embedder
from extract.config import BackboneConfig, Preprocessing

CPU = torch.device("cpu")
SIZE_PX, WIDTH = 16, 6
COMPILED = Runtime(mode="compiled")


class Tiny(nn.Module):
    """[B, 3, S, S] -> [B, D]. Runs out of memory, in the CPU's words or CUDA's, for more than `most` faces."""

    def __init__(self, most: int = 10**6, cuda: bool = False, width: int = WIDTH) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, width, 4, stride=4)
        self.most, self.cuda_error, self.sizes = most, cuda, []

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.sizes.append(len(x))
        if len(x) > self.most:
            if self.cuda_error:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return self.layer(x).mean((2, 3))


def plainly(backbone: Backbone, precision: passes.Precision, device: torch.device) -> passes.ForwardPass:
    return passes.eager(backbone, precision, device, 0)


def tiny(most: int = 10**6, cuda: bool = False, module: nn.Module | None = None) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (module or Tiny(most, cuda)).eval()
    return Backbone(
        name="expr",
        config=BackboneConfig(model="tiny", weights="random"),
        module=module,
        architecture="tiny",
        preprocessing=Preprocessing(size_px=SIZE_PX, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        pooling="avg",
        width=WIDTH,
        weights_digest="",
    )


def some_faces(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8, generator=generator)


def compiler_settings() -> AbstractContextManager[None]:
    """Compiling takes half as long where the compiler is not tried on what the processor says that it can do."""
    settings: AbstractContextManager[None] = torch._inductor.config.patch({"cpp.vec_isa_ok": True})
    return settings


def main() -> None:
    backbone = tiny(module=Tiny(width=WIDTH + 2))
    backbone.module.layer.weight.data *= float(sys.argv[1])
    with compiler_settings():
        found = embedder(backbone, COMPILED, CPU, 8)(some_faces(8)).float()
    plain = plainly(backbone, "float32", CPU)(some_faces(8)).float()
    counters = torch._dynamo.utils.counters["inductor"]
    print(counters["fxgraph_cache_hit"], counters["fxgraph_cache_miss"], float((found - plain).abs().max()))
