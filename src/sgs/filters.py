"""The NumPy functions: arguments are checked, arrays are handed to the compiled core as they lie in memory.

Inside, values are seen as (heads, channels of a head, *field) and guides as (channels, *field), the field being all
axes but the channel axis. These are views; nothing is copied but what the core cannot read or must not overwrite.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sgs import _check, _config, _core

Array = npt.NDArray[Any]

_METRICS = {"euclidean": _core.EUCLIDEAN, "cityblock": _core.CITYBLOCK, "sqeuclidean": _core.SQEUCLIDEAN}
_NORMALIZATIONS: dict[str | None, int] = {"cross": _core.CROSS, "line": _core.LINE, None: _core.NONE}


# ---- what the core can read and write


def _reachable(a: Array) -> bool:
    flags = a.flags
    return flags.aligned and (flags.c_contiguous or all(s % a.itemsize == 0 for s in a.strides))


def _converted(a: Array) -> Array:
    """`a` for the core: itself wherever the core can read it, else a copy."""
    dtype = _check.result_dtype(a.dtype)
    return a if a.dtype == dtype and _reachable(a) else a.astype(dtype)


def _result(x: Array, out: Array | None) -> Array:
    """The array for the core to write to."""
    if out is not None and _reachable(out):
        return out.view(np.ndarray)
    return np.empty_like(x, subok=False)


def _returned(result: Array, out: Array | None) -> Array:
    """What the user gets; `out` is filled where the core could not write to it."""
    if out is None:
        return result
    if not _reachable(out):
        out[...] = result
    return out


def _kept(a: Array, result: Array, in_place: bool = False) -> Array:
    """`a`, or a copy where writing `result` might change it; `in_place` allows it to be `result` itself."""
    if not np.may_share_memory(a, result):
        return a
    same = a.__array_interface__["data"] == result.__array_interface__["data"] and a.strides == result.strides
    return a if in_place and same else np.array(a)


# ---- lines


class _Line:
    """The arguments that the functions along one axis share, checked."""

    def __init__(
        self, name: str, x: object, w: object, axis: object, out: Array | None, num_threads: int | None
    ) -> None:
        self.x = _check.array(name, x)
        self.w = _check.array("w", w)
        if self.x.ndim == 0:
            raise ValueError(f"{name}: expected at least one axis, got an array of shape ()")
        self.axis = _check.axis("axis", axis, self.x.ndim)
        _check.edges("w", self.w.shape, self.x.shape, self.axis)
        _check.output(out, self.x)
        self.out = out
        self.threads = _config.threads_for_call(num_threads)

    def inflow(self, name: str, value: object) -> Array | None:
        if value is None:
            return None
        a = _check.array(name, value)
        return a.reshape(_check.inflow(name, a.shape, self.x.shape, self.axis))

    def root(self, value: object) -> int:
        n = self.x.shape[self.axis]
        return _check.position("root", _check.integer("root", value), (n,))[0] if n else 0

    def run(self, function: Callable[..., None], *middle: object) -> Array:
        x = _converted(self.x)
        y = _result(x, self.out)
        between = [_kept(_converted(a), y) if isinstance(a, np.ndarray) else a for a in middle]
        function(_kept(x, y, in_place=True), _kept(_converted(self.w), y), y, self.axis, *between, self.threads)
        return _returned(y, self.out)


def scan(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    axis: int = -1,
    *,
    reverse: bool = False,
    initial: npt.ArrayLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """One-sided running sum along an axis, faded by the weight of each edge, equation (4).

    F_i = x_i + w_{i-1} F_{i-1}, or with `reverse` B_i = x_i + w_i B_{i+1}. An edge of weight 0 cuts the line: nothing
    crosses it, not even NaN. Time is linear in the size of x.

    Parameters
    ----------
    x : array_like
        Values of any shape with at least one axis, n of them along `axis`. float16, bfloat16 (of `ml_dtypes`),
        float32 and float64 are taken as they are and read where they lie, whatever the strides; integers and bool
        become float32.
    w : array_like
        Weights of the edges: edge i joins i and i + 1. Length n - 1 along `axis`, right-aligned with x and broadcast
        to it elsewhere. Any of the types of x; taken in float64 where x is float64, else in float32.
    axis : int, default -1
        The axis that lines lie along.
    reverse : bool, default False
        Run from the last element to the first.
    initial : array_like, optional
        Added to the first element of the run: what flows in from outside, which for a chunk of a longer line is the
        result of the chunk before times the weight of the edge between. The shape of x without `axis`, broadcast.
    out : ndarray, optional
        Where to write the result: shape of x, type of the result. May be x itself.
    num_threads : int, optional
        By default `get_num_threads`. The result is the same, bit for bit, for any number.

    Returns
    -------
    ndarray
        The shape and type of x (integers and bool: float32), or `out`.

    Raises
    ------
    TypeError
        An array of a type that is not listed above (masked, complex, object, torch tensor), `out` of another type
        than the result's, or an integer argument that is none.
    ValueError
        Shapes that do not fit, `out` read-only or overlapping itself, `num_threads` < 1.
    numpy.exceptions.AxisError
        `axis` is no axis of x.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> sgs.scan([1.0, 0.0, 0.0, 8.0], [0.5, 0.5, 0.0])
    array([1.  , 0.5 , 0.25, 8.  ])
    """
    line = _Line("x", x, w, axis, out, num_threads)
    return line.run(_core.scan, bool(reverse), line.inflow("initial", initial))


def line_filter(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    axis: int = -1,
    *,
    initial: tuple[npt.ArrayLike | None, npt.ArrayLike | None] | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Sum over the whole line, each value weighted by the product of the weights on the way, equation (5).

    T(x)_u = sum_v W(u, v) x_v, where W(u, v) is the product of the weights of the edges between u and v, equation (3).
    Time is linear in the size of x.

    Parameters
    ----------
    x, w, axis, out, num_threads
        As in `scan`.
    initial : (left, right), optional
        What flows into the first and into the last element, each of the shape of x without `axis` (broadcast), or None.

    Returns
    -------
    ndarray
        The shape and type of x (integers and bool: float32), or `out`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `scan`; also where `initial` is not a tuple or list of two.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> sgs.line_filter([1.0, 0.0, 0.0, 8.0], [0.5, 0.5, 0.5])
    array([2.   , 2.5  , 4.25 , 8.125])
    """
    line = _Line("x", x, w, axis, out, num_threads)
    ends = (None, None) if initial is None else initial
    if not isinstance(ends, (tuple, list)):
        raise TypeError(f"initial: expected (left, right), got {type(ends).__name__}")
    if len(ends) != 2:
        raise ValueError(f"initial: expected (left, right), got {len(ends)} entries")
    left, right = (line.inflow(f"initial[{i}]", end) for i, end in enumerate(ends))
    return line.run(_core.line_filter, left, right)


def tree_aggregate(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    axis: int = -1,
    *,
    root: int = 0,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Sums from the two ends of the line towards the root, the paper's Eq. 6, equation (6).

    A_u = x_u + sum of w_uv A_v over the children v of u, the neighbours that are farther from the root. Time is linear
    in the size of x.

    Parameters
    ----------
    x, w, axis, out, num_threads
        As in `scan`, with 0 <= w <= 1.
    root : int, default 0
        Position of the root on every line; negative numbers count from the end.

    Returns
    -------
    ndarray
        The shape and type of x (integers and bool: float32), or `out`.

    Raises
    ------
    IndexError
        `root` is outside the line.
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `scan`.

    See Also
    --------
    tree_update : the way back, which completes this to `line_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> sgs.tree_aggregate([1.0, 0.0, 0.0, 8.0], [0.5, 0.5, 0.5], root=1)
    array([1. , 2.5, 4. , 8. ])
    """
    line = _Line("x", x, w, axis, out, num_threads)
    return line.run(_core.tree_aggregate, line.root(root))


def tree_update(
    a: npt.ArrayLike,
    w: npt.ArrayLike,
    axis: int = -1,
    *,
    root: int = 0,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Sums from the root back to the two ends of the line, the paper's Eq. 7, equation (6).

    U_r = A_r and U_u = w_up U_p + (1 - w_up^2) A_u, where p is the parent of u. After `tree_aggregate` with the same
    weights and root this is `line_filter`, for any root. Time is linear in the size of `a`.

    Parameters
    ----------
    a : array_like
        What `tree_aggregate` returned; types as x in `scan`.
    w, axis, out, num_threads
        As in `scan`, with 0 <= w <= 1.
    root : int, default 0
        Position of the root on every line; negative numbers count from the end.

    Returns
    -------
    ndarray
        The shape and type of `a` (integers and bool: float32), or `out`.

    Raises
    ------
    IndexError
        `root` is outside the line.
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `scan`.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> sgs.tree_update([1.0, 2.5, 4.0, 8.0], [0.5, 0.5, 0.5], root=1)
    array([2.   , 2.5  , 4.25 , 8.125])
    """
    line = _Line("a", a, w, axis, out, num_threads)
    return line.run(_core.tree_update, line.root(root))


# ---- planes


def _channels_first(a: Array, channel: int | None) -> Array:
    if channel is None:
        return a[np.newaxis]
    if channel == 0:
        return a
    order = (channel, *range(channel), *range(channel + 1, a.ndim))  # moveaxis takes ten times as long
    first: Array = a.transpose(order)
    return first


def _as_values(a: Array, channel: int | None, heads: int) -> Array:
    """A view (heads, channels of a head, *field)."""
    first = _channels_first(a, channel)
    if heads == 1:
        return first[np.newaxis]
    return first.reshape(heads, first.shape[0] // heads, *first.shape[1:])


class _Edges(NamedTuple):
    """How weights are made of a guide (channels, *field), checked."""

    axes: tuple[int, ...]  # of the field
    scales: tuple[float, ...]
    steps: tuple[float, ...]
    metric: int
    heads: int
    threads: int

    @property
    def value_axes(self) -> list[int]:
        return [a + 2 for a in self.axes]

    def weights(self, guide: Array, dtype: np.dtype[Any], confidence: Array | None = None) -> list[Array]:
        """For each axis (heads, 1, *field), one shorter along the axis; `confidence` is (heads or 1, *field)."""
        weights = []
        for axis, scale, step in zip(self.axes, self.scales, self.steps, strict=True):
            shape = [self.heads, *guide.shape[1:]]
            shape[axis + 1] = max(shape[axis + 1] - 1, 0)
            w = np.empty(shape, dtype)
            _core.edge_weights(guide, w, 0, axis + 1, scale, step, self.metric, confidence, self.threads)
            weights.append(w[:, np.newaxis])
        return weights


class _Placed(NamedTuple):
    """An array beside a field, checked: (channels, *field), with axes of length 1 where it has none."""

    array: Array
    channel: int | None
    field: tuple[int, ...]

    @property
    def channels(self) -> int:
        return 1 if self.channel is None else self.array.shape[self.channel]

    def view(self) -> Array:
        return _channels_first(_converted(self.array), self.channel).reshape(self.channels, *self.field)


def _placed_guide(name: str, guide: Array, layout: _check.Layout, ndim: int, channel_axis: object) -> _Placed:
    channel = _check.guide_channel(guide.shape, layout, ndim, channel_axis)
    return _Placed(guide, channel, _check.field(name, guide.shape, layout, channel))


def _placed_confidence(
    value: object, layout: _check.Layout, normalization: str | None, dtype: np.dtype[Any]
) -> _Placed | None:
    if value is None:
        return None
    if normalization != "cross":
        raise ValueError(f"confidence: expected normalization='cross' with it, got {normalization=}")
    c = _check.array("confidence", value)
    field = _check.field("confidence", c.shape, layout)
    _check.confidence(c, dtype)
    return _Placed(c, None, field)


def _checked_edges(
    layout: _check.Layout,
    channels: Mapping[str, int],
    scale: object,
    step: object,
    metric: object,
    heads: object,
    num_threads: int | None,
) -> _Edges:
    return _Edges(
        layout.axes,
        _check.scales(scale, len(layout.axes)),
        _check.steps(step, len(layout.axes)),
        _check.choice("metric", metric, _METRICS),
        _check.heads(heads, channels),
        _config.threads_for_call(num_threads),
    )


def edge_weights(
    guide: npt.ArrayLike,
    axis: int,
    scale: float = 1.0,
    *,
    channel_axis: int | None = -3,
    metric: str = "euclidean",
    step: float = 0.0,
    heads: int = 1,
    num_threads: int | None = None,
) -> Array:
    """Weights of the edges along an axis, by the distance of the guide's neighbours, equations (1) and (2).

    w_i = exp(-(d_i + step) / scale), where d_i is the distance of g_i and g_{i+1} over the channels. Time is linear
    in the size of the guide.

    Parameters
    ----------
    guide : array_like
        Features, n positions along `axis`; types as x in `scan`.
    axis : int
        The axis that the edges lie along.
    scale : float, default 1.0
        What distances are measured by, > 0, in units of the distance.
    channel_axis : int or None, default -3
        The axis that the distance is taken over: -1 for images (H, W, C), None for a single channel. An array of one
        or two axes has no axis -3 and is a single channel by default.
    metric : {"euclidean", "cityblock", "sqeuclidean"}
        The distance, by SciPy's names.
    step : float, default 0.0
        Length of one step, >= 0, in units of the distance: above 0 support fades even where the guide is flat.
    heads : int, default 1
        Number of equal, consecutive groups of channels, each with its own weights. Divides the number of channels.
    num_threads : int, optional
        By default `get_num_threads`.

    Returns
    -------
    ndarray
        The shape of the guide, but n - 1 along `axis` and `heads` along the channel axis. float64 for a float64
        guide, else float32.

    Raises
    ------
    TypeError
        An array of a type that cannot be filtered, or a number that is none.
    ValueError
        `scale` <= 0, negative `step`, NaN or infinity in either, unknown `metric`, `heads` that do not divide, an
        `axis` that is the channel axis.
    numpy.exceptions.AxisError
        `axis` or `channel_axis` is no axis of the guide.

    Warns
    -----
    UserWarning
        The guide looks like an image (H, W, 3) and `channel_axis` is -3. For three channels first, pass 0.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> photo = np.array([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]])  # (H, W, C)
    >>> sgs.edge_weights(photo, axis=1, scale=5.0, channel_axis=-1).round(3)
    array([[[0.368],
            [1.   ]]])
    """
    g = _check.array("guide", guide)
    layout = _check.layout("guide", g.shape, channel_axis, _check.integer("axis", axis), "axis")
    edges = _checked_edges(layout, {"guide": layout.channels}, scale, step, metric, heads, num_threads)
    _check.warn_of_image("guide", g.shape, channel_axis)

    (w,) = edges.weights(_channels_first(_converted(g), layout.channel), _check.computing_dtype(g.dtype))
    return w[0, 0] if layout.channel is None else np.moveaxis(w[:, 0], 0, layout.channel)


def semi_global_filter(
    x: npt.ArrayLike,
    guide: npt.ArrayLike | None = None,
    scale: float | Sequence[float] = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: float | Sequence[float] = 0.0,
    heads: int = 1,
    confidence: npt.ArrayLike | None = None,
    fill_value: float = 0.0,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Aggregate every position's whole row and column, weighted by similarity and nearness, equations (7) to (9).

    With N_a(x) what a position gets from the others on its line along axis a, and T_a(x) = x + N_a(x):

    - "cross": y = (x + sum_a N_a(x)) / (1 + sum_a N_a(1)), every position of the cross once;
    - "line": y = sum_a T_a(x) / T_a(1);
    - None: y = sum_a T_a(x).

    The weights are those of `edge_weights`. Two blocks reach the whole image. Time is linear in the size of x,
    whatever the length of lines; extra memory is of the order of the weights, one for every position, axis and head.
    Over three axes and more, in half precision, in place or in several blocks, the sums of up to 16 channels at a time
    are kept as well.

    Parameters
    ----------
    x : array_like
        Values (..., C, H, W), or as `channel_axis` and `axes` say; all other axes are batch. float16, bfloat16 (of
        `ml_dtypes`), float32 and float64 are taken as they are and read where they lie, whatever the strides;
        integers and bool become float32, not rescaled.
    guide : array_like, optional
        What similarity is measured on: laid out like x, with its own number of channels; batch axes broadcast to
        those of x. A guide of the spatial axes alone is a single channel. Where x is a single channel by its number
        of axes, the guide may have one axis more, its channel axis, and `channel_axis` counts in the guide. By
        default every block is guided by its own input.
    scale : float or sequence of float, default 1.0
        What distances are measured by, > 0, in units of the guide's distance; one number, or one for each of `axes`.
        By default axes that is (beta, alpha) of the paper.
    channel_axis : int or None, default -3
        -1 for images (H, W, C), None for a single channel. With `axes=None`, an array of two axes is a single channel
        and an array of one axis a line, whatever this says. The default is no axis of arrays of one or two axes.
    axes : int or sequence of int, optional
        The spatial axes, as axes of x. By default the last two that are not the channel axis.
    blocks : int, default 1
        How often to filter: the same as as many calls, bit for bit, but for confidence, which becomes the support.
    normalization : {"cross", "line", None}
        What to divide by.
    residual : bool, default False
        Add each block's input to its output.
    metric : {"euclidean", "cityblock", "sqeuclidean"}
        The distance of the guide's neighbours, by SciPy's names.
    step : float or sequence of float, default 0.0
        Length of one step, >= 0, in units of the distance; one number, or one for each of `axes`.
    heads : int, default 1
        Number of equal, consecutive groups of channels of x and of the guide, each with its own weights. Divides both.
    confidence : array_like, optional
        Trust c >= 0 in every position: the shape of x without its channel axis, batch axes broadcast. Only with
        "cross": then y = (c x + sum_a N_a(c x)) / S with the support S = c + sum_a N_a(c). Where c is 0, x is not
        read: NaN there is missing data.
    fill_value : float, default 0.0
        The result where S is less than the smallest normal number of the computing type.
    out : ndarray, optional
        Where to write the result: shape of x, type of the result. May be x itself.
    num_threads : int, optional
        By default `get_num_threads`. The result is the same, bit for bit, for any number.

    Returns
    -------
    ndarray
        The shape and type of x (integers and bool: float32), or `out`. Sums are taken in float64 for float64, else in
        float32.

    Raises
    ------
    TypeError
        An array of a type that is not listed above (masked, complex, object, torch tensor), `out` of another type
        than the result's, or a number that is none.
    ValueError
        Shapes that do not fit, axes named twice or equal to the channel axis, `scale` <= 0, negative `step` or
        `confidence`, NaN or infinity in them, `heads` that do not divide, unknown `metric` or `normalization`,
        `confidence` without "cross", `out` read-only or overlapping itself.
    numpy.exceptions.AxisError
        `axes` or `channel_axis` are no axes of x.

    Warns
    -----
    UserWarning
        x looks like an image (H, W, 3) and `channel_axis` is -3. For three channels first, pass 0.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> step = np.repeat([[0.0, 0.2, 8.0, 8.4]], 3, axis=0)  # one channel (H, W)
    >>> sgs.semi_global_filter(step, scale=0.5).round(2)
    array([[0.04, 0.16, 8.05, 8.35],
           [0.04, 0.16, 8.05, 8.35],
           [0.04, 0.16, 8.05, 8.35]])
    """
    values = _check.array("x", x)
    layout = _check.layout("x", values.shape, channel_axis, axes)
    explicit = None
    channels = {"x": layout.channels}
    if guide is not None:
        explicit = _placed_guide("guide", _check.array("guide", guide), layout, values.ndim, channel_axis)
        channels["guide"] = explicit.channels
    edges = _checked_edges(layout, channels, scale, step, metric, heads, num_threads)
    rounds = _check.integer("blocks", blocks, least=1)
    divide_by = _check.choice("normalization", normalization, _NORMALIZATIONS)
    fill = _check.number("fill_value", fill_value)
    _check.output(out, values)
    dtype = _check.computing_dtype(values.dtype)
    trust = _placed_confidence(confidence, layout, normalization, dtype)
    if axes is None:
        _check.warn_of_image("x", values.shape, channel_axis)

    values = _converted(values)
    result = _result(values, out)
    source = _kept(values, result, in_place=True)
    y = _as_values(result, layout.channel, edges.heads)
    c = None if trust is None else _kept(trust.view(), result)
    field = layout.field if explicit is None else explicit.field
    # Weights that serve one block alone need not be kept.
    weights = None if explicit is None or rounds == 1 else edges.weights(explicit.view(), dtype)
    at_once = 1 if weights is None or c is not None else rounds  # blocks that the core goes through in one call
    for block in range(1, rounds + 1, at_once):
        support = None
        if c is not None and block < rounds:
            support = np.empty((edges.heads, *np.broadcast_shapes(c.shape[1:], field)), dtype)
        x_block = _as_values(source, layout.channel, edges.heads)
        trust_block = None if c is None else c[:, np.newaxis]
        options = (
            y,
            edges.value_axes,
            divide_by,
            bool(residual),
            trust_block,
            fill,
            None if support is None else support[:, np.newaxis],
            edges.threads,
        )
        if weights is not None:
            _core.semi_global_filter(x_block, weights, *options, at_once)
        elif explicit is not None:
            by_heads = _as_values(explicit.view(), 0, edges.heads)
            _core.guided_filter(x_block, by_heads, 1, edges.scales, edges.steps, edges.metric, None, *options)
        else:
            _core.guided_filter(x_block, x_block, 1, edges.scales, edges.steps, edges.metric, trust_block, *options)
        source, c = result, support
    return _returned(result, out)


def attention_map(
    guide: npt.ArrayLike | Sequence[npt.ArrayLike],
    position: int | Sequence[int],
    scale: float | Sequence[float] = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: float | Sequence[float] = 0.0,
    heads: int = 1,
    confidence: npt.ArrayLike | None = None,
    num_threads: int | None = None,
) -> Array:
    """How much every position counts in the filtered value at one position, equation (10).

    The row of the linear operator that `semi_global_filter` applies for fixed guides, found by the adjoint in linear
    time: the sum of the map times x is the filtered x at `position`.

    Parameters
    ----------
    guide : array_like, or tuple or list of array_like
        The guide of all blocks; a tuple or list has the guide of each of the `blocks`, in the order of application.
        Laid out like x in `semi_global_filter`; guides in a list may differ in their channels, and batch axes
        broadcast to those of the largest.
    position : int or sequence of int
        One index for each of `axes`, in their order; negative numbers count from the end.
    scale, channel_axis, axes, blocks, normalization, residual, metric, step, heads, num_threads
        As in `semi_global_filter`, where the guide stands for x.
    confidence : array_like, optional
        As in `semi_global_filter`: the shape of the guide without its channel axis, batch axes broadcast. The map is
        0 where it is 0, and everywhere if `position` is not supported.

    Returns
    -------
    ndarray
        Batch axes of the guide, then (heads,) if `heads` > 1, then the spatial axes in the guide's order. float64
        where a guide is float64, else float32.

    Raises
    ------
    IndexError
        `position` is outside the map.
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `semi_global_filter`; also where `position` has not one index for each axis, or a list not one guide for
        each block.

    Warns
    -----
    UserWarning
        The guide looks like an image (H, W, 3) and `channel_axis` is -3. For three channels first, pass 0.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> halves = np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]])
    >>> sgs.attention_map(halves, (0, 0), scale=1.0).round(3)
    array([[0.333, 0.333, 0.   ],
           [0.333, 0.   , 0.   ]])
    >>> sgs.attention_map(halves, (0, 0), scale=1.0, blocks=2).round(3)
    array([[0.333, 0.222, 0.   ],
           [0.222, 0.222, 0.   ]])
    """
    rounds = _check.integer("blocks", blocks, least=1)
    if isinstance(guide, (tuple, list)):
        if len(guide) != rounds:
            raise ValueError(f"guide: expected {rounds} guides, one for each block, got {len(guide)}")
        given = {f"guide[{i}]": _check.array(f"guide[{i}]", g) for i, g in enumerate(guide)}
    else:
        given = {"guide": _check.array("guide", guide)}
    name, largest = max(given.items(), key=lambda item: (item[1].ndim, item[1].size))
    layout = _check.layout(name, largest.shape, channel_axis, axes)
    guides = [_placed_guide(name, g, layout, largest.ndim, channel_axis) for name, g in given.items()]
    channels = {name: g.channels for name, g in zip(given, guides, strict=True)}
    edges = _checked_edges(layout, channels, scale, step, metric, heads, num_threads)
    lengths = tuple(layout.field[a] for a in layout.axes)
    at = dict(zip(layout.axes, _check.position("position", position, lengths), strict=True))
    _check.choice("normalization", normalization, _NORMALIZATIONS)
    dtype = max((_check.computing_dtype(g.dtype) for g in given.values()), key=lambda d: d.itemsize)
    trust = _placed_confidence(confidence, layout, normalization, dtype)
    if axes is None:
        _check.warn_of_image(name, largest.shape, channel_axis)

    field = range(len(layout.field))
    order = sorted(field, key=lambda a: (a in at, a))  # batch axes first
    heads_at = len(order) - len(at)
    shape = [layout.field[a] for a in order]
    result = np.zeros([*shape[:heads_at], edges.heads, *shape[heads_at:]], dtype)
    maps = np.moveaxis(result, heads_at, 0).transpose(0, *(order.index(a) + 1 for a in field))
    one_hot = (slice(None), *(at.get(a, slice(None)) for a in field))
    maps[one_hot] = 1
    weights = [edges.weights(g.view(), dtype) for g in guides] * (rounds // len(guides))
    c = None if trust is None else trust.view()
    _apply_adjoint(maps[:, np.newaxis], weights, edges, normalization, bool(residual), c)
    return result if edges.heads > 1 else result.squeeze(heads_at)


def _apply_adjoint(
    y: Array,
    passes: list[list[Array]],
    edges: _Edges,
    normalization: str | None,
    residual: bool,
    confidence: Array | None,
) -> None:
    """Apply the transposes of the blocks to y, last block first (10): the adjoint of T/S is y -> T(y/S)."""
    ones: Array = np.broadcast_to(np.ones((), y.dtype), y.shape)

    def cross_sum(x: Array, weights: list[Array], total: Array) -> Array:
        _core.semi_global_filter(
            x, weights, total, edges.value_axes, _core.CROSS_SUM, False, None, 0.0, None, edges.threads
        )
        return total

    def line_sum(x: Array, w: Array, total: Array, axis: int) -> Array:
        _core.line_filter(x, w, total, axis, None, None, edges.threads)
        return total

    # What a block trusts its input by, and what the next does: the support (8).
    trusts = [] if confidence is None else [np.broadcast_to(confidence.astype(y.dtype), y.shape)]
    for weights in passes if trusts else ():
        trusts.append(cross_sum(trusts[-1], weights, np.empty(y.shape, y.dtype)))

    with np.errstate(all="ignore"):
        for block in reversed(range(len(passes))):
            weights = passes[block]
            if normalization != "cross":
                total = y.copy() if residual else np.zeros_like(y)
                for w, axis in zip(weights, edges.value_axes, strict=True):
                    part = y.copy()
                    if normalization == "line":
                        part /= line_sum(ones, w, np.empty_like(y), axis)
                    total += line_sum(part, w, part, axis)
                y[...] = total
            elif not trusts:
                kept = y.copy() if residual else 0
                y /= cross_sum(ones, weights, np.empty_like(y))
                cross_sum(y, weights, y)
                y += kept
            else:
                trust, support = trusts[block], trusts[block + 1]
                supported = support >= np.finfo(y.dtype).tiny
                kept = np.where(trust > 0, y, 0) if residual else 0
                np.copyto(y, 0, where=~supported)  # a filled value depends on no x
                np.divide(y, support, out=y, where=supported)
                cross_sum(y, weights, y)
                y *= trust
                np.copyto(y, 0, where=trust == 0)  # not even NaN
                y += kept
