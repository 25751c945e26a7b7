"""A few steps of AdamW on a global batch, by one process or by those of torchrun's variables, which write what they
found into the folder they are given. No test, but what tests run."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from heads.config import LossConfig
from heads.labels import Labels
from heads.losses import MultiTaskLoss
from heads.tasks import ABAW_TASKS
from pipelines.backbones.distributed import World, open_world
from pipelines.fitting.optimise import AdamW, decay_groups

TASKS = ("va", "expr", "au")
KNOWN = {name: ABAW_TASKS[name] for name in TASKS}
SIZES = [task.num_outputs for task in KNOWN.values()]
NUM_ROWS, NUM_STEPS = 60, 8
UNREADABLE = (4, 5, 6, 7, 8, 9, 23)  # all of the first process's rows of the third step, and one more


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, sum(SIZES)))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs


def made_targets(rng: np.random.Generator) -> Labels:
    values = {
        "va": rng.uniform(-1, 1, (NUM_ROWS, 2)).astype(np.float32),
        "expr": rng.integers(0, 8, (NUM_ROWS, 1)),
        "au": rng.integers(0, 2, (NUM_ROWS, 12)).astype(np.float32),
    }
    return Labels(values, {name: rng.random(value.shape) < 0.6 for name, value in values.items()}).map(torch.from_numpy)


def train(world: World) -> dict[str, list[float]]:
    """The losses of all steps, and all weights afterwards."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(NUM_ROWS, 10)).astype(np.float32))
    targets = made_targets(rng)
    torch.manual_seed(world.rank)  # wrapping takes the first process's weights
    model = Model()
    loss = MultiTaskLoss(KNOWN, [LossConfig(continuous_loss="ccc+mse", weighting="learned")])
    wrapped = world.wrap(model)
    optimiser = AdamW(decay_groups([*model.named_parameters(), *loss.named_parameters(prefix="loss")], 0.05))
    batches = [np.arange(13), np.arange(13, 20), np.arange(4, 17), *(rng.permutation(NUM_ROWS)[:13] for _ in range(5))]
    losses = []
    for batch in batches:
        optimiser.zero_grad()
        for last, rows in enumerate(np.array_split(batch, 2)):  # accumulated over two parts
            own = np.array([row for row in world.part(rows) if row not in UNREADABLE], dtype=np.int64)
            with world.no_sync(wrapped) if not last else torch.enable_grad():
                outputs = world.gather(wrapped(x[torch.from_numpy(own)]))
                read = world.gather(torch.from_numpy(own))
                parts = outputs.unsqueeze(0).split(SIZES, dim=-1)
                named = {name: KNOWN[name].activate(part) for name, part in zip(TASKS, parts, strict=True)}
                (total,), _ = loss(named, targets.take(read).hide(read < 0).map(lambda x: x.unsqueeze(0)))
                (total * world.size / 2).backward()
            losses.append(total.item())
        world.unscale(loss.parameters())
        nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(1e-2)
    weights = torch.cat([p.detach().ravel() for p in (*model.parameters(), *loss.parameters())])
    return {"losses": losses, "weights": weights.tolist()}


def main() -> None:
    torch.set_num_threads(1)
    with open_world("cpu") as (world, device):
        assert device.type == "cpu"
        found: dict[str, object] = {**train(world)}
        ragged = torch.full((1 + 2 * world.rank, 2), float(world.rank), requires_grad=True)
        every = world.gather(ragged)
        (every.sum(dim=1) * torch.arange(1.0, len(every) + 1)).sum().backward()
        norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        try:
            world.wrap(norm)
        except ValueError as error:
            found["norm"] = str(error)
        found |= {
            "every": every.tolist(),
            "gradient": ragged.grad.tolist(),  # type: ignore[union-attr]
            "flags": world.gather(torch.tensor([world.is_first])).tolist(),
            "parts": [part.tolist() for part in world.gather_objects(world.part(np.arange(5)))],
            "mean": world.mean(torch.tensor([1.0, 2.0 * world.rank])).tolist(),
            "mode": norm.training,
        }
        world.barrier()
    torch.save(found, Path(sys.argv[1]) / f"{world.rank}.pt")
