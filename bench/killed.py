"""A child process for A6: extracts until a number of faces is done, then kills itself without a word.

python -m bench.killed CACHE NUM_FACES_AT_DEATH NUM_FACES DEVICE
"""

import os
import signal
import sys
from pathlib import Path

import torch

from bench import extraction
from bench.made_faces import made_faces


def main() -> None:
    cache, death, num_faces, device = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), torch.device(sys.argv[4])
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= death:
            os.kill(os.getpid(), signal.SIGKILL)

    extraction.run(made_faces(num_faces), cache, [extraction.backbone(device)], device, advance=advance)


if __name__ == "__main__":
    main()
