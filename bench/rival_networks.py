"""Networks on cached embeddings as users of plain PyTorch write them: frame-wise, GRU, TCN, multi-scale TCN,
transformer, diagonal state space, shared latent.

What is not valid stands at the end of a window. Letters: B windows, T steps, D width, N states of a channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Outputs(nn.Module):
    """The three tasks, a linear layer each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.va, self.expr, self.au = nn.Linear(width, 2), nn.Linear(width, 8), nn.Linear(width, 12)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"va": torch.tanh(self.va(x)), "expr": self.expr(x), "au": self.au(x)}


def _front(width: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))


class PerFrame(nn.Module):
    """A hidden layer of 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front, self.outputs = _front(width, 256, 0.3), Outputs(256)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.front(x))


class PackedGru(nn.Module):
    """A linear layer, a GRU of 128 each way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.gru = nn.GRU(128, 128, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.front(x), valid.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.dropout(found)


class Gru(nn.Module):
    """`PackedGru`, then the outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.outputs = PackedGru(width), Outputs(256)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.encoder(x, valid))


class LatentOutputs(nn.Module):
    """Expressions and AUs from one stochastic latent of 32, its mean when predicting, and VA beside it.

    "kl" is the divergence from a standard normal, the mean over valid steps and dimensions.
    """

    def __init__(self, width: int, latent: int = 32) -> None:
        super().__init__()
        self.latent, self.va = nn.Linear(width, 2 * latent), nn.Linear(width, 2)
        self.expr, self.au = nn.Linear(latent, 8), nn.Linear(latent, 12)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.latent(x).chunk(2, dim=-1)
        log_variance = log_variance.clamp(-6, 6)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if self.training else mean
        kl = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1)[valid].mean()
        return {"va": torch.tanh(self.va(x)), "expr": self.expr(z), "au": self.au(z), "kl": kl}


class Latent(nn.Module):
    """`PackedGru`, then `LatentOutputs`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.outputs = PackedGru(width), LatentOutputs(256)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.encoder(x, valid), valid)


class Tcn(nn.Module):
    """A linear layer, five dilated convolutions of 128 with a mix of channels each, as in MS-TCN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(128, 128, 3, padding=dilation, dilation=dilation),
                nn.ReLU(),
                nn.Conv1d(128, 128, 1),
                nn.Dropout(0.3),
            )
            for dilation in (1, 2, 4, 8, 16)
        )
        self.outputs = Outputs(128)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        mask = valid.unsqueeze(1)
        x = self.front(x).transpose(1, 2) * mask
        for block in self.blocks:
            x = (x + block(x)) * mask
        return self.outputs(x.transpose(1, 2))


class TwoConvolutions(nn.Module):
    """A residual block of two convolutions of one dilation."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inside = self.dropout(nn.functional.gelu(self.first(x))) * mask
        return (x + self.dropout(nn.functional.gelu(self.second(inside)))) * mask


class MultiScaleTcn(nn.Module):
    """A linear layer, then three branches side by side that see 2, 6 and 24 steps to either side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.branches = nn.ModuleList(
            nn.ModuleList(TwoConvolutions(128, dilation, 0.3) for dilation in dilations)
            for dilations in ((1,), (1, 2), (4, 8))
        )
        self.outputs = Outputs(3 * 128)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        mask = valid.unsqueeze(1)
        x, found = self.front(x).transpose(1, 2) * mask, []
        for branch in self.branches:
            each = x
            for block in branch:
                each = block(each, mask)
            found.append(each)
        return self.outputs(torch.cat(found, dim=1).transpose(1, 2))


class Transformer(nn.Module):
    """A linear layer, sinusoidal positions, two pre-norm layers of 128 with 4 heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        layer = nn.TransformerEncoderLayer(128, 4, 256, 0.1, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(128), enable_nested_tensor=False)
        self.outputs = Outputs(128)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        x = self.front(x) + sinusoidal(x.shape[1], 128)
        return self.outputs(self.layers(x, src_key_padding_mask=~valid))


def sinusoidal(num_steps: int, width: int) -> Tensor:
    """[T, D] positions (Vaswani et al., NeurIPS 2017)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(num_steps)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class Kernel(nn.Module):
    """Convolution kernels of D diagonal state spaces of N complex states: S4D-Lin (Gu et al., NeurIPS 2022)."""

    def __init__(self, width: int, num_states: int = 32) -> None:
        super().__init__()
        low, high = math.log(1e-3), math.log(1e-1)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(width, 1))
        self.log_decay = nn.Parameter(torch.full((width, num_states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(num_states).repeat(width, 1).float())
        self.output = nn.Parameter(torch.randn(width, num_states, 2) * 0.5**0.5)

    def forward(self, num_steps: int) -> Tensor:
        """[D, T]."""
        poles = torch.complex(-self.log_decay.exp(), self.frequency)
        exponent = poles * self.log_step.exp()
        scale = torch.view_as_complex(self.output) * (exponent.exp() - 1) / poles
        powers = torch.exp(exponent[:, :, None] * torch.arange(num_steps))
        return 2 * (scale[:, :, None] * powers).sum(dim=1).real


class StateSpaceLayer(nn.Module):
    """Both directions by FFT, a gated mix of channels, then a layer of two linear maps; pre-norm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.kernels = nn.ModuleList(Kernel(width) for _ in range(2))
        self.skip = nn.Parameter(torch.randn(width))
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU())
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout))
        self.back, self.dropout = nn.Linear(2 * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        inside = (self.norms[0](x) * valid.unsqueeze(2)).transpose(1, 2)
        num_steps = inside.shape[2]
        ahead, behind = (kernel(num_steps) for kernel in self.kernels)
        kernel = nn.functional.pad(ahead, (0, num_steps)) + nn.functional.pad(behind.flip(1), (num_steps, 0))
        size = 2 * num_steps
        spectrum = torch.fft.rfft(inside, n=size) * torch.fft.rfft(kernel, n=size)
        found = torch.fft.irfft(spectrum, n=size)[..., :num_steps] + self.skip[:, None] * inside
        x = x + self.dropout(self.mix(found.transpose(1, 2)))
        return x + self.dropout(self.back(self.wide(self.norms[1](x))))


class StateSpace(nn.Module):
    """A linear layer, two `StateSpaceLayer` of 128."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.front = _front(width, 128, 0.3)
        self.layers = nn.ModuleList(StateSpaceLayer(128, 0.3) for _ in range(2))
        self.norm, self.outputs = nn.LayerNorm(128), Outputs(128)

    def forward(self, x: Tensor, valid: Tensor) -> dict[str, Tensor]:
        x = self.front(x)
        for layer in self.layers:
            x = layer(x, valid)
        return self.outputs(self.norm(x))
