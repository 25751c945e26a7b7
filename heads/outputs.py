"""From what a trunk gives to an output per task: a latent, coupling, linear outputs, classes from other tasks too.

With nothing of it asked for, one linear map per task. Letters: M stacked heads, B windows, T steps, D width, K outputs
of a task.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from heads.config import HeadConfig, classes_problem
from heads.coupling import GatedCoupling, OutputReader
from heads.latent import Latent, Posterior
from heads.layers import DropoutRng
from heads.tasks import Output, Task


class Outputs(nn.Module):
    """`outputs(x [M, B, T, D], posterior) -> {task: [M, B, T, K]}` for `tasks` by name; `posterior` is that of `x`."""

    def __init__(self, config: HeadConfig, tasks: Mapping[str, Task], rng: DropoutRng) -> None:
        super().__init__()
        kinds = {name: task.kind for name, task in tasks.items()}
        if problem := classes_problem(config, kinds):
            raise ValueError(f"head: {problem}")
        self.tasks, num_heads = dict(tasks), rng.num_heads
        self.beside = {name for name in tasks if kinds[name] == "continuous" and config.latent_va == "beside"}
        has_latent = config.latent > 0 and not self.beside.issuperset(tasks)
        self.latent = Latent(config.width, config.latent, rng) if has_latent else None
        widths = {name: config.width if name in self.beside or not has_latent else config.latent for name in tasks}
        self.linear = nn.ModuleDict({name: Output(task, widths[name], num_heads) for name, task in tasks.items()})
        self.coupling = GatedCoupling(widths, config.width, num_heads) if config.coupling == "gated" else None
        self.read = [name for name in tasks if kinds[name] != "classes"]
        num_read = sum(tasks[name].num_outputs for name in self.read)
        reading = [name for name in tasks if kinds[name] == "classes" and config.classes_from == "both"]
        self.readers = nn.ModuleDict(
            {name: OutputReader(num_read, config.width, tasks[name].num_outputs, num_heads) for name in reading}
        )

    def posterior(self, x: Tensor) -> Posterior | None:
        """That of the latent; None without one."""
        return None if self.latent is None else self.latent.posterior(x)

    def forward(self, x: Tensor, posterior: Posterior | None) -> dict[str, Tensor]:
        z = x if self.latent is None else self.latent(posterior)
        features = {task: x if task in self.beside else z for task in self.tasks}
        if self.coupling is not None:
            features = self.coupling(features)
        outputs = {task: output(features[task]) for task, output in self.linear.items()}
        if self.readers:
            predictions = [self.tasks[task].probabilities(outputs[task]) for task in self.read]
            outputs |= {task: outputs[task] + reader(predictions) for task, reader in self.readers.items()}
        return outputs
