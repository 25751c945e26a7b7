"""What measurements read, made under bench/work the first time that it is asked for."""

from collections.abc import Callable, Mapping

from bench.cache_reading import made_stream
from bench.made_faces import made_faces
from bench.video_faces import made_video

MAKERS: Mapping[str, Callable[[], object]] = {
    "faces": lambda: made_faces(1),
    "stream": made_stream,
    "video": made_video,
}
