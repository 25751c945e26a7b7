"""What `mtl align` prints."""

from collections.abc import Iterator

from pipelines.alignment.align import Aligned, AlignedVideo
from pipelines.alignment.template import Measured
from pipelines.words import counted


def aligned_lines(done: Aligned) -> Iterator[str]:
    for name, video in done.videos.items():
        before = " (made before)" if name in done.found else ""
        yield f"{name}: {_video(video)}{before}"
        if video.why_ended:
            yield f"INCOMPLETE: {name}: {video.why_ended}"
    crops = sum(count for video in done.videos.values() for count in video.folders.values())
    frames = sum(video.num_frames for name, video in done.videos.items() if name not in done.found)
    rate = f"; {frames / max(done.seconds, 1e-9):,.1f} frames/s" if frames else ""
    yield f"{done.out}: {counted(crops, 'crop')} of {counted(len(done.videos), 'video')}{rate}"


def measured_lines(measured: Measured) -> Iterator[str]:
    points = ", ".join(f"[{x:.1f}, {y:.1f}]" for x, y in measured.points)
    yield (
        f"{measured.folder}: crops of {measured.template.size_px} px; {measured.detector} found the face in "
        f"{measured.num_found:,} of {counted(measured.num_crops, 'crop')} looked at; median points {points}"
    )
    if measured.known:
        yield f'template "{measured.known}": they agree with it to {measured.distance_px:.1f} px'
    yield f"{measured.config}: [faces] has it"


def _video(video: AlignedVideo) -> str:
    frames = counted(video.num_frames, "frame")
    if not video.folders:
        return f"no face in {frames}"
    folders = ", ".join(f"{counted(count, 'crop')} in {folder}" for folder, count in video.folders.items())
    cuts = f", {counted(video.num_cuts, 'cut')}" if video.num_cuts else ""
    return f"{folders}; {frames}{cuts}"
