"""Every number of mtl.toml and of grids has a range, which holds wherever the number is read."""

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Interval, MinLen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from extract.config import BackboneConfig, Preprocessing
from heads.config import Fusion, HeadConfig, LossConfig, Temporal, head_problem
from heads.fusion import FUSIONS
from heads.model import build_head
from heads.ranges import hints_of, in_range, range_problem, split_annotation
from heads.temporal import TEMPORALS
from pipelines.config import SECTIONS, Config, FaceSetConfig, parse_config, read_config
from pipelines.search.grid import StudyConfig, expand, parse_grid
from pipelines.strategy import PARTS, Strategy, problem_of
from pipelines.typed import from_mapping, to_mapping

SECTION_CLASSES = {**SECTIONS, "backbones.face": BackboneConfig}
OTHER_CLASSES = {"[[finetune.data]]": FaceSetConfig, "[study]": StudyConfig, "preprocessing": Preprocessing}
CONFIG = Config(backbones={"face": BackboneConfig(model="m", tasks=("va", "expr", "au"))})
FREE_TEXTS = {
    "outside",
    "class_embeddings",
    "attributes",
    "licence",
    "score",
    "output",
    "file_digest",
    "rand_augment",
    "rename",
    "name",
    "storage",
}  # "" is "none"


def leaves(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every kind of value an annotation allows, with its limits: those in unions and tuples too."""
    kind, limits = split_annotation(annotation)
    if get_origin(kind) in (Union, types.UnionType, tuple):
        for each in get_args(kind):
            yield from leaves(each)
    elif kind is not Ellipsis and get_origin(kind) is not Literal:
        yield kind, limits


def fields() -> list[tuple[str, str, Any, Any, tuple[Any, ...]]]:
    """(section, field, annotation, kind, limits) of all there is to set."""
    classes = {**SECTION_CLASSES, **OTHER_CLASSES}
    return [
        (section, name, annotation, kind, limits)
        for section, cls in classes.items()
        for name, annotation in hints_of(cls).items()
        for kind, limits in leaves(annotation)
    ]


NUMBERS = [field for field in fields() if field[3] in (int, float)]


def test_every_number_has_a_range_with_two_ends_and_every_text_says_whether_it_may_be_empty() -> None:
    assert len(NUMBERS) > 80
    for section, name, _, kind, limits in fields():
        if kind in (int, float):
            (interval,) = [limit for limit in limits if isinstance(limit, Interval)]
            assert interval.ge is not None or interval.gt is not None, f"[{section}] {name} has no least value"
            assert interval.le is not None or interval.lt is not None, f"[{section}] {name} has no greatest value"
        if kind is str and name not in FREE_TEXTS:
            assert any(isinstance(limit, MinLen) for limit in limits), f"[{section}] {name} may be empty"


def test_every_default_lies_in_its_range() -> None:
    for cls in (HeadConfig, LossConfig, *SECTIONS.values(), StudyConfig):
        assert range_problem(cls()) is None, cls
        assert from_mapping(cls, to_mapping(cls()), "x") == cls()


def around(limits: tuple[Any, ...], kind: type) -> list[float]:
    """Values at, just inside and just beyond each end, far beyond, and no numbers at all."""
    (interval,) = [limit for limit in limits if isinstance(limit, Interval)]
    ends = [end for end in (interval.ge, interval.gt, interval.le, interval.lt) if end is not None]
    if kind is int:
        return [end + step for end in ends for step in (-1, 0, 1)] + [-(10**400), 10**400]
    steps = [math.nextafter(end, way) for end in ends for way in (-math.inf, math.inf)]
    return [*map(float, ends), *steps, *(end + 1 for end in ends), -1e308, 1e308, math.nan, math.inf, -math.inf]


def written(value: Any) -> str:
    return "nan" if value != value else str(value)


def document(section: str, name: str, value: Any) -> str:
    model = '\nmodel = "m"' if section.startswith("backbones") else ""
    return f"[{section}]{model}\n{name} = {listed(name, value)}\n"


def listed(name: str, value: Any) -> str:
    """`value` as TOML: where a field is a list of numbers, all of them this one."""
    if name in ("mean", "std"):
        return f"[{', '.join([written(value)] * 3)}]"
    return f"[[{written(value)}, 0.0]]" if name == "template" else written(value)


@pytest.mark.parametrize(("section", "name", "kind", "limits"), [(s, n, k, ls) for s, n, _, k, ls in NUMBERS])
def test_values_at_and_beyond_each_end(section: str, name: str, kind: type, limits: Any, tmp_path: Path) -> None:
    """From a file and by --set alike; what is refused names the field, on one line, however long the number is."""
    path = tmp_path / "mtl.toml"
    for value in around(limits, kind):
        fits = in_range(value, limits)
        if section == "[study]":
            check(fits, name, from_mapping, StudyConfig, {name: value}, section)
        elif section == "[[finetune.data]]":
            check(fits, name, from_mapping, FaceSetConfig, {"faces": "f", "frames": "t", name: value}, section)
        elif section in SECTION_CLASSES:
            path.write_text(document(section, name, value))
            check(fits, name, read_config, path)
            path.write_text('[backbones.face]\nmodel = "m"\n')
            check(fits, name, read_config, path, [f"{section}.{name}={listed(name, value)}"])


def check(fits: bool, name: str, read: Any, *arguments: Any) -> None:
    """`read` takes its arguments where they are in range, else refuses them in one line that names the field."""
    if fits:
        read(*arguments)
        return
    with pytest.raises(ValueError, match=name) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@settings(max_examples=300)
@given(
    st.sampled_from([(name, *leaf) for cls in PARTS.values() for name, hint in hints_of(cls).items()
                     for leaf in leaves(hint) if leaf[0] in (int, float)]),
    st.data(),
)  # fmt: skip
def test_a_grid_and_a_run_read_back_refuse_what_the_file_refuses(
    field: tuple[str, type, Any], data: st.DataObject
) -> None:
    name, kind, limits = field
    numbers = st.integers() if kind is int else st.floats()
    value = data.draw(st.sampled_from(around(limits, kind)) | numbers)
    fits = in_range(value, limits) and type(value) in (int, kind)
    part = next(part for part, cls in PARTS.items() if name in hints_of(cls))
    check(fits, name, parse_grid, {"set": {name: value}}, Path("g.toml"))
    check(fits, name, parse_grid, {"product": {name: [value]}}, Path("g.toml"))
    check(fits, name, parse_grid, {"when": {"fusion": {"sum": {name: [value]}}}}, Path("g.toml"))
    check(fits, name, Strategy().replace, {name: value}, "run.json")
    check(fits, name, parse_config, {part: {name: value}}, Path(), "mtl.toml")


def test_runs_and_studies_are_held_to_ranges_when_read_back() -> None:
    flat = json.loads(json.dumps(Strategy().flat()))
    assert Strategy().replace(flat, "run.json") == Strategy()
    with pytest.raises(ValueError, match=r"run.json width: expected a whole number from 1 to 8192, found 10000000"):
        Strategy().replace({**flat, "width": 10**7}, "run.json")


@pytest.mark.parametrize(
    "text",
    [
        '[data]\nfaces = ""',
        '[data]\nfaces = "  "',
        '[data]\nfaces = "a\\u0000b"',
        '[train]\nview = ""',
        '[train]\naugment = ["hflip", ""]',
        '[head]\nstreams = [""]',
        '[backbones.face]\nmodel = ""',
        '[backbones.face]\nmodel = "m"\nweights = " "',
        '[finetune]\ninit = ""',
    ],
)
def test_texts_that_must_not_be_empty(text: str) -> None:
    with pytest.raises(ValueError, match=r"mtl\.toml: "):
        parse_config(tomllib.loads(text), Path(), "mtl.toml")


def test_the_names_a_head_may_have_are_those_of_the_registries() -> None:
    assert get_args(Fusion) == tuple(FUSIONS)
    assert get_args(Temporal) == tuple(TEMPORALS)


HEADS = st.fixed_dictionaries(
    {
        "fusion": st.sampled_from(get_args(Fusion)),
        "temporal": st.sampled_from(get_args(Temporal)),
        "width": st.integers(-1, 40) | st.sampled_from([8193, 10**7]),
        "depth": st.integers(-1, 3) | st.just(65),
        "num_heads": st.integers(-1, 9) | st.just(257),
        "kernel": st.integers(-1, 8) | st.just(1025),
        "dropout": st.sampled_from([-0.1, 0.0, 0.5, 1.0, math.nan]),
        "tasks": st.sampled_from([(), ("va",), ("va", "va"), ("va", "expr", "au")]),
    }
)


@settings(max_examples=300)
@given(HEADS)
@example({"temporal": "tcn", "kernel": 4})
@example({"temporal": "transformer", "width": 4, "num_heads": 4, "fusion": "sum"})
@example({"temporal": "tcn", "depth": 64})
def test_a_grid_refuses_exactly_the_heads_that_cannot_be_built(values: dict[str, Any]) -> None:
    config = dataclasses.replace(HeadConfig(width=16, num_heads=2), **values)
    problem = head_problem(config)
    assert problem_of(Strategy(head=config), CONFIG) == problem
    if problem is None:
        build_head(config, {"face": 3})
        return
    with pytest.raises(ValueError, match="head: ") as caught:
        build_head(config, {"face": 3})
    assert str(caught.value) == f"head: {problem}"


@pytest.mark.parametrize(("temporal", "most"), [("tcn", 19), ("tcn-multi", 15), ("tcn-transformer", 19)])
def test_no_convolution_spans_more_steps_than_a_window_may_have(temporal: Temporal, most: int) -> None:
    assert head_problem(HeadConfig(temporal=temporal, depth=most)) is None
    assert "so take fewer" in (head_problem(HeadConfig(temporal=temporal, depth=most + 1)) or "")
    assert head_problem(HeadConfig(temporal=temporal, depth=64, kernel=1)) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"streams": []}, "streams = []: name at least one stream"),
        ({"streams": ["face", "face"]}, "streams = ['face', 'face']: name each stream once"),
        ({"tasks": ["va", "au"], "task_weights": {"va": 0, "au": 0.0}}, "all of tasks = ['va', 'au'] have 0"),
        ({"tasks": ["va", "au"], "task_weights": {"va": 0}}, ""),
    ],
)
def test_what_leaves_nothing_to_read_or_to_learn_is_refused(values: dict[str, Any], message: str) -> None:
    problem = problem_of(Strategy().replace(values, "test"), CONFIG)
    assert message in problem if message and problem else problem is None and not message


def test_a_grid_says_so_before_anything_is_trained() -> None:
    grid = parse_grid({"product": {"kernel": [3, 4], "temporal": ["tcn"]}}, Path("g.toml"))
    problems = [problem_of(one, CONFIG) for one in expand(grid, Strategy())]
    assert problems == [None, "tcn: kernel = 4 must be odd, for as many steps before as after"]
