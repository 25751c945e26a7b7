"""From the frames of a unit to chunks in the work folder: a thread embeds crops in batches while the source goes on.

Batches are cut at the chunks' ends, so that no embedding depends on where an earlier run was stopped.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import torch

from cache.cores import num_cores
from pipelines.predict.face_model import FaceModel
from pipelines.predict.observed import ObservedFace, ObservedFrame, Unit
from pipelines.predict.work import Chunk, UnitWork

CHUNK_FRAMES = 128  # a kill costs two chunks at most: ten seconds of video
BATCHES_AHEAD = 2  # given to the thread that embeds; more would only take memory
NO_BOX = (np.nan,) * 4
Embedded = dict[str, np.ndarray]


def observe(unit: Unit, work: UnitWork, model: FaceModel, advance: Callable[[int], None] = lambda count: None) -> None:
    """Reads and embeds what `work` does not have of `unit` yet; `advance` is told of each frame.

    Raises:
        ValueError: the source cannot be read at all.
    """
    if work.why_ended is not None:
        return
    with _embedding_thread(unit.is_detected) as thread:
        embedding = _Embedding(model, thread)
        pending, waiting = _Pending(embedding), deque[_Pending]()
        with closing(unit.frames(work.num_frames, work.state)) as frames:
            for frame in frames:
                pending.add(frame)
                if len(pending.frames) == CHUNK_FRAMES:
                    waiting.append(pending.closed())
                    pending = _Pending(embedding)
                    if len(waiting) > 1:  # the last one's faces are still being embedded
                        work.append(waiting.popleft().chunk())
                advance(1)
        for each in (*waiting, *([pending.closed()] if pending.frames else [])):
            work.append(each.chunk())
        work.end(unit.why_ended)


@contextmanager
def _embedding_thread(is_detected: bool) -> Iterator[ThreadPoolExecutor]:
    """A thread whose torch leaves a core to the detector, where there is one."""
    before = torch.get_num_threads()
    num_threads = min(before, max(1, num_cores() - 1)) if is_detected else before
    thread = ThreadPoolExecutor(1, "embedding", initializer=torch.set_num_threads, initargs=(num_threads,))
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class _Embedding:
    """Batches of crops given to the thread that embeds them."""

    def __init__(self, model: FaceModel, thread: ThreadPoolExecutor) -> None:
        self.batch_size = model.batch_size
        self._model, self._thread = model, thread
        self._under_way: deque[Future[Embedded]] = deque()

    def submit(self, crops: list[np.ndarray], videos: list[str]) -> Future[Embedded]:
        """Waits while `BATCHES_AHEAD` are under way."""
        while len(self._under_way) >= BATCHES_AHEAD:
            self._under_way.popleft().result()
        self._under_way.append(self._thread.submit(self._model.embed, crops, videos))
        return self._under_way[-1]


class _Pending:
    """The frames of a chunk in the making."""

    def __init__(self, embedding: _Embedding) -> None:
        self.frames: list[ObservedFrame] = []
        self._embedding = embedding
        self._of: list[int] = []
        self._faces: list[ObservedFace] = []  # without their crops: those of a chunk would take its memory
        self._valid: list[bool] = []
        self._crops: list[np.ndarray] = []
        self._videos: list[str] = []
        self._batches: list[Future[Embedded]] = []

    def add(self, frame: ObservedFrame) -> None:
        for face in frame.faces:
            self._of.append(len(self.frames))
            self._faces.append(replace(face, crop=None))
            self._valid.append(face.crop is not None)
            if face.crop is not None:
                self._crops.append(face.crop)
                self._videos.append(frame.video)
                if len(self._crops) == self._embedding.batch_size:
                    self._submit()
        self.frames.append(replace(frame, faces=()))

    def closed(self) -> "_Pending":
        """The same, all its crops given to be embedded."""
        if self._crops:
            self._submit()
        return self

    def _submit(self) -> None:
        self._batches.append(self._embedding.submit(self._crops, self._videos))
        self._crops, self._videos = [], []

    def chunk(self) -> Chunk:
        """Waits until all of it is embedded."""
        batches = [batch.result() for batch in self._batches]
        valid = np.array(self._valid, dtype=bool)
        embeddings = {}
        for name in batches[0] if batches else ():
            found = np.concatenate([batch[name] for batch in batches])
            embeddings[name] = np.zeros((len(valid), found.shape[1]), found.dtype)
            embeddings[name][valid] = found
        boxes = [face.box or NO_BOX for face in self._faces]
        scores = [np.nan if face.score is None else face.score for face in self._faces]
        times = [np.nan if frame.time_s is None else frame.time_s for frame in self.frames]
        return Chunk(
            videos=[frame.video for frame in self.frames],
            frames=np.array([frame.frame for frame in self.frames], np.int64),
            times_s=np.array(times, np.float64),
            of=np.array(self._of, np.int64),
            faces=np.array([face.face for face in self._faces], np.int64),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.array(scores, np.float32),
            valid=valid,
            embeddings=embeddings,
            faults={place: face.fault for place, face in enumerate(self._faces) if face.fault},
            state=self.frames[-1].state(),
        )
