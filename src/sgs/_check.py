"""Every user-facing error about shapes, axes, dtypes and ranges: the argument, what was wanted, what came.

Shapes and axes are plain integers, so that any kind of array can be checked; only `array`, `output` and `confidence`
ask for NumPy arrays. Nothing here copies, and nothing here writes.
"""

import math
import operator
import reprlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Shape = tuple[int, ...]

# The core takes 32 axes; the filter needs two of them, to split channels into heads.
MAX_NDIM = 30


class Layout(NamedTuple):
    """How an array is read: its channel axis, and the field, which is the array without that axis."""

    channel: int | None
    channels: int
    field: Shape
    axes: Shape  # the spatial axes, counted in the field, in the order in which the user named them


# ---- numbers


def _got(value: object) -> str:
    return f"got {reprlib.repr(value)} ({type(value).__name__})"


def integer(name: str, value: object, least: int | None = None) -> int:
    """A whole number, of any type but bool."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, {_got(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {number}")
    return number


def integers(name: str, value: object) -> tuple[int, ...]:
    """One whole number or a sequence of them."""
    if isinstance(value, (tuple, list, range)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return tuple(integer(name, v) for v in value)
    return (integer(name, value),)


def number(name: str, value: object) -> float:
    """A real number, of any type but bool; an array of no axes is a number."""
    if type(value) is float:
        return value
    refuse_tensor(name, value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    known = isinstance(value, Real) or (isinstance(value, np.generic) and value.dtype.name == "bfloat16")
    if not known or isinstance(value, bool):
        raise TypeError(f"{name}: expected a real number, {_got(value)}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name}: expected a number within the range of float64, {_got(value)}") from None


def _per_axis(name: str, value: object, count: int) -> tuple[float, ...]:
    if not isinstance(value, (tuple, list)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        return (number(name, value),) * count
    numbers = tuple(number(name, v) for v in value)
    if len(numbers) != count:
        raise ValueError(f"{name}: expected one number, or one for each of {count} axes, got {len(numbers)}")
    return numbers


def scales(value: object, count: int) -> tuple[float, ...]:
    """`scale` for every one of `count` axes."""
    numbers = _per_axis("scale", value, count)
    for v in numbers:
        if not 0 < v < math.inf:
            raise ValueError(f"scale: expected finite numbers > 0, got {v}")
    return numbers


def steps(value: object, count: int) -> tuple[float, ...]:
    """`step` for every one of `count` axes."""
    numbers = _per_axis("step", value, count)
    for v in numbers:
        if not 0 <= v < math.inf:
            raise ValueError(f"step: expected finite numbers >= 0, got {v}")
    return numbers


def choice(name: str, value: object, choices: Mapping[str, T] | Mapping[str | None, T]) -> T:
    """What `value` stands for, one of the names in `choices`."""
    if value is None or isinstance(value, str):
        for known, meaning in choices.items():
            if known == value:
                return meaning
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, {_got(value)}")


# ---- axes


def axis(name: str, value: object, ndim: int) -> int:
    """An axis of an array with `ndim` axes, counted from the front."""
    index = integer(name, value)
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim, name)
    return index % ndim


def layout(name: str, shape: Shape, channel_axis: object, axes: object, argument: str = "axes") -> Layout:
    """Channel axis and spatial axes of an array of this shape.

    Without `axes`, up to two axes are a single channel; and the default channel_axis=-3 is no axis of arrays that
    small. `argument` is what the user knows `axes` by.
    """
    ndim = len(shape)
    if ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, got an array of shape ()")
    channel = None
    if channel_axis is not None:
        given = integer("channel_axis", channel_axis)
        if ndim >= 3 or not (axes is None or given == -3):
            channel = axis("channel_axis", given, ndim)
    others = [a for a in range(ndim) if a != channel]
    channels = 1 if channel is None else shape[channel]
    field = tuple([shape[a] for a in others])
    if axes is None:
        return Layout(channel, channels, field, tuple(range(len(others))[-2:]))
    spatial = [axis(argument, a, ndim) for a in integers(argument, axes)]
    if not spatial:
        raise ValueError(f"{argument}: expected at least one axis, got none")
    for i, a in enumerate(spatial):
        if a == channel:
            raise ValueError(
                f"{argument}: expected spatial axes, got axis {a}, which is the channel axis ({channel_axis=})"
            )
        if a in spatial[:i]:  # list.count is more than torch 2.6 can compile
            raise ValueError(f"{argument}: expected different axes, got axis {a} twice ({axes})")
    return Layout(channel, channels, field, tuple(others.index(a) for a in spatial))


def _looks_like_image(shape: Shape) -> bool:
    return len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > shape[2]


def warn_of_image(name: str, shape: Shape, channel_axis: object) -> None:
    """Warn the caller of a public function of a likely image, channels last, under the default channel_axis."""
    if channel_axis == -3 and _looks_like_image(shape):
        warnings.warn(
            f"{name}: an array of shape {shape} looks like an image with its channels last, but is read as {shape[0]} "
            "channels: pass channel_axis=-1 for an image, or channel_axis=0 if the channels are first",
            UserWarning,
            stacklevel=3,
        )


# ---- shapes


def _broadcast(
    name: str, shape: Shape, positions: Sequence[int | None], target: Shape, exact: Collection[int] = ()
) -> None:
    """Axis i of `shape` stands for axis positions[i] of `target`, and may have length 1 if that is not in `exact`."""
    for own, (got, position) in enumerate(zip(shape, positions, strict=True)):
        if position is None or got == target[position] or (got == 1 and position not in exact):
            continue
        raise ValueError(f"{name}: expected length {target[position]} on axis {own}, got {got} (shape {shape})")


def edges(name: str, shape: Shape, values: Shape, axis: int) -> None:
    """The shape of edge weights along `axis` of values of shape `values`."""
    target = (*values[:axis], max(values[axis] - 1, 0), *values[axis + 1 :])
    missing = len(values) - len(shape)
    if not 0 <= missing <= axis:
        raise ValueError(
            f"{name}: expected {len(values) - axis} to {len(values)} axes, {target[axis]} edges on axis {axis} of the "
            f"values' shape {values}, got shape {shape}"
        )
    _broadcast(name, shape, range(missing, len(values)), target, exact=(axis,))


def inflow(name: str, shape: Shape, values: Shape, axis: int) -> Shape:
    """The shape to view an `initial` of this shape as: `axis` put back, of length 1, and axes in front added."""
    target = values[:axis] + values[axis + 1 :]
    missing = len(target) - len(shape)
    if missing < 0:
        raise ValueError(f"{name}: expected at most {len(target)} axes, to broadcast to {target}, got shape {shape}")
    _broadcast(name, shape, range(missing, len(target)), target)
    full = (1,) * missing + shape
    return (*full[:axis], 1, *full[axis:])


def field(name: str, shape: Shape, layout: Layout, channel: int | None = None) -> Shape:
    """The shape to view an array as, for it to stand beside the field of `layout`; its own `channel` axis left out.

    Spatial axes must be all there. Batch axes may be missing in front or have length 1, or be missing altogether.
    """
    own = [a for a in range(len(shape)) if a != channel]
    if tuple([shape[a] for a in own]) == layout.field:
        return layout.field
    ndim = len(layout.field)
    places = sorted(layout.axes) if len(own) == len(layout.axes) else list(range(ndim - len(own), ndim))
    if len(own) > ndim or not set(layout.axes) <= set(places):
        besides = "" if channel is None else f" besides the channel axis {channel}"
        raise ValueError(
            f"{name}: expected axes that broadcast to {layout.field}{besides}, got {len(own)} (shape {shape})"
        )
    positions: list[int | None] = [None] * len(shape)
    full = [1] * ndim
    for a, place in zip(own, places, strict=True):
        positions[a] = place
        full[place] = shape[a]
    try:
        _broadcast(name, shape, positions, layout.field, exact=layout.axes)
    except ValueError as error:
        if channel == 0 and _looks_like_image(shape):
            raise ValueError(f"{error}; pass channel_axis=-1 if its channels are last") from None
        raise
    return tuple(full)


def guide_channel(shape: Shape, layout: Layout, ndim: int, channel_axis: object) -> int | None:
    """The channel axis of a guide for values with `ndim` axes: as far from the end as theirs; None where it has none.

    Values too small to have a channel axis may have a guide with one, and `channel_axis` counts in the guide then.
    """
    if len(shape) == len(layout.axes) or channel_axis is None:
        return None
    if layout.channel is not None:
        channel = layout.channel - ndim + len(shape)
        return channel if channel >= 0 else None
    return axis("channel_axis", channel_axis, len(shape)) if len(shape) == ndim + 1 else None


def heads(value: object, channels: Mapping[str, int]) -> int:
    """`heads`, which divides all the numbers of channels."""
    count = integer("heads", value, least=1)
    for name, c in channels.items():
        if c % count:
            raise ValueError(f"heads: expected a divisor of {name}'s {c} channels, got {count}")
    return count


def position(name: str, value: object, lengths: Shape) -> tuple[int, ...]:
    """One index for each of the axes with these lengths, counted from the front."""
    indices = integers(name, value)
    if len(indices) != len(lengths):
        raise ValueError(f"{name}: expected {len(lengths)} indices, one for each axis, got {len(indices)}: {indices}")
    for i, n in zip(indices, lengths, strict=True):
        if not -n <= i < n:
            raise IndexError(f"{name}: expected indices within lengths {lengths}, got {indices}")
    return tuple(i % n for i, n in zip(indices, lengths, strict=True))


# ---- NumPy arrays


def refuse_tensor(name: str, value: object) -> None:
    """A torch tensor is not taken for an array; torch is not imported to know one."""
    if type(value) is np.ndarray:
        return
    for base in type(value).__mro__:
        if base.__name__ == "Tensor" and base.__module__.split(".")[0] == "torch":
            raise TypeError(
                f"{name}: expected a NumPy array, got a torch tensor; sgs.torch has the same functions for tensors"
            )


@cache  # the name of a dtype takes microseconds
def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The type of the result for values of this type, in native byte order; None where there is none."""
    if dtype.kind in "biu":
        return np.dtype(np.float32)
    if dtype.name in ("float16", "bfloat16", "float32", "float64"):
        native: np.dtype[Any] = dtype.newbyteorder("=")
        return native
    return None


@cache
def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that sums of this type are taken in."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def array(name: str, value: object) -> npt.NDArray[Any]:
    """`value` as an array of a type that can be filtered. Not yet converted: integers stay integers."""
    refuse_tensor(name, value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array, got a masked array; missing values are for `confidence`")
    try:
        a: npt.NDArray[Any] = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, {_got(value)}: {error}") from None
    if result_dtype(a.dtype) is None:
        raise TypeError(
            f"{name}: expected float16, bfloat16, float32, float64, integers or bool, got {a.dtype} "
            f"({type(value).__name__})"
        )
    if a.ndim > MAX_NDIM:
        raise ValueError(f"{name}: expected at most {MAX_NDIM} axes, got {a.ndim}")
    return a


def _overlaps_itself(a: npt.NDArray[Any]) -> bool:
    if a.flags.c_contiguous:
        return False
    extent = a.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < extent:
            return a.size > 0
        extent = stride * (length - 1) + extent
    return False


def output(value: object, like: npt.NDArray[Any]) -> None:
    """`out`, for a result with the shape of `like` and the type that belongs to it; None is no `out`."""
    if value is None:
        return
    refuse_tensor("out", value)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"out: expected a NumPy array, {_got(value)}")
    dtype = result_dtype(like.dtype)
    if value.dtype != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {value.dtype}")
    if value.shape != like.shape:
        raise ValueError(f"out: expected shape {like.shape}, got {value.shape}")
    if not value.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    if _overlaps_itself(value):
        raise ValueError(f"out: expected elements apart in memory, got strides {value.strides} (shape {value.shape})")


def confidence(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    """The range of confidences that are taken in `dtype`. Reads all of them, so it comes last."""
    if values.size == 0:
        return
    with np.errstate(invalid="ignore"):
        least, most = float(values.min()), float(values.max())  # NaN comes through both
    if not (least >= 0 and most <= float(np.finfo(dtype).max)):
        raise ValueError(f"confidence: expected numbers >= 0, finite as {dtype}, got values from {least:g} to {most:g}")
