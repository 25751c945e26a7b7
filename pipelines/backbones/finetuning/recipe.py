"""What of a backbone learns, and how fast: freezing, LoRA, the rates of layers, and the checks of [finetune]."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from extract.backbones.adapt import FreezeMode, add_lora, checkpoint_gradients, freeze
from extract.backbones.build import TrainableBackbone
from extract.backbones.layers import layer_ids, num_layers, undecayed
from heads.ranges import range_problem
from pipelines.backbones.finetuning.context import TrainContext
from pipelines.backbones.finetuning.ema import Ema
from pipelines.backbones.finetuning.finetune_state import FinetuneState, moving_tensors
from pipelines.backbones.task_model import TaskModel
from pipelines.config import FinetuneConfig
from pipelines.fitting.epochs import BestEpoch, Epoch
from pipelines.fitting.optimise import AdamW, ParameterGroup, decay_groups

BATCH_NORM_LR, OTHER_LR = 1e-3, 3e-4
MODES: dict[str, FreezeMode] = {"none": "full", "partial": "partial", "backbone": "frozen"}


def check_recipe(config: FinetuneConfig) -> None:
    """Raises ValueError naming the first value of [finetune] that makes no sense."""
    if problem := range_problem(config):
        raise ValueError(f"finetune.{problem}")
    if config.lr != "auto":
        check_least_rate(config)
    if config.lora_rank and config.freeze != "none":
        raise ValueError('finetune.lora_rank freezes the backbone itself; set finetune.freeze to "none"')


def check_least_rate(config: FinetuneConfig) -> None:
    if config.min_lr > config.rate:
        raise ValueError(f"finetune.min_lr = {config.min_lr:g} must be at most finetune.lr = {config.rate:g}")


def with_rate(config: FinetuneConfig, model: nn.Module) -> FinetuneConfig:
    """`config` with a number for `lr`, by whether `model` has batch normalisation; bench/RESULTS.md has the figures."""
    if config.lr == "auto":
        has_norm = any(isinstance(part, _BatchNorm) for part in model.modules())
        config = dataclasses.replace(config, lr=BATCH_NORM_LR if has_norm else OTHER_LR)
        check_least_rate(config)
    return config


def prepare(trainable: TrainableBackbone, config: FinetuneConfig) -> None:
    """Lets only those parts of the backbone learn that `config` names, in place; the output always learns."""
    backbone = trainable.backbone
    if config.lora_rank:
        add_lora(backbone, config.lora_rank, config.lora_alpha, seed=config.seed)
    elif config.freeze != "none":
        freeze(backbone, MODES[config.freeze], config.trainable_blocks)
    if config.checkpoint_gradients:
        checkpoint_gradients(backbone)


def new_state(context: TrainContext) -> FinetuneState:
    """The training before its first step."""
    config, moving = context.config, moving_tensors(context.model)
    return FinetuneState(
        moving=moving,
        loss=context.loss,
        optimiser=AdamW(list(groups_of(context))),
        ema=Ema(moving, config.ema) if config.ema else None,
        sums=torch.zeros(2 + len(context.tasks), device=context.device),
        best=BestEpoch(Epoch, context.schema),
    )


def groups_of(context: TrainContext) -> Iterator[ParameterGroup]:
    """The parameters that learn, by weight decay and rate.

    With `layer_decay` d, a parameter of layer i of L moves at d^(L - 1 - i) times the rate: Clark et al., ICLR 2020
    (ELECTRA), as BEiT and MAE fine-tune. The last layer and the outputs move at the full rate. What timm says should
    not decay (positions, class tokens) does not.
    """
    scales = layer_scales(context.model, context.config.layer_decay)
    still = {f"trainable.backbone.{name}" for name in undecayed(context.model.trainable.backbone)}
    named = [(name, p) for name, p in context.model.named_parameters() if p.requires_grad]
    for scale in sorted({scales.get(name, 1.0) for name, _ in named}):
        own = [(name, p) for name, p in named if scales.get(name, 1.0) == scale]
        for group in decay_groups(own, context.config.weight_decay, still):
            yield dataclasses.replace(group, lr_scale=scale)
    yield from decay_groups(((f"loss.{name}", p) for name, p in context.loss.named_parameters()), 0.0)


def layer_scales(model: TaskModel, decay: float) -> dict[str, float]:
    """The share of the rate of each parameter of the backbone, by its name in `model`."""
    if decay == 1:
        return {}
    backbone = model.trainable.backbone
    top = num_layers(backbone) - 1
    return {f"trainable.backbone.{name}": decay ** (top - layer) for name, layer in layer_ids(backbone).items()}


def set_probing(model: TaskModel, learning: frozenset[str], probing: bool) -> None:
    """Stops the backbone for a probe of the outputs, or lets the parameters `learning` learn again; training mode."""
    model.train()
    for name, parameter in model.trainable.backbone.named_parameters():
        parameter.requires_grad_(name in learning and not probing)
    if probing:
        model.trainable.backbone.eval()
