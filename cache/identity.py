"""What a stream was made from: two streams are interchangeable exactly when their identities are equal.

Labels are no part of it, so relabelling never costs an extraction. Letters: N frames, D width.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FACE_DIGEST_BYTES = 16
# The pooling of a stream whose vectors others made: nothing is known of how, and no face was seen.
IMPORTED = "imported"
# That of a stream made from the sound tracks of videos: no face was seen.
SOUND = "sound"
# The part of a stream's preprocessing that says that its last column is the age, in frames, of the row that a frame
# sees; NO_ROW where it sees none, and the embedding is zeros.
AGE, NO_ROW = "age", -1.0
# What helps where one of two identities has a part and the other, made before there was such a choice, has not.
HINTS = {"preprocessing orientation": "; --ignore-orientation takes faces as stored, as old caches do"}


def bytes_digest(data: bytes) -> bytes:
    """The digest [FACE_DIGEST_BYTES] of a face file's bytes, by which a face that changed since is noticed."""
    return hashlib.blake2b(data, digest_size=FACE_DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamIdentity:
    """Backbone, weights, preprocessing and frame list of a stream.

    `weights` is the digest of the backbone's weights, `frames` that of the frame list (`cache.frames.frames_digest`),
    `preprocessing` plain JSON values, `dtype` the stored one, `width` D and `num_frames` N.
    """

    backbone: str
    weights: str
    preprocessing: Mapping[str, Any]
    pooling: str
    dtype: str
    view: str
    frames: str
    num_frames: int
    width: int

    @property
    def digest(self) -> str:
        """Hexadecimal; equal exactly for equal identities."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def is_imported(self) -> bool:
        """Whether the embeddings came from a file, so that no face digests were taken."""
        return self.pooling == IMPORTED

    @property
    def sees_faces(self) -> bool:
        """Whether it was made from the faces of the frames table, of which digests were taken."""
        return self.pooling not in (IMPORTED, SOUND)

    @property
    def has_age(self) -> bool:
        """Whether the last column is the age of the row that the frame sees, and not of the embedding."""
        return AGE in self.preprocessing

    @property
    def maker(self) -> str:
        """What the importer said made the embeddings; "" where nobody said so."""
        return self.backbone if self.is_imported and self.backbone != IMPORTED else ""

    def as_made_by(self, other: "StreamIdentity") -> "StreamIdentity":
        """This identity with what may differ where both are one maker's embeddings put as in `other`: the frames, and
        of imported ones of one named maker the file they lay in and how it was read."""
        same = dataclasses.replace(self, frames=other.frames, num_frames=other.num_frames)
        if self.maker and self.maker == other.maker:
            same = dataclasses.replace(same, weights=other.weights, preprocessing=other.preprocessing)
        return same

    def to_json(self) -> dict[str, Any]:
        """Plain values: what JSON makes of it, so tuples are lists."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.loads(json.dumps(values | {"preprocessing": dict(self.preprocessing)}))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StreamIdentity":
        """Raises ValueError where a field is missing, unknown or of the wrong type."""
        kinds = {field.name: field.type if field.type in (str, int) else dict for field in dataclasses.fields(cls)}
        odd = sorted(set(values) ^ set(kinds))
        if odd:
            raise ValueError(f"the stream's identity has missing or unknown fields: {', '.join(odd)}")
        for name, kind in kinds.items():
            if type(values[name]) is not kind:
                raise ValueError(f"the stream's identity has {name} = {values[name]!r}")
        return cls(**values)

    def differences(self, wanted: "StreamIdentity", here: str = "cached", there: str = "wanted") -> list[str]:
        """What sets this identity apart from the `wanted` one, in the user's words; empty when equal. `here` and
        `there` are what the two are called."""
        old, new = _flat(self), _flat(wanted)
        found = []
        for key in dict.fromkeys([*old, *new]):
            if key in ("frames", "num_frames") or old.get(key) == new.get(key):
                continue
            hint = HINTS.get(key, "") if key not in old or key not in new else ""
            found.append(f"{key} ({here} {_short(old.get(key))}, {there} {_short(new.get(key))}{hint})")
        if self.num_frames != wanted.num_frames:
            found.append(f"frame list ({here} {self.num_frames} frames, {there} {wanted.num_frames})")
        elif self.frames != wanted.frames:
            found.append(f"frame list ({self.num_frames} frames in both, but other videos, frame numbers or paths)")
        return found


def _flat(identity: StreamIdentity) -> dict[str, Any]:
    values = identity.to_json()
    preprocessing = values.pop("preprocessing")
    return values | {f"preprocessing {key}": value for key, value in preprocessing.items()}


def _short(value: Any) -> str:
    """A value for one line; digests are cut to 12 characters."""
    if value is None:
        return "nothing"
    return value[:12] if isinstance(value, str) and len(value) >= 32 and " " not in value else str(value)
