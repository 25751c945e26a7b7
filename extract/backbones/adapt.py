"""What of a headless backbone learns, and at what price in memory: freezing, checkpoints of the gradient, adapters.

All of it changes the module in place and leaves its tensors' names alone, but for adapters, which `merge_lora` takes
away again. Random depth ("drop path") is an option of the model's making: see `build_trainable`.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from extract.backbones.layers import block_names

FreezeMode = Literal["full", "partial", "frozen"]

INSTALL_PEFT = "LoRA needs peft: pip install 'mtl-affect[lora]'"
ADAPTER = "default"  # peft's own name for the only adapter there is
# The parts of a transformer's block that adapters change, as timm calls them.
ATTENTION, MLP = ("attn",), ("mlp",)


def freeze(module: nn.Module, mode: FreezeMode, num_trainable: int = 0) -> tuple[str, ...]:
    """Lets all of `module` learn, only its last `num_trainable` blocks, or nothing; the names of what learns.

    The blocks are `block_names`' of `layers`: the stem counts as one, and what stands behind the last block, a pooling
    or a fully connected layer, as another. Frozen parts stay in evaluation mode when the module is set to train: their
    batch norms keep their statistics, and nothing in them is dropped. Nothing in front of the first block that learns
    has a gradient, so the backward pass ends there.

    Raises:
        ValueError: unknown mode, or not as many blocks.
    """
    if mode not in get_args(FreezeMode):
        raise ValueError(f"freeze {mode!r}: known are {', '.join(get_args(FreezeMode))}")
    blocks = block_names(module)
    if mode == "partial" and not 1 <= num_trainable <= len(blocks):
        raise ValueError(
            f"{_model_name(module)} has {len(blocks)} blocks, so 1 to {len(blocks)} of them can be trained"
        )
    first = {"full": 0, "frozen": len(blocks), "partial": len(blocks) - num_trainable}[mode]
    learning = {name for names in blocks[first:] for name in names}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learning)
    _keep_still(module, () if mode == "full" else tuple(_still_parts(module)))
    return tuple(name for name, _ in module.named_parameters() if name in learning)


def _still_parts(module: nn.Module, name: str = "") -> list[str]:
    """The largest parts that have parameters of which none learns."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [name]
    children = [(f"{name}.{child}" if name else child, part) for child, part in module.named_children()]
    return [found for child, part in children for found in _still_parts(part, child)]


def _keep_still(module: nn.Module, parts: tuple[str, ...]) -> None:
    """From now on `module.train()` leaves `parts` in evaluation mode; they are looked up by name each time, so that
    parts put in later in the place of others (adapters, synchronised norms) stand still as well."""
    module.__dict__.pop("train", None)
    module.__dict__["still_parts"] = parts
    if parts:
        # A method of this object alone: a hook would act only at the next forward pass, and what is copied is kept.
        module.__dict__["train"] = MethodType(_train_but_for_still_parts, module)
    module.train(module.training)


def _train_but_for_still_parts(module: nn.Module, mode: bool = True) -> nn.Module:
    type(module).train(module, mode)
    for name in module.__dict__["still_parts"]:
        part = module.get_submodule(name)
        type(part).train(part, False)
    return module


def checkpoint_gradients(module: nn.Module) -> None:
    """Keeps no maps inside blocks for the backward pass, which computes them again: less memory for more time.

    Batch norms count a batch once, though they see it twice.

    Raises:
        ValueError: timm has none for this model.
    """
    enable: Callable[[bool], None] | None = getattr(module, "set_grad_checkpointing", None)
    try:
        if enable is None:
            raise AssertionError
        enable(True)
    except AssertionError:
        raise ValueError(
            f"{_model_name(module)} has no gradient checkpointing in timm; turn it off, or make the batch smaller"
        ) from None
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.register_forward_pre_hook(_hold_statistics)
            part.register_forward_hook(_release_statistics, always_call=True)  # torch breaks off where it has enough


def _hold_statistics(norm: _BatchNorm, _: Any) -> None:
    """With a momentum of 0, a pass that only computes again moves no statistics."""
    # -1 outside of a backward pass; torch's own checkpoint tells by it, too.
    if torch._C._current_graph_task_id() != -1 and norm.training:
        count = norm.num_batches_tracked
        norm.__dict__["held"] = (norm.momentum, None if count is None else count.clone())
        norm.momentum = 0.0


def _release_statistics(norm: _BatchNorm, _: Any, __: Any) -> None:
    if "held" in norm.__dict__:
        norm.momentum, count = norm.__dict__.pop("held")
        if count is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(count)


def add_lora(
    module: nn.Module, rank: int, alpha: float, dropout: float = 0.0, seed: int = 0, *, mlp: bool = True
) -> tuple[str, ...]:
    """Freezes a vision transformer and adds low-rank adapters to its linear layers; the names of what learns.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022): a layer's W x becomes
    W x + alpha / rank * B A x, with A of `rank` rows drawn from `seed` and B zero, so that nothing changes at first.
    They sit on the projections of attention and, with `mlp`, on the two layers of each MLP.

    Raises:
        ValueError: peft is not installed, no transformer of timm's, or numbers that make no adapter.
    """
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA of rank {rank}, alpha {alpha:g}, dropout {dropout:g}: wants 1, above 0, 0 to below 1")
    targets = _linear_layers(module, ATTENTION + MLP if mlp else ATTENTION)
    try:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import
    except ImportError:
        raise ValueError(INSTALL_PEFT) from None
    freeze(module, "frozen")
    training = module.training
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module, ADAPTER)
    _keep_still(module, tuple(_still_parts(module)))
    module.train(training)
    return tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def _linear_layers(module: nn.Module, parts: tuple[str, ...]) -> list[str]:
    """The linear layers inside `parts` of blocks that a forward pass calls; some of timm's attentions multiply by a
    layer's weights without calling it, and an adapter there would be passed by."""
    found = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and set(name.split(".")).intersection(parts)
    }
    called = _called(module, found)
    if not any(set(name.split(".")).intersection(ATTENTION) for name in called):
        raise ValueError(f"{_model_name(module)} has no attention that LoRA can adapt; name a vision transformer")
    return called


def _called(module: nn.Module, layers: dict[str, nn.Linear]) -> list[str]:
    """Those of `layers` that a forward pass of one black face calls."""
    called: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.add(layer)) for layer in layers.values()]
    training, parameter = module.training, next(module.parameters())
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, *_input_size(module), device=parameter.device, dtype=parameter.dtype))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return [name for name, layer in layers.items() if layer in called]


def _input_size(module: Any) -> tuple[int, int, int]:
    """Channels, height and width that the module was made for."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    channels, height, width = module.pretrained_cfg["input_size"]
    return (channels, *size) if size else (channels, height, width)


def merge_lora(module: nn.Module) -> nn.Module:
    """`module` with its adapters added into the weights and taken away: timm's own again, name for name.

    In evaluation mode it gives what it gave before, but for rounding. All of it learns again. A module without adapters
    is left as it is.
    """
    adapted = [(name, part) for name, part in module.named_modules() if getattr(part, "lora_A", None) is not None]
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
    if adapted:
        module.__dict__.pop("peft_config")
        freeze(module, "full")
    return module


def _model_name(module: nn.Module) -> str:
    config = getattr(module, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(module).__name__
