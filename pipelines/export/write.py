"""`mtl export`: a run or an ensemble as a bundle, a folder or one .zip file, checked against torch beforehand."""

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.durable import naming, place_folder, sync, sync_tree, temporary_beside
from cache.seals import digest_of, sealed_json
from extract.backbones.onnx_export import check_installed
from pipelines.cards.records import bundle_card
from pipelines.config import Config
from pipelines.export.checking import LARGEST, Differences, about, check_bundle
from pipelines.export.heads import head_graph
from pipelines.export.readme import readme_text
from pipelines.export.record import BundleModel, bundle_models, bundle_record
from pipelines.export.streams import BundleStream, StreamKey, bundle_streams, find_face_px, takes_embeddings
from pipelines.outfile import check_above, put_in_place
from pipelines.postprocess.run_folders import read_postprocess
from pipelines.predict.predictor import Predictor, find_predictor, load_predictor, read_card
from pipelines.run_files import CARD
from runtime import mtl_runtime
from runtime.mtl_runtime import RECORD, Bundle, is_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """The run or ensemble `model` to be a bundle at `out`, a .zip file or a folder.

    `face_px` 0 is the side of the faces it was trained on; `heads_only` leaves the backbones out, `post` False the
    stored post-processing; `force` replaces a bundle that is there.
    """

    model: Path
    out: Path
    face_px: int = 0
    heads_only: bool = False
    post: bool = True
    force: bool = False


def export(config: Config, request: ExportRequest) -> dict[str, Any]:
    """Writes the bundle, and checks it against torch; returns what was done, in numbers.

    Raises:
        ValueError: no such run or ensemble, a backbone that is gone or another, what ONNX cannot hold, a difference
            from torch above `LARGEST`, or something at `out` that is not to be replaced.
    """
    check_installed()
    check_out(request.out, force=request.force)
    folder, views = find_predictor(request.model, config), config.predict.views
    predictor = load_predictor(folder, torch.device("cpu"), post=request.post, views=views)
    post = None if predictor.parameters is None else read_postprocess(predictor.folder)
    return write_bundle(predictor, config, request, read_card(predictor.folder), post)


def write_bundle(
    predictor: Predictor, config: Config, request: ExportRequest, card: str, post: Mapping[str, Any] | None
) -> dict[str, Any]:
    """`export` of a run or an ensemble that has been loaded, with its model card and its postprocess.json."""
    start, out = time.monotonic(), request.out
    heads_only = request.heads_only or takes_embeddings(predictor)
    face_px = 0 if heads_only else request.face_px or find_face_px(predictor, config)
    streams = bundle_streams(predictor, config, face_px, heads_only=heads_only)
    models = bundle_models(predictor)
    record = bundle_record(predictor, config, streams, models, face_px or None)
    found: list[Differences] = []

    def fill(made: Path) -> None:
        found.append(_fill(made, predictor, record, bundle_card(card, record, post), streams, models))

    if _is_zip(out):
        _place_zip(out, fill, force=request.force)
    else:
        place_folder(out, RECORD, fill)
    return {
        predictor.kind: str(predictor.folder),
        "out": str(out),
        "num_bytes": _num_bytes(out),
        "tasks": list(predictor.tasks),
        "face_px": face_px or None,
        "streams": {name: each["width"] for name, each in record["streams"].items()},
        "num_models": len({model.file for model in models}),
        "views": predictor.views,
        "post": None if predictor.parameters is None else predictor.parameters.to_json(),
        "differences": found[-1].to_json(),
        "seconds": round(time.monotonic() - start, 1),
    }


def check_out(out: Path, *, force: bool) -> None:
    """Raises `ValueError` where something at `out` may not be replaced: without `force` anything, with it what is no
    bundle."""
    check_above(out)
    if not os.path.lexists(out):
        return
    if not force:
        raise ValueError(f"{out} is there already; --force replaces it, --onnx picks another name")
    if out.is_symlink() or out.is_dir() == _is_zip(out) or not is_bundle(out):
        raise ValueError(f"{out}: not a bundle of this kind, so --force does not replace it; --onnx picks another name")


def _fill(
    made: Path,
    predictor: Predictor,
    record: Mapping[str, Any],
    card: str,
    streams: Mapping[StreamKey, BundleStream],
    models: list[BundleModel],
) -> Differences:
    """All files of the bundle in the folder `made`; what the check found.

    Raises:
        ValueError: the bundle does not predict what torch does.
    """
    for graph in {graph.file: graph for stream in streams.values() for graph in stream.graphs}.values():
        (made / graph.file).write_bytes(graph.data)
    for model in {each.file: each for each in models}.values():
        what = f"{model.one.run.folder.name}: {model.spec.name}"
        (made / model.file).write_bytes(head_graph(model.spec, model.module, what))
    shutil.copyfile(mtl_runtime.__file__, made / "mtl_runtime.py")
    (made / "README.md").write_text(readme_text(record), encoding="utf-8")
    (made / CARD).write_text(card, encoding="utf-8")
    record = {**record, "files": {path.name: digest_of(path.read_bytes()) for path in sorted(made.iterdir())}}
    (made / RECORD).write_bytes(sealed_json(record))
    backbones = {key: stream.backbone for key, stream in streams.items() if stream.backbone is not None}
    differences = check_bundle(Bundle(made, num_threads=torch.get_num_threads()), predictor, backbones)
    if not differences.are_small:
        raise ValueError(
            f"{predictor.folder}: exported, it differs from torch by more than {LARGEST:g} "
            f"({', '.join(about(differences))}; {differences.decisions} decisions), so nothing was written; "
            "try other versions of onnxscript and onnxruntime"
        )
    (made / RECORD).write_bytes(sealed_json(record | {"check": differences.to_json()}))
    return differences


def _place_zip(out: Path, fill: Callable[[Path], None], *, force: bool) -> None:
    """What `fill` writes as one .zip file at `out`, stored as it is: weights hardly become smaller."""
    out.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_beside(out)
    packed = made.with_name(f"{made.name}.zip")
    try:
        with naming(out):
            made.mkdir()
            fill(made)
            sync_tree(made)
            with zipfile.ZipFile(packed, "x", zipfile.ZIP_STORED) as archive:
                for path in sorted(made.iterdir()):
                    archive.write(path, path.name)
            sync(packed)
        put_in_place(packed, out, force=force)
    finally:
        packed.unlink(missing_ok=True)
        shutil.rmtree(made, ignore_errors=True)


def _is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


def _num_bytes(out: Path) -> int:
    return out.stat().st_size if out.is_file() else sum(path.stat().st_size for path in out.iterdir())
