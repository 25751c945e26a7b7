"""timm's factory: names checked first, what is drawn comes from the seed, and every error is one line.

Place: below `build`, which loads weights into what is made here.
"""

import contextlib
import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch

import extract.backbones.iresnet  # noqa: F401  registers its models with timm
from extract.backbones.catalogue import PublicBackbone
from extract.config import BackboneConfig

HUB = "hf-hub:"
MOST_LETTERS = 240


def create(config: BackboneConfig, size_px: int | None, drop_path: float, where: str, *, whole: bool = False) -> Any:
    """timm's model without classifier (with its own where `whole`), built for faces of `size_px` where its architecture
    fixes the size."""
    default = _check_name(config, where)
    options: dict[str, Any] = {"num_classes": None if whole else 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if size_px not in (None, default):
        with contextlib.suppress(TypeError):  # no such argument: a ConvNet, which takes any size
            return _timm_model(config, {**options, "img_size": size_px}, where)
    try:
        return _timm_model(config, options, where)
    except TypeError as error:
        if not drop_path:
            raise
        raise ValueError(
            f"{where}: {config.model} has no blocks to skip ({first_line(error)}); set drop_path to 0"
        ) from None


def _check_name(config: BackboneConfig, where: str) -> int | None:
    """The side of the input that the model is built for, in pixels; None for models of the hub, unknown so far."""
    if ":" in config.model:
        return None
    plain = plain_name(config.model)
    if not timm.is_model(plain):
        close = difflib.get_close_matches(plain, timm.list_models(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; or {HUB}OWNER/NAME for one of the Hugging Face hub"
        raise ValueError(f"{where}: timm has no model {plain!r}{hint}")
    try:
        defaults = timm.get_pretrained_cfg(config.model)
    except RuntimeError:
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{plain}.*")]
        raise ValueError(f"{where}: {config.model}: timm's weights of {plain} are {', '.join(tags)}") from None
    if config.weights == "pretrained" and not (defaults and defaults.has_weights):
        raise ValueError(f'{where}: timm has no weights for {config.model}; set weights to a file or to "random"')
    return defaults.input_size[-1] if defaults else None


def known_preprocessing(entry: PublicBackbone) -> dict[str, Any]:
    """Side in pixels, mean, standard deviation and interpolation of the input, as JSON values: those of the entry, else
    those that timm keeps for the model; what is not known is left out."""
    declared = timm.get_pretrained_cfg(entry.model) if timm.is_model(plain_name(entry.model)) else None
    values = {key: getattr(entry, key) for key in ("size_px", "mean", "std", "interpolation")}
    if declared is not None:
        defaults = {"size_px": declared.input_size[-1], "mean": declared.mean, "std": declared.std}
        defaults["interpolation"] = declared.interpolation
        values = {key: defaults[key] if value is None else value for key, value in values.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value}


def _timm_model(config: BackboneConfig, options: Mapping[str, Any], where: str) -> Any:
    """Runs timm's factory; what is drawn at random there comes from the section's seed.

    Raises:
        TypeError: the model has no such option.
        ValueError: the weights cannot be fetched, or the model cannot be built for this size.
    """
    pretrained = config.weights == "pretrained"
    try:
        with quiet_hub(), seeded(config.seed):
            return timm.create_model(config.model, pretrained=pretrained, **options)
    except TypeError:
        raise
    except Exception as error:  # the hub's client, timm and torch each raise their own
        if isinstance(error, AssertionError) or not (pretrained or ":" in config.model):
            raise size_error(config.model, options.get("img_size"), error, where) from None
        raise ValueError(
            f"{where}: cannot get {config.model}: {_hub_words(error)}. "
            f'To do without the network, name a weights file: weights = "FILE.safetensors"'
        ) from None


def size_error(model: str, size_px: Any, error: Exception, where: str) -> ValueError:
    return ValueError(f"{where}: {model} cannot take faces of {size_px} px ({first_line(error)}); change size_px")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed` inside, as it was before afterwards: timm draws from no other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keeps retries and hints of libraries and the hub's client off the terminal; what matters becomes an error."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def plain_name(model: str) -> str:
    return model.partition(".")[0]


def _hub_words(error: BaseException) -> str:
    """What the hub's client says, on one line without its request's number and its last full stop; as many words as go
    into `MOST_LETTERS`."""
    words = re.sub(r"\s*\(Request ID: [^)]*\)", "", str(error).strip() or type(error).__name__)
    return cut_short(" ".join(words.split())).rstrip(".")


def first_line(error: BaseException) -> str:
    return cut_short((str(error).strip() or type(error).__name__).splitlines()[0])


def cut_short(line: str) -> str:
    """`line`, or of a long one the first words and dots; a word is cut only where it alone is too long."""
    if len(line) <= MOST_LETTERS:
        return line
    kept = line[: MOST_LETTERS - 3]
    return (kept.rsplit(" ", 1)[0] if line[len(kept)] != " " else kept).rstrip() + " .."
