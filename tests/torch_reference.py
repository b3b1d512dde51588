"""The definitions of `sgs.torch` in plain torch operations, for values and for derivatives of any order.

Names and arguments are those of `sgs.torch` (so `num_threads` is taken and means nothing). Everything is
differentiated by autograd through the loops themselves, so that no adjoint formula is written down twice; only the
rule that an edge of weight 0 lets nothing pass, not even a NaN that comes back, needs one Function of its own. Slow
and memory-hungry on purpose: small tensors only. Equation numbers are those of `docs/math.md`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Through(torch.autograd.Function):
    """w v, what `v` sends over an edge of weight `w`: nothing, not even NaN or Inf, where w = 0, in either direction.

    A product would let 0 * NaN through, and a `where` around it would take the derivative by w, v, away at w = 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor, v: Tensor) -> Tensor:
        return torch.where(w == 0, torch.zeros_like(v), w * v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        w, v = ctx.saved_tensors
        return v * g, _Through.apply(w, g)

    @staticmethod
    def jvp(ctx: Any, wt: Tensor | None, vt: Tensor | None) -> Tensor:
        w, v = ctx.saved_tensors
        terms = ([wt * v] if wt is not None else []) + ([_Through.apply(w, vt)] if vt is not None else [])
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _through(w: Tensor, v: Tensor) -> Tensor:
    return _Through.apply(w.expand(v.shape), v)


def _computing(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _storage(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float32


def _smallest(dtype: torch.dtype) -> float:
    """The least support that counts (8)."""
    return torch.finfo(_computing(dtype)).tiny


def _lines(x: Tensor, w: Tensor, axis: int) -> tuple[list[Tensor], list[Tensor]]:
    """The slices of x, and of w broadcast to x but for its n - 1 edges, along `axis`, in x's computing type."""
    edges = list(x.shape)
    edges[axis] = max(edges[axis] - 1, 0)
    dtype = _computing(x.dtype)
    return list(x.to(dtype).unbind(axis)), list(w.to(dtype).expand(edges).unbind(axis))


def _stacked(lines: list[Tensor], like: Tensor, axis: int) -> Tensor:
    return torch.stack(lines, axis).to(_storage(like.dtype)) if lines else like.to(_storage(like.dtype))


def _inflow(initial: Any, line: Tensor) -> Tensor:
    return torch.as_tensor(initial, dtype=line.dtype, device=line.device).expand(line.shape)


def scan(
    x: Tensor, w: Tensor, axis: int = -1, *, reverse: bool = False, initial: Any = None, num_threads: int | None = None
) -> Tensor:
    """(4)."""
    f, w_lines = _lines(x, w, axis)
    if reverse:
        f, w_lines = f[::-1], w_lines[::-1]
    if initial is not None and f:
        f[0] = f[0] + _inflow(initial, f[0])
    for i in range(1, len(f)):
        f[i] = f[i] + _through(w_lines[i - 1], f[i - 1])
    return _stacked(f[::-1] if reverse else f, x, axis)


def _from_others(x: Tensor, w: Tensor, axis: int) -> Tensor:
    """N(x) = T(x) - x = w_{u-1} F_{u-1} + w_u B_{u+1}, for x in its computing type."""
    forward, backward = scan(x, w, axis).unbind(axis), scan(x, w, axis, reverse=True).unbind(axis)
    lines, w_lines = _lines(x, w, axis)
    total = [torch.zeros_like(line) for line in lines]
    for i, edge in enumerate(w_lines):
        total[i + 1] = total[i + 1] + _through(edge, forward[i])
        total[i] = total[i] + _through(edge, backward[i + 1])
    return _stacked(total, x, axis)


def line_filter(
    x: Tensor,
    w: Tensor,
    axis: int = -1,
    *,
    initial: tuple[Any, Any] | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """(5)."""
    y = x.to(_computing(x.dtype))
    if initial is not None and x.shape[axis]:
        lines = list(y.unbind(axis))
        for end, inflow in zip((0, -1), initial, strict=True):
            if inflow is not None:
                lines[end] = lines[end] + _inflow(inflow, lines[end])
        y = torch.stack(lines, axis)
    return (y + _from_others(y, w, axis)).to(_storage(x.dtype))


def tree_aggregate(x: Tensor, w: Tensor, axis: int = -1, *, root: int = 0, num_threads: int | None = None) -> Tensor:
    """(6), first half."""
    a, w_lines = _lines(x, w, axis)
    root = root + len(a) if root < 0 else root
    for u in range(1, min(root + 1, len(a))):
        a[u] = a[u] + _through(w_lines[u - 1], a[u - 1])
    for u in range(len(a) - 2, root - 1, -1):
        a[u] = a[u] + _through(w_lines[u], a[u + 1])
    return _stacked(a, x, axis)


def tree_update(a: Tensor, w: Tensor, axis: int = -1, *, root: int = 0, num_threads: int | None = None) -> Tensor:
    """(6), second half."""
    u, w_lines = _lines(a, w, axis)
    root = root + len(u) if root < 0 else root
    for i in range(root - 1, -1, -1):
        u[i] = _through(w_lines[i], u[i + 1]) + (1 - w_lines[i]) * (1 + w_lines[i]) * u[i]
    for i in range(root + 1, len(u)):
        u[i] = _through(w_lines[i - 1], u[i - 1]) + (1 - w_lines[i - 1]) * (1 + w_lines[i - 1]) * u[i]
    return _stacked(u, a, axis)


# Inside, values and guides are (heads, channels of a head, *rest), `rest` being the tensor without its channel axis.
# Axes are negative, so that they stay right where batch axes are missing: as in `sgs.reference`.


def _layout(ndim: int, channel_axis: int | None, axes: int | Sequence[int] | None) -> tuple[int | None, list[int]]:
    single = channel_axis is None or channel_axis < -ndim or (axes is None and ndim < 3)
    channel = None if single or channel_axis is None else channel_axis % ndim - ndim
    if axes is None:
        return channel, [a for a in range(-ndim, 0) if a != channel][-2:]
    return channel, [a % ndim - ndim for a in ([axes] if isinstance(axes, int) else axes)]


def _in_rest(axis: int, channel: int | None) -> int:
    return axis if channel is None or axis > channel else axis + 1


def _split_heads(x: Tensor, channel: int | None, heads: int) -> Tensor:
    x = x.unsqueeze(0) if channel is None else x.movedim(channel, 0)
    return x.reshape(heads, x.shape[0] // heads, *x.shape[1:])


def _join_heads(x: Tensor, channel: int | None) -> Tensor:
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return x[0] if channel is None else x.movedim(0, channel)


def _beside(x: Tensor, axes: Sequence[int], ndim: int) -> Tensor:
    """(heads, channels, *own) beside a `rest` of `ndim` axes: batch axes may be missing in front, or altogether."""
    own = x.shape[2:]
    places = sorted(axes) if len(own) == len(axes) else range(-len(own), 0)
    rest = [1] * ndim
    for place, length in zip(places, own, strict=True):
        rest[place] = length
    return x.reshape(*x.shape[:2], *rest)


def _as_guide(
    guide: Tensor, ndim: int, channel: int | None, channel_axis: int | None, axes: Sequence[int], heads: int
) -> Tensor:
    """A guide beside values with `ndim` axes: its channel axis is theirs, or `channel_axis` if they have none."""
    rest = ndim if channel is None else ndim - 1
    if guide.ndim == len(axes) or channel_axis is None or (channel is not None and guide.ndim < -channel):
        channel = None
    elif guide.ndim > ndim:
        channel = channel_axis % guide.ndim
    return _beside(_split_heads(guide, channel, heads), axes, rest)


def _per_axis(value: Any, count: int) -> list[Any]:
    if isinstance(value, Tensor) and value.ndim == 1:
        value = value.unbind()
    return list(value) if isinstance(value, (tuple, list)) else [value] * count


def _norm(difference: Tensor, metric: str) -> Tensor:
    """(1) over dimension 1, derivatives at distance 0 being 0, of first and of second order."""
    if metric == "cityblock":
        return difference.abs().sum(1, keepdim=True)
    squared = (difference * difference).sum(1, keepdim=True)
    if metric == "sqeuclidean":
        return squared
    flat = squared == 0
    return torch.where(flat, torch.zeros_like(squared), torch.where(flat, torch.ones_like(squared), squared).sqrt())


def _weights(guide: Tensor, axis: int, scale: Any, step: Any, metric: str, confidence: Tensor | None = None) -> Tensor:
    """(1), (2): weights (heads, 1, *rest), one shorter along `axis`. Where confidence is 0 the guide may be missing."""
    g = guide.to(_computing(guide.dtype))
    count = max(g.shape[axis] - 1, 0)
    difference = g.narrow(axis, g.shape[axis] - count, count) - g.narrow(axis, 0, count)
    if confidence is not None:
        missing = confidence == 0
        missing = missing.narrow(axis, missing.shape[axis] - count, count) | missing.narrow(axis, 0, count)
        difference = torch.where(missing, torch.zeros_like(difference), difference)
    scale, step = (v.to(g.dtype) if isinstance(v, Tensor) else v for v in (scale, step))
    with torch.no_grad():
        cut = torch.exp(-(_norm(difference, metric) + step) / scale) == 0
    # What is cut is taken out before the distance: there an infinite distance would make NaN of a derivative of 0.
    w = torch.exp(-(_norm(torch.where(cut, torch.zeros_like(difference), difference), metric) + step) / scale)
    return torch.where(cut, torch.zeros_like(w), w)


def edge_weights(
    guide: Tensor,
    axis: int,
    scale: Any = 1.0,
    *,
    channel_axis: int | None = -3,
    metric: str = "euclidean",
    step: Any = 0.0,
    heads: int = 1,
    num_threads: int | None = None,
) -> Tensor:
    """(1), (2)."""
    channel, (axis,) = _layout(guide.ndim, channel_axis, [axis])
    w = _weights(_split_heads(guide, channel, heads), _in_rest(axis, channel), scale, step, metric)
    return _join_heads(w, channel)


class _Block:
    """One block (7), (8) for given weights: an affine map of values (heads, channels, *rest), and its adjoint."""

    def __init__(
        self,
        axes: Sequence[int],
        weights: Sequence[Tensor],
        normalization: str | None,
        residual: bool,
        confidence: Tensor | None,
        smallest: float,
    ) -> None:
        self.axes, self.weights = axes, weights
        self.normalization, self.residual, self.smallest = normalization, residual, smallest
        self.confidence = confidence
        if confidence is not None:
            self.missing = confidence == 0
            # No gradient where it is 0: the edge of the allowed values.
            self.confidence = torch.where(self.missing, torch.zeros_like(confidence), confidence)

    def cross(self, x: Tensor) -> Tensor:
        total = x
        for axis, w in zip(self.axes, self.weights, strict=True):
            total = total + _from_others(x, w, axis)
        return total

    def support(self, like: Tensor) -> Tensor:
        ones = torch.ones_like(like[:, :1])
        return self.cross(ones if self.confidence is None else ones * self.confidence)

    def supported(self, support: Tensor) -> Tensor:
        return torch.ones_like(support, dtype=torch.bool) if self.confidence is None else support >= self.smallest

    def trusted(self, x: Tensor) -> Tensor:
        return x if self.confidence is None else torch.where(self.missing, torch.zeros_like(x), x)

    def times_confidence(self, x: Tensor) -> Tensor:
        return x if self.confidence is None else self.trusted(x) * self.confidence

    def apply(self, x: Tensor, fill_value: float) -> Tensor:
        if self.normalization == "cross":
            support = self.support(x)
            supported = self.supported(support)
            divisor = torch.where(supported, support, torch.ones_like(support))
            y = self.cross(self.times_confidence(x)) / divisor
            y = torch.where(supported, y, torch.full_like(y, fill_value))
        else:
            y = torch.zeros_like(x)
            for axis, w in zip(self.axes, self.weights, strict=True):
                y = y + line_filter(x, w, axis) / self.line_support(x, w, axis)
        return y + self.trusted(x) if self.residual else y

    def adjoint(self, y: Tensor) -> Tensor:
        """(10): a line filter is self-adjoint, so divide first, then filter."""
        if self.normalization == "cross":
            support = self.support(y)
            supported = self.supported(support)
            # A filled value depends on no x.
            share = torch.where(supported, y, torch.zeros_like(y))
            share = share / torch.where(supported, support, torch.ones_like(support))
            x = self.times_confidence(self.cross(share))
        else:
            x = torch.zeros_like(y)
            for axis, w in zip(self.axes, self.weights, strict=True):
                x = x + line_filter(y / self.line_support(y, w, axis), w, axis)
        return x + self.trusted(y) if self.residual else x

    def line_support(self, like: Tensor, w: Tensor, axis: int) -> Tensor:
        ones = torch.ones_like(like[:, :1])
        return line_filter(ones, w, axis) if self.normalization == "line" else ones


def _spread(confidence: Any, axes: Sequence[int], rest: Sequence[int], like: Tensor) -> Tensor:
    """Confidence as (1, 1, *rest) in the computing type."""
    c = torch.as_tensor(confidence, device=like.device).to(_computing(like.dtype))
    return _beside(c[None, None], axes, len(rest)).expand(1, 1, *rest)


def semi_global_filter(
    x: Tensor,
    guide: Tensor | None = None,
    scale: Any = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: Any = 0.0,
    heads: int = 1,
    confidence: Any = None,
    fill_value: float = 0.0,
    num_threads: int | None = None,
) -> Tensor:
    """(7) to (9)."""
    channel, spatial = _layout(x.ndim, channel_axis, axes)
    inner = [_in_rest(a, channel) for a in spatial]
    y = _split_heads(x.to(_storage(x.dtype)), channel, heads)
    stored, computing = y.dtype, _computing(y.dtype)
    c = None if confidence is None else _spread(confidence, inner, y.shape[2:], y)
    g = None if guide is None else _as_guide(guide, x.ndim, channel, channel_axis, inner, heads)
    pairs = list(zip(inner, _per_axis(scale, len(inner)), _per_axis(step, len(inner)), strict=True))
    for _ in range(blocks):
        if g is None:
            weights = [_weights(y, a, s, t, metric, c) for a, s, t in pairs]
        else:
            weights = [_weights(g, a, s, t, metric) for a, s, t in pairs]
        weights = [w.to(computing) for w in weights]
        block = _Block(inner, weights, normalization, residual, c, _smallest(x.dtype))
        c = None if c is None else block.support(y.to(computing))
        y = block.apply(y.to(computing), fill_value).to(stored)
    return _join_heads(y, channel)


def attention_map(
    guide: Tensor | Sequence[Tensor],
    position: int | Sequence[int],
    scale: Any = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: Any = 0.0,
    heads: int = 1,
    confidence: Any = None,
    num_threads: int | None = None,
) -> Tensor:
    """(10)."""
    given = list(guide) if isinstance(guide, (tuple, list)) else [guide] * blocks
    ndim = max(g.ndim for g in given)
    channel, spatial = _layout(ndim, channel_axis, axes)
    inner = [_in_rest(a, channel) for a in spatial]
    guides = [_as_guide(g.to(_storage(g.dtype)), ndim, channel, channel_axis, inner, heads) for g in given]
    rest = torch.broadcast_shapes(*(g.shape[2:] for g in guides))
    computing = torch.float64 if any(g.dtype == torch.float64 for g in guides) else torch.float32

    row = torch.ones((heads, 1, *rest), dtype=computing, device=guides[0].device)
    at = [position] if isinstance(position, int) else list(position)
    for axis, i in zip(inner, at, strict=True):
        n = rest[axis]
        hot = (torch.arange(n, device=row.device) == i % n).to(computing)
        row = row * hot.reshape(n, *(1,) * (-1 - axis))

    c = None if confidence is None else _spread(confidence, inner, rest, row)
    pairs = list(zip(inner, _per_axis(scale, len(inner)), _per_axis(step, len(inner)), strict=True))
    passed = []
    for g in guides:
        weights = [_weights(g, a, s, t, metric).to(computing) for a, s, t in pairs]
        block = _Block(inner, weights, normalization, residual, c, _smallest(computing))
        passed.append(block)
        c = None if c is None else block.support(row)
    for block in reversed(passed):
        row = block.adjoint(row)

    row = row[:, 0].movedim(sorted(inner), list(range(-len(inner), 0)))
    return row[0] if heads == 1 else row.movedim(0, -len(inner) - 1)
