"""From the frames of a unit to chunks in the work folder: crops are embedded in batches while the source reads ahead.

Batches are cut at the chunks' ends, so that no embedding depends on where an earlier run was stopped.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np

from pipelines.predict.face_model import FaceModel
from pipelines.predict.observed import ObservedFace, ObservedFrame, Unit
from pipelines.predict.work import Chunk, UnitWork

CHUNK_FRAMES = 256  # what a kill may cost: ten seconds of video
NO_BOX = (np.nan,) * 4


def observe(unit: Unit, work: UnitWork, model: FaceModel, advance: Callable[[int], None] = lambda count: None) -> None:
    """Reads and embeds what `work` does not have of `unit` yet; `advance` is told of each frame.

    Raises:
        ValueError: the source cannot be read at all.
    """
    if work.why_ended is not None:
        return
    pending = _Pending(model)
    with closing(unit.frames(work.num_frames, work.state)) as frames:
        for frame in frames:
            pending.add(frame)
            if len(pending.frames) == CHUNK_FRAMES:
                work.append(pending.chunk())
                pending = _Pending(model)
            advance(1)
    if pending.frames:
        work.append(pending.chunk())
    work.end(unit.why_ended)


class _Pending:
    """The frames of a chunk in the making."""

    def __init__(self, model: FaceModel) -> None:
        self.frames: list[ObservedFrame] = []
        self._model = model
        self._of: list[int] = []
        self._faces: list[ObservedFace] = []  # without their crops: those of a chunk would take its memory
        self._valid: list[bool] = []
        self._crops: list[np.ndarray] = []
        self._videos: list[str] = []
        self._batches: list[dict[str, np.ndarray]] = []

    def add(self, frame: ObservedFrame) -> None:
        for face in frame.faces:
            self._of.append(len(self.frames))
            self._faces.append(replace(face, crop=None))
            self._valid.append(face.crop is not None)
            if face.crop is not None:
                self._crops.append(face.crop)
                self._videos.append(frame.video)
                if len(self._crops) == self._model.batch_size:
                    self._embed()
        self.frames.append(replace(frame, faces=()))

    def _embed(self) -> None:
        self._batches.append(self._model.embed(self._crops, self._videos))
        self._crops, self._videos = [], []

    def chunk(self) -> Chunk:
        if self._crops:
            self._embed()
        valid = np.array(self._valid, dtype=bool)
        embeddings = {}
        for name in self._batches[0] if self._batches else ():
            found = np.concatenate([batch[name] for batch in self._batches])
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
