"""What heads are given of a stream: deviations from the mean of a video, or of the frames before."""

import dataclasses

import numpy as np
import pytest
import torch

from heads.config import HeadConfig, age_of
from heads.fusion import normalised, side_by_side
from heads.linear import LinearHead
from heads.model import build_head
from heads.tasks import ABAW_TASKS
from pipelines.strategy import strategy_of
from pipelines.training.dataset import WindowReader
from pipelines.training.inputs import RowMoments, StreamInput, running_means, video_means
from pipelines.training.normal_inputs import NormalReader, reader_for
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


def reader_of(choice: str = "both", width: int = 40, num_views: int = 2) -> WindowReader:
    """Of the streams a and b, the second with ages, invalid rows NaN, in several views."""
    rng, views = np.random.default_rng(0), []
    for _ in range(num_views):
        inputs = {}
        for name in ("b", "a"):
            stream = torch.from_numpy(rng.normal(3, 2, (30, width)).astype(np.float16))
            videos, valid = np.repeat([0, 1], 15), rng.random(30) < 0.8
            stream[~torch.from_numpy(valid)] = torch.nan
            means = None if choice == "embedding" else video_means(stream, valid, videos)
            inputs[name] = StreamInput(stream=stream, choice=choice, means=means, moments=RowMoments())
        inputs[age_of("b")] = StreamInput(stream=torch.from_numpy(rng.integers(-1, 4, (30, 1)).astype(np.float16)))
        known = np.append(np.logical_and.reduce([~inputs[name].stream[:, 0].isnan() for name in "ab"]), False)
        views.append((inputs, torch.from_numpy(known)))
    (inputs, valid), *others = views
    return WindowReader(inputs=inputs, valid=valid, times=torch.arange(31), others=tuple(others))


@pytest.mark.parametrize("choice", ["embedding", "deviation", "both"])
@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_inputs_are_normalised_once_to_the_same_bits(choice: str, fusion: str) -> None:
    reader = reader_of(choice)
    head = build_head(HeadConfig(fusion=fusion, width=8, temporal="none"), reader.widths)
    read = reader_for(head, reader)
    assert isinstance(read, NormalReader)
    for seed in (1, 2):  # what came before leaves no trace
        rows = torch.randint(62, (1, 4 - seed, 9), generator=torch.Generator().manual_seed(seed))
        plain, valid, times = reader(rows)
        plain = {name: each.clone() for name, each in plain.items()}
        found, *rest = read(rows)
        assert [torch.equal(*pair) for pair in zip((valid, times), rest, strict=True)] == [True, True]
        names = ("a", "b")
        for one, other in zip(normalised(plain, names, valid), normalised(found, names, valid), strict=True):
            assert one.any()
            assert torch.equal(one, other)
        assert (found.joined is not None) == (fusion == "concat")
        assert torch.equal(side_by_side(plain, names, valid), side_by_side(found, names, valid))
        assert torch.equal(side_by_side(plain, ("b",), valid), side_by_side(found, ("b",), valid))
        assert torch.equal(plain[age_of("b")], found[age_of("b")])
        assert torch.equal(head(plain, valid, times)["va"], head(found, valid, times)["va"])


def test_inputs_that_are_not_to_be_normalised_are_read_as_they_are() -> None:
    """A backbone's own outputs read embeddings as they are; of narrow streams the moments would be much memory."""
    reader = reader_of("embedding", num_views=1)
    assert reader_for(LinearHead(("va",), "a", 40, ABAW_TASKS), reader) is reader
    narrow = reader_of("embedding", width=31, num_views=1)
    assert reader_for(build_head(HeadConfig(width=8), narrow.widths), narrow) is narrow


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
