"""The main job on real faces with real pretrained backbones; skips where those are absent.

Every fourth frame, small inputs, four trials: whether the path works on real pixels, not how well.
"""

from pathlib import Path

import polars as pl
import pytest

from bench import real_faces

GRID = """\
[study]
name = "real"

[set]
steps = 18
width = 32

[product]
streams = [["mobilenet"], ["mobilenet", "efficientnet"]]
temporal = ["none", "gru"]
"""


@pytest.mark.real
@pytest.mark.slow
def test_the_main_job_on_real_faces(real_data: Path, tmp_path: Path) -> None:
    lines = real_faces.run(real_data, tmp_path, size_px=64, grid=GRID, every=4)
    assert [line.split()[0] for line in lines[:4]] == ["init", "prepare", "extract", "search"]
    assert len(lines) == 4 + 1 + 4
    study = tmp_path / "studies" / "real"
    assert (study / "report.html").stat().st_size > 100_000
    said = pl.concat(pl.read_parquet(path) for path in study.glob("runs/*/predictions.parquet"))
    assert set(said["part"]) == {"select", "report"}
    assert said["valence"].is_between(-1, 1).all()
    assert said["expression"].n_unique() > 1
