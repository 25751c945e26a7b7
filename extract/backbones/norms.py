"""Batch normalisation whose means move: what several processes have to agree on.

Place: below training alone; extraction runs backbones whose means stand still.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def moving_norms(module: nn.Module) -> list[str]:
    """Names of the batch normalisations that take their means from the batch once `module` trains; all of it is left
    in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.train()
    names = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm) and part.training]
    for part, mode in modes:
        part.training = mode
    return names


def synchronised(module: nn.Module) -> nn.Module:
    """`module` whose batch normalisations take their means over all processes, on GPUs; timm's own keep what they
    do besides."""
    from timm.layers import convert_sync_batchnorm  # seconds to import, and a CPU never comes here

    converted: nn.Module = convert_sync_batchnorm(module)
    return converted
