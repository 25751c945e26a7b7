"""Public weights by name: what they are, their section of mtl.toml, where they come from, under which licence.

The facts are data, `catalogue.toml`. Needs no torch and no timm. Place: below `build`; used by `mtl backbones`, by
recipes, and where a weights file is not there.
"""

import difflib
import functools
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import PurePath
from typing import Any

FETCHED = "pretrained"
# Fields of a section, in the order in which it is written; those that are unset are left out.
SECTION = (
    "model",
    "weights",
    "size_px",
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "rename",
    "output",
    "outputs",
    "classes",
    "licence",
)

# How a file that cannot be read as it is becomes one that can: `convert` of an entry names one of these.
CONVERT = {
    "pickle": (
        "It is a whole pickled model, so reading it runs code that is in it: do this once, with timm 0.9 installed,",
        "and only with the file from there:",
        'python -c "import torch, safetensors.torch as s; '
        "m = torch.load('{file}', map_location='cpu', weights_only=False); "
        "s.save_file({{k: v.contiguous() for k, v in m.state_dict().items()}}, '{target}')\"",
    ),
    "onnx": (
        "Its one output has the scores; this names it and adds the embedding, the input of the last layer (it needs",
        "pip install onnx):",
        "python -c \"import onnx; m = onnx.load('{name}'); g = m.graph; last = g.node[-1]; "
        "w = next(t.dims for t in g.initializer if t.name == last.input[1]); "
        "ends = {{'embedding': (last.input[0], w[1]), 'scores': (last.output[0], w[0])}}; "
        "g.node.extend(onnx.helper.make_node('Identity', [old], [new]) for new, (old, _) in ends.items()); "
        "g.output.extend(onnx.helper.make_tensor_value_info(new, 1, ['batch', n]) for new, (_, n) in ends.items()); "
        "onnx.save(m, '{target}')\"",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicBackbone:
    """One entry of the catalogue.

    `model` .. `output` and `licence` are the keys of `[backbones.NAME]`. `file` is the weights file's path at `source`,
    empty where timm fetches it; `convert` is a key of `CONVERT` where that file cannot be read as it is. `width` is D
    of the embedding, None where it is not known without the file. `tried` says what was done with the real file; empty
    means that it could not be had.
    """

    name: str
    what: str
    model: str
    source: str
    licence: str
    weights: str = FETCHED
    width: int | None = None
    size_px: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float = 1.0
    rename: str = ""
    output: str = ""
    outputs: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    file: str = ""
    convert: str = ""
    tried: str = ""

    @property
    def target(self) -> str:
        """The file in the working folder that the section names; empty where timm fetches the weights."""
        if self.model.startswith("onnx:"):
            return self.model.removeprefix("onnx:")
        return "" if self.weights == FETCHED else self.weights

    def section(self) -> dict[str, Any]:
        """The section of mtl.toml. Aligned faces are seen whole: `crop_pct` 1."""
        values = {key: getattr(self, key) for key in SECTION}
        if self.model.startswith("onnx:"):
            del values["weights"]  # the model's file has them
        return {key: [*value] if isinstance(value, tuple) else value for key, value in values.items() if value}

    def steps(self) -> list[str]:
        """How the weights get into the working folder, in lines for people."""
        if not self.target:
            return [f"timm fetches the weights at the first use, from {self.source} ({self.licence})"]
        lines = [f"download {self.file} from {self.source}", f"licence: {self.licence}"]
        if not self.convert:
            return [*lines, f"put it into the working folder as {self.target}"]
        lines += [f"mkdir -p {PurePath(self.target).parent}"]
        names = {"file": self.file, "name": PurePath(self.file).name, "target": self.target}
        return [*lines, *(line.format(**names) for line in CONVERT[self.convert])]

    def origin(self) -> str:
        """In a few words, for an error: the file, where it comes from, its licence."""
        return f"{self.file} from {self.source}, licence {self.licence} (`mtl backbones show {self.name}`)"

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"target": self.target}


@functools.cache
def catalogue() -> dict[str, PublicBackbone]:
    """Every entry by name, in the order of the file."""
    text = resources.files("extract.backbones").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {name: _entry(name, table) for name, table in tomllib.loads(text).items()}


def _entry(name: str, table: dict[str, Any]) -> PublicBackbone:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return PublicBackbone(name=name, **values)


def public_backbone(name: str) -> PublicBackbone:
    """The entry of that name.

    Raises:
        ValueError: there is none; says the nearest.
    """
    known = catalogue()
    if name not in known:
        close = [each for each in known if each.startswith(f"{name}-")] or difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {' or '.join(close)}?" if close else "`mtl backbones` lists them"
        raise ValueError(f"{name}: no public backbone of that name; {hint}")
    return known[name]


def entry_of_file(path: PurePath | str) -> PublicBackbone | None:
    """The entry whose weights file is called so; None where it is not a public one."""
    name = PurePath(path).name
    found = (each for each in catalogue().values() if each.target and name == PurePath(each.target).name)
    return next(found, None)


def origin_of_file(path: PurePath | str) -> str:
    """Where a weights file that is not there may be had, by its name; empty where it is not a public one."""
    entry = entry_of_file(path)
    return entry.origin() if entry else ""
