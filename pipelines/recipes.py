"""Recipes: published methods as a folder each (mtl.toml, grids, README.md), and how one becomes a working folder.

A recipe says in its own files which public weights it needs: those of the catalogue whose file or model it names.
"""

import difflib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from extract.backbones.catalogue import PublicBackbone, catalogue
from pipelines.json_files import write_text
from pipelines.project import toml_text

FACES = 'faces  = "cropped_aligned"'  # the line of every recipe's mtl.toml that --faces replaces
PAGE = "RECIPE.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One published method. `title` is the first heading of its page, without the name; `source` the line below it."""

    name: str
    folder: Path
    title: str
    source: str

    @property
    def config(self) -> str:
        return (self.folder / "mtl.toml").read_text(encoding="utf-8")

    @property
    def page(self) -> str:
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @property
    def further(self) -> list[Path]:
        """Files beside mtl.toml of the same form: other data sets on which backbones are trained."""
        return sorted(path for path in self.folder.glob("*.toml") if path.name != "mtl.toml")

    @property
    def grids(self) -> list[Path]:
        return sorted((self.folder / "grids").glob("*.toml"))

    def weights(self) -> list[PublicBackbone]:
        """The public weights that its mtl.toml or its commands name, in the order of the catalogue."""
        words = {*re.findall(r"[\w./-]+", self.config + "\n".join(self.commands()))}
        return [each for each in catalogue().values() if (each.target or each.model) in words]

    def downloads(self) -> list[tuple[str, str, str]]:
        """The rows of the page's table "Download" as plain text: what, from where, under which licence."""
        below = self.page.partition("\n## Download\n")[2]
        rows = [line.strip("| ").split(" | ") for line in below.splitlines() if line.startswith("| ")]
        cells = [[LINK.sub(r"\1 (\2)", cell).replace("`", "") for cell in row] for row in rows[1:]]
        return [(what, source, licence) for what, source, licence in cells]

    def commands(self) -> list[str]:
        """The `mtl` lines of its page's code blocks, in order; a line that ends in a backslash goes on."""
        blocks = re.findall(r"^```\n(.*?)^```$", self.page, flags=re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in lines if line.startswith("mtl ")]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "weights": [each.name for each in self.weights()],
            "downloads": [dict(zip(("what", "from", "licence"), row, strict=True)) for row in self.downloads()],
            "grids": [path.stem for path in self.grids],
        }


def packaged_recipes() -> dict[str, Recipe]:
    """Every recipe by name: inside the package once installed, beside it in a checkout."""
    package = Path(str(resources.files("pipelines")))
    folder = package / "assets" / "recipes"
    if not folder.is_dir():
        folder = package.parent / "recipes"
    return {path.parent.name: _recipe(path.parent) for path in sorted(folder.glob("*/mtl.toml"))}


def _recipe(folder: Path) -> Recipe:
    heading, _, below = (folder / "README.md").read_text(encoding="utf-8").partition("\n")
    return Recipe(
        name=folder.name,
        folder=folder,
        title=heading.partition(":")[2].strip(),
        source=LINK.sub(r"\1", below.strip().partition("\n\n")[0].replace("\n", " ")),
    )


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none; says the nearest, or those there are.
    """
    known = packaged_recipes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"--recipe {name}: no such recipe; {hint}")
    return known[name]


def write_recipe(folder: Path, recipe: Recipe, faces: str, *, force: bool = False) -> None:
    """The files of a recipe in `folder`, its page as RECIPE.md, where this step is marked as done; without
    `force` nothing is written over.

    Raises:
        ValueError: one of the files is there already, and not `force`.
    """
    files = [*recipe.further, *recipe.grids]
    texts = {folder / path.relative_to(recipe.folder): path.read_text(encoding="utf-8") for path in files}
    done = f"# done: mtl init --recipe {recipe.name}"
    texts[folder / PAGE] = re.sub(r"^mtl init .*$", done, recipe.page, flags=re.MULTILINE)
    texts[folder / "mtl.toml"] = recipe.config.replace(FACES, f"faces  = {toml_text(faces)}")  # last: all is there
    there = [path for path in reversed(texts) if path.exists()]
    if there and not force:
        raise ValueError(f"{there[0]} is there already; --force writes over it")
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_text(path, text)
