"""A project with faces on disk, a backbone that runs on them, its cache and trained heads: for predictions of faces."""

from pathlib import Path

from cache.frames import write_frames
from helpers.cli import call
from helpers.made_project import TOML
from helpers.small_faces import make_faces

FACES = """
[data]
faces = "faces"
"""
BACKBONE = """
[backbones.{name}]
model = "{model}"
weights = "random"
size_px = 32
"""


def make_face_project(folder: Path) -> None:
    """24 videos of 16 faces; call it in `folder`, in which the commands are typed. Runs `gru` and `none`, and the
    ensemble `both` of them."""
    write_frames(make_faces(folder / "faces"), folder / "frames.parquet")
    backbones = [BACKBONE.format(name=name, model=model) for name, model in (("va", "test_vit2"), ("au", "test_vit"))]
    (folder / "mtl.toml").write_text(FACES + TOML + "".join(backbones))
    call("extract", "--device", "cpu")
    call("train-head", "--name", "gru", "--temporal", "gru", "--device", "cpu")
    call("train-head", "--name", "none", "--temporal", "none", "--set", 'head.streams=["va"]', "--device", "cpu")
    call("ensemble", "gru", "none", "--name", "both")
    call("postprocess", "gru")
