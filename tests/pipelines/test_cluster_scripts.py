"""The job scripts of docs/cluster.md run as they stand there, with stand-ins for SLURM's programs."""

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.frames import write_frames
from helpers.face_project import BACKBONE, FACES
from helpers.made_project import TOML
from helpers.postgres import Server, running
from helpers.processes import ROOT
from helpers.slurm import stand_ins
from helpers.small_faces import make_faces
from pipelines.json_files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("bash"), reason="no bash")]

SCRIPTS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs/cluster.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
GRID = "[product]\nseed = [0, 1, 2]\ntemporal = ['none']\n"
NAMES = {  # each script by a line that it alone has
    "extract.sh": "srun mtl extract --shard slurm",
    "search.sh": "srun mtl search --grid grids/joint.toml --shard slurm",
    "submit.sh": "extract=$(sbatch",
    "share.sh": "export PGPASSFILE",
    "finetune.sh": "srun torchrun",
}


def script(name: str, *changes: tuple[str, str]) -> str:
    """The script of that name, an array of two tasks in place of eight, and with `changes` that must be possible."""
    (text,) = (text for text in SCRIPTS if NAMES[name] in text)
    for old, new in changes:
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text.replace("--array=1-8", "--array=1-2")


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 characters
    try:
        with stand_ins(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of faces in the working folder, with a backbone and a grid of three trials; nothing is extracted."""
    monkeypatch.chdir(tmp_path)
    write_frames(make_faces(tmp_path / "faces"), tmp_path / "frames.parquet")
    sections = [FACES, "[cache]\nshard_rows = 64\n", TOML, BACKBONE.format(name="va", model="test_vit2")]
    (tmp_path / "mtl.toml").write_text("".join(sections))
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "joint.toml").write_text(GRID)
    return tmp_path


def submit(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(["sbatch", *words], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_arrays_extract_and_search(environment: dict[str, str], faces: Path) -> None:
    for name in ("extract.sh", "search.sh"):
        (faces / name).write_text(script(name))
    (faces / "submit.sh").write_text(script("submit.sh"))
    done = subprocess.run(["bash", "submit.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("shard 1/2: ") == done.stderr.count("shard 2/2: ") == 1
    assert done.stderr.count("left to the other parts") == 1, "the second part finds all the others"
    board = read_json(faces / "studies" / "joint" / "leaderboard.json")
    assert len(board["rankings"][0]["rows"][0]["runs"]) == 3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def test_an_array_of_searches_shares_a_study(environment: dict[str, str], faces: Path, server: Server) -> None:
    (faces / "extract.sh").write_text(script("extract.sh"))
    submit(environment, "extract.sh")
    (faces / "grids" / "joint.toml").write_text(f'[study]\nstorage = "{server.url()}"\n{GRID}')
    (faces / "share.sh").write_text(script("share.sh"))
    printed = submit(environment, "share.sh")
    assert printed.count("ranked by the selection score") == 2
    assert len(list((faces / "studies" / "joint" / "runs").glob("*/run.json"))) == 3


@pytest.mark.long
def test_two_nodes_fine_tune_as_one(environment: dict[str, str], faces: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = "".join(f" --set finetune.{key}" for key in ("size_px=32", "epochs=1", "batch_size=32"))
    changes = [
        ("$first:29500", f"$first:{port}"),
        ("--gpus-per-node=4", "--gpus-per-node=1"),
        ("--model vit_base_patch16_224", f"--model test_vit2 --init random --device cpu{small}"),
    ]
    (faces / "finetune.sh").write_text(script("finetune.sh", *changes))
    submit(environment, "finetune.sh")
    assert (faces / "backbones" / "expr.safetensors").is_file()


def test_every_script_of_the_page_is_run_here() -> None:
    known = [text for text in SCRIPTS if any(line in text for line in NAMES.values())]
    others = [text for text in SCRIPTS if text not in known and "ray" not in text]
    assert len(known) == len(NAMES)
    assert not others
