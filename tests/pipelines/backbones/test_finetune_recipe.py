"""Each part of the recipe of `mtl finetune`, by what it does to the weights."""

import dataclasses
from typing import Any

import polars as pl
import pytest
import safetensors.torch
import timm
import torch

from extract.backbones.build import build_trainable
from extract.backbones.layers import layer_ids, num_layers
from extract.backbones.weights import read_weights
from heads.config import LossConfig
from heads.labels import Labels
from helpers.small_faces import MODEL, SIDE, Given, digest, run
from pipelines.backbones.data import Faces
from pipelines.backbones.finetuning import facesets, loop
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.ema import Ema
from pipelines.backbones.finetuning.facesets import gather
from pipelines.backbones.finetuning.finetune import build, finetune, make_context
from pipelines.backbones.finetuning.finetune_state import FinetuneState, moving_tensors
from pipelines.backbones.finetuning.recipe import check_recipe, groups_of, new_state, with_rate
from pipelines.backbones.finetuning.request import make_request
from pipelines.config import Config, FinetuneConfig
from pipelines.fitting.optimise import AdamW, ParameterGroup, cosine_lr, decay_groups

CPU = torch.device("cpu")
STILL = {"flip": 0.0, "brightness": 0.0, "contrast": 0.0}


def weights_of(config: Config, section: str = "expr") -> dict[str, torch.Tensor]:
    return read_weights(config.folder / "backbones" / f"{section}.safetensors")[0]


def start_of(config: Config, task: str = "expr", model: str = MODEL, **settings: Any) -> dict[str, torch.Tensor]:
    """The backbone's weights before the first step."""
    config = with_settings(config, **settings)
    made = build(config, make_request(config, config.folder / "mtl.toml", task, model=model))[0]
    return {name: value.clone() for name, value in made.trainable.backbone.state_dict().items()}


def with_settings(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **settings))


def context_of(
    config: Config, frames: pl.DataFrame, reader: Faces, task: str = "expr", model: str = MODEL
) -> TrainContext:
    request = make_request(config, config.folder / "mtl.toml", task, model=model)
    return make_context(config, request, gather(config, frames, request.tasks), build(config, request)[0], reader, CPU)


def gradients(config: Config, frames: pl.DataFrame, task: str, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """All gradients of the first step, side by side, a tensor a parameter."""
    found: list[torch.Tensor] = []

    def moved(context: TrainContext, state: FinetuneState, lr: float) -> None:
        found.extend(p.grad.clone() for p in state.optimiser.parameters if p.grad is not None)
        raise KeyboardInterrupt

    config = with_settings(config, **STILL)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimiser_step", moved)
        with pytest.raises(KeyboardInterrupt):
            run(config, frames, task)
    return found


def test_layers_near_the_pixels_learn_slower(project: Config, faces: Given) -> None:
    """With AdamW the first step of a weight is its rate, so that the ratios can be read off."""
    settings = {"epochs": 1, "weight_decay": 0.0, "max_faces_per_epoch": 32, "warmup_epochs": 0.0, "layer_decay": 0.5}
    start = start_of(project, **settings)
    run(project, faces[1], **settings)
    after = weights_of(project)
    backbone = timm.create_model(MODEL, num_classes=0, img_size=SIDE)
    moved = {name: (after[name] - start[name]).abs().max().item() for name in dict(backbone.named_parameters())}
    rate = cosine_lr(0.5, lr=2e-3, total=1, warmup=0)
    ids, top = layer_ids(backbone), num_layers(backbone) - 1
    assert top >= 3
    checked = {name for name in moved if name.endswith(("ls2.gamma", "fc_norm.weight", "patch_embed.proj.weight"))}
    assert {ids[name] for name in checked} >= {0, 1, top}
    for name in checked:
        assert moved[name] == pytest.approx(rate * 0.5 ** (top - ids[name]), rel=0.05), name


def test_every_parameter_is_in_one_group(project: Config, faces: Given) -> None:
    for model, config in ((MODEL, project), ("test_resnet", with_settings(project, layer_decay=0.7))):
        context = context_of(config, faces[1], None, "va,expr", model)  # type: ignore[arg-type]
        groups = list(groups_of(context))
        names = [name for group in groups for name, _ in group.parameters]
        assert sorted(names) == sorted(name for name, _ in context.model.named_parameters())
        for group in groups:
            still = {f"trainable.backbone.{name}" for name in ("pos_embed", "cls_token", "reg_token")}
            assert all((p.ndim > 1 and n not in still) == (group.weight_decay > 0) for n, p in group.parameters)
        scale = {name: group.lr_scale for group in groups for name, _ in group.parameters}
        assert scale["trainable.output.weight"] == 1
        assert min(scale.values()) < 1 or config is project


def test_the_averages_are_those_made_by_hand(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds the mean of the weights after each step, and the score is that of the mean."""
    passed: list[dict[str, torch.Tensor]] = []
    evaluated: list[dict[str, torch.Tensor]] = []
    optimiser_step = loop.optimiser_step

    def moved(context: TrainContext, state: FinetuneState, lr: float) -> None:
        optimiser_step(context, state, lr)
        passed.append({name: value.clone() for name, value in context.model.state_dict().items()})

    def watched(context: TrainContext, state: Any, *rest: Any) -> Any:
        evaluated.append({name: value.clone() for name, value in context.model.state_dict().items()})
        return predict(context, state, *rest)

    predict = loop.predict_faces
    monkeypatch.setattr(loop, "optimiser_step", moved)
    monkeypatch.setattr(loop, "predict_faces", watched)
    request = make_request(project, project.folder / "mtl.toml", "expr", model=MODEL)
    mean = {name: value.clone() for name, value in build(project, request)[0].state_dict().items()}
    run(project, faces[1], epochs=1, ema=0.3, batch_size=16)
    assert len(passed) > 4
    for step, weights in enumerate(passed, 1):
        decay = min(0.3, (1 + step) / (10 + step))
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in mean}
    for name, value in mean.items():
        torch.testing.assert_close(evaluated[0][name], value, atol=1e-6, rtol=1e-5)
    saved = weights_of(project)
    for name, value in saved.items():
        assert torch.equal(value, evaluated[0][f"trainable.backbone.{name}"])
    assert not torch.equal(saved["blocks.0.attn.qkv.weight"], passed[-1]["trainable.backbone.blocks.0.attn.qkv.weight"])


def test_averages_take_in_running_means_and_leave_the_model_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).train()
    ema = Ema(moving_tensors(model), 0.99)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(8, 2))
    live = {name: value.clone() for name, value in model.state_dict().items()}
    ema.update(1)
    with ema.swapped():
        inside = {name: value.clone() for name, value in model.state_dict().items()}
    share = 2 / 11
    wanted = share * before["1.running_mean"] + (1 - share) * live["1.running_mean"]
    torch.testing.assert_close(inside["1.running_mean"], wanted)
    assert inside["1.num_batches_tracked"] == 1
    assert all(torch.equal(value, live[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("freeze", "moving"), [("backbone", set()), ("partial", {"blocks", "fc_norm"})])
def test_what_is_frozen_stays(project: Config, faces: Given, freeze: str, moving: set[str]) -> None:
    start = start_of(project)
    run(project, faces[1], epochs=1, freeze=freeze, trainable_blocks=1, ema=0.5, layer_decay=0.9)
    changed = {name for name, value in weights_of(project).items() if not torch.equal(value, start[name])}
    last = max(int(name.split(".")[1]) for name in start if name.startswith("blocks."))
    assert all(name.startswith(f"blocks.{last}.") for name in changed if name.startswith("blocks."))
    assert {name.partition(".")[0] for name in changed} == moving


def test_norms_of_a_frozen_part_keep_their_means(project: Config, faces: Given) -> None:
    config = with_settings(project, freeze="backbone", epochs=1)
    start = start_of(config, model="test_resnet")
    finetune(config, faces[1], make_request(config, config.folder / "mtl.toml", "expr", model="test_resnet"))
    assert all(torch.equal(value, start[name]) for name, value in weights_of(config).items())


def test_a_probe_comes_first(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    evaluate = loop.evaluate

    def evaluated(context: TrainContext, predictions: Any) -> dict[str, Any]:
        seen.append({name: value.clone() for name, value in context.model.state_dict().items()})
        return evaluate(context, predictions)

    monkeypatch.setattr(loop, "evaluate", evaluated)
    start = start_of(project)
    run(project, faces[1], epochs=2, probe_epochs=1)
    body, top = "trainable.backbone.blocks.0.attn.qkv.weight", "trainable.output.weight"
    assert torch.equal(seen[0][body], start["blocks.0.attn.qkv.weight"])
    assert not torch.equal(seen[1][body], seen[0][body])
    assert not torch.equal(seen[1][top], seen[0][top])


def test_lora_is_merged_into_plain_weights(project: Config, faces: Given) -> None:
    start = start_of(project)
    result = run(project, faces[1], epochs=1, lora_rank=2, lora_alpha=4.0, layer_decay=0.9, ema=0.5)
    weights = project.folder / result.weights
    plain = timm.create_model(MODEL, num_classes=0, img_size=SIDE)
    plain.load_state_dict(safetensors.torch.load_file(weights), strict=True)
    changed = {name for name, value in plain.state_dict().items() if not torch.equal(value, start[name])}
    assert changed
    assert all(name.endswith("weight") and (".attn." in name or ".mlp." in name) for name in changed)
    difference = plain.state_dict()["blocks.0.attn.qkv.weight"] - start["blocks.0.attn.qkv.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
    again = run(project, faces[1], "au", init=str(result.weights), lr=1e-30, epochs=1, lora_rank=0)
    assert torch.equal(weights_of(project, "au")["fc_norm.weight"], plain.state_dict()["fc_norm.weight"])
    assert again.matched is not None
    assert again.matched.is_whole


@pytest.mark.parametrize("settings", [{"checkpoint_gradients": True}, {"accumulate": 1, "ema": 0.0, "grad_clip": 1e9}])
def test_what_changes_no_number(project: Config, faces: Given, settings: dict[str, Any]) -> None:
    run(project, faces[1], epochs=1, max_faces_per_epoch=32, grad_clip=0.0)
    before = weights_of(project)
    run(project, faces[1], epochs=1, max_faces_per_epoch=32, **{"grad_clip": 0.0, **settings})
    for name, value in weights_of(project).items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-5)


def test_accumulation_is_the_large_batch(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """For losses that are means over faces, with every face labelled."""
    frames = faces[1].with_columns(pl.col("expression").fill_null(3), pl.col("valence", "arousal").fill_null(0.1))
    config = dataclasses.replace(project, loss=LossConfig(class_weights=False, continuous_loss="mse"))
    config = with_settings(config, batch_size=32, grad_clip=0.0)
    whole = gradients(config, frames, "va,expr", monkeypatch)
    parts = gradients(with_settings(config, batch_size=8, accumulate=4), frames, "va,expr", monkeypatch)
    assert len(whole) == len(parts) > 50
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_gradients_are_clipped_together() -> None:
    p, q = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    optimiser = AdamW(decay_groups([("p", p), ("q", q)], 0.1))
    for limit, length in ((0.0, 5.0), (10.0, 5.0), (1.0, 1.0)):
        p.grad, q.grad = torch.tensor([[3.0, 0], [0, 0]]), torch.tensor([0, 4.0])
        optimiser.clip(limit)
        assert torch.cat([p.grad.flatten(), q.grad]).norm().item() == pytest.approx(length, rel=1e-5)


def test_the_optimiser_is_torchs() -> None:
    """Groups with their rates and decays, and a state that is written down halfway, against torch.optim.AdamW."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 2, generator=generator), torch.randn(3, generator=generator)]
    steps = [[torch.randn(t.shape, generator=generator) for t in start] for _ in range(6)]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))

    def made(parameters: list[torch.nn.Parameter]) -> AdamW:
        one = ParameterGroup(parameters=(("a", parameters[0]),), weight_decay=0.1, lr_scale=0.5)
        return AdamW([one, ParameterGroup(parameters=(("b", parameters[1]),), weight_decay=0.0)], betas=(0.9, 0.95))

    groups = [{"params": theirs[:1], "lr": 0.005, "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference, optimiser = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95)), made(ours)
    for number, gradients_ in enumerate(steps):
        if number == 3:
            state = {name: tensor.clone() for name, tensor in optimiser.state().items()}
            optimiser = made(ours)
            optimiser.load_state(state)
        for mine, other, gradient in zip(ours, theirs, gradients_, strict=True):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimiser.step(0.01)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_rate_warms_up_and_falls_to_its_least() -> None:
    rates = [cosine_lr(x, lr=1.0, total=10, warmup=2, min_lr=0.1) for x in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert cosine_lr(3, lr=1.0, total=3, warmup=9) == 1


@pytest.mark.parametrize(
    "loss",
    [
        {"continuous_loss": "ccc+mse"},
        {"continuous_loss": "mse", "class_loss": "focal", "binary_loss": "asymmetric", "label_smoothing": 0.1},
        {"class_weights": False, "positive_weights": False, "weighting": "learned"},
    ],
)
def test_losses_learn_on_single_faces(project: Config, faces: Given, loss: dict[str, Any]) -> None:
    config = dataclasses.replace(project, loss=LossConfig(**loss))
    history = run(
        config, faces[1], "va,expr,au", epochs=4, mixup=0.2 if "mse" in loss.get("continuous_loss", "") else 0.0
    ).history
    assert history[-1].losses["loss.expr"] < history[0].losses["loss.expr"]
    assert history[-1].losses["loss.va"] < history[0].losses["loss.va"]


def test_an_unlabelled_unit_never_enters(project: Config, faces: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands under a mask, in whatever recipe, changes no bit; a label of one unit moves that unit's output."""
    settings = {"epochs": 1, "mixup": 0.4, "balance": "both", "erase": 0.2}
    config = dataclasses.replace(project, loss=LossConfig(binary_loss="asymmetric"))
    one = run(config, faces[1], "au", **settings)
    before = digest(config, "au")
    labels_of = facesets.labels_of

    def spoilt(*given: Any) -> Labels:
        labels = labels_of(*given)
        for name, junk in {"au": -1, "expr": 7}.items():
            labels.values[name][~labels.masks[name]] = junk
        return labels

    monkeypatch.setattr(facesets, "labels_of", spoilt)
    other = run(config, faces[1], "au", **settings)
    assert digest(config, "au") == before
    assert one.metrics == other.metrics


def test_weights_of_the_loss_are_of_what_is_shown(project: Config, faces: Given) -> None:
    """Balanced sampling shows rare classes more often: the loss need not make up for that twice."""
    rare = faces[1].with_columns(expression=pl.when(pl.col("frame") == 0).then(5).otherwise(0).cast(pl.Int8))
    for balance, wanted in (("none", 15), ("labels", 15**0.5)):
        context = context_of(with_settings(project, balance=balance), rare, None)  # type: ignore[arg-type]
        weight = context.loss.constants.weight_expr[0]  # type: ignore[index]
        assert (weight[5] / weight[0]).item() == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 1}, "finetune.batch_size = 1 must be from 2 to 1000000"),
        ({"accumulate": 0}, "accumulate"),
        ({"ema": 1.0}, "finetune.ema"),
        ({"drop_path": -0.1}, "drop_path"),
        ({"layer_decay": 0.0}, "layer_decay"),
        *[({"crop_pct": value}, "finetune.crop_pct") for value in (0.0, -1.0, 1e-9, 1.01, float("nan"))],
        ({"erase": 1.5}, "erase = 1.5 must be from 0 to 1"),
        ({"min_lr": 0.1, "lr": 0.01}, "min_lr = 0.1 must be at most finetune.lr = 0.01"),
        ({"lora_rank": 4, "freeze": "partial"}, "lora_rank freezes the backbone itself"),
        ({"lr": float("nan")}, "finetune.lr = nan must be above 0"),
        ({"lr": -1.0}, "finetune.lr = -1.0 must be above 0"),
    ],
)
def test_recipes_that_make_no_sense(settings: dict[str, Any], says: str) -> None:
    config = FinetuneConfig(**settings)
    with pytest.raises(ValueError, match=says):
        check_recipe(config)


@pytest.mark.parametrize(
    ("model", "lr"),
    [("test_vit2", 3e-4), ("test_convnext3", 3e-4), ("test_efficientnet", 1e-3), ("test_resnet", 1e-3)],
)
@pytest.mark.parametrize("given", [None, 2e-3])
def test_the_rate_with_nothing_set(model: str, lr: float, given: float | None) -> None:
    """By batch normalisation or none, frozen or not; a number given stays, and the least rate is below it."""
    trainable, _ = build_trainable(model, 8, 32, "random")
    trainable.eval().requires_grad_(False)
    config = FinetuneConfig() if given is None else FinetuneConfig(lr=given)
    assert with_rate(config, trainable).rate == (lr if given is None else given)
    with pytest.raises(ValueError, match=r"min_lr = 0\.01 must be at most finetune\.lr"):
        with_rate(FinetuneConfig(min_lr=0.01), trainable)


def test_the_start_is_the_same_for_the_same_seed(project: Config, faces: Given) -> None:
    context = context_of(with_settings(project, ema=0.9), faces[1], None)  # type: ignore[arg-type]
    state = new_state(context)
    assert state.ema is not None
    names = set(state.tensors())
    assert {"sums", "model.trainable.output.weight", "optimiser.mean.trainable.output.weight"} <= names
    assert "ema.trainable.output.weight" in names
    frozen = new_state(context_of(with_settings(project, freeze="backbone"), faces[1], None))  # type: ignore[arg-type]
    assert {name for name in frozen.tensors() if name.startswith("model.")} == {
        "model.trainable.output.weight",
        "model.trainable.output.bias",
    }
