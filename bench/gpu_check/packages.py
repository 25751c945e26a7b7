"""The packages that the check imports beside torch: which are missing here, and wheels of them from a folder.

Nothing here imports what may be missing.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
LARGE_BYTES = 4 << 20  # smaller wheels have nothing to save
# Those imported on the way, with what they need themselves.
NEEDED = (
    "alembic",
    "annotated-types",
    "colorlog",
    "donfig",
    "google-crc32c",
    "h5py",
    "hypothesis",
    "mako",
    "matplotlib",
    "msgspec",
    "numcodecs",
    "numpy",
    "optuna",
    "packaging",
    "pillow",
    "polars",
    "polars-runtime-32",
    "pytest",
    "pyyaml",
    "rich",
    "safetensors",
    "simplejpeg",
    "sqlalchemy",
    "timm",
    "tomlkit",
    "torch",
    "torchvision",
    "tqdm",
    "typer",
    "typing-extensions",
    "zarr",
)
ONLY_NEWER = {"msgspec": (3, 12)}  # what zarr asks for from that Python on


def missing() -> list[str]:
    """Names of the distributions that are not installed."""
    names = [name for name in NEEDED if sys.version_info[:2] >= ONLY_NEWER.get(name, (3, 0))]
    return [name for name in names if not _is_there(name)]


def with_versions(names: list[str]) -> list[str]:
    """As pip takes them: `names` at the versions the tests run with."""
    pinned = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition("==")
        version, _, marker = rest.partition(";")
        if version and _is_for_here(marker):
            pinned[name.strip()] = version.strip()
    return [f"{name}=={pinned[name]}" if name in pinned else name for name in names]


def what_to_bring(names: list[str]) -> str:
    """The line that says which wheels are missing, and how they come here."""
    listed, major, minor = " ".join(with_versions(names)), *sys.version_info[:2]
    return (
        f"not installed here: {', '.join(names)}; where pip works, type `pip download --no-deps "
        f"--only-binary=:all: --python-version {major}.{minor} --platform manylinux_2_28_x86_64 --platform "
        f"manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels {listed}`, bring the folder and name it: "
        "--wheels wheels"
    )


def add_wheels(folder: Path) -> Path:
    """Installs the wheels of `folder` into a new temporary folder, from which this process and its children import.

    Raises:
        ValueError: no such folder, no wheels in it, or pip refuses one; says which.
    """
    wheels = sorted(map(str, folder.glob("*.whl"))) if folder.is_dir() else []
    if not wheels:
        raise ValueError(f"--wheels {folder}: no wheels there; `pip download -d {folder} NAME` fetches some")
    target = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    done = subprocess.run(
        [*install, "--disable-pip-version-check", "--target", str(target), *wheels],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"--wheels {folder}: pip does not install them: {reason}")
    sys.path.insert(0, str(target))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(target), *([before] if before else [])])
    return target


def shrink(folder: Path) -> tuple[int, int]:
    """Packs the large wheels of `folder` anew with LZMA, which pip reads too; bytes of all wheels before and after.

    Raises:
        ValueError: there is none.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ValueError(f"{folder}: no wheels here; name the folder that has them")
    before = sum(wheel.stat().st_size for wheel in wheels)
    for wheel in wheels:
        partial = wheel.with_suffix(".partial")
        if wheel.stat().st_size < LARGE_BYTES:
            continue
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        partial.replace(wheel)
    return before, sum(wheel.stat().st_size for wheel in wheels)


def _is_there(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _is_for_here(marker: str) -> bool:
    """Whether a line of constraints with this `marker`, `python_version < "3.12"` or none, holds for this Python."""
    words = marker.split()
    if not words:
        return True
    bound = tuple(int(part) for part in words[2].strip('"').split("."))
    here = sys.version_info[:2]
    return here < bound if words[1] == "<" else here >= bound
