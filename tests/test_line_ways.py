"""How `line_filter`, `scan` and filters over one axis go through memory: along it, across it, in parts, ragged or not."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import BFLOAT16, FLOATS, GUARDED, ISAS, assert_within, pairwise, random_values, random_weights, run_python

import sgs

# Lines, steps and how the lines lie in memory: along it, or side by side.
RAGGED = [(1, 2), (2, 15), (15, 16), (16, 17), (17, 31), (33, 63), (40, 97), (5, 1000), (3, 1025), (18, 1040)]


def _along(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x)


def _side_by_side(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "along": _along,
    "side by side": _side_by_side,
    "channels last": _channels_last,
}
SHARED = {"own": (0, 1), "by channels": (1,), "by lines": (0,), "by all": ()}


def _weights(rng: np.random.Generator, shape: tuple[int, ...], shared: str, dtype: np.dtype) -> np.ndarray:
    kept = SHARED[shared]
    return random_weights(rng, [n if a in kept else 1 for a, n in enumerate(shape[:2])] + [shape[2] - 1], dtype)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("lines", "steps"), RAGGED)
def test_every_way(lines: int, steps: int, layout: str, shared: str, isa: str) -> None:
    _check_way(lines, steps, layout, shared, np.dtype(np.float32))


@pytest.mark.parametrize(
    "case", pairwise(size=RAGGED, layout=tuple(LAYOUTS), shared=tuple(SHARED), dtype=FLOATS, isa=ISAS)
)
def test_every_way_of_other_types(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    _check_way(*case["size"], case["layout"], case["shared"], case["dtype"])


def _check_way(lines: int, steps: int, layout: str, shared: str, dtype: np.dtype) -> None:
    """The reference's answer, in place too and for any number of threads, to the bit."""
    shape = (17 if layout == "channels last" or lines < 20 else 2, lines, steps)
    rng = np.random.default_rng(lines)
    x = LAYOUTS[layout](random_values(rng, shape, dtype))
    w = _weights(rng, shape, shared, np.dtype(np.float32))
    exact_x, exact_w = x.astype(np.float64), w.astype(np.float64)
    size = sgs.reference.line_filter(np.abs(exact_x), exact_w)
    calls: dict[str, tuple[Callable[..., np.ndarray], np.ndarray]] = {
        "filter": (lambda x, **options: sgs.line_filter(x, w, **options), sgs.reference.line_filter(exact_x, exact_w)),
        "scan": (lambda x, **options: sgs.scan(x, w, **options), sgs.reference.scan(exact_x, exact_w)),
        "reverse": (
            lambda x, **options: sgs.scan(x, w, reverse=True, **options),
            sgs.reference.scan(exact_x, exact_w, reverse=True),
        ),
    }
    for call, expected in calls.values():
        y = call(x, num_threads=1)
        assert_within(y, expected, size, steps, dtype)
        np.testing.assert_array_equal(call(x, num_threads=3), y)
        in_place = LAYOUTS[layout](x.copy())
        assert call(in_place, out=in_place) is in_place
        np.testing.assert_array_equal(in_place, y)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [2, 17, 97, 1030])
def test_nothing_crosses_a_cut_at_any_place(steps: int, layout: str, shared: str, isa: str) -> None:
    """NaN stays between the cuts that are around it, wherever they are in a vector or a square of vectors."""
    shape = (17, 18, steps)
    rng = np.random.default_rng(steps)
    for cut in sorted({0, 1, 14, 15, 16, 30, steps - 3, steps - 2} & set(range(steps - 1))):
        x = random_values(rng, shape, np.float32)
        w = np.maximum(_weights(rng, shape, shared, np.dtype(np.float32)), np.float32(0.5))
        w[..., cut] = 0
        clean = sgs.line_filter(LAYOUTS[layout](x), w)
        x[3, 4, cut + 1] = np.nan
        x[5, 17, cut] = np.inf
        y = sgs.line_filter(LAYOUTS[layout](x), w)
        dirty = np.zeros(shape, bool)
        dirty[3, 4, cut + 1 :] = True
        dirty[5, 17, : cut + 1] = True
        assert np.isnan(y[3, 4, cut + 1 :]).all() and np.isinf(y[5, 17, : cut + 1]).all()
        np.testing.assert_array_equal(y[~dirty], clean[~dirty])
        forward, backward = (sgs.scan(LAYOUTS[layout](x), w, reverse=reverse) for reverse in (False, True))
        assert np.isfinite(forward[3, 4, : cut + 1]).all() and np.isnan(forward[3, 4, cut + 1 :]).all()
        assert np.isfinite(backward[5, 17, cut + 1 :]).all() and np.isinf(backward[5, 17, : cut + 1]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [2, 18, 97, 1030])
def test_what_flows_in_belongs_to_each_line(steps: int, layout: str, isa: str) -> None:
    shape = (17, 18, steps)
    rng = np.random.default_rng(steps)
    x = random_values(rng, shape, np.float32)
    w = random_weights(rng, (18, steps - 1), np.float32)
    left, right = random_values(rng, (17, 18), np.float32), random_values(rng, (18,), np.float32)
    expected = sgs.reference.line_filter(x, w, initial=(left, right))
    size = sgs.reference.line_filter(np.abs(x), w, initial=(np.abs(left), np.abs(right)))
    y = sgs.line_filter(LAYOUTS[layout](x), w, initial=(left, right))
    assert_within(y, expected, size, steps, np.float32)
    for reverse in (False, True):
        expected = sgs.reference.scan(x, w, initial=left, reverse=reverse)
        y = sgs.scan(LAYOUTS[layout](x), w, initial=left, reverse=reverse)
        size = sgs.reference.scan(np.abs(x), w, initial=np.abs(left), reverse=reverse)
        assert_within(y, expected, size, steps, np.float32)


@pytest.mark.parametrize("offset", [0, 1, 7, 15])
@pytest.mark.parametrize("shape", [(64, 513, 129), (130, 255, 128), (5, 1100, 1000)])
def test_large_results_go_past_the_caches(shape: tuple[int, int, int], offset: int, isa: str) -> None:
    """The same bits as small ones, wherever the first element lies, and nothing beside them is touched."""
    count = int(np.prod(shape))
    x = np.resize(random_values(np.random.default_rng(0), (9973,), np.float32), shape)
    memory = np.full(count + 32, 77, np.float32)
    out = memory[offset : offset + count].reshape(shape)
    for axis in (-1, -2):
        w = np.linspace(0, 1, shape[-2] * shape[-1], dtype=np.float32).reshape(shape[1:])
        w = w[:, 1:] if axis == -1 else w[1:]
        for num_threads in (2, 5):  # few threads and many write otherwise on some processors
            out[...] = np.nan
            sgs.line_filter(x, w, axis, out=out, num_threads=num_threads)
            part = slice(3, 5)
            np.testing.assert_array_equal(out[part], sgs.line_filter(x[part], w, axis))
            np.testing.assert_array_equal(out[-1], sgs.line_filter(x[-1:], w, axis)[0])
            assert (memory[:offset] == 77).all() and (memory[offset + count :] == 77).all()


@pytest.mark.parametrize(
    "case",
    pairwise(
        shape=((50, 10), (3, 97), (17, 1100), (2, 4100), (1, 4097), (33, 4100)),
        normalization=("cross", "line", None),
        residual=(False, True),
        dtype=FLOATS,
        isa=ISAS,
    ),
)
def test_filters_over_one_axis(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    shape, dtype = case["shape"], case["dtype"]
    options = {"channel_axis": None, "axes": (-1,)}
    options |= {"normalization": case["normalization"], "residual": case["residual"]}
    x = np.random.default_rng(0).random(shape).astype(dtype)
    guide = np.random.default_rng(1).random(shape)
    guide[0, shape[1] // 2] = 1e4  # no support crosses
    expected = sgs.reference.semi_global_filter(x.astype(np.float64), guide, 0.3, **options)
    y = sgs.semi_global_filter(x, guide, 0.3, **options)
    tolerance = {2: 2e-2 if dtype == BFLOAT16 else 3e-3, 4: 2e-5, 8: 1e-12}[dtype.itemsize]
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=0)
    for threads in (1, 3):
        in_place = x.copy()
        sgs.semi_global_filter(in_place, guide, 0.3, out=in_place, num_threads=threads, **options)
        np.testing.assert_array_equal(in_place, y)


@pytest.mark.parametrize("shared", ["own", "by lines", "by all"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_many_long_lines(layout: str, shared: str, isa: str) -> None:
    """Lines of several parts, too many to be cut into segments, without a cut in them."""
    rng = np.random.default_rng(6)
    x = LAYOUTS[layout](rng.standard_normal((2, 96, 2100)))
    kept = SHARED[shared]
    w = rng.uniform(0.5, 1, [n if a in kept else 1 for a, n in enumerate(x.shape[:2])] + [x.shape[2] - 1])
    tolerance = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(sgs.line_filter(x, w), sgs.reference.line_filter(x, w), **tolerance)
    for reverse in (False, True):
        expected = sgs.reference.scan(x, w, reverse=reverse)
        np.testing.assert_allclose(sgs.scan(x, w, reverse=reverse), expected, **tolerance)


@pytest.mark.parametrize("shape", [(5, 32), (40, 64), (3, 7, 48), (1100, 33)])
@pytest.mark.parametrize("axis", [0, 1])
def test_out_that_runs_backwards(shape: tuple[int, ...], axis: int) -> None:
    """Along the filtered axis or another, also in place, with something that flows in at both ends."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape)
    edges = list(shape)
    edges[axis] -= 1
    w = rng.random(edges)
    ends = tuple(rng.standard_normal([n for d, n in enumerate(shape) if d != axis]) for _ in range(2))
    expected = sgs.reference.line_filter(x, w, axis, initial=ends)
    for flipped in range(len(shape)):
        back = (slice(None),) * flipped + (slice(None, None, -1),)
        out = np.empty(shape)[back]
        np.testing.assert_allclose(sgs.line_filter(x, w, axis, initial=ends, out=out), expected, rtol=1e-12, atol=1e-12)
        in_place = x[back].copy()[back]
        sgs.line_filter(in_place, w, axis, initial=ends, out=in_place)
        np.testing.assert_allclose(in_place, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page of memory")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("length", [17, 97, 1024, 1028, 1031, 1039, 2055])
def test_nothing_is_read_beyond_x(length: int, dtype: str) -> None:
    """Lines that end where memory may not be read."""
    code = f"""
import sgs

_, x = guarded((64, {length}), "{dtype}")
x[...] = 1
w = np.full((64, {length} - 1), 0.5, np.float32)
for isa in sgs._core.available_isas():
    sgs.set_isa(isa)
    for reverse in (False, True):
        sgs.scan(x, w, reverse=reverse)
    for one in (w, w[:1]):
        sgs.line_filter(x, one)
    sgs.semi_global_filter(x, channel_axis=None, axes=-1)
"""
    run_python(GUARDED, code)
