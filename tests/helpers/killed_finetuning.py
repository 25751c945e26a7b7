"""A fine-tuning that dies at a given step: `killed_finetuning FOLDER STEP SIGNAL`.

FOLDER has mtl.toml and frames.parquet; SIGNAL is sent to this very process when the step has been taken. The state is
kept after every step.
"""

import os
import sys
from pathlib import Path

import torch

from pipelines import cli
from pipelines.backbones.finetuning import loop


def main() -> None:
    folder, step, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.chdir(folder)
    torch.set_num_threads(1)
    optimiser_step = loop.optimiser_step

    def dying(context: loop.TrainContext, state: loop.FinetuneState, lr: float) -> None:
        optimiser_step(context, state, lr)
        if state.num_steps == step:
            os.kill(os.getpid(), number)

    loop.optimiser_step = dying
    sys.argv = ["mtl", "finetune", "--task", "expr,au", "--model", "test_vit2", "--device", "cpu"]
    sys.argv += ["--set", "finetune.checkpoint_minutes=0"]
    cli.main()
