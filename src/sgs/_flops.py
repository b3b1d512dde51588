"""FLOP formulas of the operators `torch.ops.sgs.*` for `torch.utils.flop_counter`; importing this registers them.

PyTorch counts a multiply-add of a matrix product or convolution as two, and passes over what works element by element.
The linear algorithm is nothing but the latter and would count as free; so here every addition, multiplication,
division, root and exponential of it counts as one. Equation numbers are those of `docs/math.md`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from sgs import _core, _torch_ops

Shape = Sequence[int]


def _edges(shape: Shape, axis: int) -> int:
    """Number of edges along an axis, each channel's counted."""
    return math.prod(shape) // max(shape[axis], 1) * max(shape[axis] - 1, 0)


def _register(operator: _torch_ops.Operator) -> Callable[[Callable[..., int]], Callable[..., int]]:
    # The formula is called with the operator's arguments, tensors replaced by their shapes.
    return register_flop_formula(operator.overload.overloadpacket)


# ---- lines


@_register(_torch_ops.scan)
def _scan(x: Shape, w: Shape, initial: Shape | None, axis: int, *_: Any, **__: Any) -> int:
    """(4): a product and a sum for each edge."""
    return 2 * _edges(x, axis)


@_register(_torch_ops.scan_backward)
def _scan_backward(
    g: Shape, x: Shape, w: Shape, initial: Any, axis: int, reverse: bool, threads: int, want_w: bool, *_: Any, **__: Any
) -> int:
    """(11): a scan; for the weights the scan of x, and a product and a sum over channels."""
    return (6 if want_w else 2) * _edges(x, axis)


@_register(_torch_ops.line_filter)
def _line_filter(x: Shape, w: Shape, left: Any, right: Any, axis: int, *_: Any, **__: Any) -> int:
    """(5): two scans, and a sum to join them, since what crosses an edge is at hand."""
    return 5 * _edges(x, axis)


@_register(_torch_ops.line_filter_backward)
def _line_filter_backward(
    g: Shape, x: Shape, w: Shape, left: Any, right: Any, axis: int, threads: int, want_w: bool, *_: Any, **__: Any
) -> int:
    """(11): a line filter; for the weights the two scans of x, and two products and two sums."""
    return (13 if want_w else 5) * _edges(x, axis)


@_register(_torch_ops.tree_aggregate)
def _tree_aggregate(x: Shape, w: Shape, axis: int, *_: Any, **__: Any) -> int:
    """(6): a product and a sum for each edge."""
    return 2 * _edges(x, axis)


@_register(_torch_ops.tree_update)
def _tree_update(a: Shape, w: Shape, axis: int, *_: Any, **__: Any) -> int:
    """(6): two products and a sum for each edge, and 1 - w^2 for each weight."""
    return 3 * _edges(a, axis) + 2 * math.prod(w)


# ---- planes


@_register(_torch_ops.edge_weights)
def _edge_weights(guide: Shape, *args: Any, out_shape: Shape, **_: Any) -> int:
    """(1), (2): difference, square and sum for each channel; root, step, scale and exponential less the first sum."""
    axis: int = args[6]
    return 3 * _edges(guide, axis) + 3 * math.prod(out_shape)


@_register(_torch_ops.edge_weights_backward)
def _edge_weights_backward(g: Shape, guide: Shape, *args: Any, **_: Any) -> int:
    """(11): the weights again; two products for each, and for each channel its share and a sum into either end."""
    axis: int = args[6]
    return 6 * _edges(guide, axis) + 5 * math.prod(g)


def _field(x: Shape, confidence: Shape | None, weights: Sequence[Shape], axes: Sequence[int]) -> list[int]:
    """The shape of the supports S: x's, but 1 where neither an axis nor a weight nor the confidence is longer."""
    operands = [*weights, *([] if confidence is None else [confidence])]

    def long(d: int) -> bool:
        return d in axes or any(len(s) >= -d and s[d] != 1 for s in operands)

    return [x[d] if long(d) else 1 for d in range(-len(x), 0)]


def _one_block(
    x: Shape,
    confidence: Shape | None,
    weights: Sequence[Shape],
    axes: Sequence[int],
    normalization: int,
    residual: bool,
) -> int:
    """(7), (8): sums of the values, sums of the supports, which all channels of a head share, and divisions.

    "cross" has for each edge and direction a product, a sum into the scan and a sum into the result; the others have
    the line filters' 5 for each edge, and a sum over axes.
    """
    field, values = _field(x, confidence, weights, axes), math.prod(x)
    of_values, of_field = sum(_edges(x, a) for a in axes), sum(_edges(field, a) for a in axes)
    extra = values * ((confidence is not None) + bool(residual))
    if normalization == _core.CROSS_SUM:
        return 6 * of_values + extra
    if normalization == _core.CROSS:
        return 6 * (of_values + of_field) + values + extra
    sums = 5 * of_values + (len(axes) - 1) * values
    return sums + (5 * of_field + len(axes) * values if normalization == _core.LINE else 0) + extra


def _weights(args: Sequence[Any]) -> tuple[list[Shape], tuple[Any, ...]]:
    """The weights among the operator's arguments after the confidence, one for each axis, and what follows them."""
    n = _torch_ops.MAX_AXES
    return [w for w in args[:n] if w is not None], tuple(args[n:])


@_register(_torch_ops.filter_operator)
def _semi_global_filter(x: Shape, confidence: Shape | None, *args: Any, **_: Any) -> int:
    weights, (axes, normalization, residual, *_rest) = _weights(args)
    return _one_block(x, confidence, weights, axes, normalization, residual)


@_register(_torch_ops.filter_backward)
def _semi_global_filter_backward(g: Shape, x: Shape, confidence: Shape | None, *args: Any, **_: Any) -> int:
    """(11): the filter's own operations on what comes back, and, but for x alone, on x and on the supports once more.

    For the weights, two products and two sums for each edge of the values and of the supports; for these, the result
    times what comes back, summed.
    """
    weights, (axes, normalization, residual, _fill, _threads, want_confidence, want_weights) = _weights(args)
    shared = confidence, weights, axes, normalization
    count = _one_block(x, *shared, residual)
    if not (want_confidence or want_weights):
        return count
    field, values = _field(x, confidence, weights, axes), math.prod(x)
    divided = normalization in (_core.CROSS, _core.LINE)
    count += _one_block(x, *shared, False) + 2 * values * divided
    if want_weights:
        count += 4 * sum(_edges(x, a) + divided * _edges(field, a) for a in axes)
    return count
