"""Every derivative on the device against automatic differentiation of the plain definitions."""

from typing import Any

import numpy as np
import pytest
from harness import CROSS, CROSS_SUM, FLOATS, LINE, METRICS, NONE, ROOT, Device, OnDevice, Out, checking, load_file
from test_forward import F16, F32, F64, computing, edges, fewer, fresh, laid_out, one_on, values

if checking():
    torch = pytest.importorskip("torch")
    definitions = load_file(ROOT / "tests/torch_reference.py", "torch_reference_for_cuda")


def leaf(a: Any) -> Any:
    return torch.tensor(np.array(a, dtype=np.float64, order="C"), requires_grad=True)


def backward(y: Any, y_bar: np.ndarray) -> None:
    (y * torch.tensor(y_bar.astype(np.float64))).sum().backward()


def near(bar: np.ndarray, wanted: Any, dtype: Any) -> None:
    """Sums of a few thousand terms of order 1 in the computing type, rounded to bar's."""
    want = np.zeros(bar.shape) if wanted.grad is None else wanted.grad.numpy().reshape(bar.shape)
    tolerance = 1e-11 if dtype == F64 else 1e-4
    rounding = {2: 2.0**-7 if bar.dtype.kind == "V" or bar.dtype.name == "bfloat16" else 2.0**-10}.get(bar.itemsize, 0)
    error = np.abs(bar.astype(np.float64) - want)
    limit = (tolerance + rounding) * (1 + np.abs(want)) + tolerance * np.abs(want).max(initial=0)
    assert np.isfinite(bar.astype(np.float64)).all() and (error <= limit).all(), (error / limit).max()


# What the weights broadcast along: nothing, channels, everything but the axis; one chunk or several; a few lines or many.
CASES = [
    ((3, 7, 5), 1, ()),
    ((3, 7, 5), 1, (0, 2)),
    ((1, 1), 1, ()),
    ((40, 3), 0, (1,)),
    ((2, 130), 1, ()),
    ((250, 3), 0, (1,)),
    ((70, 40, 3), 1, (0,)),
    ((90, 75), 1, (0,)),
    ((5, 2, 33), 2, (0,)),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "axis", "shared"), CASES)
def test_lines(device: Device, shape: tuple[int, ...], axis: int, shared: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng([*shape, axis])
    x, y_bar = values(rng, shape, dtype), laid_out(values(rng, shape, dtype), "reversed")
    w = edges(rng, one_on(fewer(shape, axis), *shared), dtype)
    left, right = values(rng, one_on(shape, axis), dtype), values(rng, (1,) * len(shape), dtype)
    for name in ("scan", "reverse", "line_filter"):
        x_bar, w_bar = laid_out(fresh(shape, dtype), "stepped"), fresh(w.shape, dtype)
        left_bar, right_bar = fresh(left.shape, computing(dtype)), fresh(right.shape, dtype)
        if name == "line_filter":
            device.call(
                "line_filter_backward",
                x,
                w,
                left,
                right,
                y_bar,
                Out(x_bar),
                Out(w_bar),
                Out(left_bar),
                Out(right_bar),
                axis,
            )
        else:
            flags = (axis, name == "reverse")
            device.call("scan_backward", x, w, left, y_bar, Out(x_bar), Out(w_bar), Out(left_bar), *flags)
        only = fresh(shape, dtype)
        device.call("line_filter_backward", x, w, None, None, y_bar, Out(only), None, None, None, axis)
        if not checking():
            continue
        xt, wt, lt, rt = (leaf(a) for a in (x, w, left, right))
        ends = (lt.squeeze(axis), rt.squeeze(axis))
        if name == "line_filter":
            y = definitions.line_filter(xt, wt, axis, initial=ends)
        else:
            y = definitions.scan(xt, wt, axis, reverse=name == "reverse", initial=ends[0])
        backward(y, y_bar)
        near(x_bar, xt, dtype)
        near(w_bar, wt, dtype)
        near(left_bar, lt, dtype)
        if name == "line_filter":
            near(right_bar, rt, dtype)
            near(only, xt, dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("metric", range(3), ids=METRICS)
@pytest.mark.parametrize(("shape", "axis", "heads"), [((4, 5, 7), 1, 2), ((3, 2, 33), 2, 1), ((6, 1, 4), 1, 3)])
def test_edge_weights(device: Device, shape: tuple[int, ...], axis: int, heads: int, metric: int, dtype: Any) -> None:
    rng = np.random.default_rng([*shape, axis])
    g = values(rng, shape, dtype)
    g[:, -1, :] = g[:, 0, :]
    w_bar = values(rng, (heads, *fewer(shape, axis)[1:]), computing(dtype))
    g_bar, scale_bar, step_bar = fresh(shape, dtype), fresh(1, computing(dtype)), fresh((), computing(dtype))
    outs = (Out(g_bar), Out(scale_bar), Out(step_bar))
    device.call("edge_weights_backward", g, w_bar, *outs, 0, axis, 0.75, OnDevice(0.25), metric, None)
    c = (rng.uniform(size=shape[1:]) < 0.5).astype(dtype)
    masked = fresh(shape, dtype)
    device.call("edge_weights_backward", g, w_bar, Out(masked), None, None, 0, axis, 0.75, 0.25, metric, c)
    if not checking():
        return
    gt, st, tt = leaf(g), leaf(0.75), leaf(0.25)
    w = definitions.edge_weights(gt, axis, st, channel_axis=0, metric=METRICS[metric], step=tt, heads=heads)
    backward(w, w_bar)
    near(g_bar, gt, dtype)
    near(scale_bar, st, dtype)
    near(step_bar, tt, dtype)
    assert (masked[:, c == 0] == 0).all()


def test_many_edges(device: Device) -> None:
    """Derivatives by scale and step that come in parts from many blocks."""
    rng = np.random.default_rng(0)
    g, w_bar = values(rng, (1, 96, 101), F32), values(rng, (1, 96, 100), F32)
    scale_bar, step_bar = fresh(1, F32), fresh(1, F32)
    device.call("edge_weights_backward", g, w_bar, None, Out(scale_bar), Out(step_bar), 0, 2, 1.5, 0.5, 1, None)
    if checking():
        gt, st, tt = leaf(g), leaf(1.5), leaf(0.5)
        backward(definitions.edge_weights(gt, 2, st, channel_axis=0, metric=METRICS[1], step=tt), w_bar)
        near(scale_bar, st, F32)
        near(step_bar, tt, F32)


def test_equal_neighbours_and_infinite_distances(device: Device) -> None:
    """The derivative of a distance of 0 is 0, and nothing comes from an edge that an infinite distance cuts."""
    one = np.array([[1, 1, 3, np.inf, 2, 2]], F32)
    two = np.concatenate((one, np.zeros_like(one)))  # of one channel the first two metrics are the same
    for g in (one, two):
        for metric in range(3):
            g_bar, scale_bar = fresh(g.shape, F32), fresh(1, F32)
            w_bar = np.ones((1, 5), F32)
            out = (Out(g_bar), Out(scale_bar), None)
            device.call("edge_weights_backward", g, w_bar, *out, 0, 1, 1.0, 0.0, metric, None)
            if checking():
                slope = np.exp(-2.0 if metric < 2 else -4.0) * (1.0 if metric < 2 else 4.0)
                np.testing.assert_allclose(g_bar[0], [0, slope, -slope, 0, 0, 0], rtol=1e-5)
                np.testing.assert_array_equal(g_bar[1:], 0)
                assert np.isfinite(scale_bar).all()


def check_filter(
    device: Device,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    case: str,
    dtype: Any,
    layout: str = "c",
    y_layout: str | None = None,
    shared: tuple[tuple[int, ...], ...] = ((0,), (0,), (0,)),
    trusted: tuple[int, ...] = (0,),
) -> None:
    """Weights broadcast along `shared`, the confidence along `trusted`."""
    rng = np.random.default_rng(shape)
    shared = shared[: len(axes)]
    x, y_bar = laid_out(values(rng, shape, dtype), layout), laid_out(values(rng, shape, dtype), y_layout or layout)
    weights = [edges(rng, one_on(fewer(shape, a), *s), dtype) for a, s in zip(axes, shared, strict=True)]
    code = {"none": NONE, "line": LINE, "cross_sum": CROSS_SUM}.get(case, CROSS)
    residual = case != "cross_sum"
    support_shape = one_on(shape, *(d for d in range(len(shape)) if all(d in s for s in shared)))
    c = None
    if case == "confidence":
        c_shape = one_on(shape, *trusted)
        c = np.where(rng.uniform(size=c_shape) < 0.5, 0, rng.uniform(size=c_shape)).astype(dtype)
        c[..., 0, :] = 0
        support_shape = tuple(max(n, m) for n, m in zip(support_shape, c_shape, strict=True))
    s_bar = values(rng, support_shape, computing(dtype)) if code == CROSS else None
    x_bar, only = laid_out(fresh(shape, dtype), layout), fresh(shape, dtype)
    w_bars = [fresh(w.shape, dtype) for w in weights]
    c_bar = None if c is None else fresh(c.shape, dtype)
    outs = (Out(x_bar), [Out(b) for b in w_bars], None if c is None else Out(c_bar))
    tail = (list(axes), code, residual, c)
    device.call("semi_global_filter_backward", x, weights, y_bar, s_bar, *outs, *tail)
    device.call("semi_global_filter_backward", x, weights, y_bar, None, Out(only), [], None, *tail)
    one, others = fresh(w_bars[-1].shape, dtype), [None] * (len(axes) - 1)
    device.call("semi_global_filter_backward", x, weights, y_bar, s_bar, None, [*others, Out(one)], None, *tail)
    if not checking():
        return
    xt, wt = leaf(x), [leaf(w) for w in weights]
    ct = leaf(np.ones(shape) if c is None else c)
    held = xt if c is None else torch.where(ct == 0, 0.0, ct * xt)
    pairs = list(zip((w.expand(fewer(shape, a)) for w, a in zip(wt, axes, strict=True)), axes, strict=True))
    support = torch.ones(())
    if code == NONE:
        y = sum(held + definitions._from_others(held, w, a) for w, a in pairs)
    elif code == LINE:
        parts = [(held + definitions._from_others(held, w, a), torch.ones_like(held), w, a) for w, a in pairs]
        y = sum(t / (o + definitions._from_others(o, w, a)) for t, o, w, a in parts)
    else:
        y = held + sum(definitions._from_others(held, w, a) for w, a in pairs)
        count = ct.expand(shape)
        support = count + sum(definitions._from_others(count, w, a) for w, a in pairs)
        if code == CROSS:
            y = torch.where(support == 0, 0.0, y / torch.where(support == 0, 1.0, support))
    if residual:
        y = y + (xt if c is None else torch.where(ct == 0, 0.0, xt))
    loss = (y * torch.tensor(y_bar.astype(np.float64))).sum()
    if s_bar is not None:  # of the support as it is, not repeated along what it broadcasts along
        once = support[tuple(slice(n) for n in support_shape)]
        loss = loss + (once * torch.tensor(s_bar.astype(np.float64))).sum()
    loss.backward()
    near(x_bar, xt, dtype)
    near(only, xt, dtype)
    for w_bar, w in zip(w_bars, wt, strict=True):
        near(w_bar, w, dtype)
    near(one, wt[-1], dtype)
    if c is not None:
        ct.grad[ct == 0] = 0  # the edge of the allowed values
        near(c_bar, ct, dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", ("none", "line", "cross", "cross_sum", "confidence"))
@pytest.mark.parametrize("shape", ((3, 7, 5), (2, 1, 4), (2, 34, 66)))
def test_semi_global_filter(device: Device, shape: tuple[int, ...], case: str, dtype: Any) -> None:
    check_filter(device, shape, (2, 1) if shape[1] == 7 else (1, 2), case, dtype)


# Little support makes large derivatives, beyond float16's range.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(c, t) for c in ("none", "line", "cross", "confidence") for t in FLOATS if (c, t) != ("confidence", F16)],
    ids=str,
)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 5, 70), (2,)), ((3, 150, 18), (1,)), ((2, 5, 19, 33), (3, 1, 2)), ((1, 2, 3, 33), (1, 2, 3))],
)
def test_axes(device: Device, shape: tuple[int, ...], axes: tuple[int, ...], case: str, dtype: Any) -> None:
    """One axis and three, which go line by line; y_bar lies another way than x_bar."""
    check_filter(device, shape, axes, case, dtype, y_layout="reversed")


# Sums over several planes in several blocks; planes that fit and such in strips, high or wide, and in squares; channels
# last; weights, support and confidence that broadcast along other axes.
PLANES: list[tuple[Any, ...]] = [
    ((9, 20, 24), (1, 2), 163, {}),
    ((1, 97, 97), (2, 1), 163, {}),
    ((2, 97, 97), (1, 2), 99, {}),
    ((1, 40, 130), (1, 2), 48, {}),
    ((2, 129, 132), (1, 2), 48, {}),
    ((1, 500, 3), (1, 2), 48, {}),
    ((5, 17, 19), (1, 2), 99, {"layout": "channels_last"}),
    ((3, 21, 18), (1, 2), 99, {"layout": "reversed"}),
    ((2, 3, 9, 10), (2, 3), 99, {"shared": ((1,), (0, 1)), "trusted": (1,)}),
    ((2, 3, 9, 10), (2, 3), 99, {"shared": ((0, 1), (1,)), "trusted": (0, 1)}),
    ((2, 3, 9, 10), (3, 2), 99, {"shared": ((), (0, 1)), "trusted": (0, 1)}),
    ((6, 9, 2, 10), (1, 3), 99, {"shared": ((0, 2), (0, 2)), "trusted": (0, 2)}),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [("none", F32), ("cross", F32), *((c, t) for c in ("line", "confidence") for t in (F16, F32, F64))],
    ids=str,
)
@pytest.mark.parametrize(("shape", "axes", "kilobytes", "options"), PLANES)
def test_planes(
    device: Device, shape: Any, axes: Any, kilobytes: int, options: dict[str, Any], case: str, dtype: Any
) -> None:
    if hasattr(device.module, "set_shared_limit"):
        device.module.set_shared_limit(kilobytes * 1024)
    check_filter(device, shape, axes, case, dtype, **options)


def test_line_keeps_no_sums(device: Device) -> None:
    """Both axes at once: beside the reciprocals of the support, nothing is kept in memory for x_bar."""
    x = np.ones((16, 33, 35), F16)
    weights = [np.ones(one_on(fewer(x.shape, a), 0), F32) for a in (1, 2)]
    x_bar = fresh(x.shape, F16)
    outs = (None, Out(x_bar), [], None)
    need = device.call("semi_global_filter_backward", x, weights, x, *outs, [1, 2], LINE, False, None)
    np.testing.assert_array_equal(x_bar, 2)
    assert need < 4 * x.size


def test_cut_edges_stop_nan(device: Device) -> None:
    """A NaN that comes back stays on its side of a cut edge, in one chunk and in several."""
    for n in (9, 200):
        x, w, y_bar = np.ones((2, n), F32), np.full((2, n - 1), 0.5, F32), np.ones((2, n), F32)
        y_bar[0, 3] = np.nan
        w[0, 5] = 0
        x_bar, w_bar = fresh(x.shape, F32), fresh(w.shape, F32)
        device.call("line_filter_backward", x, w, None, None, y_bar, Out(x_bar), Out(w_bar), None, None, 1)
        if checking():
            nan = np.zeros(x.shape, bool)
            nan[0, :6] = True
            np.testing.assert_array_equal(np.isnan(x_bar), nan)
            np.testing.assert_array_equal(np.isnan(w_bar), nan[:, :-1])


def test_cut_planes_stop_nan(device: Device) -> None:
    """A NaN that comes back spreads along its own row and column as far as they are not cut, in planes and their tiles."""
    for side in (9, 140):
        shape = (1, side, side)
        x, y_bar = np.ones(shape, F32), np.ones(shape, F32)
        weights = [np.full(fewer(shape, a), 0.5, F32) for a in (1, 2)]
        y_bar[0, 4, 5] = np.nan
        weights[0][0, 6, 5] = weights[1][0, 4, 2] = 0
        x_bar, w_bars = fresh(shape, F32), [fresh(w.shape, F32) for w in weights]
        outs = (Out(x_bar), [Out(b) for b in w_bars], None)
        device.call("semi_global_filter_backward", x, weights, y_bar, None, *outs, [1, 2], CROSS_SUM, False, None)
        if checking():
            nan = np.zeros(shape, bool)
            nan[0, :7, 5] = nan[0, 4, 3:] = True
            np.testing.assert_array_equal(np.isnan(x_bar), nan)
            # An edge's derivative is made of what comes to it from both sides.
            np.testing.assert_array_equal(np.isnan(w_bars[0][0, :, 5]), nan[0, :-1, 5])
            np.testing.assert_array_equal(np.isnan(w_bars[1][0, 4]), nan[0, 4, 1:])
            assert np.isnan(w_bars[0]).sum() == nan[0, :-1, 5].sum()


def test_tiny_weights_let_nan_through_planes(device: Device) -> None:
    """Products of weights that are too small for any number cut nothing, in planes and their tiles."""
    for side in (50, 140):
        shape = (1, side, side)
        x, y_bar = np.ones(shape, F32), np.ones(shape, F32)
        weights = [np.full(fewer(shape, a), 1e-25, F32) for a in (1, 2)]
        y_bar[0, 4, 5] = np.nan
        x_bar, w_bars = fresh(shape, F32), [fresh(w.shape, F32) for w in weights]
        outs = (Out(x_bar), [Out(b) for b in w_bars], None)
        device.call("semi_global_filter_backward", x, weights, y_bar, None, *outs, [1, 2], CROSS_SUM, False, None)
        if checking():
            nan = np.zeros(shape, bool)
            nan[0, :, 5] = nan[0, 4] = True
            np.testing.assert_array_equal(np.isnan(x_bar), nan)
            np.testing.assert_array_equal(np.isnan(w_bars[0]), np.broadcast_to(np.arange(side) == 5, w_bars[0].shape))
            across = np.broadcast_to((np.arange(side) == 4)[:, None], w_bars[1].shape)
            np.testing.assert_array_equal(np.isnan(w_bars[1]), across)
