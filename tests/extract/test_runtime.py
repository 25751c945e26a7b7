"""The runtime of a backbone: its modes agree, and memory that runs out costs speed alone."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.runtime import cache_dir_utils

from extract.backbones import compiling, passes, runtime
from extract.backbones.build import Backbone
from extract.backbones.calibration import CANDIDATE_MODES, CandidateMode, choose_runtime
from extract.backbones.pieces import largest_output, piece_of
from extract.backbones.runtime import MODES, Runtime, embedder, release, steady
from extract.backbones.transforms import normalise
from helpers import compiled_pass
from helpers.compiled_pass import COMPILED, CPU, WIDTH, compiler_settings, plainly, some_faces, tiny
from helpers.processes import start

MANY = 10**9
EAGER = Runtime(mode="eager")


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels go to the test's folder; nothing compiled stays behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv(compiling.CACHE_VARIABLE, "")  # so that the variable is taken away again at the end
    monkeypatch.delenv(compiling.CACHE_VARIABLE)
    yield
    release(CPU)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder, for all that is compiled here."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture
def kernels(user: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the kernels of this test go, beside those of the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(user))
    with compiler_settings():
        yield user / "mtl" / "kernels"


@pytest.mark.parametrize("given", ["", "caches"])
def test_a_relative_cache_folder_is_ignored(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiling.user_folder() == tmp_path / "user" / "mtl"
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiling.user_folder() == tmp_path / ".cache" / "mtl"


# Runtime


def test_runtime_round_trip() -> None:
    for mode in MODES:
        chosen = Runtime(precision="bfloat16", mode=mode)
        assert Runtime.from_json(json.loads(json.dumps({**chosen.to_json(), "model": "vit"}))) == chosen
    assert Runtime.from_json({"precision": "bfloat16"}) == Runtime(precision="bfloat16", mode="eager")


@pytest.mark.parametrize("wrong", [{"mode": "fast"}, {"mode": None}, {"precision": "float8"}, {"precision": ["a"]}])
def test_damaged_runtime(wrong: dict) -> None:
    known = "eager, compiled, graph, onnx" if "mode" in wrong else "float32, bfloat16"
    with pytest.raises(ValueError, match=f"is unknown; known: {known}"):
        Runtime.from_json({"precision": "float32", "mode": "eager", **wrong})


@pytest.mark.parametrize(
    ("of_onednn", "of_processor", "machine", "precision"),
    [
        (True, True, "x86_64", "bfloat16"),
        (True, False, "x86_64", "float32"),  # AVX-512 without bf16, which oneDNN counts
        (False, True, "x86_64", "float32"),  # ONEDNN_MAX_CPU_ISA
        (True, False, "aarch64", "bfloat16"),
        (False, False, "arm64", "float32"),
    ],
)
def test_what_the_processor_multiplies_itself(
    monkeypatch: pytest.MonkeyPatch, of_onednn: bool, of_processor: bool, machine: str, precision: str
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: of_onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: of_processor)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(passes.platform, "machine", lambda: machine)
    assert passes.fast_precision(CPU) == precision
    assert passes.fast_precision(torch.device("meta")) == "float32"


# Modes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_eager_is_the_plain_pass(precision: str) -> None:
    """Bit for bit the module under autocast, whatever the batch."""
    backbone, faces = tiny(), some_faces(7)
    found = embedder(backbone, Runtime(precision=precision), CPU, 7)(faces)
    x = normalise(faces, backbone.preprocessing, torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        expected = backbone.module(x).to(torch.float16)
    assert found.dtype == torch.float16
    assert found.unique(dim=0).shape == (7, WIDTH)
    assert torch.equal(found, expected)
    assert torch.equal(embedder(backbone, Runtime(precision=precision), CPU, 7)(faces[:2]), expected[:2])


def test_a_pass_on_a_cpu_takes_few_faces_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes no embedding."""
    backbone, faces, seen = tiny(), some_faces(7), []
    whole = embedder(backbone, Runtime(), CPU, 7)(faces)
    largest = passes.face_bytes(backbone, "float32")
    assert 0 < largest == largest_output(backbone.module, lambda: passes._forward(backbone, "float32", CPU)(faces[:1]))
    monkeypatch.setattr(passes, "EAGER_BYTES", 3 * largest)
    embed = embedder(backbone, Runtime(), CPU, 7)
    backbone.module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    assert torch.equal(embed(faces), whole)
    assert seen == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("face_bytes", "num_threads", "wanted"),
    [(1_200_000, 1, 8), (1_200_000, 2, 8), (1_200_000, 8, 32), (4_800_000, 2, 2), (100_000_000, 2, 1), (0, 1, 2**23)],
)
def test_how_many_faces(monkeypatch: pytest.MonkeyPatch, face_bytes: int, num_threads: int, wanted: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    assert piece_of(face_bytes, 10_000_000) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_is_eager(precision: str, capfd: pytest.CaptureFixture[str], kernels: Path) -> None:
    """Full and short batches within rounding, compiled once, frozen, silent, its kernels in the user's cache folder."""
    before = set(kernels.rglob("*.so"))
    counters = torch._dynamo.utils.counters
    counters.clear()
    backbone, faces = tiny(), some_faces(8)
    embed = embedder(backbone, Runtime(precision=precision, mode="compiled"), CPU, 8)
    expected = plainly(backbone, precision, CPU)(faces).float()
    with steady(CPU):
        for count in (8, 1, 5, 8):
            torch.testing.assert_close(embed(faces[:count]).float(), expected[:count], rtol=2e-2, atol=5e-3)
        with torch.inference_mode():
            other = faces.transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(embed(other)[:3], embed(faces[:3]))
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["aot_autograd"]["autograd_cache_bypass"] == 1  # torch does not keep graphs that it froze this way
    assert not torch._inductor.config.freezing
    assert set(kernels.rglob("*.so")) > before
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_compiled_in_another_process(kernels: Path) -> None:
    """What a process compiled, the next finds; the weights are its own all the same."""
    for scale, cached in ((1, (0, 1)), (3, (1, 0))):
        code, out, err = start(compiled_pass.main, scale).end()
        assert (code, err) == (0, "")
        hits, misses, difference = out.split()
        assert float(difference) < 5e-3
        assert (int(hits), int(misses)) == cached
        assert list(kernels.rglob("*.so"))


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_what_was_compiled_is_kept_until_the_end() -> None:
    """Calibration's is the extraction's, for each backbone its own; behind the extraction it is gone."""
    backbone = tiny()
    embed = embedder(backbone, COMPILED, CPU, 4)
    assert embedder(backbone, COMPILED, CPU, 4) is embed
    assert embedder(tiny(), COMPILED, CPU, 4) is not embed
    with steady(CPU):
        assert embedder(backbone, COMPILED, CPU, 4) is embed
    release(CPU)
    assert not runtime._KEPT


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("a file where the folder should be")
    with compiling.compiling():
        pass
    assert compiling.CACHE_VARIABLE not in os.environ


def test_the_folder_that_torch_chose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch sets the variable when it is imported, before anything is compiled; that is not the user's choice."""
    monkeypatch.setenv(compiling.CACHE_VARIABLE, cache_dir_utils.default_cache_dir())
    with compiling.compiling():
        pass
    assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "user" / "mtl" / "kernels")


def test_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(tmp_path / "own"))
    with compiling.compiling():
        pass
    assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "own")
    assert not (tmp_path / "user").exists()


def test_no_compiler() -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)}):
        with pytest.raises(ValueError, match=r"expr cannot be compiled: there is no C\+\+ compiler; install g\+\+, or"):
            choose_runtime(tiny(), 10, 4, CPU, mode="compiled")
        assert "no C++ compiler" in str(compiling.why_not_compiled(CPU))
    assert compiling.why_not_compiled(CPU) is None


@pytest.mark.slow
def test_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(graph: object, inputs: object, **options: object) -> None:
        raise NotImplementedError("no kernel for this\nand more")

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", broken)
    with pytest.raises(ValueError, match=r"expr cannot be compiled \(.*no kernel for this\); run it with") as caught:
        choose_runtime(tiny(), MANY, 4, CPU, mode="compiled")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(CANDIDATE_MODES, "cpu", (CandidateMode("compiled", build_s=0, kept=1.15),))
    chosen, report = choose_runtime(tiny(), MANY, 4, CPU, precision="float32")
    assert (chosen, any("no kernel for this" in why for why in report["why"])) == (EAGER, True)
    assert capfd.readouterr() == ("", "")


def test_no_graph_on_a_cpu() -> None:
    with pytest.raises(
        ValueError, match="a CUDA graph needs a CUDA device, and this is cpu; run it with --runtime eager"
    ):
        choose_runtime(tiny(), 10, 4, CPU, mode="graph")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graph_is_eager(precision: str) -> None:
    """Bit for bit, over full and short batches, and after the memory around the graph was used for other things."""
    device = torch.device("cuda", torch.cuda.current_device())
    backbone, faces = tiny(), some_faces(32).to(device)
    with steady(device):
        expected = plainly(backbone, precision, device)(faces)
        embed = embedder(backbone, Runtime(precision=precision, mode="graph"), device, 32)
        for count in (32, 1, 9, 32):
            torch.cuda.empty_cache()
            other = [torch.full((1 << size,), torch.nan, device=device) for size in range(20)]
            assert torch.equal(embed(faces[:count]), expected[:count])
            del other
        first = embed(faces[:4])
        embed(faces[4:])
        assert torch.equal(first, expected[:4])


# Memory


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("count", [64, 50, 3, 1])
def test_memory_that_runs_out(cuda: bool, count: int) -> None:
    """Passes of at most seven faces fit: the same rows in the same order, by four from then on."""
    faces = some_faces(count)
    expected = embedder(tiny(), EAGER, CPU, 64)(faces)
    backbone = tiny(most=7, cuda=cuda)
    embed = embedder(backbone, EAGER, CPU, 64)
    assert torch.allclose(embed(faces).float(), expected.float(), atol=2e-3)
    assert embed.limit == (4 if count > 7 else 64)
    backbone.module.sizes.clear()
    assert embed(faces).shape == (count, WIDTH)
    assert max(backbone.module.sizes) <= 7


def test_no_memory_for_one_face() -> None:
    with pytest.raises(
        OSError, match=r"expr: the memory of cpu does not hold one face of 16 px; .*--batch-size"
    ) as caught:
        embedder(tiny(most=0), EAGER, CPU, 8)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        embedder(tiny(module=Broken()), EAGER, CPU, 8)(some_faces(8))


def test_made_ready_again_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode that is made for a number of faces runs out of memory while it is made, and once more in a pass."""
    made: list[int] = []

    def build(backbone: Backbone, precision: str, device: torch.device, num_faces: int) -> Callable[[Tensor], Tensor]:
        made.append(num_faces)
        if num_faces > 16:
            raise MemoryError
        return MODES["eager"](backbone, "float32", device, num_faces)

    monkeypatch.setitem(MODES, "compiled", build)
    embed = embedder(tiny(most=7), COMPILED, CPU, 64)
    assert (embed.limit, made) == (16, [64, 32, 16])
    assert len(embed(some_faces(20))) == 20
    assert (embed.limit, made) == (4, [64, 32, 16, 8, 4])
