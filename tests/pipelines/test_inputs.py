"""What heads are given of a stream: deviations from the mean of a video, or of the frames before."""

import dataclasses

import numpy as np
import pytest
import torch

from heads.config import HeadConfig
from pipelines.strategy import strategy_of
from pipelines.training.inputs import StreamInput, running_means, video_means
from pipelines.training.run import load_run, predict_run, write_run
from pipelines.training.train import train_strategy


def made_rows(seed: int = 0, num: int = 60):
    """A stream [N, 5], which rows are valid, three videos, and their real frame numbers with gaps."""
    rng = np.random.default_rng(seed)
    videos = np.repeat([0, 1, 2], [num // 2, num // 3, num - num // 2 - num // 3])
    times = np.concatenate([np.cumsum(rng.integers(1, 9, (videos == video).sum())) for video in range(3)])
    stream = torch.from_numpy(rng.normal(3, 2, (num, 5)).astype(np.float16))
    valid = rng.random(num) < 0.8
    stream[~torch.from_numpy(valid)] = torch.nan
    return stream, valid, videos, times


def test_a_videos_mean_is_of_its_valid_frames() -> None:
    stream, valid, videos, _ = made_rows()
    means = video_means(stream, valid, videos)
    for row in range(len(stream)):
        expected = stream[torch.from_numpy(valid & (videos == videos[row]))].float().mean(dim=0)
        torch.testing.assert_close(means.table[means.which[row]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 7, 30, 10_000])
def test_a_running_mean_is_of_the_valid_frames_before(num_frames: int) -> None:
    stream, valid, videos, times = made_rows(1)
    means = running_means(stream, valid, videos, times, num_frames)
    for row in range(len(stream)):
        seen = valid & (videos == videos[row]) & (times <= times[row]) & (times > times[row] - num_frames)
        expected = stream[torch.from_numpy(seen)].float().mean(dim=0) if seen.any() else torch.zeros(5)
        torch.testing.assert_close(means.table[means.which[row]], expected, rtol=1e-5, atol=1e-4)


def test_a_video_without_a_valid_frame_has_mean_0() -> None:
    stream, _, videos, times = made_rows()
    stream, valid = stream.nan_to_num(), videos != 1
    for means in (video_means(stream, valid, videos), running_means(stream, valid, videos, times, 5)):
        assert (means.table[means.which[torch.from_numpy(videos == 1)]] == 0).all()


def test_inputs_of_a_source_are_what_they_are_called() -> None:
    stream, valid, videos, _ = made_rows()
    stream = stream.nan_to_num()
    means = video_means(stream, valid, videos)
    rows = torch.tensor([3, 41, 3, 17, 59])
    deviations = stream[rows].float() - means.table[means.which[rows]]
    expected = {
        "embedding": stream[rows].float(),
        "deviation": deviations,
        "both": torch.cat([stream[rows].float(), deviations], dim=1),
    }
    for choice, inputs in expected.items():
        source = StreamInput(stream=stream, choice=choice, means=None if choice == "embedding" else means)
        assert source.width == inputs.shape[1]
        source.rows(torch.arange(50))  # what came before leaves no trace
        torch.testing.assert_close(source.rows(rows), inputs)
        torch.testing.assert_close(source._fresh(rows), inputs)


def test_deviations_take_out_what_is_a_videos_own(small, made) -> None:
    """An offset for each video: the inputs are the same with it and without."""
    moved = dataclasses.replace(made, streams={name: x.astype(np.float32) for name, x in made.streams.items()})
    shift = np.random.default_rng(5).integers(-3, 4, (len(made.frames["video"].unique()), 1))
    codes = made.frames["video"].rank("dense").to_numpy().astype(int) - 1
    for name in moved.streams:
        moved.streams[name] = (moved.streams[name] + shift[codes]).astype(np.float16)
    head, rows = HeadConfig(inputs="deviation"), torch.arange(len(made.frames))
    for name in made.streams:
        found = [each.dataset().reader([name], [name], head, ["base"])(rows)[0][name].clone() for each in (made, moved)]
        torch.testing.assert_close(found[0], found[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("values", [{"inputs": "both"}, {"inputs": "deviation", "mean_frames": 20}])
def test_a_run_predicts_from_the_inputs_it_was_trained_on(small, made, tmp_path, values) -> None:
    strategy = strategy_of(small).replace({**values, "method": "progressive", "streams": "own"}, "test")
    dataset = made.dataset()
    result = train_strategy(small, dataset, strategy)
    write_run(tmp_path / "run", result, small, dataset)
    run = load_run(tmp_path / "run")
    said = predict_run(run, made.dataset(), result.split.report)
    for task in ("va", "expr", "au"):
        np.testing.assert_allclose(
            said.probabilities.parts[task], result.predictions["report"].probabilities.parts[task], atol=1e-6
        )
