"""The functions of `sgs` for torch tensors, differentiable in every float argument: x, w, guide, scale, step, initial, confidence.

Names and arguments are those of the NumPy functions, without `out`. Tensors are read where they lie, whatever their
strides; results keep x's dtype and memory format. `num_threads=None` is `torch.get_num_threads()`. float16 and
bfloat16 are storage types: sums, also those of derivatives, are taken in float32. Under autocast x's dtype decides.

Values inside tensors are never read on the host: where `scale`, `step` or `confidence` are tensors, that they are in
range is the caller's contract. Equation numbers are those of `docs/math.md`."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgs import _check, _core, _flops, _torch_ops  # noqa: F401  (_flops: so that the FLOPs of the operators count)

__all__ = [
    "attention_map",
    "edge_weights",
    "line_filter",
    "scan",
    "semi_global_filter",
    "tree_aggregate",
    "tree_update",
]

Numbers = float | Tensor | Sequence[float | Tensor]
Shape = tuple[int, ...]

_METRICS = {"euclidean": _core.EUCLIDEAN, "cityblock": _core.CITYBLOCK, "sqeuclidean": _core.SQEUCLIDEAN}
_NORMALIZATIONS: dict[str | None, int] = {"cross": _core.CROSS, "line": _core.LINE, None: _core.NONE}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_INFINITY = float("inf")
_CODES = {torch.float32: 2, torch.float64: 3}


# ---- arguments


def _tensor(name: str, value: object) -> Tensor:
    """A tensor that can be filtered, of a float type."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, got {type(value).__name__}; sgs has the functions for NumPy")
    if value.layout != torch.strided or value.is_nested:
        kind = "a nested" if value.is_nested else f"a {value.layout}"
        raise TypeError(f"{name}: expected a dense (strided) tensor, got {kind} one")
    if value.device.type not in ("cpu", "cuda", "meta"):
        raise TypeError(f"{name}: expected a tensor on CPU or CUDA, got one on {value.device}")
    if value.dtype in _FLOATS:
        return value
    if value.dtype in _WHOLE:
        return value.to(torch.float32)
    raise TypeError(f"{name}: expected float16, bfloat16, float32, float64, integers or bool, got {value.dtype}")


def _beside(name: str, value: object, x: Tensor) -> Tensor:
    """A tensor on the device of x; numbers stand for tensors without axes."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        dtype = _torch_ops.computing_dtype(x.dtype)
        return torch.full((), value, dtype=dtype, device=x.device)
    t = _tensor(name, value)
    if t.device != x.device:
        raise ValueError(f"{name}: expected a tensor on {x.device}, where the values are, got one on {t.device}")
    return t


def _threads(num_threads: int | None) -> int:
    """0 stands for torch's number, whatever that is when the operator runs."""
    return 0 if num_threads is None else _check.integer("num_threads", num_threads, least=1)


def _cached(plan: Callable[..., Any]) -> Callable[..., Any]:
    """Shapes repeat from call to call: check each once. Inside compile or export their numbers may be symbols."""
    remembered = lru_cache(maxsize=1024, typed=True)(plan)

    def call(*args: Any, eager: bool = False) -> Any:
        if not eager and torch.compiler.is_compiling():
            return plan(*args)
        try:
            return remembered(*args)
        except TypeError:  # symbols cannot be remembered; errors of the plan itself come again
            return plan(*args)

    return call


# ---- lines


@_cached
def _line_plan(name: str, x: Shape, w: Shape, axis: Any) -> int:
    if not x:
        raise ValueError(f"{name}: expected at least one axis, got a tensor of shape ()")
    along = _check.axis("axis", axis, len(x))
    _check.edges("w", w, x, along)
    return along - len(x)


def _line(name: str, x: Any, w: Any, axis: object) -> tuple[Tensor, Tensor, int, bool]:
    """Also whether a kernel may be called directly."""
    if _torch_ops.is_direct((x, w)):
        return x, w, _line_plan(name, x.shape, w.shape, axis, eager=True), True
    values = _tensor(name, x)
    weights = _beside("w", w, values)
    return values, weights, _line_plan(name, values.shape, weights.shape, axis), False


def _inflow(name: str, value: object, x: Tensor, axis: int) -> Tensor | None:
    if value is None:
        return None
    t = _beside(name, value, x)
    return t.reshape(_check.inflow(name, t.shape, x.shape, x.ndim + axis))


def scan(
    x: Tensor,
    w: Tensor,
    axis: int = -1,
    *,
    reverse: bool = False,
    initial: Tensor | float | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """One-sided running sum along an axis, faded by the weight of each edge, equation (4).

    F_i = x_i + w_{i-1} F_{i-1}, or with `reverse` B_i = x_i + w_i B_{i+1}. An edge of weight 0 cuts the line: nothing
    crosses it, not even NaN, in derivatives neither.

    Parameters
    ----------
    x : Tensor
        Values of any shape with at least one axis, n of them along `axis`. Integers and bool become float32.
    w : Tensor
        Weights of the edges: edge i joins i and i + 1. Length n - 1 along `axis`, right-aligned with x and broadcast
        to it elsewhere. Any float type; taken in float64 where x is float64, else in float32.
    axis : int, default -1
        The axis that lines lie along.
    reverse : bool, default False
        Run from the last element to the first.
    initial : Tensor or float, optional
        Added to the first element of the run: what flows in from outside. The shape of x without `axis`, broadcast.
    num_threads : int, optional
        By default `torch.get_num_threads()`. The result is the same, bit for bit, for any number.

    Returns
    -------
    Tensor
        The shape, dtype and memory format of x.

    Raises
    ------
    TypeError
        Arguments that are no dense tensors of a float or integer type on CPU or CUDA.
    ValueError
        Shapes that do not fit, tensors on different devices, `num_threads` < 1.
    numpy.exceptions.AxisError
        `axis` is no axis of x.

    Examples
    --------
    >>> import torch
    >>> import sgs.torch
    >>> sgs.torch.scan(torch.tensor([1.0, 0.0, 0.0, 8.0]), torch.tensor([0.5, 0.5, 0.0]))
    tensor([1.0000, 0.5000, 0.2500, 8.0000])
    """
    x, w, along, direct = _line("x", x, w, axis)
    start = _inflow("initial", initial, x, along)
    call: Any = _torch_ops.scan.kernel if direct and start is None else _torch_ops.scan
    return call(x, w, start, along, bool(reverse), _threads(num_threads))  # type: ignore[no-any-return]


def line_filter(
    x: Tensor,
    w: Tensor,
    axis: int = -1,
    *,
    initial: tuple[Tensor | float | None, Tensor | float | None] | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Sum over the whole line, each value weighted by the product of the weights on the way, equation (5).

    Parameters
    ----------
    x, w, axis, num_threads
        As in `scan`.
    initial : (left, right), optional
        What flows into the first and into the last element, each of the shape of x without `axis` (broadcast), or
        None.

    Returns
    -------
    Tensor
        The shape, dtype and memory format of x.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `scan`; also where `initial` is not a tuple or list of two.

    Examples
    --------
    >>> import torch
    >>> import sgs.torch
    >>> sgs.torch.line_filter(torch.tensor([1.0, 0.0, 0.0, 8.0]), torch.tensor([0.5, 0.5, 0.5]))
    tensor([2.0000, 2.5000, 4.2500, 8.1250])
    """
    x, w, along, direct = _line("x", x, w, axis)
    left = right = None
    if initial is not None:
        if not isinstance(initial, (tuple, list)):
            raise TypeError(f"initial: expected (left, right), got {type(initial).__name__}")
        if len(initial) != 2:
            raise ValueError(f"initial: expected (left, right), got {len(initial)} entries")
        left, right = (_inflow(f"initial[{i}]", end, x, along) for i, end in enumerate(initial))
    call: Any = _torch_ops.line_filter.kernel if direct and initial is None else _torch_ops.line_filter
    return call(x, w, left, right, along, _threads(num_threads))  # type: ignore[no-any-return]


def _root(value: object, n: int) -> int:
    return _check.position("root", _check.integer("root", value), (n,))[0] if n else 0


def tree_aggregate(x: Tensor, w: Tensor, axis: int = -1, *, root: int = 0, num_threads: int | None = None) -> Tensor:
    """Sums from the two ends of the line towards the root, the paper's Eq. 6, equation (6).

    Parameters
    ----------
    x, w, axis, num_threads
        As in `scan`, with 0 <= w <= 1.
    root : int, default 0
        Position of the root on every line; negative numbers count from the end.

    Returns
    -------
    Tensor
        The shape, dtype and memory format of x.

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
    >>> import torch
    >>> import sgs.torch
    >>> sgs.torch.tree_aggregate(torch.tensor([1.0, 0.0, 0.0, 8.0]), torch.tensor([0.5, 0.5, 0.5]), root=1)
    tensor([1.0000, 2.5000, 4.0000, 8.0000])
    """
    x, w, along, direct = _line("x", x, w, axis)
    node = _root(root, x.shape[along])
    call: Any = _torch_ops.tree_aggregate.kernel if direct else _torch_ops.tree_aggregate
    return call(x, w, along, node, _threads(num_threads))  # type: ignore[no-any-return]


def tree_update(a: Tensor, w: Tensor, axis: int = -1, *, root: int = 0, num_threads: int | None = None) -> Tensor:
    """Sums from the root back to the two ends of the line, the paper's Eq. 7, equation (6).

    Parameters
    ----------
    a : Tensor
        What `tree_aggregate` returned; types as x in `scan`.
    w, axis, num_threads
        As in `scan`, with 0 <= w <= 1.
    root : int, default 0
        Position of the root on every line; negative numbers count from the end.

    Returns
    -------
    Tensor
        The shape, dtype and memory format of `a`.

    Raises
    ------
    IndexError
        `root` is outside the line.
    TypeError, ValueError, numpy.exceptions.AxisError
        As in `scan`.

    Examples
    --------
    >>> import torch
    >>> import sgs.torch
    >>> sgs.torch.tree_update(torch.tensor([1.0, 2.5, 4.0, 8.0]), torch.tensor([0.5, 0.5, 0.5]), root=1)
    tensor([2.0000, 2.5000, 4.2500, 8.1250])
    """
    a, w, along, direct = _line("a", a, w, axis)
    node = _root(root, a.shape[along])
    call: Any = _torch_ops.tree_update.kernel if direct else _torch_ops.tree_update
    return call(a, w, along, node, _threads(num_threads))  # type: ignore[no-any-return]


# ---- planes

# `scale` or `step` of every axis for the operator: tensors, or None where all are numbers, and the numbers.
Lengths = tuple[tuple[Tensor | None, ...] | None, tuple[float, ...]]


def _lengths(name: str, value: Any, count: int, guide: Tensor) -> Lengths:
    """`scale` or `step` for every one of `count` axes."""
    if type(value) is float and (0.0 < value < _INFINITY or (value == 0.0 and name == "step")):
        return None, (value,) * count
    if isinstance(value, Tensor) and value.ndim == 1:
        if len(value) != count:
            raise ValueError(f"{name}: expected one number, or one for each of {count} axes, got shape ({len(value)},)")
        value = value.unbind()
    if isinstance(value, (tuple, list)):
        if len(value) != count:
            raise ValueError(f"{name}: expected one number, or one for each of {count} axes, got {len(value)}")
        each = [_length(name, v, guide) for v in value]
    else:
        each = [_length(name, value, guide)] * count
    tensors = tuple(t for t, _ in each)
    return None if all(t is None for t in tensors) else tensors, tuple(v for _, v in each)


def _read(lengths: Lengths) -> Lengths:
    """Tensors in memory as the numbers that they hold."""
    tensors, numbers = lengths
    if tensors is None:
        return lengths
    return None, tuple(v if t is None else float(t) for t, v in zip(tensors, numbers, strict=True))


def _length(name: str, value: Any, guide: Tensor) -> tuple[Tensor | None, float]:
    """Of one axis."""
    if isinstance(value, Tensor):
        if value.ndim and value.shape != (1,):
            raise ValueError(f"{name}: expected tensors of one number, got shape {tuple(value.shape)}")
        if not (value.dtype in _FLOATS or value.dtype in _WHOLE):
            raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
        if value.device != guide.device and value.device.type != "cpu":
            raise ValueError(f"{name}: expected tensors on {guide.device}, as the guide, got {value.device}")
        return value if value.dtype in _FLOATS else value.to(torch.float32), 1.0
    if type(value) in (float, int) and (0 < value < _INFINITY or (value == 0 and name == "step")):
        return None, float(value)
    (checked,) = (_check.scales if name == "scale" else _check.steps)(value, 1)
    return None, checked


class _Plan(NamedTuple):
    """How arguments lie beside x, checked; axes counted from the end."""

    channel: int | None
    axes: tuple[int, ...]
    guide: tuple[int | None, Shape] | None  # its channel axis and the field to view it as; None: it lies as x does
    guide_channel: int | None  # once it lies so
    confidence: Shape | None  # to view it as, with x's channel axis of length 1
    metric: int
    normalization: int
    heads: int


@_cached
def _plan(
    name: str,
    x: Shape,
    guide: Shape | None,
    confidence: Shape | None,
    channel_axis: Any,
    axes: Any,
    metric: Any,
    normalization: Any,
    heads: Any,
) -> _Plan:
    ndim = len(x)
    layout = _check.layout(name, x, channel_axis, axes)
    channels = {name: layout.channels}
    place, guide_channel = None, None if layout.channel is None else layout.channel - ndim
    if guide is not None:
        own = _check.guide_channel(guide, layout, ndim, channel_axis)
        field = _check.field("guide", guide, layout, own)
        channels["guide"] = 1 if own is None else guide[own]
        as_x = len(guide) == ndim and own == layout.channel
        place = None if as_x else (own, field)
        if not as_x and layout.channel is None:
            guide_channel = -ndim - 1
    code = _check.choice("metric", metric, _METRICS)
    divide_by = _check.choice("normalization", normalization, _NORMALIZATIONS)
    trust = None
    if confidence is not None:
        if normalization != "cross":
            raise ValueError(f"confidence: expected normalization='cross' with it, got {normalization=}")
        trust = _check.field("confidence", confidence, layout)
        if layout.channel is not None:
            trust = (*trust[: layout.channel], 1, *trust[layout.channel :])
    along = [a + (layout.channel is not None and a >= layout.channel) - ndim for a in layout.axes]
    if len(along) > _torch_ops.MAX_AXES:
        raise ValueError(f"axes: expected at most {_torch_ops.MAX_AXES} spatial axes for tensors, got {len(along)}")
    channel = None if layout.channel is None else layout.channel - ndim
    count = _check.heads(heads, channels)
    return _Plan(channel, tuple(along), place, guide_channel, trust, code, divide_by, count)


def _hashable(axes: Any) -> Any:
    return tuple(axes) if isinstance(axes, list) else axes


def _placed(guide: Tensor, place: tuple[int | None, Shape] | None, channel: int | None) -> Tensor:
    """The guide as x lies, or with its channel axis in front where x has none."""
    if place is None:
        return guide
    own, field = place
    g = guide.unsqueeze(0) if own is None else guide.movedim(own, 0)
    g = g.reshape(g.shape[0], *field)
    return g if channel is None else g.movedim(0, channel)


def _weights(
    guide: Tensor,
    plan: _Plan,
    scale: Lengths,
    step: Lengths,
    dtype: torch.dtype,
    threads: int,
    confidence: Tensor | None = None,
    direct: bool = False,
) -> list[Tensor]:
    """The weights along each axis, with `heads` on the channel axis, rounded to the type that x is computed in."""
    weights = []
    code = _CODES[_torch_ops.computing_dtype(dtype)]
    call = _torch_ops.edge_weights.kernel if direct else _torch_ops.edge_weights
    scales, steps = (lengths[0] or (None,) * len(plan.axes) for lengths in (scale, step))
    for i, axis in enumerate(plan.axes):
        layout = plan.guide_channel, axis, plan.heads, plan.metric, code, threads
        w = call(guide, scales[i], steps[i], confidence, scale[1][i], step[1][i], *layout)
        weights.append(w.squeeze(0) if plan.channel is None and plan.guide_channel is not None else w)
    return weights


class _Heads:
    """Channels seen as two axes, heads and the channels of each, where there are heads."""

    def __init__(self, plan: _Plan) -> None:
        self.count, self.channel = plan.heads, plan.channel
        channel = plan.channel
        split = plan.heads > 1 and channel is not None
        self.axes = [a - (split and channel is not None and a < channel) for a in plan.axes]

    def split(self, t: Tensor) -> Tensor:
        """Values, or what has one number for each head."""
        if self.count == 1 or self.channel is None:
            return t
        return _torch_ops.split_axis(t, self.channel, self.count)

    def join(self, t: Tensor) -> Tensor:
        return t if self.count == 1 or self.channel is None else _torch_ops.join_axes(t, self.channel)


def edge_weights(
    guide: Tensor,
    axis: int,
    scale: float | Tensor = 1.0,
    *,
    channel_axis: int | None = -3,
    metric: str = "euclidean",
    step: float | Tensor = 0.0,
    heads: int = 1,
    num_threads: int | None = None,
) -> Tensor:
    """Weights of the edges along an axis, by the distance of the guide's neighbours, equations (1) and (2).

    w_i = exp(-(d_i + step) / scale), where d_i is the distance of g_i and g_{i+1} over the channels. Where the distance
    is 0 its derivative is 0, never NaN; where the weight is 0 so are all derivatives.

    Parameters
    ----------
    guide : Tensor
        Features, n positions along `axis`; types as x in `scan`.
    axis : int
        The axis that the edges lie along.
    scale : float or Tensor, default 1.0
        What distances are measured by, > 0, in units of the distance. A tensor holds one number.
    channel_axis : int or None, default -3
        The axis that the distance is taken over: -1 for images (H, W, C), None for a single channel. A tensor of one
        or two axes has no axis -3 and is a single channel by default.
    metric : {"euclidean", "cityblock", "sqeuclidean"}
        The distance, by SciPy's names.
    step : float or Tensor, default 0.0
        Length of one step, >= 0, in units of the distance: above 0 support fades even where the guide is flat.
    heads : int, default 1
        Number of equal, consecutive groups of channels, each with its own weights. Divides the number of channels.
    num_threads : int, optional
        By default `torch.get_num_threads()`.

    Returns
    -------
    Tensor
        The shape of the guide, but n - 1 along `axis` and `heads` along the channel axis. float64 for a float64
        guide, else float32.

    Raises
    ------
    TypeError
        A tensor of a kind that cannot be filtered, or a number that is none.
    ValueError
        Numbers `scale` <= 0 or `step` < 0, NaN or infinity in them, unknown `metric`, `heads` that do not divide, an
        `axis` that is the channel axis.
    numpy.exceptions.AxisError
        `axis` or `channel_axis` is no axis of the guide.

    Warns
    -----
    UserWarning
        The guide looks like an image (H, W, 3) and `channel_axis` is -3. For three channels first, pass 0.

    Examples
    --------
    >>> import torch
    >>> import sgs.torch
    >>> photo = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]])  # (H, W, C)
    >>> sgs.torch.edge_weights(photo, axis=1, scale=5.0, channel_axis=-1)
    tensor([[[0.3679],
             [1.0000]]])
    """
    guide = _tensor("guide", guide)
    channel, along, code, count = _edges_plan(guide.shape, axis, channel_axis, metric, heads)
    lengths, (scale_value,) = _lengths("scale", scale, 1, guide)
    added, (step_value,) = _lengths("step", step, 1, guide)
    if not torch.compiler.is_compiling():
        _check.warn_of_image("guide", guide.shape, channel_axis)
    dtype = _CODES[_torch_ops.computing_dtype(guide.dtype)]
    layout = channel, along, count, code, dtype, _threads(num_threads)
    tensors = lengths[0] if lengths else None, added[0] if added else None
    return _torch_ops.edge_weights(guide, *tensors, None, scale_value, step_value, *layout)  # type: ignore[no-any-return]


@_cached
def _edges_plan(
    shape: Shape, axis: Any, channel_axis: Any, metric: Any, heads: Any
) -> tuple[int | None, int, int, int]:
    ndim = len(shape)
    layout = _check.layout("guide", shape, channel_axis, _check.integer("axis", axis), "axis")
    channel = None if layout.channel is None else layout.channel - ndim
    along = _check.axis("axis", axis, ndim) - ndim
    code = _check.choice("metric", metric, _METRICS)
    count = _check.heads(heads, {"guide": layout.channels})
    return channel, along, code, count


def semi_global_filter(
    x: Tensor,
    guide: Tensor | None = None,
    scale: Numbers = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: Numbers = 0.0,
    heads: int = 1,
    confidence: Tensor | None = None,
    fill_value: float = 0.0,
    num_threads: int | None = None,
) -> Tensor:
    """Aggregate every position's whole row and column, weighted by similarity and nearness, equations (7) to (9).

    With N_a(x) what a position gets from the others on its line along axis a, and T_a(x) = x + N_a(x):

    - "cross": y = (x + sum_a N_a(x)) / (1 + sum_a N_a(1)), every position of the cross once;
    - "line": y = sum_a T_a(x) / T_a(1);
    - None: y = sum_a T_a(x).

    The weights are those of `edge_weights`. Two blocks reach the whole image. Time is linear in the size of x,
    whatever the length of lines, for derivatives too; for them x, the guide and the weights are kept.

    Parameters
    ----------
    x : Tensor
        Values (..., C, H, W), or as `channel_axis` and `axes` say; all other axes are batch. Integers and bool become
        float32, not rescaled.
    guide : Tensor, optional
        What similarity is measured on: laid out like x, with its own number of channels; batch axes broadcast to
        those of x. A guide of the spatial axes alone is a single channel. Where x is a single channel by its number
        of axes, the guide may have one axis more, its channel axis, and `channel_axis` counts in the guide. By
        default every block is guided by its own input.
    scale : float, Tensor or sequence of them, default 1.0
        What distances are measured by, > 0, in units of the guide's distance; one number, or one for each of `axes`.
        By default axes that is (beta, alpha) of the paper. Tensors hold one number, or one for each axis.
    channel_axis : int or None, default -3
        -1 for images (H, W, C), None for a single channel. With `axes=None`, a tensor of two axes is a single channel
        and a tensor of one axis a line, whatever this says.
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
    step : float, Tensor or sequence of them, default 0.0
        Length of one step, >= 0, in units of the distance; one number, or one for each of `axes`.
    heads : int, default 1
        Number of equal, consecutive groups of channels of x and of the guide, each with its own weights. Divides both.
    confidence : Tensor, optional
        Trust c >= 0 in every position, the shape of x without its channel axis, batch axes broadcast; only with
        "cross". Then y = (c x + sum_a N_a(c x)) / S with the support S = c + sum_a N_a(c). Where c is 0, x is not
        read: NaN there is missing data, and x and c get gradient 0. That c >= 0 is not checked.
    fill_value : float, default 0.0
        Stands for y where S is less than the smallest normal number of the computing type; no gradient passes there,
        but through the residual.
    num_threads : int, optional
        By default `torch.get_num_threads()`. The result is the same, bit for bit, for any number.

    Returns
    -------
    Tensor
        The shape, dtype and memory format of x.

    Raises
    ------
    TypeError
        Arguments that are no dense tensors of a float or integer type on CPU or CUDA, or a number that is none.
    ValueError
        Shapes that do not fit, axes named twice or equal to the channel axis, numbers `scale` <= 0 or `step` < 0, NaN
        or infinity in them, `heads` that do not divide, unknown `metric` or `normalization`, `confidence` without
        "cross", tensors on different devices.
    numpy.exceptions.AxisError
        `axes` or `channel_axis` are no axes of x.

    Warns
    -----
    UserWarning
        x looks like an image (H, W, 3) and `channel_axis` is -3. For three channels first, pass 0.

    Examples
    --------
    >>> import torch
    >>> import sgs.torch
    >>> step = torch.tensor([[0.0, 0.2, 8.0, 8.4]] * 3)  # one channel (H, W)
    >>> sgs.torch.semi_global_filter(step, scale=0.5)[0]
    tensor([0.0365, 0.1635, 8.0521, 8.3479])
    """
    direct = _torch_ops.is_direct((x, guide, confidence))
    if direct:
        y, guided, trust = x, guide, confidence
    else:
        y = _tensor("x", x)
        guided = None if guide is None else _beside("guide", guide, y)
        trust = None if confidence is None else _beside("confidence", confidence, y)
    shape = y.shape
    plan = _plan(
        "x",
        shape,
        None if guided is None else guided.shape,
        None if trust is None else trust.shape,
        channel_axis,
        _hashable(axes),
        metric,
        normalization,
        heads,
        eager=direct,
    )
    if axes is None and len(shape) == 3 and not torch.compiler.is_compiling():
        _check.warn_of_image("x", shape, channel_axis)
    like = y if guided is None else guided
    count = len(plan.axes)
    scales, steps = _lengths("scale", scale, count, like), _lengths("step", step, count, like)
    rounds = 1 if type(blocks) is int and blocks == 1 else _check.integer("blocks", blocks, least=1)
    fill = fill_value if type(fill_value) is float else _check.number("fill_value", fill_value)
    threads = _threads(num_threads)
    if direct and (scales[0] or steps[0]):
        direct = _torch_ops.is_direct((*(scales[0] or ()), *(steps[0] or ())))
        if direct:
            scales, steps = _read(scales), _read(steps)

    dtype = y.dtype
    constants = plan.normalization, bool(residual), fill, threads
    placed = None if guided is None else _placed(guided, plan.guide, plan.channel)
    c = None if trust is None or plan.confidence is None else trust.reshape(plan.confidence)
    if direct and rounds == 1 and plan.heads == 1:  # all in one call
        layout = plan.guide_channel, plan.axes, scales[1], steps[1], plan.metric
        return _torch_ops.filter_directly(y, placed, c, *layout, *constants)
    weights: list[Tensor] = []
    if placed is not None:
        weights = _weights(placed, plan, scales, steps, dtype, threads, None, direct)
    heads_of = _Heads(plan)
    if direct and placed is not None and c is None:
        split = [heads_of.split(w) for w in weights]
        return heads_of.join(_torch_ops.blocks_directly(heads_of.split(y), split, rounds, heads_of.axes, *constants))
    for block in range(1, rounds + 1):
        if guided is None:
            weights = _weights(y, plan, scales, steps, dtype, threads, c, direct)
        split = [heads_of.split(w) for w in weights] if plan.heads > 1 else weights
        trusted = None if c is None else heads_of.split(c)
        before = heads_of.split(y)
        y = heads_of.join(
            _torch_ops.semi_global_filter(before, trusted, split, heads_of.axes, *constants, direct=direct)
        )
        if c is not None and block < rounds:
            one_channel = y.new_empty(()).expand(_values_shape(y, plan))
            field = _torch_ops.support_like(one_channel, _passing(c), weights, plan.axes)
            c = _torch_ops.cross_sum(field, weights, plan.axes, threads)
    return y


def _passing(confidence: Tensor) -> Tensor:
    """The confidence, without a derivative where it is 0, at the edge of what is allowed (8)."""
    return torch.where(confidence == 0, 0.0, confidence)


def _values_shape(y: Tensor, plan: _Plan) -> list[int]:
    """The shape of values with one channel for each head."""
    shape = list(y.shape)
    if plan.channel is not None:
        shape[plan.channel] = plan.heads
    return shape


def attention_map(
    guide: Tensor | Sequence[Tensor],
    position: int | Sequence[int],
    scale: Numbers = 1.0,
    *,
    channel_axis: int | None = -3,
    axes: int | Sequence[int] | None = None,
    blocks: int = 1,
    normalization: str | None = "cross",
    residual: bool = False,
    metric: str = "euclidean",
    step: Numbers = 0.0,
    heads: int = 1,
    confidence: Tensor | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """How much every position counts in the filtered value at one position, equation (10).

    The row of the linear operator that `semi_global_filter` applies for fixed guides, found by the adjoint in linear
    time: the sum of the map times x is the filtered x at `position`. Differentiable in guide, scale, step and
    confidence.

    Parameters
    ----------
    guide : Tensor, or tuple or list of Tensor
        The guide of all blocks; a tuple or list has the guide of each of the `blocks`, in the order of application.
        Laid out like x in `semi_global_filter`; guides in a list may differ in their channels, and batch axes
        broadcast to those of the largest.
    position : int or sequence of int
        One index for each of `axes`, in their order; negative numbers count from the end.
    scale, channel_axis, axes, blocks, normalization, residual, metric, step, heads, num_threads
        As in `semi_global_filter`, where the guide stands for x.
    confidence : Tensor, optional
        As in `semi_global_filter`: the shape of the guide without its channel axis, batch axes broadcast. The map is
        0 where it is 0, and everywhere if `position` is not supported, but for the residual.

    Returns
    -------
    Tensor
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
    >>> import torch
    >>> import sgs.torch
    >>> halves = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]])
    >>> sgs.torch.attention_map(halves, (0, 0)).round(decimals=3)
    tensor([[0.3330, 0.3330, 0.0000],
            [0.3330, 0.0000, 0.0000]])
    """
    rounds = _check.integer("blocks", blocks, least=1)
    listed = isinstance(guide, (tuple, list))
    given = list(guide) if listed else [guide]
    if listed and len(given) != rounds:
        raise ValueError(f"guide: expected {rounds} guides, one for each block, got {len(given)}")
    names = [f"guide[{i}]" for i in range(len(given))] if listed else ["guide"]
    tensors = [_tensor(name, g) for name, g in zip(names, given, strict=True)]
    largest = tensors[0]
    for g in tensors[1:]:
        if (g.ndim, g.numel()) > (largest.ndim, largest.numel()):
            largest = g
    tensors = [_beside(name, g, largest) for name, g in zip(names, tensors, strict=True)]
    trust = None if confidence is None else _beside("confidence", confidence, largest)
    plans = [
        _plan(
            "guide",
            largest.shape,
            g.shape,
            None if trust is None else trust.shape,
            channel_axis,
            _hashable(axes),
            metric,
            normalization,
            heads,
        )
        for g in tensors
    ]
    if axes is None and not torch.compiler.is_compiling():
        _check.warn_of_image("guide", largest.shape, channel_axis)
    plan = plans[0]
    lengths_along = tuple(largest.shape[a] for a in plan.axes)
    at = _check.position("position", position, lengths_along)
    count = len(plan.axes)
    scales, steps = _lengths("scale", scale, count, largest), _lengths("step", step, count, largest)
    threads = _threads(num_threads)

    dtype = torch.float64 if any(g.dtype == torch.float64 for g in tensors) else torch.float32
    passes = [
        _weights(_placed(g, p.guide, p.channel), p, scales, steps, dtype, threads)
        for g, p in zip(tensors, plans, strict=True)
    ] * (rounds // len(tensors))
    row = torch.ones((), dtype=dtype, device=largest.device)
    for a, i in zip(plan.axes, at, strict=True):
        hot = torch.arange(largest.shape[a], device=largest.device) == i
        row = row * hot.to(dtype).reshape(-1, *(1,) * (-1 - a))
    row = row.expand(_values_shape(largest, plan))
    c = None if trust is None or plan.confidence is None else trust.to(dtype).reshape(plan.confidence)
    row = _adjoint(row, passes, plan, residual, c, threads)

    spatial = sorted(plan.axes)
    row = row.movedim(spatial, list(range(-count, 0)))
    if plan.channel is None:
        return row
    others = [d for d in range(-row.ndim, 0) if d not in spatial]
    channel = others.index(plan.channel)
    return row.movedim(channel, -count - 1) if plan.heads > 1 else row.squeeze(channel)


def _adjoint(
    y: Tensor, passes: Sequence[Sequence[Tensor]], plan: _Plan, residual: bool, confidence: Tensor | None, threads: int
) -> Tensor:
    """The transposes of the blocks, last block first (10): the adjoint of T/S is y -> T(y/S)."""
    tiny = torch.finfo(y.dtype).tiny
    trusts = [] if confidence is None else [confidence.expand(y.shape)]
    for weights in passes if trusts else ():
        trusts.append(_torch_ops.cross_sum(_passing(trusts[-1]), weights, plan.axes, threads))
    for block in reversed(range(len(passes))):
        weights = passes[block]
        ones = torch.ones((), dtype=y.dtype, device=y.device).expand(y.shape)
        if plan.normalization != _core.CROSS:
            total: Any = y if residual else 0.0
            for w, axis in zip(weights, plan.axes, strict=True):
                part = y
                if plan.normalization == _core.LINE:
                    part = y / _torch_ops.line_filter(ones, w, None, None, axis, threads)
                total = total + _torch_ops.line_filter(part, w, None, None, axis, threads)
            y = total
        elif not trusts:
            part = y / _torch_ops.cross_sum(ones, weights, plan.axes, threads)
            y = _torch_ops.cross_sum(part, weights, plan.axes, threads) + (y if residual else 0.0)
        else:
            trust, support = trusts[block], trusts[block + 1]
            untrusted, supported = trust == 0, support >= tiny
            # A filled value depends on no x, but for the residual.
            part = torch.where(supported, y, 0.0) / torch.where(supported, support, 1.0)
            total = torch.where(untrusted, 0.0, _torch_ops.cross_sum(part, weights, plan.axes, threads))
            y = torch.where(untrusted, 0.0, trust) * total + (torch.where(untrusted, 0.0, y) if residual else 0.0)
    return y
