"""From mtl.toml to filled streams: what `mtl extract` and other programs call."""

from collections.abc import Sequence
from typing import Literal

from cache.frames import read_frames
from cache.store import Cache
from extract.backbones import load_backbone
from extract.engine import Report, default_batch_size, default_num_threads
from extract.engine import extract as extract_streams
from pipelines.config import Config, nearest
from pipelines.device import resolve_device
from pipelines.progress import progress


def run_extraction(
    config: Config,
    names: Sequence[str] = (),
    *,
    device: str = "auto",
    batch_size: int = 0,
    num_threads: int = 0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> tuple[list[str], Report]:
    """Extracts the backbones `names` of `config`, or all of them, with a progress bar; returns their names as well.

    Raises:
        ValueError: a name, the frames table, the faces folder, weights, the device or a stream is not as it must be.
    """
    chosen = choose(config, names)
    where = resolve_device(device)
    frames = read_frames(config.at(config.data.frames))
    faces = config.at(config.data.faces)
    if not faces.is_dir():  # the engine would say so too, but after minutes of fetching weights
        raise ValueError(f"{faces}: no such folder of faces; set faces under [data] in mtl.toml")
    backbones = [load_backbone(name, config.backbones[name], config.folder) for name in chosen]
    cache = Cache.open(config.at(config.cache.path), create=True)
    with progress(f"extract {', '.join(chosen)}", len(frames), "faces") as advance:
        report = extract_streams(
            frames,
            faces,
            cache,
            backbones,
            device=where,
            batch_size=batch_size or default_batch_size(where),
            num_threads=num_threads or default_num_threads(),
            shard_rows=config.cache.shard_rows,
            precision=precision,
            advance=advance,
        )
    return chosen, report


def choose(config: Config, names: Sequence[str]) -> list[str]:
    """`names` once each, or every backbone of `config` that was not imported where there are none.

    Raises:
        ValueError: mtl.toml has no such backbone, or none to extract.
    """
    known = list(config.backbones)
    if not known:
        raise ValueError(
            f"{config.folder / 'mtl.toml'}: no backbone; add a section [backbones.NAME] or run `mtl finetune`"
        )
    for name in names:
        if name not in known:
            raise ValueError(f"--backbone {name}: not in mtl.toml{nearest(name, known)}; there: {', '.join(known)}")
    runnable = [name for name in known if not config.backbones[name].is_imported]
    if not names and not runnable:
        raise ValueError(
            f"{config.folder / 'mtl.toml'}: all streams were imported ({', '.join(known)}); none to extract"
        )
    return list(dict.fromkeys(names)) or runnable
