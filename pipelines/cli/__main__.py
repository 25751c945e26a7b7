"""`python -m pipelines.cli`, which is `mtl`: what `torchrun` starts."""

from pipelines.cli import program

program()
