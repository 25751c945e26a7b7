"""The files of a made data set with labels of another schema than the challenge's.

Place: beside `extract.made.peculiar`, below `extract.made.dataset`.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence

import tomlkit

from cache.labels import Schema

README = """# Made faces with labels of the schema {name}

Drawn by `mtl demo-data` (seed {seed}). Every label follows from movements of the face; some are missing.

- `cropped_aligned/VIDEO/00001.jpg`: the faces
- `labels.csv`: a row per face with `image`, `split` and the labels; an empty cell is a missing label
- `subjects.csv`: the subject of each video
- `labels.toml`: the schema

In this folder:

    mtl init --faces cropped_aligned --labels labels.toml
    mtl prepare --table labels.csv --subjects subjects.csv

The schema in `mtl.toml`:

```toml
{labels}```
"""


def schema_files(schema: Schema, rows: Iterable[tuple[str, str, Sequence[float]]], seed: int) -> dict[str, bytes]:
    """File name -> content; a row is an image, its split and its labels, NaN where one is missing."""
    document = schema.to_mapping()
    readme = README.format(name=schema.name, seed=seed, labels=tomlkit.dumps({"labels": document}))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split", *schema.columns])
    classes = [group.classes for group in schema for _ in group.columns]
    for image, split, labels in rows:
        writer.writerow([image, split, *(_cell(value, names) for value, names in zip(labels, classes, strict=True))])
    return {
        "labels.csv": text.getvalue().encode(),
        "labels.toml": tomlkit.dumps(document).encode(),
        "README.md": readme.encode(),
    }


def _cell(value: float, classes: Sequence[str]) -> str:
    """A label as a table has it: the name of a class, or a number."""
    if math.isnan(value):
        return ""
    return classes[int(value)] if classes else repr(float(value)).removesuffix(".0")
