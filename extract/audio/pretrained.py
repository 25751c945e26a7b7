"""Pretrained models of sound: their weights loaded without running code, run in float32 by torch.

Letters: L samples, H steps of a model, D width.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from extract.backbones.timm_models import cut_short, quiet_hub
from extract.backbones.weights import weights_digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pretrained:
    """`run` maps samples [L] at `rate_hz` to [H, D] float32; `digest` is that of the weights, `packages` are those that
    the numbers depend on."""

    run: Callable[[np.ndarray], np.ndarray]
    rate_hz: int
    width: int
    digest: str
    packages: tuple[str, ...]


def load_torchaudio(name: str, device: str, where: str) -> Pretrained:
    """A bundle of torchaudio.pipelines, such as WAVLM_BASE; the last layer.

    Raises:
        ValueError: torchaudio is not installed, has no such bundle of features, or the weights cannot be fetched.
    """
    try:
        import torchaudio
    except (ImportError, OSError):  # built for another torch it finds no library
        raise ValueError(f"{where}: needs torchaudio, in the version of this torch: pip install torchaudio") from None
    bundle: Any = getattr(torchaudio.pipelines, name, None)
    if not hasattr(bundle, "get_model"):
        raise ValueError(
            f"{where}: torchaudio.pipelines has no model {name}; WAVLM_BASE and HUBERT_BASE are two of them"
        )
    with _one_line(where, name):
        model = bundle.get_model(dl_kwargs={"weights_only": True}).to(device).eval()

    def steps(samples: torch.Tensor) -> torch.Tensor:
        layers, _ = model.extract_features(samples[None])
        last: torch.Tensor = layers[-1][0]
        return last

    return _loaded(model, steps, int(bundle.sample_rate), device, where, "torchaudio")


def load_hub(name: str, folder: Path, device: str, where: str) -> Pretrained:
    """A model of Hugging Face transformers that maps sound to a last hidden state (WavLM, wav2vec 2.0, HuBERT), of the
    hub, or in a folder whose path begins with a dot or a slash.

    Raises:
        ValueError: transformers is not installed, or the model cannot be had or takes no sound.
    """
    try:
        from transformers import AutoFeatureExtractor, AutoModel
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise ValueError(f'{where}: needs transformers: pip install "mtl-affect[audio]"') from None
    disable_progress_bar()
    is_local = name.startswith((".", "/", "~"))
    path = str(folder / Path(name).expanduser()) if is_local else name
    if is_local and not Path(path).is_dir():
        raise ValueError(f"{where}: {path}: no such folder of a model")
    with _one_line(where, name), quiet_hub():
        model = AutoModel.from_pretrained(path, local_files_only=is_local).to(device).eval()
        extractor = AutoFeatureExtractor.from_pretrained(path, local_files_only=is_local)
    rate_hz = int(extractor.sampling_rate)

    def steps(samples: torch.Tensor) -> torch.Tensor:
        given = extractor(samples.cpu().numpy(), sampling_rate=rate_hz, return_tensors="pt")
        last: torch.Tensor = model(given.input_values.to(device)).last_hidden_state[0]
        return last

    return _loaded(model, steps, rate_hz, device, where, "transformers")


def _loaded(
    model: nn.Module,
    steps: Callable[[torch.Tensor], torch.Tensor],
    rate_hz: int,
    device: str,
    where: str,
    package: str,
) -> Pretrained:
    def run(samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = steps(torch.from_numpy(samples.astype(np.float32)).to(device)).float().cpu().numpy()
        return found

    with _one_line(where, "the model"):
        width = run(np.zeros(rate_hz, np.float32)).shape[1]
    return Pretrained(run=run, rate_hz=rate_hz, width=width, digest=weights_digest(model), packages=("torch", package))


@contextlib.contextmanager
def _one_line(where: str, what: str) -> Any:
    """Errors of the libraries, of many kinds, as a ValueError of one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        words = " ".join((str(error).strip() or type(error).__name__).split())
        hint = "without the network name a folder, audio:hf:./FOLDER"
        raise ValueError(f"{where}: cannot get or run {what}: {cut_short(words)}; {hint}") from None
