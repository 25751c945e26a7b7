"""Settings that have no effect with certain values of others: they are told, and what differs in them alone is one."""

import pytest
from numpy.testing import assert_equal

from helpers import stub_study as stub
from helpers.cli import typed
from pipelines import config as config_module
from pipelines.concerns import (
    CONCERNS,
    IN_SECTIONS,
    concerns,
    own_without_effect,
    warn_of,
    without_effect,
    without_effect_in,
)
from pipelines.config import parse_config
from pipelines.search.grid import StudyConfig, expand
from pipelines.search.search_plan import make_plan, read_strategies
from pipelines.strategy import Strategy, field_names, flat_fields, strategy_of
from pipelines.training.train import train_strategy
from pipelines.words import alike_words

# With the defaults none of them has an effect.
VALUES = {
    "num_heads": 8,
    "kernel": 5,
    "mean_frames": 250,
    "frozen_steps": 7,
    "teachers": 2,
    "class_confidence": 0.9,
    "binary_confidence": 0.9,
    "agreed_share": 0.5,
    "latent_va": "beside",
    "latent_kl": 1.0,
    "latent_warmup_steps": 3,
    "latent_smoothness": 1.0,
    "class_embeddings_weight": 2.0,
    "balanced_sigma": 0.5,
    "ldam_margin": 0.1,
    "logit_tau": 2.0,
    "focal_gamma": 1.0,
    "asymmetric_gamma_positive": 1.0,
    "asymmetric_gamma_negative": 1.0,
    "asymmetric_clip": 0.2,
}


def test_the_table_knows_the_fields() -> None:
    assert CONCERNS.keys() == {*VALUES, "class_weights"} <= flat_fields().keys()
    assert {other for conditions in CONCERNS.values() for other, _ in conditions} <= flat_fields().keys()
    for section, table in IN_SECTIONS.items():
        cls = StudyConfig if section == "study" else config_module.SECTIONS[section]
        assert {*table, *(other for conditions in table.values() for other, _ in conditions)} <= set(
            cls.__dataclass_fields__
        )


@pytest.mark.slow
def test_what_has_no_effect_changes_no_number(made, small) -> None:
    """All of them at once, and class weights where the loss has none."""
    dataset, short = made.dataset(), {"steps": 2, "eval_steps": 2, "warmup_steps": 1, "num_heads": 4}
    for extra, moot in (({}, VALUES), ({"class_loss": "logit_adjusted"}, {"class_weights": False})):
        plain = strategy_of(small).changed(short | extra)
        changed = plain.changed(moot)
        assert without_effect(changed).keys() == moot.keys()
        one, other = (train_strategy(small, dataset, strategy) for strategy in (plain, changed))
        assert one.metrics == other.metrics
        for part, predicted in one.predictions.items():
            found, wanted = (each.probabilities.parts for each in (other.predictions[part], predicted))
            assert_equal(found, wanted)


def test_what_has_no_effect_is_said_with_why() -> None:
    found = without_effect(Strategy().changed({"num_heads": 8, "latent_va": "beside", "latent_kl": 0.05}))
    assert list(found.values()) == [
        "num_heads = 8 (temporal = 'ssm', fusion = 'concat')",
        "latent_va = 'beside' (latent = 0)",
    ]
    own = Strategy().changed({"method": "separate", "kernel": 5, "task.va.temporal": "tcn"})
    assert not without_effect(own), "the model of one task heeds it"


def test_what_a_task_has_for_itself_without_effect_is_said() -> None:
    own = {"method": "separate", "tasks": ("va",), "task.va.kernel": 5, "task.va.window": 16, "num_heads": 4}
    strategy = Strategy().changed({**own, "task_weights": {"va": 2.0, "au": 0.5, "expr": 1.0}})
    assert list(own_without_effect(strategy).values()) == [
        "task.va.kernel = 5 (temporal = 'ssm')",
        "task_weights.au = 0.5 (tasks = ['va'])",
    ]
    assert strategy.digest == Strategy().changed({**own, "task.va.kernel": 7, "task_weights": {"va": 2.0}}).digest
    assert not own_without_effect(strategy.changed({"task.va.temporal": "tcn", "tasks": ("va", "au")}))


def test_what_one_task_s_model_heeds_is_told() -> None:
    """Of all models alike, where two strategies differ in nothing else."""
    own = Strategy().changed({"method": "separate", "task.va.temporal": "tcn"})
    joint = Strategy().changed({"temporal": "gru"})
    for strategy, heeds in ((own, True), (joint, False)):
        assert concerns("kernel", strategy.values(field_names([own, joint]))) == heeds
        assert (strategy.digest != strategy.changed({"kernel": 7}).digest) == heeds


def test_strategies_that_differ_in_what_has_no_effect_are_one() -> None:
    grid = stub.make_grid(
        {"product": {"temporal": ["gru", "tcn"], "kernel": [3, 5], "latent_va": ["inside", "beside"]}}
    )
    found = expand(grid, Strategy())
    assert [(one.head.temporal, one.head.kernel) for one in found] == [("gru", 3), ("tcn", 3), ("tcn", 5)]
    assert Strategy().changed({"kernel": 5}).digest == Strategy().digest


def test_a_search_warns_of_what_none_of_its_strategies_heeds(project) -> None:
    """Once; not of values that others make moot."""
    (project / "grid.toml").write_text(
        '[product]\ntemporal = ["gru", "tcn"]\nkernel = [3, 5]\ntasks = [["va"], ["va", "expr"]]\n'
        "[set]\nlatent_kl = 0.2\ntask_weights = {va = 2.0, expr = 0.5, au = 3.0}\n"
    )
    config = config_module.read_config(project / "mtl.toml")
    with pytest.warns(UserWarning, match="without effect") as told:
        search = make_plan(*read_strategies(config, project / "grid.toml"))
    (one,) = told
    found = "latent_kl = 0.2 (latent = 0); task_weights.au = 3.0 (tasks = ['va'])"
    assert str(one.message) == f"{project}/grid.toml: without effect: {found}"
    assert (search.num_combinations, len(search.trials)) == (8, 6)
    found = "2 of 8 combinations train the same as another and are no trials of their own"
    assert alike_words(2, 8) == found


def test_a_search_warns_where_the_first_of_a_list_is_the_default(project) -> None:
    """Though of the strategies that are one, that with the default is kept."""
    (project / "grid.toml").write_text('[product]\ntemporal = ["gru"]\nkernel = [3, 5]\n')
    with pytest.warns(UserWarning, match=r"without effect: kernel = 5 \(temporal = 'gru'\)$"):
        strategies = read_strategies(config_module.read_config(project / "mtl.toml"), project / "grid.toml")[2]
    assert len(strategies) == 1


def test_training_warns_and_goes_on(project) -> None:
    with pytest.warns(UserWarning, match=r"^mtl train-head: without effect: latent_va = 'beside' \(latent = 0\)$"):
        assert typed("train-head", "--set", "head.latent_va=beside", "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("finetune", {"trainable_blocks": 4}, ["trainable_blocks = 4 (freeze = 'none', lora_rank = 0)"]),
        ("finetune", {"trainable_blocks": 4, "freeze": "partial"}, []),
        (
            "finetune",
            {"lora_alpha": 8.0, "rename": "mae"},
            ["lora_alpha = 8.0 (lora_rank = 0)", "rename = 'mae' (init = 'pretrained')"],
        ),
        (
            "study",
            {"halving_first": 20, "sampler_seed": 1},
            ["sampler_seed = 1 (sampler = 'grid')", "halving_first = 20 (halving = 0)"],
        ),
    ],
)
def test_sections(section: str, values: dict[str, object], says: list[str]) -> None:
    cls = StudyConfig if section == "study" else config_module.SECTIONS[section]
    assert sorted(without_effect_in(section, cls(**values))) == sorted(says)


def test_a_local_copy_of_a_folder_is_none(tmp_path) -> None:
    with pytest.warns(
        UserWarning, match=r"mtl.toml: \[cache\]: without effect: local = 'copy' \(path = 'cache.zarr' is a"
    ):
        parse_config({"cache": {"local": "copy"}}, tmp_path, "mtl.toml")
    warn_of([], "nothing is said of nothing")
