"""`mtl finetune --task valence`: a backbone of one column, learnt from all that has it."""

from helpers.small_faces import Given, run
from pipelines.config import Config, read_config


def test_a_backbone_of_one_column(project: Config, faces: Given) -> None:
    result = run(project, faces[1], "valence,expr", epochs=2)
    assert {"va.ccc_valence", "expr.f1_macro"} <= set(result.metrics)
    assert "va.ccc_arousal" not in result.metrics
    section = read_config(project.folder / "mtl.toml").backbones["joint"]
    assert section.tasks == ("valence", "expr")
    assert read_config(project.folder / "mtl.toml").own_streams(("va",)) == ("joint",)
