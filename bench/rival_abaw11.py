"""The temporal heads of ABAW11's leading entry (arXiv 2607.16290), on the embeddings themselves, 512 wide.

As there, padding is zeros that nothing masks but the transformer's attention; whole videos are predicted, without any.
Letters: B windows, T steps, D width, N states of a channel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.rival_networks import LatentOutputs, Outputs, sinusoidal

WIDTH, DROPOUT = 512, 0.2


class BiGru(nn.Module):
    """Two layers of 256 each way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, WIDTH // 2, 2, batch_first=True, bidirectional=True, dropout=DROPOUT)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.gru(x)[0])


class LeadingGru(nn.Module):
    """`BiGru`, then the outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.outputs = BiGru(width), Outputs(WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.encoder(x))


class LeadingLatent(nn.Module):
    """`BiGru`, then the shared latent with VA beside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.outputs = BiGru(width), LatentOutputs(WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.encoder(x), valid)


class LeadingTransformer(nn.Module):
    """Two pre-norm layers with 8 heads, sinusoidal positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = nn.Linear(width, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 8, 2 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.dropout, self.outputs = nn.Dropout(DROPOUT), Outputs(WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        x = self.front(x) + sinusoidal(x.shape[1], WIDTH)
        return self.outputs(self.dropout(self.layers(x, src_key_padding_mask=~valid)))


def _block(dilation: int) -> nn.Module:
    layers = []
    for _ in range(2):
        convolution = nn.Conv1d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        layers += [convolution, nn.GELU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers)


class Branch(nn.Module):
    """Residual blocks of two convolutions, one a dilation."""

    def __init__(self, *dilations: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(dilation) for dilation in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class LeadingTcn(nn.Module):
    """Branches side by side: one of four dilations, or three of short, middle and long reach."""

    def __init__(self, width: int, branches: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.front = nn.Linear(width, WIDTH)
        self.branches = nn.ModuleList(Branch(*dilations) for dilations in branches)
        self.dropout, self.outputs = nn.Dropout(DROPOUT), Outputs(len(branches) * WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        x = self.front(x).transpose(1, 2)
        found = torch.cat([branch(x) for branch in self.branches], dim=1)
        return self.outputs(self.dropout(found.transpose(1, 2)))


class RealStates(nn.Module):
    """D state spaces of N real poles in (0, 1), one set each way, as convolutions by FFT."""

    def __init__(self, num_states: int = 64) -> None:
        super().__init__()
        pole = torch.logit(torch.linspace(0.05, 0.95, num_states))
        self.pole = nn.Parameter(pole + 0.01 * torch.randn(2, WIDTH, num_states))
        self.output = nn.Parameter(torch.randn(2, WIDTH, num_states) * num_states**-0.5)
        self.skip = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        num_steps = x.shape[2]
        powers = torch.exp(nn.functional.logsigmoid(self.pole)[..., None] * torch.arange(num_steps))
        ahead, behind = (self.output[..., None] * powers).sum(dim=2)
        found = _convolved(x, ahead) + _convolved(x.flip(2), behind).flip(2)
        return (found + self.skip[:, None] * x).transpose(1, 2)


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """[B, D, T] of `x` and of `kernel` [D, T], which sees no later step."""
    size = 2 * x.shape[2]
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(kernel, n=size), n=size)[..., : x.shape[2]]


class RealStatesLayer(nn.Module):
    """`RealStates` and a gated mix of channels, then two linear maps; pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.states, self.gated = RealStates(), nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GLU())
        wide = 2 * WIDTH
        self.wide = nn.Sequential(nn.Linear(WIDTH, wide), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(wide, WIDTH))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.gated(self.states(self.norms[0](x))))
        return x + self.dropout(self.wide(self.norms[1](x)))


class LeadingStateSpace(nn.Module):
    """Two `RealStatesLayer`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = nn.Linear(width, WIDTH)
        self.layers = nn.Sequential(RealStatesLayer(), RealStatesLayer(), nn.LayerNorm(WIDTH), nn.Dropout(DROPOUT))
        self.outputs = Outputs(WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.layers(self.front(x)))
