"""One of the processes of a fine-tuning: `finetuning_process FOLDER OUT`, as `torchrun` would start it.

FOLDER has mtl.toml and frames.parquet; OUT/RANK.json takes what the process knows in the end.
"""

import json
import os
import sys
from pathlib import Path

import torch

from cache.frames import read_frames
from pipelines.backbones.finetuning.finetune import finetune
from pipelines.backbones.finetuning.request import make_request
from pipelines.config import read_config


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    config = read_config(folder / "mtl.toml")
    request = make_request(config, folder / "mtl.toml", "va,expr,au", model="test_vit2", device="cpu")
    said: list[int] = []
    result = finetune(config, read_frames(folder / "frames.parquet"), request, lambda epoch: said.append(epoch.epoch))
    found = {**result.to_json(), "said": said, "is_first": result.is_first}
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
