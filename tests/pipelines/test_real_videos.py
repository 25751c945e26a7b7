"""Real videos with real detectors: crops made anew agree with those given; skips where these are absent."""

from pathlib import Path

import numpy as np
import pytest

from bench import real_videos
from extract.video.detectors import load_detector
from extract.video.faces import found_faces
from extract.video.finder import FaceFinder
from extract.video.frames import open_video

# Where detection was at 480 px, as it was for the crops given; the others' videos are smaller than that.
EVERY = 12


@pytest.fixture(scope="module")
def yunet(real_data: Path) -> FaceFinder:
    return real_videos.finder(real_data, "yunet", 480)


@pytest.mark.real
@pytest.mark.slow
def test_crops_made_anew_agree_with_those_given(real_data: Path, yunet: FaceFinder) -> None:
    """Mean distance of the five points at most 1 px and 95 % within 3 px, at 112 px; so do their embeddings."""
    found = [real_videos.compare(real_data, folder, yunet, EVERY) for folder in real_videos.VIDEOS]
    distances = np.concatenate([each.distances_px for each in found])
    assert len(distances) > 200
    assert np.isfinite(distances).all()
    assert distances.mean() <= 1
    assert np.quantile(distances, 0.95) <= 3
    assert all(each.distances_px.mean() <= 1 and not each.num_missed for each in found)
    assert np.concatenate([each.cosines for each in found]).mean() > 0.99


@pytest.mark.real
def test_the_distance_is_that_of_the_crops(real_data: Path, yunet: FaceFinder) -> None:
    """A crop that is 2 px off is measured so, whatever the detector says."""
    with open_video(real_data / "video/single_face.mp4") as reader:
        frame = next(iter(reader))
    (points,) = yunet.find(frame.pixels).points
    crop = yunet.crop(frame.pixels, points)
    scale = np.linalg.norm(points[1] - points[0]) / 35.2  # px of the frame per px of the crop
    off = yunet.crop(frame.pixels, points + np.float32([2 * scale, 0]))
    assert real_videos.points_distance_px(crop, crop) < 0.01
    assert real_videos.points_distance_px(crop, off) == pytest.approx(2, abs=0.15)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["yunet", "retinaface"])
def test_faces_are_found_where_they_are_and_tracked(real_data: Path, kind: str) -> None:
    """72 of 169 frames have a face, on one side of a cut; no_face has none; the one face of a video is one track."""
    finder = real_videos.finder(real_data, kind, 480)
    for name, num_frames in (("face_noface.mov", 72), ("noface_face.mov", 72), ("single_face.mp4", 72)):
        with found_faces(real_data / "video" / name, finder) as found:
            frames = list(found)
        assert sum(len(frame.faces) for frame in frames) == num_frames
        assert {face.face for frame in frames for face in frame.faces} == {1}
        assert any(frame.is_cut for frame in frames) == name.endswith(".mov")
    with found_faces(real_data / "video/no_face.mp4", finder) as found:
        assert not any(frame.faces for frame in found)


@pytest.mark.real
def test_retinaface_finds_what_the_packages_own_code_finds(real_data: Path, tmp_path: Path) -> None:
    """That gives whole pixels, and subtracts another mean of red."""
    package = pytest.importorskip("retinaface", reason="the extra faces is not installed", exc_type=ImportError)
    detector = load_detector("retinaface", tmp_path)
    with open_video(real_data / "video/single_face.mp4") as reader:
        for frame in reader:
            if frame.number % 24 == 0:
                (wanted,) = package.detect_faces(frame.pixels)
                found = detector.detect(frame.pixels)
                best = found.take(found.scores > 0.9)
                assert len(best) == 1
                box = [wanted.x, wanted.y, wanted.x + wanted.width, wanted.y + wanted.height]
                np.testing.assert_allclose(best.boxes[0], box, atol=4)
                np.testing.assert_allclose(best.points[0], [[p.x, p.y] for p in wanted.landmarks], atol=3)
