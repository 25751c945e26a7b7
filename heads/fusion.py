"""Fusions: the embeddings of S streams at a step become one vector, `fusion(streams, valid, times) -> [M, B, T, D]`.

`streams` maps a stream's name to [M, B, T, Di]; `valid` [M, B, T] is True at real steps, and what stands at the others
never matters. The result is 0 there. `times` [M, B, T] are real frame numbers. Each step is fused by itself and time is
the temporal encoder's, but for cross-attention. Streams that all heads share have a leading 1 in place of M. Parameters
follow the streams' names in sorted order, so the order of a dict never matters.

A stream of another rate than the frames has an age beside it, `NAME:age` [M, B, T, 1]: how many real frames ago the row
that a step sees began, or a negative number where no row covers the step. There the stream counts as absent, and the
step sees the others. Letters: M stacked heads, B windows, T steps, D width, S streams, H attention heads.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heads.config import HeadConfig, age_of, embedding_streams
from heads.layers import DropoutRng, Linear, Norm, Perceptron, WindowDropout, look_up, mask_steps
from heads.steps import rotate, steps_of

# Embeddings come at any scale. With LayerNorm's default of 1e-5 a stream of size 1e-3 would arrive ten times too small.
DOOR_EPS = 1e-12


class NormalStreams(dict[str, Tensor]):
    """Streams on which `normalised` has nothing left to do. `joined` are all of them side by side in the order of their
    names, [M, B, T, sum of Di], where they lie so in memory."""

    joined: Tensor | None = None


class Ages(nn.Module):
    """What the ages of streams say: {place among `names`: [M, B, T, D]}, 0 where the stream has no row."""

    def __init__(self, names: Sequence[str], stream_widths: Mapping[str, int], width: int, num_heads: int) -> None:
        super().__init__()
        aged = {place: age_of(name) for place, name in enumerate(names)}
        self.names = {place: name for place, name in aged.items() if name in stream_widths}
        self.projections = nn.ModuleList(Linear(num_heads, 2, width, bias=False) for _ in self.names)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> dict[int, Tensor]:
        found = {}
        for project, (place, name) in zip(self.projections, self.names.items(), strict=True):
            has_row = has_rows(streams[name], valid).unsqueeze(-1)
            frames = streams[name].float().masked_fill(~has_row, 0)
            found[place] = project(torch.cat([frames.log1p(), has_row.to(frames)], dim=-1))
        return found


class Tokens(nn.Module):
    """Every stream as a token of the common width: [M, B, T, S, D]."""

    def __init__(self, stream_widths: Mapping[str, int], width: int, num_heads: int) -> None:
        super().__init__()
        self.names = embedding_streams(stream_widths)
        self.projections = nn.ModuleList(Linear(num_heads, stream_widths[name], width) for name in self.names)
        self.ages = Ages(self.names, stream_widths, width, num_heads)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        inputs = normalised(streams, self.names, valid)
        tokens = [project(x) for project, x in zip(self.projections, inputs, strict=True)]
        for place, age in self.ages(streams, valid).items():
            tokens[place] = tokens[place] + age
        return torch.stack(tokens, dim=3)


class ConcatFusion(nn.Module):
    """One linear map over all streams side by side."""

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.names = embedding_streams(stream_widths)
        num_inputs = sum(stream_widths[name] for name in self.names)
        self.projection = Linear(rng.num_heads, num_inputs, config.width)
        self.ages = Ages(self.names, stream_widths, config.width, rng.num_heads)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
        x = self.projection(side_by_side(streams, self.names, valid))
        for age in self.ages(streams, valid).values():
            x = x + age
        return mask_steps(self.dropout(x), valid)


class SumFusion(nn.Module):
    """The streams' projections added, then an MLP: the fusion of Liu et al., arXiv 2407.16945."""

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        self.tokens = Tokens(stream_widths, config.width, rng.num_heads)
        self.mlp = Perceptron(config.width, rng)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
        x = self.tokens(streams, valid).sum(dim=3)
        return mask_steps(self.dropout(self.mlp(x)), valid)


class GatedFusion(nn.Module):
    """A sum in which each stream has a gate in (0, 1) that all streams together set, anew at every step.

    Sigmoid gates, as in the gated multimodal unit (Arevalo et al., arXiv 1702.01992): a softmax over one stream would
    be constant.
    """

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        num_streams = len(embedding_streams(stream_widths))
        self.tokens = Tokens(stream_widths, config.width, rng.num_heads)
        self.gates = Linear(rng.num_heads, num_streams * config.width, num_streams)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
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
        self.stream_embedding = nn.Parameter(torch.empty(rng.num_heads, len(self.tokens.names), width))
        self.norm = Norm(rng.num_heads, width)
        self.query = Linear(rng.num_heads, width, width, bias=False)
        self.key_value = Linear(rng.num_heads, width, 2 * width, bias=False)
        self.output = Linear(rng.num_heads, width, width)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
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


class CrossAttentionFusion(nn.Module):
    """The steps of the faces' streams attend the steps of other streams, at the times of these (MulT: Tsai et al.,
    arXiv 1906.00295).

    The others are the streams with an age; where no stream has one, or all have, all are attended. What a step sees of
    another depends on the real frames between it and the beginning of the row there. Where nothing is to be seen, a
    step attends a zero, as with `add_zero_attn` of `nn.MultiheadAttention`.
    """

    def __init__(self, stream_widths: Mapping[str, int], config: HeadConfig, rng: DropoutRng) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.causal = config.num_heads, config.causal
        self.tokens = Tokens(stream_widths, width, rng.num_heads)
        names = self.tokens.names
        aged = [place for place, name in enumerate(names) if age_of(name) in stream_widths]
        self.others = aged or list(range(len(names)))
        self.leading = [place for place in range(len(names)) if place not in aged] or self.others
        self.stream_embedding = nn.Parameter(torch.empty(rng.num_heads, len(self.others), width))
        self.norm = Norm(rng.num_heads, width)
        self.other_norm = Norm(rng.num_heads, width)
        self.query = Linear(rng.num_heads, width, width, bias=False)
        self.key_value = Linear(rng.num_heads, width, 2 * width, bias=False)
        self.output = Linear(rng.num_heads, width, width)
        self.dropout = WindowDropout(rng)

    def forward(self, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> Tensor:
        tokens = self.tokens(streams, valid)
        each = tokens.unbind(3)  # taken one by one: a list of places as an index would wait for the host
        lead = torch.stack([each[place] for place in self.leading]).mean(dim=0)
        others = torch.stack([each[place] for place in self.others], dim=3) + self.stream_embedding[:, None, None]
        return mask_steps(lead + self.dropout(self._attend(lead, others, streams, valid, times)), valid)

    def _attend(
        self, lead: Tensor, others: Tensor, streams: Mapping[str, Tensor], valid: Tensor, times: Tensor
    ) -> Tensor:
        """Queries of `lead` [M, B, T, D] over `others` [M, B, T, S, D] -> [M, B, T, D]."""
        frames = steps_of(valid, times).frames
        seen, begins = [], []
        for place in self.others:
            age = streams.get(age_of(self.tokens.names[place]))
            seen.append(valid if age is None else has_rows(age, valid))
            begins.append(frames.float() if age is None else frames - age.squeeze(-1).masked_fill(~seen[-1], 0))
        has_row = torch.stack(seen, dim=2)  # [M, B, S, T]
        rows = mask_steps(self.other_norm(others).transpose(2, 3).flatten(2, 3), has_row.flatten(2))
        heads = (self.num_heads, -1)
        query = rotate(self.query(self.norm(lead)).unflatten(-1, heads).transpose(2, 3), frames)
        key, value = self.key_value(rows).unflatten(-1, (2, *heads)).permute(3, 0, 1, 4, 2, 5)
        key = rotate(key, torch.cat(begins, dim=2))
        key, value = (functional.pad(each, (0, 0, 0, 1)) for each in (key, value))
        sees = functional.pad(self._mask(has_row), (0, 1), value=True).unsqueeze(2).expand(len(lead), -1, -1, -1, -1)
        # M goes into the batch: attention over five dimensions takes a slower path.
        query, key, value, sees = (each.flatten(0, 1) for each in (query, key, value, sees))
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        return self.output(found.transpose(1, 2).flatten(2).unflatten(0, lead.shape[:2]))

    def _mask(self, has_row: Tensor) -> Tensor:
        """[M, B, T, S * T]: which rows of the other streams, of those that `has_row` [M, B, S, T], each step sees."""
        num_steps = has_row.shape[3]
        sees = has_row.unsqueeze(2).expand(-1, -1, num_steps, -1, -1)
        if self.causal:
            past = torch.ones(num_steps, num_steps, dtype=torch.bool, device=has_row.device).tril()
            sees = sees & past.unsqueeze(1)
        return sees.flatten(3)


def has_rows(age: Tensor, valid: Tensor) -> Tensor:
    """[M, B, T] bool: steps at which the stream with this `age` [M, B, T, 1] has a row."""
    return valid & (age.squeeze(-1) >= 0)


def normalised(streams: Mapping[str, Tensor], names: Sequence[str], valid: Tensor) -> list[Tensor]:
    """The streams `names`, 0 where there is no row, else each embedding at mean 0 and variance 1: [M, B, T, Di] each.

    A LayerNorm without gain and bias: the projection that follows has its own, and those widest products then need no
    gradient of their input.
    """
    for name in names:
        if name not in streams:
            raise ValueError(f"stream {name!r} is missing: this head reads {', '.join(names)}")
    if isinstance(streams, NormalStreams):
        return [streams[name].contiguous() for name in names]
    ages = {name: streams.get(age_of(name)) for name in names}
    present = {name: valid if age is None else has_rows(age, valid) for name, age in ages.items()}
    inputs = [mask_steps(streams[name], present[name]).float() for name in names]
    return [functional.layer_norm(x, x.shape[-1:], eps=DOOR_EPS) for x in inputs]


def side_by_side(streams: Mapping[str, Tensor], names: Sequence[str], valid: Tensor) -> Tensor:
    """`normalised` streams as one [M, B, T, sum of Di]."""
    if isinstance(streams, NormalStreams) and streams.joined is not None and names == embedding_streams(streams):
        return streams.joined
    return torch.cat(normalised(streams, names, valid), dim=-1)


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
    "cross-attention": CrossAttentionFusion,
}
