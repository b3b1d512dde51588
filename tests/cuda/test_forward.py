"""Every forward function on the device against the float64 definitions: shapes, types, layouts, cut edges, NaN."""

from typing import Any

import numpy as np
import pytest
from harness import (
    BFLOAT16,
    CROSS,
    CROSS_SUM,
    FLOATS,
    LINE,
    METRICS,
    NONE,
    ROOT,
    Device,
    OnDevice,
    Out,
    checking,
    load_file,
)

reference = load_file(ROOT / "src/sgs/reference.py", "sgs_reference_for_cuda")
F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
ROUNDING = {F16: (2.0**-11, 2.0**-25), BFLOAT16: (2.0**-8, 2.0**-134)}


def computing(dtype: Any) -> np.dtype:
    return F64 if dtype == F64 else F32


def values(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def edges(rng: np.random.Generator, shape: Any, dtype: Any = F32) -> np.ndarray:
    """Weights from cut to 1."""
    w = np.where(rng.uniform(size=shape) < 0.5, rng.uniform(0, 1, shape), 1 - rng.uniform(0, 0.05, shape))
    w[rng.uniform(size=shape) < 0.05] = 0
    return w.astype(dtype)


def fewer(shape: Any, axis: int) -> tuple[int, ...]:
    return tuple(max(n - 1, 0) if d == axis else n for d, n in enumerate(shape))


def one_on(shape: Any, *axes: int) -> tuple[int, ...]:
    return tuple(1 if d in axes else n for d, n in enumerate(shape))


def fresh(shape: Any, dtype: Any) -> np.ndarray:
    return np.full(shape, np.nan, dtype=dtype)


def close(y: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, n: int, dtype: Any) -> None:
    """|y - expected| <= 2 n eps magnitude, plus one rounding for half types; NaN and Inf where expected."""
    if not checking():
        return
    eps = 2.0**-53 if dtype == F64 else 2.0**-24
    y = y.astype(np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    bound = 2 * (n + 4) * eps * magnitude + 1e-300
    if dtype in ROUNDING:
        relative, absolute = ROUNDING[dtype]
        bound = bound + relative * (np.abs(expected) + bound) + absolute
    error = np.abs(y - expected)
    bad = finite & ~(error <= bound)
    assert not bad.any(), f"{bad.sum()} of {y.size} beyond the bound, first at {tuple(np.argwhere(bad)[0])}"


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "reversed":
        return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[(slice(None, None, -1),) * a.ndim]
    if layout == "stepped":
        base = np.full([2 * n + 1 for n in a.shape], 77).astype(a.dtype)
        view = base[tuple(slice(1, None, 2) for _ in a.shape)]
        view[...] = a
        return view
    if layout == "channels_last":
        axis = max(a.ndim - 3, 0)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, axis, -1)), -1, axis)
    return np.ascontiguousarray(a).reshape(a.shape)


# Odd sizes, one chunk and several, single elements, more lines than lanes; the axis.
LINES = [
    ((1,), 0),
    ((2,), 0),
    ((2, 1, 3), 1),
    ((3, 7, 5), 1),
    ((33, 17), 1),
    ((5, 33), 0),
    ((2, 97, 3), 1),
    ((3, 150), 1),
    ((300, 2), 0),
    ((2, 3, 2, 37), 2),
    ((2, 20, 64), 1),
    ((2, 90, 40), 1),
    ((4099,), 0),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), LINES)
def test_lines(device: Device, shape: tuple[int, ...], axis: int, dtype: Any) -> None:
    rng = np.random.default_rng([*shape, axis])
    x, w = values(rng, shape, dtype), edges(rng, fewer(shape, axis), computing(dtype))
    left, right = (values(rng, one_on(shape, axis), dtype) for _ in range(2))
    flat_left, flat_right = left.take(0, axis), right.take(0, axis)
    n, y = shape[axis], fresh(shape, dtype)
    big = [np.abs(a) for a in (x, flat_left, flat_right)]
    for reverse in (False, True):
        device.call("scan", x, w, Out(y), axis, reverse, left)
        close(
            y,
            reference.scan(x, w, axis, reverse=reverse, initial=flat_left),
            reference.scan(big[0], w, axis, reverse=reverse, initial=big[1]),
            n,
            dtype,
        )
    device.call("line_filter", x, w, Out(y), axis, left, right)
    most = reference.line_filter(big[0], w, axis, initial=(big[1], big[2]))
    close(y, reference.line_filter(x, w, axis, initial=(flat_left, flat_right)), most, n, dtype)
    for root in {0, n // 2, n - 1}:
        a = fresh(shape, dtype)
        device.call("tree_aggregate", x, w, Out(a), axis, root)
        close(a, reference.tree_aggregate(x, w, axis, root=root), most, n, dtype)
        device.call("tree_update", a, w, Out(y), axis, root)
        magnitude = reference.tree_update(np.abs(a), w, axis, root=root)
        close(y, reference.tree_update(a, w, axis, root=root), magnitude, n, dtype)


@pytest.mark.parametrize("layout", ("fortran", "reversed", "stepped", "channels_last"))
@pytest.mark.parametrize("shared", (False, True), ids=("own", "shared"))
@pytest.mark.parametrize("axis", (0, 1, 2, 3))
def test_layouts(device: Device, layout: str, shared: bool, axis: int) -> None:
    """Any strides of every operand, weights of their own type, broadcast or not; the result may be written over x."""
    shape = (2, 3, 19, 35)
    rng = np.random.default_rng(axis)
    x = laid_out(values(rng, shape, F32), layout)
    w = laid_out(edges(rng, one_on(fewer(shape, axis), *((1,) if shared and axis != 1 else ())), BFLOAT16), layout)
    left = laid_out(values(rng, one_on(shape, axis), F16), layout)
    expected = reference.line_filter(x, w, axis, initial=(left.take(0, axis), None))
    most = reference.line_filter(np.abs(x), w, axis, initial=(np.abs(left).take(0, axis), None))
    y = laid_out(fresh(shape, F32), "stepped")
    device.call("line_filter", x, w, Out(y), axis, left, None)
    close(y, expected, most, shape[axis], F32)
    device.call("line_filter", x, w, Out(x), axis, left, None)
    close(x, expected, most, shape[axis], F32)


@pytest.mark.parametrize("shape", ((0, 3, 4), (3, 0, 4), (2, 3, 0)))
def test_empty(device: Device, shape: tuple[int, ...]) -> None:
    x, w = np.empty(shape, F32), np.empty(fewer(shape, 1), F32)
    y = np.empty(shape, F32)
    device.call("scan", x, w, Out(y), 1, False, None)
    device.call("semi_global_filter", x, [w], Out(y), [1], CROSS, True, None, 0.0, None)
    device.call("edge_weights", x, Out(np.empty(one_on(fewer(shape, 1), 0), F32)), 0, 1, 1.0, 0.0, 0, None)
    w_bar = fresh(one_on(fewer(shape, 1), 0), F32)
    device.call("line_filter_backward", x, w_bar, None, None, y, None, Out(w_bar), None, None, 1)
    np.testing.assert_array_equal(w_bar, 0)


@pytest.mark.parametrize("axis_length", (9, 97, 400))
def test_cut_edges_stop_nan(device: Device, axis_length: int) -> None:
    """NaN and Inf reach all of their line up to a cut edge and nothing beyond, however small the weights are."""
    rng = np.random.default_rng(axis_length)
    shape = (5, axis_length)
    x, w = values(rng, shape, F32), rng.uniform(1e-6, 1e-3, fewer(shape, 1)).astype(F32)
    x[0, 4], x[1, axis_length // 2], x[2, -1] = np.nan, np.inf, -np.inf
    w[3] *= 1e2
    w[:, axis_length // 3] = 0
    w[1, axis_length // 3] = 1e-30
    w[3, 0] = np.nan
    y = fresh(shape, F32)
    for name, tail in (("line_filter", (None, None)), ("scan", (False, None)), ("scan", (True, None))):
        device.call(name, x, w, Out(y), 1, *tail)
        if name == "line_filter":
            expected = reference.line_filter(x, w, 1)
        else:
            expected = reference.scan(x, w, 1, reverse=tail[0])
        if checking():
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(y[~finite], expected[~finite])
            np.testing.assert_allclose(y[finite], expected[finite], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", (500, 2100))
def test_growing_weights(device: Device, n: int) -> None:
    """Products of weights that leave the range of the type, up or down, while what they carry does not."""
    w = np.where(np.arange(n - 1) % 200 < 100, 2.0**2, 2.0**-2).astype(F32)
    x = np.zeros((3, n), F32)
    x[0, 0] = 2.0**-100
    x[1, 250], x[0, 460] = 1.0, 2.0**20  # behind the cut, for all later chunks
    x[2, 0], w[450] = 2.0**-90, 0.0
    y = fresh(x.shape, F32)
    device.call("scan", x, w, Out(y), 1, False, None)
    expected = reference.scan(x, w, 1)
    if checking():
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-37)


def test_weights_on_the_way(device: Device) -> None:
    """Products of weights that nearly vanish or overflow within a chunk and are near 1 at its end, with all their digits."""
    n = 192  # chunks of 64
    w, x = np.ones((2, n - 1), F32), np.zeros((2, n), F32)
    w[0, 63:95] = w[1, 95:127] = 0.05
    w[1, 63:95] = w[0, 95:127] = 20
    x[0, 0], x[1, 0] = 2.0**60, 2.0**-60
    y = fresh(x.shape, F32)
    for reverse in (False, True):
        device.call("scan", x, w, Out(y), 1, reverse, None)
        expected = reference.scan(x, w, 1, reverse=reverse)
        if checking():
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=0)
        x, w = (np.ascontiguousarray(a[:, ::-1]) for a in (x, w))


def test_huge_strides(device: Device) -> None:
    """Offsets beyond 2^31 elements, over memory that is never touched in between."""
    if not hasattr(device.module, "set_order"):
        pytest.skip("needs memory that only exists where it is touched")
    import mmap

    far = 2**31 + 1001
    no_reserve = 0x4000  # Linux's MAP_NORESERVE, which mmap names from Python 3.13 on
    rng = np.random.default_rng(0)
    with mmap.mmap(-1, 2 * (far + 64), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve) as memory:
        base = np.frombuffer(memory, F16)
        x = np.ndarray((2, 37), F16, buffer=base, strides=(2 * far, 2))
        x[...] = values(rng, x.shape, F16)
        address = base.__array_interface__["data"][0]
        given = (address, 0, x.shape, (far, 1))
        for axis in (0, 1):
            w, y = edges(rng, fewer(x.shape, axis)), fresh(x.shape, F16)
            device.call("line_filter", given, w, Out(y), axis, None, None)
            most = reference.line_filter(np.abs(x), w, axis)
            close(y, reference.line_filter(x, w, axis), most, 37, F16)
        del x, base


def test_many_blocks(opened: Device) -> None:
    """More blocks than the 65,535 of a grid's second dimension."""
    if hasattr(opened.module, "set_order") or not checking():
        pytest.skip("minutes where blocks run one after the other")
    count = 32 * 70_000
    x = np.ones((count, 2), np.float16)
    y = fresh(x.shape, np.float16)
    opened.call("scan", x, np.ones((1, 1), F32), Out(y), 1, False, None)
    np.testing.assert_array_equal(y, [[1, 2]] * count)


def test_line_of_a_million(opened: Device) -> None:
    """The longest line that is promised; planes that large, and derivatives, are in large.py."""
    if not checking():
        pytest.skip("seconds, and minutes under a sanitizer")
    n = 10**6
    rng = np.random.default_rng(n)
    x, w, y = values(rng, (n,), F32), edges(rng, (n - 1,)), fresh((n,), F32)
    opened.call("line_filter", x, w, Out(y), 0, None, None)

    def from_before(v: np.ndarray, weights: np.ndarray) -> np.ndarray:
        f, out = 0.0, [0.0]
        for value, weight in zip(v[:-1].tolist(), weights.tolist(), strict=True):
            f = weight * (value + f)
            out.append(f)
        return np.array(out)

    wide = x.astype(np.float64)
    expected, most = (v + from_before(v, w) + from_before(v[::-1], w[::-1])[::-1] for v in (wide, np.abs(wide)))
    close(y, expected, most, 1000, F32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("metric", range(3), ids=METRICS)
@pytest.mark.parametrize(("shape", "axis", "heads"), [((4, 5, 7), 1, 2), ((3, 2, 33), 2, 1), ((6, 1, 4), 1, 3)])
def test_edge_weights(device: Device, shape: tuple[int, ...], axis: int, heads: int, metric: int, dtype: Any) -> None:
    rng = np.random.default_rng([*shape, axis])
    g = values(rng, shape, dtype)
    g[:, 0, 0] = g[:, -1, -1]
    w = fresh((heads, *fewer(shape, axis)[1:]), computing(dtype))
    scale, step = 0.75, 0.25
    options = {"channel_axis": 0, "metric": METRICS[metric], "step": step, "heads": heads}
    for s, t in ((scale, step), (OnDevice(scale, F64), OnDevice(step, F16))):
        device.call("edge_weights", g, Out(w), 0, axis, s, t, metric, None)
        if checking():
            expected = reference.edge_weights(g, axis, scale, **options)
            np.testing.assert_allclose(w, expected, rtol=1e-12 if dtype == F64 else 2e-5, atol=1e-38)
    c = (rng.uniform(size=shape[1:]) < 0.5).astype(dtype)
    g[:, c == 0] = np.nan
    device.call("edge_weights", g, Out(w), 0, axis, scale, step, metric, c)
    missing = np.broadcast_to(c == 0, shape)
    flat = reference.edge_weights(np.where(missing, 0, g), axis, scale, **options)
    at = np.moveaxis(missing[:heads], axis, 0)
    end = np.moveaxis(at[1:] | at[:-1], 0, axis)
    if checking():
        np.testing.assert_allclose(w[~end], flat[~end], rtol=1e-4)
        np.testing.assert_allclose(w[end], np.exp(-step / scale), rtol=1e-6)


# Whole planes, planes of several tiles, narrow ones that go line by line; batch and channels; channels last.
PLANES = [
    ((3, 7, 7), (1, 2), "c"),
    ((2, 1, 1), (1, 2), "c"),
    ((2, 33, 5), (1, 2), "c"),
    ((2, 3, 17, 19), (2, 3), "channels_last"),
    ((2, 97, 97), (2, 1), "c"),
    ((1, 130, 40), (1, 2), "fortran"),
    ((2, 41, 150), (1, 2), "reversed"),
    ((1, 300, 3), (1, 2), "stepped"),
    ((1, 600, 20), (1, 2), "c"),
]


def block_of(
    x: np.ndarray, weights: list[np.ndarray], axes: Any, normalization: int, c: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """One block (7), (8) and its support from given weights, in float64."""
    x = x.astype(np.float64)
    trusted = x if c is None else np.where(c == 0, 0, c * np.where(c == 0, 0, x))
    one = np.ones(one_on(x.shape, 0)) if c is None else np.broadcast_to(c, one_on(x.shape, 0)).astype(np.float64)
    others = [reference._from_others(trusted, w, a) for w, a in zip(weights, axes, strict=True)]
    counts = [reference._from_others(one, w, a) for w, a in zip(weights, axes, strict=True)]
    if normalization == NONE:
        return sum(trusted + o for o in others), one
    if normalization == LINE:
        return sum((trusted + o) / (1 + s) for o, s in zip(others, counts, strict=True)), one
    support = one + sum(counts)
    total = trusted + sum(others)
    return total if normalization == CROSS_SUM else total / np.where(support == 0, 1, support), support


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", ("none", "line", "cross", "cross_sum", "confidence"))
@pytest.mark.parametrize(("shape", "axes", "layout"), PLANES)
def test_semi_global_filter(
    device: Device, shape: tuple[int, ...], axes: tuple[int, int], layout: str, case: str, dtype: Any
) -> None:
    rng = np.random.default_rng(shape)
    if hasattr(device.module, "set_shared_limit") and shape[-1] == 97 and case == "none":
        device.module.set_shared_limit(48 * 1024)  # as if the plane did not fit
    x = laid_out(values(rng, shape, dtype), layout)
    weights = [edges(rng, one_on(fewer(shape, a), 0), computing(dtype)) for a in axes]
    c = None
    if case == "confidence":
        c = np.where(rng.uniform(size=shape[1:]) < 0.6, 0, rng.uniform(size=shape[1:])).astype(dtype)
        c[..., :1] = 0
        if shape == (3, 7, 7):
            c[...] = 0
        x[np.broadcast_to(c == 0, shape)] = np.nan
    code = {"none": NONE, "line": LINE, "cross_sum": CROSS_SUM}.get(case, CROSS)
    residual = case != "cross_sum"
    y, support = fresh(shape, dtype), fresh(one_on(shape, 0), computing(dtype))
    tail = (code, residual, c, 7.0, Out(support) if code == CROSS else None)
    device.call("semi_global_filter", x, weights, Out(y), list(axes), *tail)
    expected, s = block_of(x, weights, axes, code, c)
    most, _ = block_of(np.abs(x), weights, axes, code, c)
    held = x.astype(np.float64) if c is None else np.where(c == 0, 0, x.astype(np.float64))
    if code == CROSS:
        close(support, s, s, sum(shape), computing(dtype))
        expected = np.where(s == 0, 7.0, expected)
    if residual:
        expected, most = expected + held, most + np.abs(held)
    close(y, expected, most, 2 * sum(shape), dtype)
    if layout == "c":  # over x itself, bit for bit the same
        device.call("semi_global_filter", x, weights, Out(x), list(axes), *tail)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("side", (50, 140))
def test_nan_in_planes(device: Device, side: int) -> None:
    """Cut edges stop NaN in planes and their tiles; products too small for any number do not, and hold back all else."""
    shape = (1, side, side)
    rng = np.random.default_rng(side)
    for least, cuts in ((0.5, True), (1e-25, True), (1e-25, False)):
        x = np.ones(shape, F32)
        weights = [rng.choice([least, 0.9], fewer(shape, a)).astype(F32) for a in (1, 2)]
        row, column = side // 2, side // 2 + 1
        x[0, row, column] = np.nan
        nan = np.zeros(shape, bool)
        nan[0, :, column] = nan[0, row] = True
        if cuts:
            weights[0][0, 4, column] = weights[0][0, side - 4, column] = 0
            weights[1][0, row, 2] = weights[1][0, row, side - 6] = 0
            nan[0, :5, column] = nan[0, side - 3 :, column] = nan[0, row, :3] = nan[0, row, side - 5 :] = False
        for code in (NONE, CROSS_SUM):
            y = fresh(shape, F32)
            device.call("semi_global_filter", x, weights, Out(y), [1, 2], code, False, None, 0.0, None)
            if checking():
                np.testing.assert_array_equal(np.isnan(y), nan)
            expected, _ = block_of(x, weights, [1, 2], code, None)
            close(y, expected, expected, 2 * side, F32)


def test_across_tiles(device: Device) -> None:
    """What crosses whole tiles of a plane, three each way, has lost to the edges within and between them."""
    shape = (1, 140, 150)
    rng = np.random.default_rng(3)
    x = np.zeros(shape, F32)
    x[0, 0, 0] = x[0, -1, -1] = x[0, 0, -1] = 1
    weights = [rng.uniform(0.9, 1, fewer(shape, a)).astype(F32) for a in (1, 2)]
    y = fresh(shape, F32)
    device.call("semi_global_filter", x, weights, Out(y), [1, 2], NONE, False, None, 0.0, None)
    expected, _ = block_of(x, weights, [1, 2], NONE, None)
    close(y, expected, expected, sum(shape), F32)


# One strip of columns and several, the layout of x, KiB of shared memory: whole planes, then tiles.
LINE_PLANES = [
    ((9, 7), "c", 48),
    ((33, 65), "channels_last", 48),
    ((97, 64), "c", 227),
    ((97, 64), "fortran", 48),
    ((70, 131), "reversed", 48),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("sides", "layout", "shared"), LINE_PLANES)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_line_in_planes(device: Device, sides: tuple[int, int], layout: str, shared: int, dtype: Any) -> None:
    """Two heads, each divided along each axis by its own support; NaN and Inf go as far as the cut edges."""
    if hasattr(device.module, "set_shared_limit"):
        device.module.set_shared_limit(shared * 1024)
    shape, axes = (3, 2, *sides), (2, 3)
    rng = np.random.default_rng(sides)
    x = laid_out(values(rng, shape, dtype), layout)
    weights = [edges(rng, one_on(fewer(shape, a), 0), computing(dtype)) for a in axes]
    x[0, 0, 3, 5], x[1, 1, -1, 2], x[2, 0, 0, -1] = np.nan, np.inf, -np.inf
    x[2, 1, 4, 4], x[2, 1, 4, 6] = np.inf, -np.inf
    weights[1][0, 0, sides[0] // 2, 1] = np.nan
    for residual in (False, True):
        y = fresh(shape, dtype)
        device.call("semi_global_filter", x, weights, Out(y), list(axes), LINE, residual, None, 0.0, None)
        expected, _ = block_of(x, weights, axes, LINE, None)
        most, _ = block_of(np.abs(x), weights, axes, LINE, None)
        wide = x.astype(np.float64) if residual else np.zeros(shape)
        close(y, expected + wide, most + np.abs(wide), 2 * sum(sides), dtype)
    device.call("semi_global_filter", x, weights, Out(x), list(axes), LINE, True, None, 0.0, None)  # over x itself
    np.testing.assert_array_equal(x.astype(F64), y.astype(F64))


def test_line_keeps_no_sums(device: Device) -> None:
    """Both axes at once: beside the reciprocals of the support, nothing is kept in memory."""
    x = np.ones((16, 33, 35), F16)
    weights = [np.ones(one_on(fewer(x.shape, a), 0), F32) for a in (1, 2)]
    y = fresh(x.shape, F16)
    need = device.call("semi_global_filter", x, weights, Out(y), [1, 2], LINE, False, None, 0.0, None)
    np.testing.assert_array_equal(y, 2)
    assert need < 4 * x.size


@pytest.mark.parametrize("axes", ((1,), (3, 1, 2), (0, 1, 2, 3)))
@pytest.mark.parametrize("code", (NONE, LINE, CROSS))
def test_axes(device: Device, axes: tuple[int, ...], code: int) -> None:
    shape = (2, 5, 34, 33)
    rng = np.random.default_rng(len(axes))
    x = values(rng, shape, F16)
    weights = [edges(rng, fewer(shape, a)) for a in axes]
    y, support = fresh(shape, F16), fresh(shape, F32)
    device.call(
        "semi_global_filter",
        x,
        weights,
        Out(y),
        list(axes),
        code,
        False,
        None,
        0.0,
        Out(support) if code == CROSS else None,
    )
    wide = [np.broadcast_to(w, fewer(shape, a)) for w, a in zip(weights, axes, strict=True)]
    ones, trusted = np.ones(shape), x.astype(np.float64)
    others = [reference._from_others(trusted, w, a) for w, a in zip(wide, axes, strict=True)]
    counts = [reference._from_others(ones, w, a) for w, a in zip(wide, axes, strict=True)]
    if code == NONE:
        expected = sum(trusted + o for o in others)
    elif code == LINE:
        expected = sum((trusted + o) / (1 + s) for o, s in zip(others, counts, strict=True))
    else:
        expected = (trusted + sum(others)) / (1 + sum(counts))
        close(support, 1 + sum(counts), 1 + sum(counts), sum(shape), F32)
    close(y, expected, np.abs(expected) + 4 * len(axes) * 40, sum(shape), F16)


@pytest.mark.parametrize(("n", "dtype"), ((37, F32), (37, F16), (150, F16)), ids=str)
def test_confidence_along_one_axis(device: Device, n: int, dtype: Any) -> None:
    """A line without any support gets the fill value, in a filter that has no planes; confidence has a type of its own."""
    rng = np.random.default_rng(0)
    x, w = values(rng, (3, 4, n), F32), edges(rng, (1, 4, n - 1))
    c = rng.uniform(size=(1, 4, n)).astype(dtype)
    c[:, 1] = 0
    c[:, 2, ::2] = 0
    y, support = fresh(x.shape, F32), fresh(c.shape, F32)
    device.call("semi_global_filter", x, [w], Out(y), [2], CROSS, False, c, 7.0, Out(support))
    expected, s = block_of(x, [w], [2], CROSS, c)
    most, _ = block_of(np.abs(x), [w], [2], CROSS, c)
    close(support, s, s, n, F32)
    close(y, np.where(s == 0, 7.0, expected), most, 2 * n, F32)


@pytest.mark.parametrize("code", (LINE, CROSS))
def test_orders_agree(opened: Device, code: int) -> None:
    """The same bits in every order of threads and blocks."""
    if not hasattr(opened.module, "set_order"):
        pytest.skip("the device has an order of its own")
    rng = np.random.default_rng(0)
    x = values(rng, (3, 70, 90), F32)
    weights = [edges(rng, one_on(fewer(x.shape, a), 0)) for a in (1, 2)]
    results = []
    for order in (0, 1, 2):
        opened.module.set_order(order)
        y = fresh(x.shape, F32)
        opened.call("semi_global_filter", x, weights, Out(y), [1, 2], code, True, None, 0.0, None)
        results.append(y)
    opened.module.set_order(0)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_refusals(opened: Device) -> None:
    x = np.ones(3, F32)
    with pytest.raises(TypeError, match="address"):
        opened.module.scan(x, x, x, 0, False, None, 0, None)
