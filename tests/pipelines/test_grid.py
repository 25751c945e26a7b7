"""The grid language: what is expanded, in what order, and what a misspelt word is answered with."""

import dataclasses
import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.config import BackboneConfig
from pipelines.config import Config, SplitConfig, TrainConfig
from pipelines.project import packaged_grids
from pipelines.search.grid import check, expand, find_grid, parse_grid, read_grid
from pipelines.search.search_plan import read_strategies
from pipelines.strategy import Strategy, strategy_of

CONFIG = Config(backbones={name: BackboneConfig(model="test_vit2", tasks=(name,)) for name in ("va", "expr", "au")})


def grid_of(text: str):
    return parse_grid(tomllib.loads(text), Path("g.toml"), text)


def chosen(text: str, *fields: str) -> list[tuple]:
    return [tuple(one.flat()[name] for name in fields) for one in expand(grid_of(text), strategy_of(CONFIG))]


def test_a_product_is_expanded_in_the_files_order_the_last_field_fastest() -> None:
    found = chosen('[product]\ntemporal = ["gru", "none"]\nseed = [1, 0]', "temporal", "seed")
    assert found == [("gru", 1), ("gru", 0), ("none", 1), ("none", 0)]


def test_folds_are_expanded_into_their_inner_parts() -> None:
    """The first part is the fold itself: trials of a study without inner parts are found again."""
    grid = grid_of('[product]\nfold = ["none", 0, "2", "1.1"]\nseed = [0, 1]')
    found = [(str(one.train.fold), one.train.seed) for one in expand(grid, strategy_of(CONFIG), 3)]
    parts = [["none"], ["0", "0.1", "0.2"], ["2", "2.1", "2.2"], ["1.1"]]
    assert found == [(fold, seed) for folds in parts for seed in (0, 1) for fold in folds]
    plain = expand(grid, strategy_of(CONFIG))
    assert {one.digest for one in plain} < {one.digest for one in expand(grid, strategy_of(CONFIG), 3)}


@pytest.mark.parametrize(("inner_folds", "num_folds"), [(0, 5), (5, 5), (1000, 5)])
def test_inner_folds_that_cannot_be_are_refused(tmp_path: Path, inner_folds: int, num_folds: int) -> None:
    (tmp_path / "g.toml").write_text("[product]\nfold = [0, 1]\n")
    split = SplitConfig(inner_folds=inner_folds, num_folds=num_folds)
    with pytest.raises(ValueError, match=rf"inner_folds = {inner_folds}: .* 1 to 4 of them"):
        read_strategies(dataclasses.replace(CONFIG, split=split), tmp_path / "g.toml")


def test_what_is_not_named_keeps_the_value_of_the_configuration() -> None:
    (only,) = expand(grid_of("[set]\nwidth = 64"), strategy_of(CONFIG))
    assert only == strategy_of(CONFIG).replace({"width": 64}, "here")


def test_rows_are_combined_with_the_product_and_replace_its_fields() -> None:
    text = """
    [set]
    window = 16
    [product]
    fusion = ["sum", "gated"]
    seed = [0, 1]
    [[list]]
    window = 32
    stride = 8
    [[list]]
    fusion = "concat"
    """
    found = chosen(text, "window", "stride", "fusion", "seed")
    first = [(32, 8, fusion, seed) for fusion in ("sum", "gated") for seed in (0, 1)]
    assert found == [*first, (16, 32, "concat", 0), (16, 32, "concat", 1)]


def test_sub_spaces_are_products_of_their_own_joined() -> None:
    text = """
    [product]
    seed = [0, 1]
    [space.frame_wise]
    temporal = ["none"]
    width = [64, 128]
    [space.windows]
    temporal = ["gru"]
    window = [32]
    """
    found = chosen(text, "temporal", "width", "window", "seed")
    kept = strategy_of(CONFIG).flat()
    frame_wise = [("none", width, kept["window"], seed) for width in (64, 128) for seed in (0, 1)]
    assert found == [*frame_wise, *[("gru", kept["width"], 32, seed) for seed in (0, 1)]]


def test_weights_of_tasks_that_are_not_trained_make_no_further_trial() -> None:
    text = "[product]\ntasks = [['va'], ['va', 'expr']]\ntask_weights = [{va = 2.0}, {va = 2.0, expr = 3.0}, {}]"
    found = expand(grid_of(text), strategy_of(CONFIG))
    assert [(one.head.tasks, dict(one.loss.task_weights)) for one in found] == [
        (("va",), {"va": 2.0}),
        (("va",), {}),
        (("va", "expr"), {"va": 2.0}),
        (("va", "expr"), {"va": 2.0, "expr": 3.0}),
        (("va", "expr"), {}),
    ]
    surplus = found[0].replace({"task_weights": {"va": 2.0, "expr": 3.0}}, "here")
    assert (surplus.digest, surplus.arm) == (found[0].digest, found[0].arm)
    assert len({one.digest for one in found}) == len(found)


def test_sub_spaces_are_sections() -> None:
    with pytest.raises(ValueError, match=r"a sub-space is a section \[space.NAME\]"):
        grid_of("[space]\nwidth = [1]")
    with pytest.raises(ValueError, match=r"\[space.wide\].*'widht' \(did you mean 'width'\?\)"):
        grid_of("[space.wide]\nwidht = [1]")


def test_conditions_apply_where_they_hold_and_nowhere_else() -> None:
    text = '[product]\ntemporal = ["gru", "transformer"]\n[when.temporal.transformer]\nnum_heads = [2, 8]'
    assert chosen(text, "temporal", "num_heads") == [("gru", 4), ("transformer", 2), ("transformer", 8)]


def test_a_condition_may_ask_for_the_default_of_a_field_the_grid_does_not_name() -> None:
    assert chosen("[when.temporal.ssm]\ndepth = [1, 3]", "depth") == [(1,), (3,)]
    assert chosen("[when.class_weights.true]\nlr = 0.5", "lr") == [(0.5,)]
    assert chosen('[when.tasks."expr,va,au"]\nlr = 0.5', "lr") == [(0.5,)]


def test_a_condition_can_hang_on_what_another_one_gives_whatever_their_order() -> None:
    text = """
    [when.num_heads.8]
    dropout = 0.5
    [when.temporal.transformer]
    num_heads = [4, 8]
    [product]
    temporal = ["transformer", "gru"]
    """
    found = chosen(text, "temporal", "num_heads", "dropout")
    assert found == [("transformer", 4, 0.3), ("transformer", 8, 0.5), ("gru", 4, 0.3)]


def test_equal_strategies_are_kept_once() -> None:
    text = '[product]\ntasks = [["va", "expr"], ["expr", "va"]]\nlr = [1, 1.0]\nseed = [0, 0]'
    assert chosen(text, "tasks", "lr") == [(["va", "expr"], 1.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[prodct]\nseed = [0]", ["g.toml", "[prodct]", "'product'"]),
        ("temporal = ['gru']", ["[temporal]", "[product] or [set]"]),
        ("[product]\ntemporel = ['gru']", ["[product]", "'temporel'", "'temporal'"]),
        ("[product]\ntemporal = ['gru', 'transfromer']", ["[product] temporal", "'transfromer'", "'transformer'"]),
        ("[product]\nfusion = ['atention']", ["[product] fusion", "'atention'", "'attention'"]),
        ("[product]\nmethod = ['jiont']", ["[product] method", "'jiont'", "'joint'"]),
        ("[product]\ntasks = [['va', 'exp']]", ["[product] tasks", "'exp'", "'expr'"]),
        ("[product]\ntasks = ['va', 'expr']", ["[product] tasks", '[["va"], ...]']),
        ("[product]\ntasks = [[]]", ["[product] tasks", "at least one task"]),
        ("[product]\nseed = []", ["[product] seed", "empty"]),
        ("[product]\nseed = ['0']", ["[product] seed", "a whole number", "'0'"]),
        ("[product]\nseed = [true]", ["[product] seed", "a whole number"]),
        ("[product]\nstreams = ['al']", ["[product] streams", "'all'"]),
        ("[set]\nfusion = ['sum']", ["[set] fusion", "one value", "[product]"]),
        ("[set]\nwidth = 1.5", ["[set] width", "a whole number"]),
        ("[[list]]\nseed = 0\n[[list]]\nsed = 1", ["[[list]] row 2", "'sed'", "'seed'"]),
        ("[list]\nseed = 0", ["[[list]]"]),
        ("[study]\nselct = 'val'", ["[study]", "'selct'", "'select'"]),
        ("[study]\nselect = 'vall'", ["[study] select", "'val'"]),
        ("[study]\nname = '../x'", ["[study] name"]),
        ("[when.temporl.gru]\ndepth = [1]", ["[when.temporl]", "'temporal'"]),
        ("[when.temporal.grru]\ndepth = [1]", ["[when.temporal.grru]", "'gru'"]),
        ("[when.temporal]\ndepth = [1]", ["[when.temporal.depth]", "section"]),
        ("[when.temporal.gru]\ndept = [1]", ["[when.temporal.gru]", "'dept'", "'depth'"]),
        ("[when.temporal.gru]\ntemporal = ['tcn']", ["[when.temporal.gru]", "depend"]),
        ("[when.seed.0]\nfold = [0]\n[when.fold.0]\nseed = [0]", ["[when.seed.0]", "[when.fold.0]", "depend"]),
        ("[when.temporal.ssm]\nlr = [1]\n[when.fusion.concat]\nlr = [2]", ["lr", "another [when]"]),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_what_was_meant(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        expand(grid_of(text), strategy_of(CONFIG))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_strategies_that_cannot_be_trained_are_refused_together_before_anything_runs() -> None:
    text = '[product]\nwidth = [64, 100]\nnum_heads = [4, 8]\nfusion = ["sum", "attention"]\n[set]\ntemporal = "gru"'
    strategies = expand(grid_of(text), strategy_of(CONFIG))
    with pytest.raises(ValueError, match=r"g.toml: 1 of 6 .*width = 100 .*num_heads = 8.*\[when"):
        check(strategies, CONFIG, "g.toml")
    check([one for one in strategies if one.head.width == 64], CONFIG, "g.toml")


@pytest.mark.parametrize(
    "values", [{"window": 0}, {"lr": 0.0}, {"dropout": 1.0}, {"fold": 5}, {"fold": "0.4"}, {"streams": ["iris"]}]
)
def test_values_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        check([strategy_of(CONFIG).replace(values, "here")], CONFIG, "g.toml")


def test_values_out_of_range_that_no_reader_saw_are_refused() -> None:
    strategy = Strategy(train=TrainConfig(lr=0.0))
    with pytest.raises(ValueError, match=r"lr = 0\.0 must be above 0 and at most 100"):
        check([strategy], CONFIG, "g.toml")


def test_a_task_without_a_stream_of_its_own_is_refused() -> None:
    config = Config(backbones={"va": BackboneConfig(model="test_vit2")})
    strategy = Strategy().replace({"streams": "own", "tasks": ["expr"]}, "here")
    with pytest.raises(ValueError, match="no backbone is made for expr"):
        check([strategy], config, "g.toml")


def test_study_says_where_to_choose_and_to_score() -> None:
    grid = grid_of('[study]\nname = "first"\nselect = "test"\nreport = "val"')
    split = grid.split(CONFIG.split)
    assert (grid.name, split.select, split.report) == ("first", "test", "val")
    assert grid_of("").split(CONFIG.split) == CONFIG.split
    assert grid_of("").name == "g"


def test_the_grids_that_ship_are_right_and_found_by_name() -> None:
    paths = packaged_grids()
    assert {"joint.toml", "demo.toml", "tasks.toml", "streams.toml", "fusion.toml", "temporal.toml"} < {
        path.name for path in paths
    }
    for path in paths:
        strategies = expand(read_grid(path), strategy_of(CONFIG))
        check(strategies, CONFIG, path.name)
    assert find_grid(Path("joint")).name == "joint.toml"
    with pytest.raises(ValueError, match=r"jiont.toml'?: no such file.*'joint.toml'"):
        find_grid(Path("jiont.toml"))


def test_joint_toml_counts_what_the_design_says() -> None:
    (path,) = (path for path in packaged_grids() if path.name == "joint.toml")
    assert len(expand(read_grid(path), strategy_of(CONFIG))) == 3 * 2 * 2 * (4 + 2) * 2 * 3 * 3


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text("[product\n")
    with pytest.raises(ValueError, match=r"g.toml: not valid TOML"):
        read_grid(tmp_path / "g.toml")


VALUES = {
    "temporal": ("none", "gru", "lstm", "tcn", "transformer"),
    "fusion": ("concat", "sum", "gated", "attention"),
    "width": (32, 64, 128),
    "seed": (0, 1, 2),
    "lr": (1e-3, 1e-2),
}
TABLES = st.dictionaries(st.sampled_from(sorted(VALUES)), st.just(None), max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries(
        {key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3, unique=True) for key in keys}
    )
)


@settings(max_examples=60)
@given(product=TABLES, condition=st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))
def test_expansion_is_the_product_and_conditions_multiply_only_their_part(product: dict, condition: list[int]) -> None:
    document = {"product": product, "when": {"temporal": {"gru": {"depth": condition}}}}
    found = expand(parse_grid(document, Path("g.toml")), Strategy())
    assert len(set(found)) == len(found)
    expected = 0
    for values in itertools.product(*product.values()):
        is_gru = dict(zip(product, values, strict=True)).get("temporal", "tcn") == "gru"
        expected += len(condition) if is_gru else 1
    assert len(found) == expected
    for one in found:
        assert one.head.depth in (condition if one.head.temporal == "gru" else [Strategy().head.depth])
        for key, values in product.items():
            assert one.flat()[key] in values
