"""Sound tracks as streams: what a row says, times, other rates, and every way in which sound can be lacking."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cache.identity import NO_ROW
from cache.store import Cache
from cache.stream import Stream
from cache.verify import Damage, verify
from extract.audio import log_mel
from extract.audio.backbones import AudioBackbone, in_pieces, load_audio
from extract.audio.log_mel import BANDS, log_mel_features
from extract.audio.sound import Sound, SoundFiles, read_sound
from extract.config import BackboneConfig, section_problem
from helpers import killed_sound
from helpers.killed_sound import FPS, frames_of, run
from helpers.made_stream import files_of
from helpers.processes import program
from helpers.sound_files import steps_of, write_silent, write_sound

TIMES = np.array([0.5, 1.5, 2.5])


def backbone(model: str = "audio:log-mel", folder: Path = Path()) -> AudioBackbone:
    return load_audio("sound", BackboneConfig(model=model), folder, lambda: "cpu")


def stream_of(folder: Path, view: str = "base") -> np.ndarray:
    return Cache.open(folder / "cache.zarr").stream("sound", view).read()


def test_bands_follow_the_pitch(tmp_path: Path) -> None:
    """Silence is the logarithm of the floor in every band; a tone is in its band, and higher for a higher one."""
    sound = read_sound(write_sound(tmp_path / "a.wav", steps_of(300, 3000, 0), 3), log_mel.RATE_HZ)
    assert sound is not None
    assert (sound.start_s, sound.end_s) == (0, 3)
    near, mean, deviation = np.split(log_mel_features(sound)(TIMES), 3, axis=1)
    low, high = near[0].argmax(), near[1].argmax()
    assert 0 < low < high < BANDS
    np.testing.assert_allclose(near[2], np.log(0.01), atol=1e-3)
    np.testing.assert_allclose(near, mean, atol=0.3)  # nothing changes within a quarter of a second
    assert deviation.max() < 0.3
    assert log_mel_features(sound)(np.array([1.0]))[0, 2 * BANDS :].max() > 1  # but where one tone follows the other


def test_a_row_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    sound = Sound(samples=rng.normal(0, 0.1, 40_000).astype(np.float32), rate_hz=log_mel.RATE_HZ, start_s=0.3)
    times_s = np.arange(3, 28) / FPS
    assert sound.covers(times_s).tolist() == [True] * 25
    whole = log_mel_features(sound)(times_s)
    for place in (0, 7, 24):
        np.testing.assert_array_equal(log_mel_features(sound)(times_s[place : place + 1])[0], whole[place])
    assert sound.covers(np.array([0.2, 0.3, 2.79, 2.81])).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"), [("a.wav", 44_100, 2), ("a.mp4", 48_000, 1), ("a.mkv", 8000, 1)]
)
def test_other_rates_layouts_and_codecs_are_the_same_sound(
    tmp_path: Path, name: str, rate_hz: int, channels: int
) -> None:
    tone = steps_of(300, 2000, 0)
    exact = read_sound(write_sound(tmp_path / "exact.wav", tone, 3), log_mel.RATE_HZ)
    other = read_sound(write_sound(tmp_path / name, tone, 3, rate_hz=rate_hz, channels=channels), log_mel.RATE_HZ)
    assert exact is not None
    assert other is not None
    assert abs(other.end_s - 3) < 0.1
    ours, theirs = (log_mel_features(each)(TIMES[:2])[:, BANDS : 2 * BANDS] for each in (exact, other))
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    np.testing.assert_allclose(ours.max(axis=1), theirs.max(axis=1), atol=0.2)


def test_pieces_of_a_pretrained_model_are_on_a_grid() -> None:
    """Each time gets the step that it lies in, whichever other times are asked for; a model that gives the mean of each
    hundredth of a second tells which."""
    rate_hz = 1000
    samples = np.arange(45 * rate_hz, dtype=np.float32)
    seen: list[int] = []

    def model(piece: np.ndarray) -> np.ndarray:
        seen.append(len(piece))
        return piece[: len(piece) // 10 * 10].reshape(-1, 10).mean(axis=1, keepdims=True)

    features_of, sound = in_pieces(model), Sound(samples=samples, rate_hz=rate_hz, start_s=5.0)
    times_s = np.array([5.0, 24.995, 25.0, 49.985])
    found = features_of(sound)(times_s)[:, 0]
    np.testing.assert_allclose(found, [4.5, 19994.5, 20004.5, 44984.5])
    assert seen == [21_000, 22_000, 6_000]
    for time_s, value in zip(times_s, found, strict=True):
        assert features_of(sound)(np.array([time_s]))[0, 0] == value
    short = Sound(samples=samples[:50], rate_hz=rate_hz)
    assert features_of(short)(np.array([0.0]))[0, 0] == 4.5


def test_rows_ages_and_failures(tmp_path: Path) -> None:
    """Without a track and behind its end a frame has no row, and is a step; without a file, or with a damaged one, it
    failed, until the file is put right."""
    videos = tmp_path / "videos"
    whole = write_sound(videos / "whole.mp4", steps_of(300, 3000, 0), 3)
    write_sound(videos / "deep" / "short.wav", steps_of(500), 1)
    write_silent(videos / "silent.mp4")
    (videos / "torn.mp4").write_bytes(whole.read_bytes()[:2000])
    (videos / "notes.txt").write_text("no video")
    frames = frames_of(whole=30, **{"deep/short": 15}, silent=5, torn=4, gone=3, whole_left=30)
    report = run(tmp_path, frames)
    assert (report.num_done, report.num_skipped, report.num_elsewhere) == (87, 0, 0)
    stored, valid = stream_of(tmp_path), Cache.open(tmp_path / "cache.zarr").stream("sound").valid()
    age = {video: stored[frames["video"] == video, -1].tolist() for video in frames["video"].unique()}
    assert age["deep/short"] == [0] * 10 + [NO_ROW] * 5
    assert (age["silent"], age["whole"]) == ([NO_ROW] * 5, [0] * 30)
    assert not stored[frames["video"] == "silent", :-1].any()
    np.testing.assert_array_equal(stored[frames["video"] == "whole"], stored[frames["video"] == "whole_left"])
    assert valid.tolist() == [video not in ("torn", "gone") for video in frames["video"]]
    reasons = {failure.video: failure.reason for failure in report.failed}
    assert reasons["gone"] == "no file of its name in the folder of videos"
    assert reasons["torn"].startswith("its sound cannot be read (")
    assert report.notes == (
        "sound: 1 video with no sound track; frames without sound have no row: silent",
        "sound: 1 video with a sound track shorter than its frames; frames without sound have no row: deep/short",
    )
    assert run(tmp_path, frames).num_done == 0
    write_sound(videos / "torn.mp4", steps_of(300), 1)
    again = run(tmp_path, frames)
    assert [failure.video for failure in again.failed] == ["gone"] * 3
    stream = Cache.open(tmp_path / "cache.zarr").stream("sound")
    assert stream.valid().sum() == 84
    assert stream.identity.has_age
    faces = dict.fromkeys(frames["path"], b"")  # are not looked at
    assert check(stream, frames, faces, tmp_path) == []
    write_sound(videos / "whole.mp4", steps_of(900), 3)
    changed = [damage.what for damage in check(stream, frames, faces, tmp_path)]
    wanted = [f"video {video} has changed since extraction" for video in ("whole", "whole_left")]
    assert list(dict.fromkeys(changed)) == wanted


def check(stream: Stream, frames: pl.DataFrame, faces: dict[str, bytes], folder: Path) -> list[Damage]:
    files, counts = SoundFiles(folder / "videos"), list[int]()
    found = verify(
        stream, frames, lambda paths: map(faces.get, paths), counts.append, lambda names: map(files.digest, names)
    )
    assert sum(counts) == 2 * len(frames)
    return found


def test_shards_parts_and_views_are_the_same_bytes(tmp_path: Path) -> None:
    """However the rows are cut and whichever part comes first; sound is not mirrored, so every view is alike."""
    frames = frames_of(a=40, b=25)
    for name in ("one", "other"):
        for video in ("a", "b"):
            write_sound(tmp_path / name / "videos" / f"{video}.wav", steps_of(300, 900, 4000, 0), 4)
    run(tmp_path / "one", frames, views=("base", "hflip"))
    for part in ((2, 2), (1, 2)):
        report = run(tmp_path / "other", frames, part=part)
        assert report.num_done + report.num_elsewhere + report.num_skipped == 65
    whole = stream_of(tmp_path / "one")
    np.testing.assert_array_equal(whole, stream_of(tmp_path / "other"))
    np.testing.assert_array_equal(whole, stream_of(tmp_path / "one", "hflip"))
    cache = Cache.open(tmp_path / "one" / "cache.zarr")
    cache.stream("sound").forget([2])
    assert run(tmp_path / "one", frames).num_done == 16
    np.testing.assert_array_equal(whole, stream_of(tmp_path / "one"))
    run(tmp_path / "third", frames, videos=tmp_path / "one" / "videos", shard_rows=7)
    np.testing.assert_array_equal(whole, stream_of(tmp_path / "third"))
    with pytest.raises(ValueError, match=r"differs in: preprocessing fps \(cached 10.0, wanted 25.0\)"):
        run(tmp_path / "one", frames, fps=25.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
def test_a_killed_extraction_leaves_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("killed", "undisturbed"):
        for video in ("a", "b"):
            write_sound(tmp_path / name / "videos" / f"{video}.wav", steps_of(300, 900, 4000, 0), 4)
    run(tmp_path / "undisturbed", frames_of(a=40, b=25))
    assert int(program(killed_sound.main, tmp_path / "killed", 2, 9, 21, 35, 50, 65, 80)) >= 5
    assert files_of(tmp_path / "killed" / "cache.zarr") == files_of(tmp_path / "undisturbed" / "cache.zarr")


def test_folders_that_are_not_those_of_the_videos(tmp_path: Path) -> None:
    frames = frames_of(a=3)
    with pytest.raises(ValueError, match="videos: no such folder of videos; set videos under"):
        run(tmp_path, frames)
    write_sound(tmp_path / "videos" / "b.wav", steps_of(300), 1)
    with pytest.raises(ValueError, match=r"no video of the frames table is there \(it has b, the table a\)"):
        run(tmp_path, frames)
    write_silent(tmp_path / "videos" / "b.mp4")
    with pytest.raises(ValueError, match=r"b.mp4 and .*b.wav are both called b; rename one"):
        SoundFiles(tmp_path / "videos")


def test_models_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[backbones.sound\]: model 'audio:mfcc' is unknown; known: audio:log-mel, "):
        backbone("audio:mfcc")
    with pytest.raises(ValueError, match=r"\[backbones.sound\]: .*nowhere: no such folder of a model"):
        backbone("audio:hf:./nowhere", tmp_path)
    assert "size_px does not go with audio:log-mel" in str(
        section_problem(BackboneConfig(model="audio:log-mel", size_px=3))
    )
    assert section_problem(BackboneConfig(model="audio:log-mel", tasks=("va",), licence="x")) is None


def test_a_model_of_transformers(tmp_path: Path) -> None:
    """A tiny untrained wav2vec 2.0 from a folder: no weights can be fetched here, but the way is the same."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(20, 16),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "tiny")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "tiny")
    loaded = backbone("audio:hf:./tiny", tmp_path)
    assert (loaded.rate_hz, loaded.width) == (16_000, 16)
    sound = read_sound(write_sound(tmp_path / "a.wav", steps_of(300, 3000, 500), 3), loaded.rate_hz)
    assert sound is not None
    found = loaded.features(sound)(TIMES)
    assert found.shape == (3, 16)
    assert np.isfinite(found).all()
    assert not np.allclose(found[0], found[1], atol=1e-3)
    assert loaded.weights_digest == backbone("audio:hf:./tiny", tmp_path).weights_digest
