"""Fusions: the embeddings of S streams at a step become one vector, `fusion(streams, valid) -> [M, B, T, D]`.

Each step is fused by itself; time is the temporal encoder's. `streams` maps a stream's name to [M, B, T, Di]; `valid`
[M, B, T] is True at real steps, and what stands at the others never matters. The result is 0 there. Streams that all
heads share have a leading 1 in place of M. Parameters follow the streams' names in sorted order, so the order of a dict
never matters. Letters: M stacked heads, B windows, T steps, D width, S streams.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import HeadConfig
from heads.layers import DropoutRng, Linear, Norm, Perceptron, WindowDropout, look_up, mask_steps

# Embeddings come at any scale. With LayerNorm's default of 1e-5 a stream of size 1e-3 would arrive ten times too small.
DOOR_EPS = 1e-12


class Tokens(nn.Module):
    """Every stream as a token of the common width: [M, B, T, S, D]."""

    def __init__(self, stream_widths: Mapping[str, int], width: int, num_heads: int) -> None:
        super().__init__()
        self.names = tuple(sorted(stream_widths))
        self.projections = nn.ModuleList(Linear(num_heads, stream_widths[name], width) for name in self.names)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        inputs = normalised(streams, self.names, valid)
        return torch.stack([project(x) for project, x in zip(self.projections, inputs, strict=True)], dim=3)


class ConcatFusion(nn.Module):
    """One linear map over all streams side by side."""

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.names = tuple(sorted(stream_widths))
        self.projection = Linear(rng.num_heads, sum(stream_widths.values()), config.width)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        x = torch.cat(normalised(streams, self.names, valid), dim=-1)
        return mask_steps(self.dropout(self.projection(x)), valid)


class SumFusion(nn.Module):
    """The streams' projections added, then an MLP: the fusion of Liu et al., arXiv 2407.16945."""

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.tokens = Tokens(stream_widths, config.width, rng.num_heads)
        self.mlp = Perceptron(config.width, rng)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        x = self.tokens(streams, valid).sum(dim=3)
        return mask_steps(self.dropout(self.mlp(x)), valid)


class GatedFusion(nn.Module):
    """A sum in which each stream has a gate in (0, 1) that all streams together set, anew at every step.

    Sigmoid gates, as in the gated multimodal unit (Arevalo et al., arXiv 1702.01992): a softmax over one stream would
    be constant.
    """

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        num_streams = len(stream_widths)
        self.tokens = Tokens(stream_widths, config.width, rng.num_heads)
        self.gates = Linear(rng.num_heads, num_streams * config.width, num_streams)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        tokens = self.tokens(streams, valid)
        gates = torch.sigmoid(self.gates(tokens.flatten(3)))
        x = (tokens * gates.unsqueeze(-1)).sum(dim=3)
        return mask_steps(self.dropout(x), valid)


class AttentionFusion(nn.Module):
    """Multi-head attention of a step's mean token over its S stream tokens, added to that mean.

    The query holds all streams, so what one stream is worth depends on the others. With one query and few tokens, plain
    products along the width take about half the time of a call of scaled-dot-product attention.
    """

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.tokens = Tokens(stream_widths, width, rng.num_heads)
        self.stream_embedding = nn.Parameter(torch.empty(rng.num_heads, len(stream_widths), width))
        self.norm = Norm(rng.num_heads, width)
        self.query = Linear(rng.num_heads, width, width, bias=False)
        self.key_value = Linear(rng.num_heads, width, 2 * width, bias=False)
        self.output = Linear(rng.num_heads, width, width)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        tokens = self.tokens(streams, valid) + self.stream_embedding[:, None, None]
        mean = tokens.mean(dim=3)
        x = self.output(self._attend(self.norm(mean), self.norm(tokens)))
        return mask_steps(mean + self.dropout(x), valid)

    def _attend(self, mean: Tensor, tokens: Tensor) -> Tensor:
        """Query [M, B, T, D] over tokens [M, B, T, S, D] -> [M, B, T, D]."""
        heads = (self.num_heads, -1)
        query = self.query(mean).unflatten(-1, heads).unsqueeze(3)
        key, value = self.key_value(tokens).unflatten(-1, (2, *heads)).unbind(dim=4)
        scores = (query * key).sum(dim=-1, keepdim=True) * key.shape[-1] ** -0.5
        return (functional.softmax(scores, dim=3) * value).sum(dim=3).flatten(3)


def normalised(streams: Mapping[str, Tensor], names: Sequence[str], valid: Tensor) -> list[Tensor]:
    """The streams `names`, masked, each embedding at mean 0 and variance 1: [M, B, T, Di] each.

    A LayerNorm without gain and bias: the projection that follows has its own, and those widest products then need no
    gradient of their input.
    """
    for name in names:
        if name not in streams:
            raise ValueError(f"stream {name!r} is missing: this head reads {', '.join(names)}")
    inputs = [mask_steps(streams[name], valid).float() for name in names]
    return [functional.layer_norm(x, x.shape[-1:], eps=DOOR_EPS) for x in inputs]


def build_fusion(name: str, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> nn.Module:
    """The fusion `name` for streams of the widths Di.

    Raises:
        ValueError: unknown name.
    """
    return look_up(FUSIONS, name, "fusion")(stream_widths, config, rng)


FUSIONS: dict[str, Callable[[Mapping[str, int], HeadConfig, DropoutRng], nn.Module]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "gated": GatedFusion,
    "attention": AttentionFusion,
}
