"""The sound track of a video as samples at one rate, on the clock of its frames.

Any rate and sample format is resampled by ffmpeg, and channels are averaged. A sample's time is its presentation time
in the file, counted from the first frame of the video where there is one. PyAV is an optional extra.
Letters: L samples.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbones.origin import file_digest
from extract.faces.decoder import make_strict, open_container, pyav
from extract.faces.decoding import is_machines
from extract.video.frames import FORMATS

ENDINGS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".wav", ".flac", ".mp3", ".m4a", ".ogg")
MAX_HOURS = 24.0
PERSON = re.compile(r"_(left|right|\d+)$")  # behind a video's name where several people's faces were cut from it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """`samples` [L] float32 in [-1, 1] at `rate_hz`, the first of them at `start_s` on the clock of the frames."""

    samples: np.ndarray
    rate_hz: int
    start_s: float = 0.0

    @property
    def end_s(self) -> float:
        return self.start_s + len(self.samples) / self.rate_hz

    def covers(self, times_s: np.ndarray) -> np.ndarray:
        """[F] bool: which of the times it has sound at."""
        inside: np.ndarray = (times_s >= self.start_s) & (times_s < self.end_s)
        return inside


class SoundFiles:
    """The videos and sound files below a folder, by their path in it without the ending: what a video is called."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            ValueError: no such folder, or two files of one name.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of videos; set videos under [data] in mtl.toml")
        self.found: dict[str, Path] = {}
        self._digests: dict[Path, bytes] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in self.found:
                raise ValueError(f"{self.found[name]} and {path} are both called {name}; rename one of them")
            self.found[name] = path

    def file(self, video: str) -> Path | None:
        """That of a video, or of the one that a person's faces were cut from; None where there is none."""
        return self.found.get(video) or self.found.get(PERSON.sub("", video))

    def digest(self, video: str) -> bytes | None:
        """[16] of the file's bytes; None where there is none."""
        path = self.file(video)
        if path is None:
            return None
        if path not in self._digests:
            self._digests[path] = bytes.fromhex(file_digest(path))
        return self._digests[path]


def read_sound(path: Path, rate_hz: int) -> Sound | None:
    """The whole sound track of the file; None where it has none.

    Raises:
        ValueError: PyAV is not installed, or the file is damaged, or no recording.
        OSError: the machine is out of memory or open files.
    """
    pyav()
    try:
        with open_container(os.fspath(path), FORMATS) as container:
            return _sound(container, rate_hz)
    except Exception as error:  # PyAV's errors are of many kinds, some of them OSErrors
        if is_machines(error):
            raise
        raise ValueError(f"its sound cannot be read ({_words(error)})") from None


def _sound(container: Any, rate_hz: int) -> Sound | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    make_strict(stream)
    resampler = pyav().AudioResampler(format="fltp", rate=rate_hz)
    first, parts, most = None, list[np.ndarray](), int(MAX_HOURS * 3600 * rate_hz)
    for frame in container.decode(stream):
        first = frame.time if first is None else first
        parts += [each.to_ndarray().mean(axis=0) for each in resampler.resample(frame)]
        most -= frame.samples * rate_hz // frame.sample_rate
        if most < 0:
            raise ValueError(f"it is longer than {MAX_HOURS:g} hours")
    parts += [each.to_ndarray().mean(axis=0) for each in resampler.resample(None)]
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(samples):
        return None
    return Sound(samples=samples, rate_hz=rate_hz, start_s=(first or 0.0) - _first_frame_s(container))


def _first_frame_s(container: Any) -> float:
    """When the first frame of the video is shown; 0 for sound alone."""
    for stream in container.streams.video:
        if stream.start_time is not None and not stream.disposition & stream.disposition.attached_pic:
            return float(stream.start_time * stream.time_base)
    return 0.0


def _words(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return words.splitlines()[0][:200]
