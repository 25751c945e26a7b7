"""Fields of [head] and [train] that the model of one task may have a value of its own for, in sections [task.NAME].

By its flat name the window of the model for "va" is "task.va.window".
"""

from collections.abc import Container

TASK_FIELDS = (
    "streams",
    "fusion",
    "temporal",
    "causal",
    "width",
    "depth",
    "num_heads",
    "kernel",
    "dropout",
    "latent",
    "window",
    "stride",
    "steps",
    "eval_steps",
    "patience",
    "lr",
)


def flat_name(task: str, key: str) -> str:
    """ "task.va.window"."""
    return f"task.{task}.{key}"


def refusal(key: str, fields: Container[str]) -> str:
    """Why the model of a task has no `key` of its own, for a `key` that is among the `fields` of a strategy; else
    empty."""
    return f"{key} is the same for the models of all tasks; leave it out here" if key in fields else ""


def split_field(name: str) -> tuple[str, str]:
    """("va", "window") for "task.va.window", ("", "window") for "window"."""
    section, _, rest = name.partition(".")
    task, _, key = rest.rpartition(".")
    return (task, key) if section == "task" and task else ("", name)
