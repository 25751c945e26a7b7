"""What embeds sound: log-mel features, or a pretrained model of torchaudio or Hugging Face (extra `audio`).

A pretrained model sees pieces of `PIECE_S` on a grid that begins with the sound, each with `MARGIN_S` more to either
side, so an embedding does not depend on which frames are asked for. Letters: L samples, H steps of a model, F times,
D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import AGE, SOUND, StreamIdentity
from extract.audio import log_mel
from extract.audio.sound import Sound
from extract.config import AUDIO_MODEL, BackboneConfig

PIECE_S, MARGIN_S = 20.0, 1.0
PACKAGES = ("numpy", "av")
LOG_MEL, TORCHAUDIO, HUB = "log-mel", "torchaudio:", "hf:"
KNOWN = f"{AUDIO_MODEL}{LOG_MEL}, {AUDIO_MODEL}{TORCHAUDIO}NAME and {AUDIO_MODEL}{HUB}OWNER/NAME or a folder"
Features = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioBackbone:
    """One section `[backbones.NAME]` of sound, ready to run: `features` of a sound at `rate_hz` map times [F] in it to
    [F, D] float32. `packages` are those that the numbers depend on."""

    name: str
    config: BackboneConfig
    rate_hz: int
    width: int
    weights_digest: str
    recipe: dict[str, Any]
    packages: tuple[str, ...]
    features: Callable[[Sound], Features]

    def identity(self, frames: str, num_frames: int, view: str, dtype: str, fps: float) -> StreamIdentity:
        """Of its stream over a frame list; the last column is the age, 0 where there is sound."""
        return StreamIdentity(
            backbone=self.config.model,
            weights=self.weights_digest,
            preprocessing={"rate_hz": self.rate_hz, **self.recipe, AGE: "frames", "fps": fps},
            pooling=SOUND,
            dtype=dtype,
            view=view,
            frames=frames,
            num_frames=num_frames,
            width=self.width + 1,
        )


def load_audio(name: str, config: BackboneConfig, folder: Path, device: Callable[[], str]) -> AudioBackbone:
    """The backbone of a section with `model = "audio:.."`; a local model's folder starts at `folder`, and
    `device` is asked for where torch runs it.

    Raises:
        ValueError: no such model, its package is not installed, or its weights cannot be had.
    """
    where, model = f"[backbones.{name}]", config.model.removeprefix(AUDIO_MODEL)
    if model == LOG_MEL:
        return AudioBackbone(
            name=name,
            config=config,
            rate_hz=log_mel.RATE_HZ,
            width=log_mel.WIDTH,
            weights_digest="none",
            recipe={"recipe": log_mel.RECIPE},
            packages=PACKAGES,
            features=log_mel.log_mel_features,
        )
    if not model.startswith((TORCHAUDIO, HUB)):
        raise ValueError(f"{where}: model {config.model!r} is unknown; known: {KNOWN}")
    from extract.audio import pretrained  # needs torch

    if model.startswith(TORCHAUDIO):
        loaded = pretrained.load_torchaudio(model.removeprefix(TORCHAUDIO), device(), where)
    else:
        loaded = pretrained.load_hub(model.removeprefix(HUB), folder, device(), where)
    return AudioBackbone(
        name=name,
        config=config,
        rate_hz=loaded.rate_hz,
        width=loaded.width,
        weights_digest=loaded.digest,
        recipe={"piece_s": PIECE_S, "margin_s": MARGIN_S},
        packages=(*PACKAGES, *loaded.packages),
        features=in_pieces(loaded.run),
    )


def in_pieces(run: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sound], Features]:
    """Features of a model `run` that maps samples [L] to steps [H, D] spread evenly over them: of each time the step
    that it lies in."""

    def of_piece(sound: Sound, piece: int, since_s: np.ndarray) -> np.ndarray:
        first = max(0, round((piece * PIECE_S - MARGIN_S) * sound.rate_hz))
        samples = sound.samples[first : round(((piece + 1) * PIECE_S + MARGIN_S) * sound.rate_hz)]
        if len(samples) < sound.rate_hz:  # too short for some models
            samples = np.pad(samples, (0, sound.rate_hz - len(samples)))
        steps = run(samples)
        places = (since_s * sound.rate_hz - first) * len(steps) / len(samples)
        found: np.ndarray = steps[np.clip(places.astype(int), 0, len(steps) - 1)]
        return found

    def features_of(sound: Sound) -> Features:
        def features(times_s: np.ndarray) -> np.ndarray:
            since_s = times_s - sound.start_s
            pieces = np.floor(since_s / PIECE_S).astype(int)
            numbers, of_time = np.unique(pieces, return_inverse=True)
            parts = [of_piece(sound, int(each), since_s[pieces == each]) for each in numbers]
            out = np.empty((len(times_s), parts[0].shape[1]), np.float32)
            for number, rows in enumerate(parts):
                out[of_time == number] = rows
            return out

        return features

    return features_of
