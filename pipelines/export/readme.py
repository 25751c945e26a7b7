"""README.md of a bundle: what it takes, what it gives, how it is run."""

from collections.abc import Mapping
from typing import Any

TEXT = """\
# {name}

A bundle of `mtl export`: the {kind} `{name}` as ONNX files, with all that is needed to run it. It needs Python, NumPy
and onnxruntime (`pip install numpy onnxruntime`), not mtl and not torch. Nothing leaves the machine.

{usage}
It predicts, per frame: {columns}.

The files are sealed by their digests in `bundle.json`: a file that changed is refused. What the model was trained on,
how it scores and what it must not be used for is in `model_card.md`.
"""
FACES = """\
It takes aligned faces of {px} x {px} px, RGB{alignment}.

```
python mtl_runtime.py . FACES --out predictions.csv
```

FACES is a `.npy` file [n, {px}, {px}, 3] of uint8, or (with `pip install pillow`) a folder of `VIDEO/00001.jpg`, where
the number is the frame's number at {fps:g} frames per second. From Python:

```
from mtl_runtime import Bundle

bundle = Bundle(".")
embeddings = bundle.embed(faces)
found = bundle.predict(["video"] * len(faces), frames, embeddings)
found.columns()
```
"""
EMBEDDINGS = """\
It takes embeddings, {streams}: the backbones are not in it. From Python:

```
from mtl_runtime import Bundle

bundle = Bundle(".")
found = bundle.predict(videos, frames, {{"NAME": embeddings}})  # [N], [N], [N, D] of each; frames at {fps:g} per second
found.columns()
```
"""


def readme_text(record: Mapping[str, Any]) -> str:
    """README.md, from what bundle.json says."""
    columns = ", ".join(
        name for task in record["tasks"] for name in dict.fromkeys([*task["columns"], *task["outputs"]])
    )
    streams = ", ".join(f"{name} [N, {each['width']}]" for name, each in record["streams"].items())
    alignment = ", aligned as `alignment` in `bundle.json` says" if record["alignment"] else ""
    usage = (FACES if record["face_px"] else EMBEDDINGS).format(
        px=record["face_px"], alignment=alignment, fps=record["fps"], streams=streams
    )
    return TEXT.format(name=record["name"], kind=record["kind"], usage=usage, columns=columns)
