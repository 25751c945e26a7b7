"""Videos with sound, written by PyAV: a tone whose pitch or loudness changes in time, beside black frames."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Tone = Callable[[np.ndarray], np.ndarray]


def steps_of(*frequencies: float) -> Tone:
    """A second of each frequency in turn; 0 is silence."""

    def tone(times_s: np.ndarray) -> np.ndarray:
        chosen = np.array(frequencies)[np.minimum(times_s.astype(int), len(frequencies) - 1)]
        return 0.5 * np.sin(2 * np.pi * chosen * times_s)

    return tone


def write_sound(path: Path, tone: Tone, seconds: float, *, rate_hz: int = 16_000, channels: int = 1) -> Path:
    """A sound file, or a video with frames of that many seconds, by the ending; a .wav is exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(np.arange(round(seconds * rate_hz)) / rate_hz)
    pcm = (samples * 32767).astype(np.int16).repeat(channels)[None]
    with av.open(str(path), "w") as container:
        is_sound = path.suffix == ".wav"
        layout = "mono" if channels == 1 else "stereo"
        stream = container.add_stream("pcm_s16le" if is_sound else "aac", rate=rate_hz, layout=layout)
        if not is_sound:
            _add_frames(container, seconds)
        for start in range(0, pcm.shape[1], 1024 * channels):
            frame = av.AudioFrame.from_ndarray(pcm[:, start : start + 1024 * channels], format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start // channels, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_silent(path: Path, seconds: float = 1.0) -> Path:
    """A video without a sound track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _add_frames(container, seconds)
    return path


def _add_frames(container: av.container.OutputContainer, seconds: float, fps: int = 10) -> None:
    stream = container.add_stream("mpeg4", rate=fps)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    for number in range(round(seconds * fps)):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
