"""What a fine-tuning is asked for, from the command line and mtl.toml."""

from dataclasses import dataclass
from pathlib import Path

from cache.labels import ABAW, Schema
from pipelines.backbones.register import check_section_name
from pipelines.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """What is to be trained: a timm `model` on `tasks`, to be called `section`.

    `init` is "pretrained", "random" or a file of weights, whose tensors are renamed as `rename` says. `config_path` is
    the mtl.toml that the section goes into. `restart` forgets what an earlier run of the command left off with.
    """

    tasks: tuple[str, ...]
    model: str
    section: str
    init: str
    config_path: Path
    device: str = "auto"
    rename: str = ""
    licence: str = ""
    restart: bool = False


def parse_tasks(text: str, schema: Schema = ABAW) -> tuple[str, ...]:
    """ "va,expr" as tasks, in the order of the schema.

    Raises:
        ValueError: an unknown task, or none.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    if not given:
        raise ValueError(f"--task {text}: expected one or several of {', '.join(schema.tasks)}, comma separated")
    return schema.ordered(given, f"--task {text}")


def make_request(
    config: Config,
    config_path: Path,
    task: str,
    model: str = "",
    name: str = "",
    init: str = "",
    device: str = "auto",
    *,
    rename: str = "",
    licence: str = "",
    restart: bool = False,
) -> FinetuneRequest:
    """What the command line asks for; what it leaves out comes from mtl.toml.

    The section's default name is the task's, "joint" for several; the default model is that of the section if it is
    there already. A file given by `init` or `rename` is seen from where the command is typed, one in mtl.toml from
    there.
    """
    tasks = parse_tasks(task, config.schema)
    section = name or (tasks[0] if len(tasks) == 1 else "joint")
    check_section_name(section)
    if not model and section not in config.backbones:
        raise ValueError(f"--model: which timm model is to be trained? mtl.toml has no [backbones.{section}] to go by")
    settings = config.finetune
    configured = settings.init if settings.init in ("pretrained", "random") else str(config.at(settings.init))
    rules = str(config.at(settings.rename)) if config.at(settings.rename).is_file() else settings.rename
    return FinetuneRequest(
        tasks=tasks,
        model=model or config.backbones[section].model,
        section=section,
        init=init or configured,
        config_path=config_path,
        device=device,
        rename=rename or (rules if not init else ""),
        licence=licence or settings.licence,
        restart=restart,
    )
