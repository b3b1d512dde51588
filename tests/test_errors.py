"""Bad input is refused before any work: by the right exception, naming the argument, what came and what was wanted."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sgs

X = np.ones((4, 5, 6), np.float32)
W = np.ones((5, 5), np.float32)  # edges along the last axis of X, shared by its channels
LINES: dict[str, Callable[..., Any]] = {
    "scan": sgs.scan,
    "line_filter": sgs.line_filter,
    "tree_aggregate": sgs.tree_aggregate,
    "tree_update": sgs.tree_update,
}
on_lines = pytest.mark.parametrize("name", LINES)


def values_name(name: str) -> str:
    return "a" if name == "tree_update" else "x"


def refuses(error: type[Exception], message: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """`function` raises exactly `error`, with `message` at the start (a regular expression)."""
    with pytest.raises(error, match="^" + message) as caught:
        function(*args, **kwargs)
    assert caught.type is error


# ---- arrays of every argument

REFUSED_ARRAYS = {
    "complex": (np.ones((4, 5, 6), np.complex64), "complex64"),
    "object": (np.ones((4, 5, 6), object), "object"),
    "string": (np.full((4, 5, 6), "a"), "<U1"),
    "bytes": (np.full((4, 5, 6), b"a"), "S1"),
    "datetime": (np.zeros((4, 5, 6), "datetime64[s]"), "datetime64"),
    "timedelta": (np.zeros((4, 5, 6), "timedelta64[s]"), "timedelta64"),
    "structured": (np.zeros((4, 5, 6), [("r", "f4")]), "r"),
    "longdouble": (np.ones((4, 5, 6), np.longdouble), "float128|longdouble|float96"),
    "float8": (np.ones((4, 5, 6), ml_dtypes.float8_e4m3fn), "float8"),
    "int4": (np.ones((4, 5, 6), ml_dtypes.int4), "int4"),
    "masked": (np.ma.masked_array(np.ones((4, 5, 6))), "masked array"),
    "None in a list": ([1.0, None], "object"),
    "dict": ({}, "object"),
}

ARRAY_ARGUMENTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "scan x": ("x", lambda a: sgs.scan(a, W)),
    "scan w": ("w", lambda a: sgs.scan(X, a)),
    "scan initial": ("initial", lambda a: sgs.scan(X, W, initial=a)),
    "line_filter x": ("x", lambda a: sgs.line_filter(a, W)),
    "line_filter w": ("w", lambda a: sgs.line_filter(X, a)),
    "line_filter left": (r"initial\[0\]", lambda a: sgs.line_filter(X, W, initial=(a, None))),
    "line_filter right": (r"initial\[1\]", lambda a: sgs.line_filter(X, W, initial=(None, a))),
    "tree_aggregate x": ("x", lambda a: sgs.tree_aggregate(a, W)),
    "tree_aggregate w": ("w", lambda a: sgs.tree_aggregate(X, a)),
    "tree_update a": ("a", lambda a: sgs.tree_update(a, W)),
    "tree_update w": ("w", lambda a: sgs.tree_update(X, a)),
    "edge_weights guide": ("guide", lambda a: sgs.edge_weights(a, -1)),
    "filter x": ("x", sgs.semi_global_filter),
    "filter guide": ("guide", lambda a: sgs.semi_global_filter(X, X if a is None else a)),
    "filter confidence": ("confidence", lambda a: sgs.semi_global_filter(X, confidence=a)),
    "attention guide": ("guide", lambda a: sgs.attention_map(a, (0, 0))),
    "attention guides": (r"guide\[1\]", lambda a: sgs.attention_map([X, a], (0, 0), blocks=2)),
    "attention confidence": ("confidence", lambda a: sgs.attention_map(X, (0, 0), confidence=a)),
}
on_arrays = pytest.mark.parametrize("argument", ARRAY_ARGUMENTS)


@on_arrays
@pytest.mark.parametrize("kind", REFUSED_ARRAYS)
def test_types_of_arrays(argument: str, kind: str) -> None:
    name, call = ARRAY_ARGUMENTS[argument]
    array, came = REFUSED_ARRAYS[kind]
    if argument == "attention guide" and isinstance(array, list):
        return  # a list of guides, not an array
    refuses(TypeError, f"{name}: expected .*({came})", call, array)


@on_arrays
def test_torch_tensors(argument: str) -> None:
    torch = pytest.importorskip("torch")
    name, call = ARRAY_ARGUMENTS[argument]
    refuses(TypeError, rf"{name}: .*torch tensor.*sgs\.torch", call, torch.ones(4, 5, 6))
    refuses(TypeError, rf"{name}: .*torch tensor.*sgs\.torch", call, torch.nn.Parameter(torch.ones(4, 5, 6)))


def test_torch_numbers_and_out() -> None:
    torch = pytest.importorskip("torch")
    one = torch.ones(())
    refuses(TypeError, r"scale: .*sgs\.torch", sgs.semi_global_filter, X, scale=one)
    refuses(TypeError, r"scale: .*sgs\.torch", sgs.semi_global_filter, X, scale=(1.0, one))
    refuses(TypeError, r"step: .*sgs\.torch", sgs.semi_global_filter, X, step=one)
    refuses(TypeError, r"fill_value: .*sgs\.torch", sgs.semi_global_filter, X, fill_value=one)
    refuses(TypeError, r"out: .*sgs\.torch", sgs.scan, X, W, out=torch.ones(4, 5, 6))


def test_tensors_are_known_without_torch() -> None:
    """A class that says it is torch's Tensor is refused, and torch is not imported to find out."""
    code = (
        "import sys, sgs\n"
        "Tensor = type('Tensor', (), {'__module__': 'torch'})\n"
        "try: sgs.semi_global_filter(Tensor())\n"
        "except TypeError as error: assert 'sgs.torch' in str(error)\n"
        "else: raise SystemExit('accepted')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@on_arrays
def test_ragged_lists(argument: str) -> None:
    name, call = ARRAY_ARGUMENTS[argument]
    if argument != "attention guide":
        refuses(ValueError, f"{name}: expected an array, got", call, [[1.0, 2.0], [3.0]])


@on_arrays
def test_too_many_axes(argument: str) -> None:
    name, call = ARRAY_ARGUMENTS[argument]
    refuses(ValueError, f"{name}: expected at most 30 axes, got 31", call, np.ones((1,) * 31))


@pytest.mark.parametrize(
    ("name", "call"),
    [(values_name(name), lambda a, f=f: f(a, np.ones(0))) for name, f in LINES.items()]
    + [
        ("x", sgs.semi_global_filter),
        ("guide", lambda a: sgs.edge_weights(a, 0)),
        ("guide", lambda a: sgs.attention_map(a, ())),
    ],
)
def test_arrays_without_axes(name: str, call: Callable[..., Any]) -> None:
    refuses(ValueError, rf"{name}: expected at least one axis, got an array of shape \(\)", call, 1.0)


# ---- lines


@on_lines
@pytest.mark.parametrize("axis", [3, -4, 100])
def test_axis_of_a_line(name: str, axis: int) -> None:
    refuses(np.exceptions.AxisError, f"axis: axis {axis} is out of bounds .* 3", LINES[name], X, W, axis)


@on_lines
@pytest.mark.parametrize("axis", [1.0, "0", None, True, np.True_, (0,), np.float32(1)])
def test_axis_is_an_integer(name: str, axis: Any) -> None:
    refuses(TypeError, r"axis: expected an integer, got", LINES[name], X, W, axis)


@on_lines
@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((4, 5, 6), -1, r"w: expected length 5 on axis 2, got 6 \(shape \(4, 5, 6\)\)"),
        ((6,), -1, r"w: expected length 5 on axis 0, got 6 \(shape \(6,\)\)"),
        ((1,), -1, r"w: expected length 5 on axis 0, got 1 "),
        ((3, 5), -1, r"w: expected length 5 on axis 0, got 3 "),
        ((2, 1, 5), -1, r"w: expected length 4 on axis 0, got 2 "),
        ((0, 5), -1, r"w: expected length 5 on axis 0, got 0 "),
        ((5, 6), 1, r"w: expected length 4 on axis 0, got 5 "),
        ((4, 5, 6), 0, r"w: expected length 3 on axis 0, got 4 "),
        ((6,), 1, r"w: expected 2 to 3 axes, 4 edges on axis 1 of the values' shape \(4, 5, 6\), got shape \(6,\)"),
        ((), -1, r"w: expected 1 to 3 axes, .*got shape \(\)"),
        ((5, 6), 0, r"w: expected 3 to 3 axes, .*got shape \(5, 6\)"),
        ((1, 4, 5, 5), -1, r"w: expected 1 to 3 axes, .*got shape \(1, 4, 5, 5\)"),
    ],
)
def test_shape_of_w(name: str, shape: tuple[int, ...], axis: int, message: str) -> None:
    refuses(ValueError, message, LINES[name], X, np.ones(shape), axis)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 6), r": expected length 5 on axis 1, got 6 \(shape \(4, 6\)\)"),
        ((2, 5), r": expected length 4 on axis 0, got 2 "),
        ((4, 5, 1), r": expected at most 2 axes, to broadcast to \(4, 5\), got shape \(4, 5, 1\)"),
    ],
)
def test_shape_of_initial(shape: tuple[int, ...], message: str) -> None:
    refuses(ValueError, "initial" + message, sgs.scan, X, W, initial=np.ones(shape))
    refuses(ValueError, r"initial\[0\]" + message, sgs.line_filter, X, W, initial=(np.ones(shape), None))
    refuses(ValueError, r"initial\[1\]" + message, sgs.line_filter, X, W, initial=(None, np.ones(shape)))


def test_initial_of_a_line_filter_is_a_pair() -> None:
    refuses(TypeError, r"initial: expected \(left, right\), got ndarray", sgs.line_filter, X, W, initial=np.ones(2))
    refuses(TypeError, r"initial: expected \(left, right\), got float", sgs.line_filter, X, W, initial=1.0)
    refuses(ValueError, r"initial: expected \(left, right\), got 1", sgs.line_filter, X, W, initial=(1.0,))
    refuses(ValueError, r"initial: expected \(left, right\), got 3", sgs.line_filter, X, W, initial=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("name", ["tree_aggregate", "tree_update"])
def test_root(name: str) -> None:
    for root in (6, -7):
        refuses(
            IndexError, rf"root: expected indices within lengths \(6,\), got \({root},\)", LINES[name], X, W, root=root
        )
    for other in (1.0, None, True, (1,)):
        refuses(TypeError, "root: expected an integer", LINES[name], X, W, root=other)


# ---- out


def with_out(out: Any) -> list[Callable[[], Any]]:
    calls: list[Callable[[], Any]] = [lambda f=f: f(X, W, out=out) for f in LINES.values()]
    return [*calls, lambda: sgs.semi_global_filter(X, out=out)]


def test_out() -> None:
    def readonly() -> np.ndarray:
        out = np.empty((4, 5, 6), np.float32)
        out.flags.writeable = False
        return out

    repeated = np.lib.stride_tricks.as_strided(np.empty(30, np.float32), (4, 5, 6), (0, 24, 4))
    windows = np.lib.stride_tricks.sliding_window_view(np.empty((4, 5, 11), np.float32), 6, 2, writeable=True)[:, :, 0]
    windows = np.lib.stride_tricks.as_strided(windows, (4, 5, 6), (220, 4, 4), writeable=True)
    for out, error, message in (
        ([[0.0]], TypeError, r"expected a NumPy array, got .*\(list\)"),
        (3.0, TypeError, r"expected a NumPy array, got 3.0 \(float\)"),
        (np.ma.masked_array(X.copy()), TypeError, r"expected a NumPy array, got .*\(MaskedArray\)"),
        (np.empty((4, 5, 6)), TypeError, "expected dtype float32, got float64"),
        (np.empty((4, 5, 6), np.float16), TypeError, "expected dtype float32, got float16"),
        (np.empty((4, 5, 6), np.dtype(np.float32).newbyteorder()), TypeError, "expected dtype float32, got [<>]f4"),
        (np.empty((4, 6, 5), np.float32), ValueError, r"expected shape \(4, 5, 6\), got \(4, 6, 5\)"),
        (np.empty((1, 4, 5, 6), np.float32), ValueError, r"expected shape \(4, 5, 6\), got \(1, 4, 5, 6\)"),
        (readonly(), ValueError, "expected a writeable array, got a read-only one"),
        (repeated, ValueError, r"expected elements apart in memory, got strides \(0, 24, 4\)"),
        (windows, ValueError, r"expected elements apart in memory, got strides \(220, 4, 4\)"),
    ):
        for call in with_out(out):
            refuses(error, "out: " + message, call)


def test_out_for_integers_is_float32() -> None:
    counts = np.ones((4, 5, 6), np.int32)
    refuses(TypeError, "out: expected dtype float32, got int32", sgs.semi_global_filter, counts, out=counts.copy())


# ---- the filter's axes and shapes

FILTERS: dict[str, Callable[..., Any]] = {
    "semi_global_filter": sgs.semi_global_filter,
    "attention_map": lambda guide, **kwargs: sgs.attention_map(guide, (0, 0), **kwargs),
}
on_filters = pytest.mark.parametrize("name", FILTERS)


@on_filters
def test_axes(name: str) -> None:
    f = FILTERS[name]
    error = np.exceptions.AxisError
    refuses(error, "axes: axis 3 is out of bounds", f, X, axes=(1, 3))
    refuses(error, "axes: axis -4 is out of bounds", f, X, axes=(-4, 1))
    refuses(error, "channel_axis: axis 3 is out of bounds", f, X, channel_axis=3)
    refuses(error, "channel_axis: axis -4 is out of bounds", f, X, channel_axis=-4)
    refuses(error, "channel_axis: axis 2 is out of bounds", f, X[0], channel_axis=2, axes=(0,))
    refuses(ValueError, r"axes: expected different axes, got axis 2 twice \(\(2, -1\)\)", f, X, axes=(2, -1))
    refuses(ValueError, r"axes: .* axis 0, which is the channel axis \(channel_axis=-3\)", f, X, axes=(0, 1))
    refuses(ValueError, r"axes: .* axis 1, which is the channel axis", f, X, axes=(1, 2), channel_axis=-2)
    refuses(ValueError, "axes: expected at least one axis, got none", f, X, axes=())
    for axes in (1.0, "01", (0.0, 1.0), (True, 2), {1, 2}):
        refuses(TypeError, "axes: expected an integer, got", f, X, axes=axes)
    for channel_axis in (1.0, "0", True, (0,)):
        refuses(TypeError, "channel_axis: expected an integer, got", f, X, channel_axis=channel_axis)
        refuses(TypeError, "channel_axis: expected an integer, got", f, X[0], channel_axis=channel_axis)


def test_axis_of_edge_weights() -> None:
    refuses(np.exceptions.AxisError, "axis: axis 3 is out of bounds", sgs.edge_weights, X, 3)
    refuses(np.exceptions.AxisError, "channel_axis: axis 5 is out of bounds", sgs.edge_weights, X, 1, channel_axis=5)
    refuses(ValueError, r"axis: .* axis 0, which is the channel axis \(channel_axis=-3\)", sgs.edge_weights, X, 0)
    refuses(ValueError, "axis: .* axis 2, which is the channel axis", sgs.edge_weights, X, -1, channel_axis=2)
    for axis in (1.0, (1,), None, True):
        refuses(TypeError, "axis: expected an integer, got", sgs.edge_weights, X, axis)
    refuses(TypeError, "channel_axis: expected an integer", sgs.edge_weights, X, 1, channel_axis="1")


@pytest.mark.parametrize(
    ("x", "guide", "channel_axis", "message"),
    [
        ((4, 5, 6), (3, 5, 7), -3, r"expected length 6 on axis 2, got 7 \(shape \(3, 5, 7\)\)"),
        ((4, 5, 6), (3, 1, 6), -3, r"expected length 5 on axis 1, got 1 "),
        ((4, 5, 6), (5, 7), -3, r"expected length 6 on axis 1, got 7 "),
        ((4, 5, 6), (6,), -3, r"expected axes that broadcast to \(5, 6\), got 1 "),
        ((4, 5, 6), (2, 3, 5, 6), -3, r"expected axes that broadcast to \(5, 6\) besides the channel axis 1, got 3 "),
        ((2, 4, 5, 6), (3, 4, 5, 6), -3, r"expected length 2 on axis 0, got 3 "),
        ((5, 6, 4), (5, 7, 3), -1, r"expected length 6 on axis 1, got 7 "),
        ((5, 6, 4), (6, 3), -1, r"expected length 5 on axis 0, got 6 "),
        ((5, 6), (3, 5, 7), -3, r"expected length 6 on axis 2, got 7 "),
        ((5, 6), (5, 7, 3), -1, r"expected length 6 on axis 1, got 7 "),
        ((5, 6), (5, 6, 3), -3, r"expected length 5 on axis 1, got 6 .*; pass channel_axis=-1"),
        ((5, 6), (2, 3, 5, 6), -3, r"expected axes that broadcast to \(5, 6\), got 4 "),
        ((5, 6), (3, 5, 6), None, r"expected axes that broadcast to \(5, 6\), got 3 "),
        ((2, 5, 6), (3, 5, 6), None, r"expected length 2 on axis 0, got 3 "),
        ((6,), (7,), -3, r"expected length 6 on axis 0, got 7 "),
    ],
)
def test_shape_of_the_guide(x: tuple[int, ...], guide: tuple[int, ...], channel_axis: int | None, message: str) -> None:
    refuses(
        ValueError, "guide: " + message, sgs.semi_global_filter, np.ones(x), np.ones(guide), channel_axis=channel_axis
    )


def test_channel_axis_of_a_guide_alone() -> None:
    refuses(
        np.exceptions.AxisError,
        "channel_axis: axis 3",
        sgs.semi_global_filter,
        X[0],
        np.ones((3, 5, 6)),
        channel_axis=3,
    )


def test_guides_of_an_attention_map() -> None:
    refuses(ValueError, "guide: expected 2 guides, one for each block, got 1", sgs.attention_map, [X], (0, 0), blocks=2)
    refuses(ValueError, "guide: expected 1 guides, one for each block, got 0", sgs.attention_map, (), (0, 0))
    other = np.ones((4, 5, 5))
    refuses(
        ValueError,
        r"guide\[1\]: expected length 6 on axis 2, got 5",
        sgs.attention_map,
        (X, other),
        (0, 0),
        blocks=2,
    )


@on_filters
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 5, 6), r"expected axes that broadcast to \(5, 6\), got 3 \(shape \(4, 5, 6\)\)"),
        ((5, 7), r"expected length 6 on axis 1, got 7 "),
        ((1, 6), r"expected length 5 on axis 0, got 1 "),
        ((6,), r"expected axes that broadcast to \(5, 6\), got 1 "),
        ((), r"expected axes that broadcast to \(5, 6\), got 0 "),
    ],
)
def test_shape_of_confidence(name: str, shape: tuple[int, ...], message: str) -> None:
    refuses(ValueError, "confidence: " + message, FILTERS[name], X, confidence=np.ones(shape))


@on_filters
def test_values_of_confidence(name: str) -> None:
    for bad in (-1.0, -1e-300, np.nan, np.inf, -np.inf):
        c = np.ones((5, 6))
        c[2, 3] = bad
        refuses(ValueError, "confidence: expected numbers >= 0, finite", FILTERS[name], X, confidence=c)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for bad in (-1.0, np.nan, np.inf):
            c = np.ones((5, 6), dtype)
            c[2, 3] = bad
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                refuses(ValueError, "confidence: expected numbers >= 0, finite", FILTERS[name], X, confidence=c)
    refuses(
        ValueError, "confidence: .*got values from -1 to 1", FILTERS[name], X, confidence=np.tile([-1, 0, 1], (5, 2))
    )
    # Finite in float64, but taken in the values' computing type.
    refuses(ValueError, "confidence: .*finite as float32", FILTERS[name], X, confidence=np.full((5, 6), 1e39))
    FILTERS[name](X.astype(np.float64), confidence=np.full((5, 6), 1e39))


@on_filters
@pytest.mark.parametrize("normalization", ["line", None])
def test_confidence_needs_cross(name: str, normalization: str | None) -> None:
    message = f"confidence: expected normalization='cross' with it, got normalization={normalization!r}"
    refuses(ValueError, message, FILTERS[name], X, confidence=np.ones((5, 6)), normalization=normalization)


# ---- numbers and names

WEIGHERS: dict[str, Callable[..., Any]] = {
    **FILTERS,
    "edge_weights": lambda guide, **k: sgs.edge_weights(guide, 1, **k),
}
on_weighers = pytest.mark.parametrize("name", WEIGHERS)


@on_weighers
def test_scale_and_step(name: str) -> None:
    f = WEIGHERS[name]
    for bad in (0, 0.0, -1.0, np.nan, np.inf, -np.inf, np.float32(-1), np.array(np.nan)):
        refuses(ValueError, "scale: expected finite numbers > 0, got", f, X, scale=bad)
    for bad in (-1.0, -1e-300, np.nan, np.inf, np.float16(-1)):
        refuses(ValueError, "step: expected finite numbers >= 0, got", f, X, step=bad)
    for argument in ("scale", "step"):
        for wrong in ("1", None, True, np.True_, 1j, np.array(True), np.array("1"), np.ones((2, 1)), b"1", {}):
            refuses(TypeError, f"{argument}: expected a real number, got", f, X, **{argument: wrong})
        refuses(TypeError, f"{argument}: expected a real number, got None", f, X, **{argument: (1.0, None)})
        refuses(TypeError, f"{argument}: expected a real number, got True", f, X, **{argument: [1.0, True]})
        refuses(ValueError, f"{argument}: expected a number within the range", f, X, **{argument: 10**400})
        for wrong in ((), (1.0, 1.0, 1.0), np.ones(3)):
            message = rf"{argument}: expected one number, or one for each of \d axes, got {len(wrong)}"
            refuses(ValueError, message, f, X, **{argument: wrong})


@on_filters
def test_one_bad_number_of_two(name: str) -> None:
    refuses(ValueError, "scale: expected finite numbers > 0, got -2", FILTERS[name], X, scale=(1.0, -2.0))
    refuses(ValueError, "scale: expected finite numbers > 0, got nan", FILTERS[name], X, scale=np.array([1.0, np.nan]))
    refuses(ValueError, "step: expected finite numbers >= 0, got -2", FILTERS[name], X, step=[-2, 0])


@on_weighers
def test_metric(name: str) -> None:
    choices = "'euclidean', 'cityblock', 'sqeuclidean'"
    for wrong in ("manhattan", "Euclidean", "", None, 2, ["euclidean"]):
        message = re.escape(f"metric: expected one of {choices}, got {wrong!r}")
        refuses(ValueError, message, WEIGHERS[name], X, metric=wrong)


@on_filters
def test_normalization(name: str) -> None:
    for wrong in ("none", "Cross", "row", True, 0, X):
        refuses(
            ValueError,
            "normalization: expected one of 'cross', 'line', None, got",
            FILTERS[name],
            X,
            normalization=wrong,
        )


@on_weighers
def test_heads(name: str) -> None:
    f = WEIGHERS[name]
    refuses(ValueError, "heads: expected a divisor of (x|guide)'s 4 channels, got 3", f, X, heads=3)
    refuses(ValueError, "heads: expected a divisor of (x|guide)'s 4 channels, got 8", f, X, heads=8)
    refuses(ValueError, "heads: expected a divisor of (x|guide)'s 1 channels, got 2", f, X, channel_axis=None, heads=2)
    for wrong in (0, -1):
        refuses(ValueError, f"heads: expected an integer >= 1, got {wrong}", f, X, heads=wrong)
    for other in (1.0, "1", True, None):
        refuses(TypeError, "heads: expected an integer, got", f, X, heads=other)


def test_heads_divide_both() -> None:
    guide = np.ones((3, 5, 6))
    refuses(
        ValueError, "heads: expected a divisor of guide's 3 channels, got 2", sgs.semi_global_filter, X, guide, heads=2
    )
    refuses(ValueError, "heads: expected a divisor of x's 4 channels, got 3", sgs.semi_global_filter, X, guide, heads=3)
    message = r"heads: expected a divisor of guide\[1\]'s 3 channels, got 2"
    refuses(ValueError, message, sgs.attention_map, (X, guide), (0, 0), blocks=2, heads=2)


@on_filters
def test_blocks(name: str) -> None:
    for wrong in (0, -1):
        refuses(ValueError, f"blocks: expected an integer >= 1, got {wrong}", FILTERS[name], X, blocks=wrong)
    for other in (1.0, "2", True, None):
        refuses(TypeError, "blocks: expected an integer, got", FILTERS[name], X, blocks=other)


def test_fill_value() -> None:
    for wrong in ("0", None, 1j, True, np.ones(1)):
        refuses(TypeError, "fill_value: expected a real number, got", sgs.semi_global_filter, X, fill_value=wrong)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda n, f=f: f(X, W, num_threads=n) for f in LINES.values()),
        *(lambda n, f=f: f(X, num_threads=n) for f in WEIGHERS.values()),
    ],
)
def test_num_threads(call: Callable[[Any], Any]) -> None:
    for wrong in (0, -2):
        refuses(ValueError, f"num_threads: expected an integer >= 1, got {wrong}", call, wrong)
    for other in (1.0, "1", True):
        refuses(TypeError, "num_threads: expected an integer, got", call, other)


def test_position() -> None:
    for wrong in ((5, 0), (0, 6), (-6, 0), (0, -7), (100, 100)):
        refuses(IndexError, r"position: expected indices within lengths \(5, 6\), got \(", sgs.attention_map, X, wrong)
    refuses(
        IndexError, r"position: expected indices within lengths \(6, 5\)", sgs.attention_map, X, (0, 5), axes=(2, 1)
    )
    refuses(IndexError, r"position: expected .* \(0, 6\)", sgs.attention_map, X[:, :0], (0, 0))
    for short in (0, (0,), (0, 0, 0), ()):
        refuses(ValueError, "position: expected 2 indices, one for each axis, got", sgs.attention_map, X, short)
    for other in ((0.0, 1.0), "00", None, (True, 0), np.zeros((2, 1), int), np.zeros(2)):
        refuses(TypeError, "position: expected an integer, got", sgs.attention_map, X, other)


# ---- before any work


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": -1.0},
        {"step": -1.0},
        {"metric": "l2"},
        {"normalization": "all"},
        {"heads": 3},
        {"blocks": 0},
        {"axes": (1, 1)},
        {"channel_axis": 7},
        {"guide": np.ones((1, 5, 7))},
        {"confidence": np.full((5, 6), -1.0)},
        {"confidence": np.ones((5, 6)), "normalization": "line"},
        {"fill_value": "0"},
        {"num_threads": 0},
    ],
)
def test_a_refused_filter_writes_nothing(bad: dict[str, Any]) -> None:
    out = np.full(X.shape, 7, np.float32)
    with pytest.raises((TypeError, ValueError)):
        sgs.semi_global_filter(X, out=out, **bad)
    assert (out == 7).all()
    own = X.copy()
    with pytest.raises((TypeError, ValueError)):
        sgs.semi_global_filter(own, out=own, **bad)
    assert (own == X).all()


@on_lines
def test_a_refused_line_writes_nothing(name: str) -> None:
    out = np.full(X.shape, 7, np.float32)
    extra = {"initial": "x"} if name in ("scan", "line_filter") else {"root": 99}
    for w, bad in ((np.ones(6), {}), (W, {"num_threads": 0}), (W, {"axis": 5}), (W, extra)):
        with pytest.raises((TypeError, ValueError, IndexError)):
            LINES[name](X, w, out=out, **bad)
    assert (out == 7).all()


# ---- what is not refused


def test_numbers_of_many_types() -> None:
    wanted = sgs.semi_global_filter(X, scale=(2.0, 4.0), step=0.5)
    for scale in ([2, 4], np.array([2, 4]), (np.float16(2), ml_dtypes.bfloat16(4)), (Fraction(2), np.array(4.0))):
        for step in (0.5, np.float32(0.5), np.array(0.5), [0.5, Fraction(1, 2)], np.longdouble(0.5)):
            assert (sgs.semi_global_filter(X, scale=scale, step=step) == wanted).all()
    wanted = sgs.semi_global_filter(X, axes=(1, 2), channel_axis=0, blocks=2, heads=2)
    whole = {"axes": np.array([1, 2]), "channel_axis": np.int8(0), "blocks": np.array(2), "heads": np.uint64(2)}
    assert (sgs.semi_global_filter(X, **whole) == wanted).all()
    assert np.isnan(sgs.semi_global_filter(X, confidence=np.zeros((5, 6)), fill_value=np.nan)).all()


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_of_many_types() -> None:
    assert sgs.scan([1, 2], [0.5]).tolist() == [1.0, 2.5]
    assert sgs.scan((1.0, 2.0), [[1, 0], [1, 1]][1][:1], initial=3).tolist() == [4.0, 6.0]
    assert type(sgs.semi_global_filter(np.matrix([[1.0, 2.0]]))) is np.ndarray
    out = np.matrix([[0.0, 0.0]])
    assert sgs.scan(np.array([[1.0, 2.0]]), [1.0], out=out) is out
    assert out.tolist() == [[1.0, 3.0]]


# ---- the warning


@pytest.mark.parametrize("shape", [(20, 30, 3), (5, 5, 4), (4, 5, 3)])
def test_image_under_the_default_channel_axis(shape: tuple[int, ...]) -> None:
    image = np.ones(shape)
    for call in (
        lambda: sgs.semi_global_filter(image),
        lambda: sgs.attention_map(image, (0, 0)),
        lambda: sgs.edge_weights(image, 1),
    ):
        with pytest.warns(UserWarning, match="channel_axis=-1") as caught:
            call()
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgs.semi_global_filter(image, channel_axis=-1)
        sgs.semi_global_filter(image, channel_axis=0)
        sgs.semi_global_filter(image, axes=(1, 2))
        sgs.attention_map(image, (0, 0), channel_axis=-1)
        sgs.edge_weights(image, 1, channel_axis=0)


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30), (20, 30, 5), (3, 4, 3), (2, 20, 30, 3), (5, 3, 3)])
def test_other_arrays_do_not_warn(shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgs.semi_global_filter(np.ones(shape))
        sgs.attention_map(np.ones(shape), (0, 0))
