"""What `mtl train-head` and `mtl search` say to type next where streams, weights or backbones are missing."""

import json
from pathlib import Path

import pytest

from cache.store import Cache
from helpers.cli import call, refused, typed
from pipelines.config import parse_config
from pipelines.needed_streams import open_cache
from pipelines.recipes import PAGE

GRID = '[product]\ntemporal = ["none", "gru"]\n'
BACKBONES = {
    "own": {"model": "test_vit", "weights": "backbones/own.safetensors", "tasks": ["va", "expr"]},
    "public": {"model": "vit_base_patch16_224", "weights": "weights/fsfm_vit_base.pth"},
    "audio": {"model": "audio:log-mel"},
    "made": {"model": "imported:x", "weights": "none"},
    "fetched": {"model": "test_vit2"},
}


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        ([("fetched", "base")], "type `mtl extract --backbone fetched`"),
        ([("fetched", "hflip"), ("audio", "hflip")], "type `mtl extract --backbone fetched,audio --views hflip`"),
        (
            [("fetched", "base"), ("own", "base")],
            "backbones/own.safetensors, the weights of [backbones.own], is not there: train it by `mtl finetune --task "
            "va,expr --name own --model test_vit`, or put the file there; then `mtl extract --backbone fetched,own`",
        ),
        (
            [("public", "base")],
            "weights/fsfm_vit_base.pth, the weights of [backbones.public], is not there: `mtl backbones show fsfm-b` "
            "says how to get it; then `mtl extract --backbone public`",
        ),
        ([("made", "base")], "type `mtl cache import made FILE`"),
        ([("gone", "base")], "mtl.toml has no [backbones.gone]; add it, or `mtl cache import gone FILE`"),
    ],
)
def test_what_comes_first(tmp_path: Path, needed: list[tuple[str, str]], words: str) -> None:
    config = parse_config({"backbones": BACKBONES}, tmp_path, "mtl.toml")
    with pytest.raises(ValueError, match="there is no cache here; ") as caught:
        open_cache(config, needed)
    assert str(caught.value) == f"{tmp_path / 'cache.zarr'}: there is no cache here; {words}"
    Cache.open(tmp_path / "cache.zarr", create=True)
    with pytest.raises(ValueError, match=r"no stream .* \(there: none\); ") as caught:
        open_cache(config, needed)
    assert str(caught.value).endswith(words)


def test_one_command_extracts_all_that_mtl_toml_has(tmp_path: Path) -> None:
    config = parse_config({"backbones": {name: BACKBONES[name] for name in ("audio", "fetched")}}, tmp_path, "mtl.toml")
    with pytest.raises(ValueError, match=r"; type `mtl extract`$"):
        open_cache(config, [("fetched", "base"), ("audio", "base")])


def test_the_commands_say_it_in_one_line(project: Path) -> None:
    (project / "small.toml").write_text(GRID)
    Cache.open(project / "cache.zarr").remove("expr")
    said = "cache.zarr: no stream expr (there: au, va); type `mtl extract --backbone expr`"
    assert said in refused("train-head")
    assert said in refused("search", "--grid", "small.toml")
    assert said in json.loads(call("search", "--grid", "small.toml", "--dry-run", "--json"))["how"]


def test_without_backbones_the_grid_is_not_blamed(project: Path) -> None:
    (project / "small.toml").write_text(GRID)
    text = (project / "mtl.toml").read_text()
    (project / "mtl.toml").write_text(text.partition("[backbones.")[0])
    says = "mtl.toml names no backbone; type `mtl finetune --task va --model vit_base_patch16_224`, or enter public"
    for words in (["train-head"], ["search", "--grid", "small.toml", "--dry-run"], ["search", "--grid", "small.toml"]):
        error = refused(*words)
        assert says in error
        assert error.rstrip().endswith("; then `mtl extract`")
        assert "strategies" not in error
    (project / PAGE).write_text("# a recipe\n")
    assert f"{PAGE} has the commands that make them, then type `mtl extract`" in typed("train-head").err
