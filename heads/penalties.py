"""What a training minimises beside the tasks' losses: of the latent, of subjects, of class embeddings.

Letters: M stacked heads, B windows, T steps, D width, L width of the latent, K classes, E width of a class's embedding,
S subjects.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import LossConfig
from heads.labels import Labels
from heads.latent import Features, Posterior
from heads.layers import Linear, initialise
from heads.losses import MultiTaskLoss
from heads.task_losses import cross_entropy_loss
from heads.tasks import Task

TEMPERATURE = 0.07  # of cosines: what CLIP begins with (Radford et al., arXiv 2103.00020)
OTHER = 2**32  # beyond the seeds of heads: their parameters and those here are not drawn alike
NUMBERS = ("latent_kl", "latent_warmup_steps", "latent_smoothness", "subject_adversarial", "class_embeddings_weight")


class HeadLoss(nn.Module):
    """The tasks' losses, and what is minimised beside them, of M heads: `loss(outputs, labels, features, subjects)`.

    Its parameters are trained with the head's and not kept: the subjects' classifier, the map to class embeddings, the
    tasks' log-variances.

    Args:
        tasks: the tasks' losses.
        configs: of each head.
        seeds: of each head, for the parameters here.
        widths: of what each trunk gives, by name.
        subjects: which subjects train each head, [M, S] bool; needed where `subject_adversarial` is above 0.
        class_embeddings: [K, E]; needed where `class_embeddings` names a file.
    """

    latent_kl: Tensor
    latent_warmup_steps: Tensor
    latent_smoothness: Tensor
    subject_adversarial: Tensor
    class_embeddings_weight: Tensor

    def __init__(
        self,
        tasks: MultiTaskLoss,
        configs: Sequence[LossConfig],
        seeds: Sequence[int] = (),
        widths: Mapping[str, int] | None = None,
        subjects: Tensor | None = None,
        class_embeddings: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.adversary: SubjectAdversary | None = None
        self.alignment: ClassAlignment | None = None
        for name in NUMBERS:
            values = torch.tensor([float(getattr(config, name)) for config in configs])
            self.register_buffer(name, values, persistent=False)
        if configs[0].subject_adversarial:
            assert subjects is not None
            self.adversary = SubjectAdversary(sum((widths or {}).values()), subjects)
        if configs[0].class_embeddings:
            assert class_embeddings is not None
            self.alignment = ClassAlignment(tasks.tasks, widths or {}, class_embeddings, len(configs))
        for part in (self.adversary, self.alignment):
            if part is not None:
                initialise(part, [torch.Generator().manual_seed(seed + OTHER) for seed in seeds])

    def forward(
        self, outputs: Mapping[str, Tensor], labels: Labels, features: Features, subjects: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `MultiTaskLoss`, with the rest added to the totals; `subjects` [M or 1, B, T] is the number of the subject
        of each step, -1 where it must not count."""
        totals, losses = self.tasks(outputs, labels)
        for posterior in features.posteriors.values():
            if posterior is not None:
                totals = totals + self._of_latent(posterior, features)
        if self.adversary is not None:
            assert subjects is not None
            totals = totals + self.adversary(features, subjects, self.subject_adversarial)
        if self.alignment is not None:
            totals = totals + self.class_embeddings_weight * self.alignment(features, labels)
        return totals, losses

    @property
    def reads_trunks(self) -> bool:
        """Whether the trunks among the features matter."""
        return self.adversary is not None or self.alignment is not None

    def select(self, heads: Sequence[int]) -> "HeadLoss":
        """The losses of some of the heads, in this order; parameters are copies."""
        index = torch.tensor(list(heads))
        memo: dict[int, Any] = {id(self.tasks): self.tasks.select(heads)}
        for name, value in (*self.named_parameters(), *self.named_buffers()):
            if not name.startswith("tasks."):
                taken = value.detach()[index.to(value.device)].clone()
                memo[id(value)] = nn.Parameter(taken) if isinstance(value, nn.Parameter) else taken
        return copy.deepcopy(self, memo)

    def _of_latent(self, posterior: Posterior, features: Features) -> Tensor:
        divergence = latent_divergence(posterior.mean, posterior.log_variance, valid=features.valid)
        change = latent_change(posterior.mean, valid=features.valid, times=features.times)
        risen = (posterior.steps / self.latent_warmup_steps.clamp(min=1)).clamp(max=1.0)
        return self.latent_kl * risen * divergence + self.latent_smoothness * change


class SubjectAdversary(nn.Module):
    """A classifier of the subject of each window, whose gradient reaches the trunks reversed (Ganin and Lempitsky, ICML
    2015, arXiv 1409.7495): what tells subjects apart is unlearned, as in FMAE-IAT (Ning et al., arXiv 2407.11243).

    It reads the mean over a window's steps; subjects that do not train a head are no classes of its.
    """

    subjects: Tensor

    def __init__(self, width: int, subjects: Tensor) -> None:
        super().__init__()
        self.linear = Linear(len(subjects), width, subjects.shape[1])
        self.register_buffer("subjects", subjects, persistent=False)

    def forward(self, features: Features, subjects: Tensor, strength: Tensor) -> Tensor:
        x = torch.cat(list(features.trunks.values()), dim=-1).float()
        counts = subjects >= 0
        pooled = (x * counts.unsqueeze(-1)).sum(dim=2) / counts.sum(dim=2, keepdim=True).clamp(min=1)
        logits = self.linear(_Reversal.apply(pooled, strength.view(-1, 1, 1)))
        return subject_loss(logits, subjects.amax(dim=2), known=self.subjects)


class ClassAlignment(nn.Module):
    """A linear map of the features to the width of given embeddings of the classes, for instance of their names by a
    text encoder; the class is classified by cosines: the text anchors of "MTL-ABAW-11th" (arXiv 2607.16290)."""

    embeddings: Tensor

    def __init__(
        self, tasks: Mapping[str, Task], widths: Mapping[str, int], class_embeddings: Tensor, num_heads: int
    ) -> None:
        super().__init__()
        fitting = [name for name, task in tasks.items() if is_of_classes(task, len(class_embeddings))]
        self.linear = nn.ModuleDict(
            {
                name: Linear(num_heads, widths.get(name, next(iter(widths.values()))), class_embeddings.shape[1])
                for name in fitting
            }
        )
        self.tasks = {name: tasks[name] for name in fitting}
        normal = functional.normalize(class_embeddings.float(), dim=-1)
        self.register_buffer("embeddings", normal.expand(num_heads, -1, -1).clone(), persistent=False)

    def forward(self, features: Features, labels: Labels) -> Tensor:
        """[M]; 0 where no task is of these classes."""
        total = torch.zeros(len(self.embeddings), device=self.embeddings.device)
        for name, linear in self.linear.items():
            trunk = features.trunks.get(name, next(iter(features.trunks.values())))
            label, mask = (part.flatten(1, -2) for part in self.tasks[name].labels_in(labels))
            mapped = linear(trunk.float()).flatten(1, -2)
            total = total + class_embedding_loss(mapped, label, mask, class_embeddings=self.embeddings)
        return total


def is_of_classes(task: Task, count: int) -> bool:
    """Whether `task` tells so many classes apart."""
    return task.kind == "classes" and task.num_outputs == count


def latent_divergence(mean: Tensor, log_variance: Tensor, *, valid: Tensor) -> Tensor:
    """[M]: Kullback-Leibler divergence of N(mean, exp(log_variance)) [M, B, T, L] from N(0, 1), the mean over
    dimensions and valid steps."""
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=-1)
    return _mean_of(divergence, valid)


def latent_change(mean: Tensor, *, valid: Tensor, times: Tensor) -> Tensor:
    """[M]: squared difference of `mean` [M, B, T, L] between neighbouring valid steps per real frame between them, the
    mean over dimensions and pairs: what a random walk over time would have alike for gaps of any length."""
    both = valid[..., 1:] & valid[..., :-1]
    frames = (times[..., 1:] - times[..., :-1]).clamp(min=1)
    return _mean_of((mean[:, :, 1:] - mean[:, :, :-1]).square().mean(dim=-1) / frames, both)


def subject_loss(logits: Tensor, subject: Tensor, *, known: Tensor) -> Tensor:
    """[M]: cross-entropy of `logits` [M, B, S] over the subjects that are `known` [M, S] bool, for the numbers
    `subject` [M or 1, B], -1 for none."""
    shown = logits.masked_fill(~known.unsqueeze(1), -torch.inf)
    log_p = functional.log_softmax(shown, dim=-1)
    counts = (subject >= 0).expand(logits.shape[:2])
    own = log_p.gather(-1, subject.clamp(min=0).expand(logits.shape[:2]).unsqueeze(-1)).squeeze(-1)
    return _mean_of(-own, counts, dims=1)


def class_embedding_loss(mapped: Tensor, label: Tensor, mask: Tensor, *, class_embeddings: Tensor) -> Tensor:
    """[M]: cross-entropy of the cosines of `mapped` [M, N, E] with `class_embeddings` [M, K, E] of length 1 over the
    temperature, for labels and mask [M or 1, N, 1]."""
    cosines = functional.normalize(mapped, dim=-1) @ class_embeddings.transpose(1, 2)
    even = torch.ones_like(class_embeddings[..., 0])
    return cross_entropy_loss(cosines / TEMPERATURE, label, mask, class_weight=even, label_smoothing=even[:, 0] * 0)


def _mean_of(values: Tensor, mask: Tensor, dims: int = 2) -> Tensor:
    """[M]: mean of `values` [M, ...] where `mask`; 0 if nowhere."""
    mask = mask.expand(values.shape)
    over = tuple(range(1, 1 + dims))
    return values.masked_fill(~mask, 0.0).sum(dim=over) / mask.sum(dim=over).clamp(min=1)


class _Reversal(torch.autograd.Function):
    """Its input; the gradient comes back times minus `strength`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength * gradients[0], None
