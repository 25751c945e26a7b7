"""`mtl prepare`: annotations and faces become the frames table, with one page of findings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import CONFIG, ConfigOption, JsonOption, OnConflictOption
from pipelines.terminal import make_console, say, say_json
from pipelines.words import counted

if TYPE_CHECKING:
    from pipelines.config import Config


def register(app: typer.Typer) -> None:
    app.command()(prepare)


def prepare(
    train: Annotated[
        Path | None, typer.Option(help="Annotation of the training rows (s-Aff-Wild2 file or table).")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="Annotation of the validation rows.")] = None,
    test: Annotated[Path | None, typer.Option(help="Annotation of the test rows, with labels.")] = None,
    test_list: Annotated[
        Path | None, typer.Option(help="The challenge's test list, of frames or videos: only names are read.")
    ] = None,
    tracks: Annotated[Path | None, typer.Option(help="Folder of VA_..., EXPR_... and AU_... (Aff-Wild2).")] = None,
    table: Annotated[Path | None, typer.Option(help="CSV or Parquet with image, split and label columns.")] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Folder of face crops; default: \\[data] faces of mtl.toml.")
    ] = None,
    subjects: Annotated[Path | None, typer.Option(help="CSV with the header video,subject.")] = None,
    out: Annotated[Path | None, typer.Option(help="Table to write; default: \\[data] frames of mtl.toml.")] = None,
    context: Annotated[bool, typer.Option(help="Add faces that no annotation names, as temporal context.")] = False,
    on_conflict: OnConflictOption = "error",
    check_faces: Annotated[bool, typer.Option(help="Decode every face, or only look whether it is there.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Read annotations, check them and the faces, write the frames table.

    Without any annotation the faces alone become rows, for prediction. The
    table is written even when there are findings, and errors among them make
    the exit code 1; a bad row in an annotation stops with exit code 2 and
    writes nothing. Rows that name a frame again and
    say the same are one row. Faces are found by video and frame number,
    whatever the file is called; frames of --tracks and --test-list without a
    face are left out.

    Labels go by the schema of mtl.toml (mtl init --labels). A CSV or Parquet
    table has its columns, or some of them; a class is a number or a name.
    --tracks and files without a header belong to the schema abaw.

    \b
    Examples:
      mtl prepare --train train_set.txt --val val_set.txt --test test_set.txt
      mtl prepare --train train.txt --val val.txt --test-list test_list.txt
      mtl prepare --tracks "6th ABAW Annotations" --faces cropped_aligned
      mtl prepare --table labels.csv --subjects subjects.csv --out frames.parquet
      mtl prepare --train train.csv --val val.csv --config disfa/mtl.toml
      mtl prepare --faces my_faces --out my_faces.parquet --json
    """

    from cache.frames import write_frames
    from extract.annotations.findings import examine
    from extract.annotations.gather import Sources, check_replaced, gather
    from pipelines.cli.pages.findings import print_findings
    from pipelines.progress import progress

    settings = _settings(config, faces, out)
    faces, out = faces or settings.at(settings.data.faces), out or settings.at(settings.data.frames)
    _check_out(out)
    given = {"train": train, "val": val, "test": test}
    annotations = {split: path for split, path in given.items() if path is not None}
    frames, about = gather(
        Sources(
            faces=faces,
            annotations=annotations,
            test_list=test_list,
            tracks=tracks,
            table=table,
            subjects=subjects,
            context=context,
            on_conflict=on_conflict,
            schema=settings.schema,
        )
    )
    with progress("Checking faces", frames.height, "faces") as advance:
        extra = (*about, *check_replaced(frames, out))
        findings = examine(
            frames,
            faces,
            advance,
            schema=settings.schema,
            open_faces=check_faces,
            max_gap=settings.train.max_gap,
            extra=extra,
        )
    write_frames(frames, out, settings.schema)
    if as_json:
        say_json({"frames": str(out), **findings.to_json()})
    else:
        print_findings(findings, make_console())
        say(f"\n{out}: {counted(frames.height, 'row')} written")
    if findings.num_of("error") or (strict and findings.num_of("warning")):
        raise typer.Exit(1)


def _check_out(out: Path) -> None:
    """Before anything is read: where the table is to lie, whose folder is made."""
    if out.suffix.lower() != ".parquet" or out.is_dir():
        raise ValueError(
            f"{out}: the frames table is a .parquet file; give --out, or frames under [data] in mtl.toml, such a name"
        )
    out.parent.mkdir(parents=True, exist_ok=True)


def _settings(config: Path, faces: Path | None, out: Path | None) -> "Config":
    """mtl.toml, which may be absent where faces folder and table are given."""
    from pipelines.config import Config, read_config

    return Config() if faces is not None and out is not None and not config.exists() else read_config(config)
