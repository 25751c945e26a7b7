"""Log-mel features of sound at the times of frames, without any package but NumPy.

The spectrogram is VGGish's (Hershey et al., arXiv 1609.09430): at 16 kHz, Hann windows of 25 ms every 10 ms,
magnitudes, 64 triangular bands from 125 to 7500 Hz on the mel scale, the logarithm of a band plus 0.01.
Letters: L samples, H steps of the spectrogram, M bands, F times, D = 3 M.
"""

import functools
from collections.abc import Callable

import numpy as np

from extract.audio.sound import Sound

RATE_HZ, WINDOW, HOP, FFT = 16_000, 400, 160, 512
BANDS, LOW_HZ, HIGH_HZ, FLOOR = 64, 125.0, 7500.0, 0.01
NEAR_S, FAR_S = 0.02, 0.25  # to either side of a frame: what stands for the frame, and what for its surroundings
BLOCK = 8192  # steps at once
WIDTH = 3 * BANDS
# A part of a stream's identity: raise it whenever the same sound gives other features.
RECIPE = 1


def log_mel_features(sound: Sound) -> Callable[[np.ndarray], np.ndarray]:
    """Of times [F] in the sound [F, D] float32: the mean of each band within `NEAR_S`, then its mean and its deviation
    within `FAR_S`. The spectrogram is made once, of the whole sound."""
    spectrogram = log_mel(sound.samples).astype(np.float64)
    sums, squares = (np.cumsum(np.pad(x, ((1, 0), (0, 0))), axis=0) for x in (spectrogram, spectrogram**2))
    last = len(spectrogram)

    def means(of: np.ndarray, centres: np.ndarray, reach_s: float) -> np.ndarray:
        reach = reach_s * RATE_HZ / HOP
        first = np.clip(np.ceil(centres - reach), 0, last - 1).astype(int)
        stop = np.clip(np.floor(centres + reach) + 1, first + 1, last).astype(int)
        found: np.ndarray = (of[stop] - of[first]) / (stop - first)[:, None]
        return found

    def features(times_s: np.ndarray) -> np.ndarray:
        centres = (times_s - sound.start_s) * RATE_HZ / HOP
        mean = means(sums, centres, FAR_S)
        deviation = np.sqrt(np.maximum(means(squares, centres, FAR_S) - mean**2, 0))
        return np.concatenate([means(sums, centres, NEAR_S), mean, deviation], axis=1).astype(np.float32)

    return features


def log_mel(samples: np.ndarray) -> np.ndarray:
    """[H, M] float32; step h is the window around sample h * HOP, zeros beyond both ends."""
    padded = np.pad(samples.astype(np.float32), (WINDOW // 2, WINDOW))
    num_steps = len(samples) // HOP + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:num_steps]
    found = np.empty((num_steps, BANDS), np.float32)
    for start in range(0, num_steps, BLOCK):
        spectrum = np.abs(np.fft.rfft(windows[start : start + BLOCK] * _hann(), FFT))
        found[start : start + BLOCK] = np.log(spectrum @ _bands() + FLOOR)
    return found


@functools.cache
def _hann() -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@functools.cache
def _bands() -> np.ndarray:
    """[FFT / 2 + 1, M]: the weight of each frequency in each band, triangles on the mel scale 1127 ln(1 + f / 700)."""
    frequencies = np.arange(FFT // 2 + 1) * RATE_HZ / FFT
    mel = 1127 * np.log1p(frequencies / 700)
    edges = np.linspace(1127 * np.log1p(LOW_HZ / 700), 1127 * np.log1p(HIGH_HZ / 700), BANDS + 2)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0  # no direct current
    return weights
