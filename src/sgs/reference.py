"""The slow, readable definitions of everything in `sgs`: float64, NumPy only, equation numbers of `docs/math.md`.

Names and arguments are those of the public functions, without `out` and `num_threads`. Input of any real dtype is taken
to float64 first and results are float64. Arguments are trusted: the public functions are the ones that check.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
PerAxis: TypeAlias = float | Sequence[float]

__all__ = [
    "attention_map",
    "edge_weights",
    "line_filter",
    "scan",
    "semi_global_filter",
    "tree_aggregate",
    "tree_update",
]


def _float64(x: npt.ArrayLike) -> Array:
    return np.array(x, dtype=np.float64)


def _through(w: Array, v: Array) -> Array:
    """What `v` sends over an edge of weight `w`: w v, and nothing, not even NaN or Inf, over a cut edge (w = 0)."""
    return np.where(w == 0, 0.0, w * v)


def _axis_first(x: npt.ArrayLike, w: npt.ArrayLike, axis: int) -> tuple[Array, Array]:
    """Copies of x and of w, broadcast to x except for its n - 1 edges, both with `axis` moved to the front."""
    x, w = _float64(x), _float64(w)
    edges = list(x.shape)
    edges[axis] = max(edges[axis] - 1, 0)
    return np.moveaxis(x, axis, 0), np.moveaxis(np.broadcast_to(w, edges), axis, 0)


@np.errstate(all="ignore")
def scan(
    x: npt.ArrayLike, w: npt.ArrayLike, axis: int = -1, *, reverse: bool = False, initial: npt.ArrayLike | None = None
) -> Array:
    """One-sided running sum along `axis`, faded by the weight of each edge (4).

    F_i = x_i + w_{i-1} F_{i-1}, or with `reverse` B_i = x_i + w_i B_{i+1}; `initial` is added to the
    element the run starts with.

    Parameters
    ----------
    x : array_like
        Values, n of them along `axis`.
    w : array_like
        Edge weights, n - 1 along `axis`, broadcast to x elsewhere. Edge i joins i and i + 1.
    axis : int
        The axis the lines lie along.
    reverse : bool
        Run from the last element to the first.
    initial : array_like, optional
        What flows in from outside, x's shape without `axis` (broadcast).

    Returns
    -------
    ndarray of float64, the shape of x.
    """
    f, w = _axis_first(x, w, axis)
    if reverse:
        f, w = f[::-1], w[::-1]
    if initial is not None and len(f):
        f[0] += _float64(initial)
    for i in range(1, len(f)):
        f[i] += _through(w[i - 1], f[i - 1])
    return np.moveaxis(f[::-1] if reverse else f, 0, axis)


def _from_others(x: npt.ArrayLike, w: npt.ArrayLike, axis: int) -> Array:
    """N(x) = T(x) - x of (7), what every position gets from the others on its line: w_{u-1} F_{u-1} + w_u B_{u+1}."""
    forward = np.moveaxis(scan(x, w, axis), axis, 0)
    backward = np.moveaxis(scan(x, w, axis, reverse=True), axis, 0)
    x, w = _axis_first(x, w, axis)
    total = np.zeros_like(x)
    total[1:] += _through(w, forward[:-1])
    total[:-1] += _through(w, backward[1:])
    return np.moveaxis(total, 0, axis)


@np.errstate(all="ignore")
def line_filter(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    axis: int = -1,
    *,
    initial: tuple[npt.ArrayLike | None, npt.ArrayLike | None] | None = None,
) -> Array:
    """Sum over the whole line, every value weighted by the product of the weights on the way (5).

    T(x)_u = sum_v W(u, v) x_v, with W of (3).

    Parameters
    ----------
    x : array_like
        Values, n of them along `axis`.
    w : array_like
        Edge weights, n - 1 along `axis`, broadcast to x elsewhere.
    axis : int
        The axis the lines lie along.
    initial : (left, right), optional
        What flows in at the first and at the last element, each x's shape without `axis` (broadcast) or None.

    Returns
    -------
    ndarray of float64, the shape of x.
    """
    x = _float64(x)
    if initial is not None and x.shape[axis]:
        # Support from outside enters at an end of the line and goes on from there as if the end had held it.
        ends = np.moveaxis(x, axis, 0)
        for end, inflow in zip((0, -1), initial, strict=True):
            if inflow is not None:
                ends[end] += _float64(inflow)
    return x + _from_others(x, w, axis)


@np.errstate(all="ignore")
def tree_aggregate(x: npt.ArrayLike, w: npt.ArrayLike, axis: int = -1, *, root: int = 0) -> Array:
    """Sums from both ends of the line, the leaves, towards the root (6).

    A_u = x_u + sum of w_uv A_v over the children v of u.

    Parameters
    ----------
    x : array_like
        Values, n of them along `axis`.
    w : array_like
        Edge weights in [0, 1], n - 1 along `axis`, broadcast to x elsewhere.
    axis : int
        The axis the lines lie along.
    root : int
        Position of the root on every line.

    Returns
    -------
    ndarray of float64, the shape of x.
    """
    a, w = _axis_first(x, w, axis)
    root = root + len(a) if root < 0 else root
    for u in range(1, min(root + 1, len(a))):
        a[u] += _through(w[u - 1], a[u - 1])
    for u in range(len(a) - 2, root - 1, -1):
        a[u] += _through(w[u], a[u + 1])
    return np.moveaxis(a, 0, axis)


@np.errstate(all="ignore")
def tree_update(a: npt.ArrayLike, w: npt.ArrayLike, axis: int = -1, *, root: int = 0) -> Array:
    """Sums back from the root to the leaves, which completes `tree_aggregate` to `line_filter` (6).

    U_r = A_r and U_u = w_up U_p + (1 - w_up^2) A_u, p the parent of u.

    Parameters
    ----------
    a : array_like
        What `tree_aggregate` returned for the same `w`, `axis` and `root`.
    w : array_like
        Edge weights in [0, 1], n - 1 along `axis`, broadcast to `a` elsewhere.
    axis : int
        The axis the lines lie along.
    root : int
        Position of the root on every line.

    Returns
    -------
    ndarray of float64, the shape of `a`.
    """
    u, w = _axis_first(a, w, axis)
    root = root + len(u) if root < 0 else root
    for i in range(root - 1, -1, -1):
        u[i] = _through(w[i], u[i + 1]) + (1 - w[i]) * (1 + w[i]) * u[i]
    for i in range(root + 1, len(u)):
        u[i] = _through(w[i - 1], u[i - 1]) + (1 - w[i - 1]) * (1 + w[i - 1]) * u[i]
    return np.moveaxis(u, 0, axis)


# Inside, values and guides are (heads, channels of a head, *rest): `rest` is the array without its channel axis. Axes
# are counted from the end, so that they stay right where batch axes are missing.


def _layout(ndim: int, channel_axis: int | None, axes: int | Sequence[int] | None) -> tuple[int | None, list[int]]:
    """The channel axis, None where there is none, and the spatial axes of an array, as negative numbers."""
    single = channel_axis is None or channel_axis < -ndim or (axes is None and ndim < 3)
    channel = None if single or channel_axis is None else channel_axis % ndim - ndim
    if axes is None:
        return channel, [a for a in range(-ndim, 0) if a != channel][-2:]
    return channel, [a % ndim - ndim for a in np.atleast_1d(axes).tolist()]


def _in_rest(axis: int, channel: int | None) -> int:
    return axis if channel is None or axis > channel else axis + 1


def _split_heads(x: Array, channel: int | None, heads: int) -> Array:
    x = x[np.newaxis] if channel is None else np.moveaxis(x, channel, 0)
    return x.reshape(heads, x.shape[0] // heads, *x.shape[1:])


def _join_heads(x: Array, channel: int | None) -> Array:
    x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return x[0] if channel is None else np.moveaxis(x, 0, channel)


def _beside(x: Array, axes: Sequence[int], ndim: int) -> Array:
    """(heads, channels, *own) beside a `rest` of `ndim` axes: batch axes may be missing in front, or altogether."""
    own = x.shape[2:]
    places = sorted(axes) if len(own) == len(axes) else range(-len(own), 0)
    rest = [1] * ndim
    for place, length in zip(places, own, strict=True):
        rest[place] = length
    return x.reshape(*x.shape[:2], *rest)


def _as_guide(
    guide: Array, ndim: int, channel: int | None, channel_axis: int | None, axes: Sequence[int], heads: int
) -> Array:
    """A guide beside values with `ndim` axes: its channel axis is theirs, or `channel_axis` if they have none."""
    rest = ndim if channel is None else ndim - 1
    if guide.ndim == len(axes) or channel_axis is None or (channel is not None and guide.ndim < -channel):
        channel = None
    elif guide.ndim > ndim:
        channel = channel_axis % guide.ndim
    return _beside(_split_heads(guide, channel, heads), axes, rest)


def _distances(guide: Array, axis: int, metric: str) -> Array:
    """d of (1) over the channels of each head: (heads, 1, *rest), one shorter along `axis`."""
    difference = np.diff(guide, axis=axis)
    if metric == "cityblock":
        distance: Array = np.sum(np.abs(difference), axis=1, keepdims=True)
        return distance
    squared: Array = np.sum(difference**2, axis=1, keepdims=True)
    return np.sqrt(squared) if metric == "euclidean" else squared


def _ones(like: Array) -> Array:
    """The field of ones: what is the same for all channels of a head has one channel."""
    return np.ones((like.shape[0], 1, *like.shape[2:]))


def _missing_end(confidence: Array, axis: int) -> npt.NDArray[np.bool_]:
    """Which edges have an end of confidence 0."""
    missing = np.moveaxis(confidence == 0, axis, 0)
    return np.moveaxis(missing[:-1] | missing[1:], 0, axis)


def _weights(distance: Array, scale: float, step: float) -> Array:
    return np.exp(-(distance + step) / scale)  # (2)


@np.errstate(all="ignore")
def edge_weights(
    guide: npt.ArrayLike,
    axis: int,
    scale: float = 1.0,
    *,
    channel_axis: int | None = -3,
    metric: str = "euclidean",
    step: float = 0.0,
    heads: int = 1,
) -> Array:
    """Weight of every edge along `axis`, from the guide's distance between its ends (1), (2).

    w_i = exp(-(d_i + step) / scale).

    Parameters
    ----------
    guide : array_like
        Features, n positions along `axis`.
    axis : int
        The axis the edges lie along.
    scale, step : float
        Scale > 0 and length >= 0 of one step, both in units of the distance.
    channel_axis : int or None
        The axis the distance is taken over; None for a single channel, as is an array too small to have that axis.
    metric : {"euclidean", "cityblock", "sqeuclidean"}
        The distance (1).
    heads : int
        Number of equal groups of channels, each with weights of its own.

    Returns
    -------
    ndarray of float64, the shape of `guide` with n - 1 along `axis` and `heads` along the channel axis.
    """
    g = _float64(guide)
    channel, (axis,) = _layout(g.ndim, channel_axis, axis)
    distance = _distances(_split_heads(g, channel, heads), _in_rest(axis, channel), metric)
    return _join_heads(_weights(distance, scale, step), channel)


def _block_weights(
    guide: Array, axes: Sequence[int], metric: str, scale: PerAxis, step: PerAxis, confidence: Array | None = None
) -> list[Array]:
    """The weights along every axis. Given confidence, the guide is the values, and is missing where that is 0 (8)."""
    weights = []
    scales, steps = np.broadcast_to(scale, len(axes)), np.broadcast_to(step, len(axes))
    for axis, s, length in zip(axes, scales, steps, strict=True):
        distance = _distances(guide, axis, metric)
        if confidence is not None:
            distance = np.where(_missing_end(confidence, axis), 0.0, distance)
        weights.append(_weights(distance, s, length))
    return weights


@dataclass(frozen=True)
class _Block:
    """One block (7), (8) with its weights given: an affine map of values (heads, channels, *rest), and its adjoint."""

    axes: Sequence[int]
    weights: Sequence[Array]
    normalization: str | None
    residual: bool
    confidence: Array | None
    smallest: float

    def cross(self, x: Array) -> Array:
        """x + sum_a N_a(x): every position of the cross once. Its own adjoint."""
        total: Array = x.copy()
        for axis, w in zip(self.axes, self.weights, strict=True):
            total += _from_others(x, w, axis)
        return total

    def support(self, like: Array) -> Array:
        """S, the sum of the weights that "cross" divides by, for values shaped `like`."""
        ones = _ones(like)
        return self.cross(ones if self.confidence is None else ones * self.confidence)

    def supported(self, support: Array) -> npt.NDArray[np.bool_]:
        if self.confidence is None:
            return np.ones_like(support, dtype=bool)
        return np.asarray(support >= self.smallest)

    def trusted(self, x: Array) -> Array:
        """x, and 0 where confidence is 0: values there are missing, and may be NaN."""
        return x if self.confidence is None else np.where(self.confidence == 0, 0.0, x)

    def times_confidence(self, x: Array) -> Array:
        return x if self.confidence is None else self.trusted(x) * self.confidence

    def apply(self, x: Array, fill_value: float) -> Array:
        if self.normalization == "cross":
            support = self.support(x)
            y = self.cross(self.times_confidence(x)) / support
            y = np.where(self.supported(support), y, fill_value)
        else:
            y = np.zeros_like(x)
            for axis, w in zip(self.axes, self.weights, strict=True):
                y += line_filter(x, w, axis) / self.line_support(x, w, axis)
        return y + self.trusted(x) if self.residual else y

    def adjoint(self, y: Array) -> Array:
        """The transpose of the linear part (10): a line filter is self-adjoint, so divide first, then filter."""
        if self.normalization == "cross":
            support = self.support(y)
            # A filled value depends on no x.
            x = self.times_confidence(self.cross(np.where(self.supported(support), y / support, 0.0)))
        else:
            x = np.zeros_like(y)
            for axis, w in zip(self.axes, self.weights, strict=True):
                x += line_filter(y / self.line_support(y, w, axis), w, axis)
        return x + self.trusted(y) if self.residual else x

    def line_support(self, like: Array, w: Array, axis: int) -> Array:
        """T(1) where "line" divides by it, else 1."""
        ones = _ones(like)
        return line_filter(ones, w, axis) if self.normalization == "line" else ones


def _smallest_normal(dtypes: Sequence[np.dtype[Any]]) -> float:
    """The least support that counts (8): the smallest normal number of the computing type."""
    return float(np.finfo(np.float64 if np.dtype(np.float64) in dtypes else np.float32).tiny)


@np.errstate(all="ignore")
def semi_global_filter(
    x: npt.ArrayLike,
    guide: npt.ArrayLike | None = None,
    scale: PerAxis = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: PerAxis = 0.0,
    heads: int = 1,
    confidence: npt.ArrayLike | None = None,
    fill_value: float = 0.0,
) -> Array:
    """Aggregate every position's whole row and column, weighted by similarity and nearness (7) to (9).

    With "cross" y = (x + sum_a N_a(x)) / (1 + sum_a N_a(1)), with "line" y = sum_a T_a(x) / T_a(1), with None
    y = sum_a T_a(x); with confidence c, y = (c x + sum_a N_a(c x)) / (c + sum_a N_a(c)).

    Parameters
    ----------
    x : array_like
        Values (..., C, H, W), or as `channel_axis` and `axes` say.
    guide : array_like, optional
        What similarity is measured on: laid out like x, with its own number of channels, batch axes broadcast. A single
        channel x may have a guide with a channel axis. None: every block is guided by its own input.
    scale, step : float or one per axis
        As in `edge_weights`, in the order of `axes`.
    channel_axis : int or None
        None for a single channel. With `axes=None` an array of 1 or 2 axes is a single channel anyway.
    axes : int or sequence of int, optional
        The spatial axes; by default the last two that are not the channel axis.
    blocks : int
        How often to filter.
    normalization : {"cross", "line", None}
        What to divide by.
    residual : bool
        Add each block's input to its output.
    metric : {"euclidean", "cityblock", "sqeuclidean"}
        The distance (1).
    heads : int
        Number of equal groups of channels of x and guide, each group of x weighted by its group of the guide.
    confidence : array_like, optional
        Trust c >= 0 in every position, x's shape without the channel axis (broadcast). Where 0, x is not read.
    fill_value : float
        The result where confidence gives no support.

    Returns
    -------
    ndarray of float64, the shape of x.
    """
    smallest = _smallest_normal([np.asarray(x).dtype])
    ndim = np.ndim(x)
    channel, axes = _layout(ndim, channel_axis, axes)
    axes = [_in_rest(a, channel) for a in axes]

    y = _split_heads(_float64(x), channel, heads)
    c = None if confidence is None else _beside(_float64(confidence)[np.newaxis, np.newaxis], axes, y.ndim - 2)
    g = None if guide is None else _as_guide(_float64(guide), ndim, channel, channel_axis, axes, heads)
    for _ in range(blocks):
        if g is None:
            weights = _block_weights(y, axes, metric, scale, step, c)
        else:
            weights = _block_weights(g, axes, metric, scale, step)
        block = _Block(axes, weights, normalization, residual, c, smallest)
        y, c = block.apply(y, fill_value), None if c is None else block.support(y)
    return _join_heads(y, channel)


@np.errstate(all="ignore")
def attention_map(
    guide: npt.ArrayLike | Sequence[npt.ArrayLike],
    position: int | Sequence[int],
    scale: PerAxis = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: PerAxis = 0.0,
    heads: int = 1,
    confidence: npt.ArrayLike | None = None,
) -> Array:
    """How much every position counts in the filtered value at `position` (10).

    The row of `semi_global_filter`'s operator that belongs to `position`, by the adjoint: T/S becomes y -> T(y/S), and
    blocks are applied in reverse order.

    Parameters
    ----------
    guide : array_like, or tuple or list of `blocks` array_like
        The guide of all blocks, or of each in the order of application.
    position : int or sequence of int
        One index per axis, in the order of `axes`.
    scale, step, channel_axis, axes, blocks, normalization, residual, metric, heads, confidence
        As in `semi_global_filter`, the guide taking the place of x.

    Returns
    -------
    ndarray of float64: the guide's batch shape, (heads,) if heads > 1, the spatial shape.
    """
    given = [np.asarray(g) for g in guide] if isinstance(guide, (tuple, list)) else [np.asarray(guide)] * blocks
    ndim = max(g.ndim for g in given)
    channel, axes = _layout(ndim, channel_axis, axes)
    axes = [_in_rest(a, channel) for a in axes]
    guides = [_as_guide(_float64(g), ndim, channel, channel_axis, axes, heads) for g in given]
    rest = np.broadcast_shapes(*(g.shape[2:] for g in guides))

    row = np.zeros((heads, 1, *rest))
    at: list[slice | int] = [slice(None)] * row.ndim
    for axis, i in zip(axes, np.atleast_1d(position).tolist(), strict=True):
        at[axis] = i
    row[tuple(at)] = 1.0

    c = None if confidence is None else _beside(_float64(confidence)[np.newaxis, np.newaxis], axes, len(rest))
    smallest = _smallest_normal([g.dtype for g in given])
    passed: list[_Block] = []
    for g in guides:
        weights = _block_weights(g, axes, metric, scale, step)
        block = _Block(axes, weights, normalization, residual, c, smallest)
        passed.append(block)
        c = None if c is None else block.support(row)
    for block in reversed(passed):
        row = block.adjoint(row)

    # Spatial axes last, in the guide's own order.
    spatial = range(-len(axes), 0)
    row = np.moveaxis(row[:, 0], sorted(axes), spatial)
    return row[0] if heads == 1 else np.moveaxis(row, 0, -len(axes) - 1)
