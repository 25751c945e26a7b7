"""Rules that turn the tensor names of somebody's checkpoint into timm's, and the presets for families that are known.

A file of rules is TOML, and every part of it may be left out:

    preset = "huggingface-vit"              # one of PRESETS, runs before the rest
    drop = ['^head\\.', '^logit_scale$']     # tensors that are not wanted, by their own names
    [rename]                                # expression = replacement, each over all names, in the order of the file
    '^encoder\\.layer\\.(\\d+)\\.' = 'blocks.\\1.'
    [join]                                  # one tensor of several, along the first dimension, by their new names
    '.attn.qkv.' = ['.attn.q.', '.attn.k.', '.attn.v.']

Expressions are Python's `re`; they match anywhere in a name unless `^` and `$` say where.
"""

import difflib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.parsing import parse_toml
from cache.regular import CONFIG_BYTES, read_text
from extract.backbones.renaming import renamed

KEYS = ("preset", "drop", "rename", "join")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is dropped, renamed and joined, in this order. `name` is the preset's or the file's, for messages.

    `is_own` says that the expressions are ours and end; others are given a budget (`extract.backbones.renaming`).
    """

    name: str
    drop: tuple[re.Pattern[str], ...] = ()
    rename: tuple[tuple[re.Pattern[str], str], ...] = ()
    join: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_own: bool = False

    def new_name(self, name: str) -> str | None:
        """The name that a tensor gets before joining; None where it is dropped."""
        if any(expression.search(name) for expression in self.drop):
            return None
        for expression, replacement in self.rename:
            name = expression.sub(replacement, name)
        return name

    def _within_budget(self, names: list[str]) -> list[str | None]:
        return renamed(self.drop, self.rename, names, self.name) if self.drop or self.rename else [*names]

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under their new names.

        Raises:
            ValueError: two tensors get one name, parts that are to be joined are not all there, or the expressions
                never end.
        """
        renamed: dict[str, Tensor] = {}
        sources: dict[str, str] = {}
        names = [self.new_name(name) for name in state] if self.is_own else self._within_budget(list(state))
        for (name, tensor), new in zip(state.items(), names, strict=True):
            if new is None:
                continue
            if new in sources:
                raise ValueError(
                    f"rename {self.name}: {sources[new]} and {name} would both be called {new or 'nothing'}; "
                    "make the expressions narrower, or drop one"
                )
            renamed[new], sources[new] = tensor, name
        for whole, parts in self.join:
            renamed = _joined(renamed, whole, parts, self.name)
        return renamed


def read_rules(text_or_path: str | Path) -> Rules:
    """Rules by a preset's name, from a file, or from the text of one (told by its line breaks or equals signs).

    Raises:
        ValueError: no such file or preset, not TOML, an unknown key, or an expression that cannot be used.
    """
    text = str(text_or_path)
    if isinstance(text_or_path, str) and text in PRESETS:
        return PRESETS[text]
    if isinstance(text_or_path, str) and ("\n" in text or "=" in text):
        return _parsed(text, "rules")
    path = Path(text_or_path)
    if not os.path.isfile(path):  # unlike Path's it also says no to what cannot be a path
        close = difflib.get_close_matches(text, PRESETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"rename {text}: no such file of rules, and the presets are {', '.join(PRESETS)}{hint}")
    try:
        return _parsed(read_text(path, CONFIG_BYTES), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"rename {path}: not a text file; rules are TOML") from None


def _parsed(text: str, name: str) -> Rules:
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ValueError(
            f"rename {name}: not TOML ({error}); put expressions in single quotes, where \\ stands for itself"
        ) from None
    for key in values:
        if key not in KEYS:
            raise ValueError(f"rename {name}: unknown key {key!r}; known are {', '.join(KEYS)}")
    first = _preset(values.get("preset"), name)
    rename = _table(values, "rename", str, name)
    join = _table(values, "join", list, name)
    return Rules(
        name=name,
        drop=first.drop + tuple(_expression(text, "drop", name) for text in _texts(values.get("drop", []), name)),
        rename=first.rename + tuple(_replacement(*pair, name) for pair in rename.items()),
        join=first.join + tuple((whole, _parts(whole, parts, name)) for whole, parts in join.items()),
    )


def _preset(value: Any, name: str) -> Rules:
    if value is None:
        return Rules(name="")
    if value not in (known := [*PRESETS]):
        raise ValueError(f"rename {name}: preset {value!r} is not one of {', '.join(known)}")
    return PRESETS[value]


def _table(values: Mapping[str, Any], key: str, kind: type, name: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
        example = "'^a\\.' = 'b.'" if kind is str else "'.qkv.' = ['.q.', '.k.', '.v.']"
        raise ValueError(f"rename {name}: [{key}] is a table of lines such as {example}, names with a dot in quotes")
    return table


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"rename {name}: drop is a list of expressions, such as ['^head\\.']")
    return value


def _parts(whole: str, parts: list[Any], name: str) -> tuple[str, ...]:
    if len(parts) < 2 or not all(isinstance(part, str) and part for part in parts) or len({*parts}) < len(parts):
        raise ValueError(f"rename {name}: [join] {whole!r} wants two different pieces of names or more")
    return tuple(parts)


def _expression(text: str, key: str, name: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what Python will soon read otherwise, such as [[
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"rename {name}: {key} {text!r} is no regular expression ({error})") from None


def _replacement(text: str, replacement: str, name: str) -> tuple[re.Pattern[str], str]:
    expression = _expression(text, "rename", name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expression.sub(replacement, "")  # reads the replacement even where nothing matches
    except (re.error, IndexError, Warning) as error:
        raise ValueError(f"rename {name}: {replacement!r} cannot replace {text!r} ({error})") from None
    return expression, replacement


def _joined(state: dict[str, Tensor], whole: str, parts: tuple[str, ...], name: str) -> dict[str, Tensor]:
    """`state` with every set of tensors, whose names differ in nothing but `parts`, as one tensor."""
    state = dict(state)
    for first in [key for key in state if parts[0] in key]:
        names = [first.replace(parts[0], part, 1) for part in parts]
        lacking = [key for key in names if key not in state]
        if lacking:
            raise ValueError(f"rename {name}: [join] {whole!r} found {first} but no {lacking[0]}")
        tensors = [state.pop(key) for key in names]
        try:
            state[first.replace(parts[0], whole, 1)] = torch.cat(tensors)
        except RuntimeError:
            shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors)
            raise ValueError(f"rename {name}: [join] {whole!r} cannot join {shapes} ({first} ...)") from None
    return state


def _rules(name: str, drop: tuple[str, ...], rename: Mapping[str, str], join: Mapping[str, tuple[str, ...]]) -> Rules:
    return Rules(
        name=name,
        drop=tuple(map(re.compile, drop)),
        rename=tuple((re.compile(expression), new) for expression, new in rename.items()),
        join=tuple(join.items()),
        is_own=True,
    )


# torchvision's ViT numbers its blocks in their names and calls the MLP's layers by their place in a Sequential, in
# older files by linear_1 and linear_2; the projections of queries, keys and values are one tensor, in timm's order.
TORCHVISION_VIT = {
    r"^class_token$": "cls_token",
    r"^conv_proj\.": "patch_embed.proj.",
    r"^encoder\.pos_embedding$": "pos_embed",
    r"^encoder\.ln\.": "norm.",
    r"^encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.self_attention\.in_proj_": ".attn.qkv.",
    r"\.self_attention\.out_proj\.": ".attn.proj.",
    r"\.mlp\.(?:0|linear_1)\.": ".mlp.fc1.",
    r"\.mlp\.(?:3|linear_2)\.": ".mlp.fc2.",
}
# transformers' ViT keeps queries, keys and values apart.
HUGGINGFACE_VIT = {
    r"^(?:base_model\.)?(?:vit|deit)\.": "",
    r"^embeddings\.cls_token$": "cls_token",
    r"^embeddings\.distillation_token$": "dist_token",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^layernorm\.": "norm.",
    r"^encoder\.layer\.(\d+)\.": r"blocks.\1.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.attention\.(query|key|value)\.": r".attn.\1.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
}
PRESETS: dict[str, Rules] = {
    rules.name: rules
    for rules in (
        # The names inside are those of the models in `extract.backbones.iresnet`, which convert the rest themselves.
        _rules("insightface", (), {r"^(?:module\.|backbone\.)+": ""}, {}),
        _rules("adaface", (r"^head\.",), {r"^(?:module\.|model\.)+": ""}, {}),
        _rules("evolve", (), {r"^(?:module\.|backbone\.)+": ""}, {}),
        _rules("mae", (r"^(?:module\.)?(?:decoder_|mask_token$|head\.)",), {r"^module\.": ""}, {}),
        _rules("dino", (r"(?:^|\.)head\.",), {r"^(?:module\.|backbone\.)+": ""}, {}),
        _rules("open_clip", (r"^(?!(?:module\.)?visual\.)", r"^(?:module\.)?visual\.head\."), {r"^module\.": ""}, {}),
        _rules("torchvision-resnet", (r"^(?:module\.)?fc\.",), {r"^module\.": ""}, {}),
        _rules("torchvision-vit", (r"^heads\.",), TORCHVISION_VIT, {}),
        _rules(
            "huggingface-vit",
            (r"(?:^|\.)(?:classifier|pooler)\.", r"^cls_classifier\.", r"^distillation_classifier\.", r"mask_token$"),
            HUGGINGFACE_VIT,
            {".attn.qkv.": (".attn.query.", ".attn.key.", ".attn.value.")},
        ),
    )
}
