"""How large everything is that `python -m bench.gpu_check` measures: as real work on a GPU, or a toy for any CPU.

Letters: M stacked heads, B windows, T steps, D width.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A timm model at faces of `size_px`, and the least share of a matrix product's FLOP/s that is good enough."""

    name: str
    size_px: int
    matmul_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """`rounds` and `seconds` are of each ratio; the other names say what they count."""

    rounds: int
    seconds: float
    models: tuple[Model, ...]
    together: tuple[tuple[Model, ...], ...]
    batch_faces: int
    face_files: int
    matrix: int
    streams: int
    stream_width: int
    head: dict[str, Any]
    stack: int
    temporals: tuple[str, ...]
    live: Model
    videos: int
    video_frames: int
    grid: "Grid"
    graph_steps: int
    memory_steps: int
    demo_videos: int
    demo_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The headline: heads of every fusion, temporal encoder and set of tasks, `seeds` x `folds` of each; of every tenth
    stack so many evaluations are trained."""

    seeds: int
    folds: int
    steps: int
    eval_steps: int
    evaluations: int
    num_stacks: int


VIT_B = Model(name="vit_base_patch16_224", size_px=224, matmul_share=0.52)
VIT_L = Model(name="vit_large_patch16_224", size_px=224, matmul_share=0.60)
CONVNEXT_B = Model(name="convnext_base", size_px=224, matmul_share=0.38)
EFFICIENTNET = Model(name="efficientnet_b0", size_px=112)
TINY, TINY_CONV = Model(name="test_vit2", size_px=32, matmul_share=0.52), Model(name="test_mambaout", size_px=32)

FULL = Sizes(
    rounds=5,
    seconds=1.5,
    models=(VIT_B, VIT_L, CONVNEXT_B, EFFICIENTNET),
    together=((VIT_B, CONVNEXT_B), (EFFICIENTNET,) * 3),
    batch_faces=256,
    face_files=2048,
    matrix=8192,
    streams=3,
    stream_width=768,
    head={"width": 128, "window": 64, "stride": 32, "batch_windows": 32},
    stack=64,
    temporals=("none", "gru", "lstm", "ssm", "tcn", "tcn-multi", "transformer", "tcn-transformer"),
    live=VIT_B,
    videos=500,
    video_frames=340,
    grid=Grid(seeds=5, folds=5, steps=800, eval_steps=40, evaluations=4, num_stacks=12),
    graph_steps=6,
    memory_steps=3,
    demo_videos=12,
    demo_frames=24,
)
QUICK = Sizes(
    rounds=3,
    seconds=0.05,
    models=(TINY, TINY_CONV),
    together=((TINY, TINY_CONV),),
    batch_faces=8,
    face_files=16,
    matrix=128,
    streams=2,
    stream_width=12,
    head={"width": 8, "window": 8, "stride": 4, "batch_windows": 2, "num_heads": 2},
    stack=3,
    temporals=("gru", "tcn"),
    live=TINY,
    videos=10,
    video_frames=12,
    grid=Grid(seeds=2, folds=2, steps=8, eval_steps=2, evaluations=2, num_stacks=2),
    graph_steps=2,
    memory_steps=2,
    demo_videos=6,
    demo_frames=4,
)
