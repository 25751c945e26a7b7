"""Fields of [head] and [train] that the model of one task may have a value of its own for, in sections [task.NAME].

By its flat name the window of the model for "va" is "task.va.window".
"""

TASK_FIELDS = (
    "streams",
    "fusion",
    "temporal",
    "width",
    "depth",
    "num_heads",
    "kernel",
    "latent",
    "window",
    "stride",
    "steps",
    "eval_steps",
    "patience",
)


def flat_name(task: str, key: str) -> str:
    """ "task.va.window"."""
    return f"task.{task}.{key}"


def split_field(name: str) -> tuple[str, str]:
    """("va", "window") for "task.va.window", ("", "window") for "window"."""
    section, _, rest = name.partition(".")
    task, _, key = rest.rpartition(".")
    return (task, key) if section == "task" and task else ("", name)
