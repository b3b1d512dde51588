"""`sgs.line_filter` (5) against the reference."""

from typing import Any

import numpy as np
import pytest
from helpers import LINE_FACTORS, assert_within, line_case, pairwise, random_values, random_weights, result_type, used

import sgs


def _both_ends(initial: Any, ends: str) -> Any:
    """(left, right), where what flows in on the right differs from what does on the left."""
    if initial is None:
        return None
    return {"left": (initial, None), "right": (None, initial), "both": (initial, -2 * initial)}[ends]


@pytest.mark.parametrize("case", pairwise(**LINE_FACTORS, ends=("left", "right", "both")))
def test_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    line = line_case(case)
    dtype = result_type(line.x.dtype)
    initial = _both_ends(line.initial, case["ends"])
    given = None if initial is None else tuple(None if end is None else used(end, dtype) for end in initial)
    absolute = None if given is None else tuple(None if end is None else np.abs(end) for end in given)
    expected = sgs.reference.line_filter(line.exact_x, line.exact_w, line.axis, initial=given)
    magnitude = sgs.reference.line_filter(np.abs(line.exact_x), np.abs(line.exact_w), line.axis, initial=absolute)

    y = sgs.line_filter(line.x, line.w, line.axis, initial=initial, out=line.out, num_threads=case["threads"])

    assert line.out is None or y is line.out
    assert_within(y, expected, magnitude, line.n, dtype)


@pytest.mark.parametrize("n", [31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 513])
def test_lengths_around_powers_of_two(n: int, isa: str) -> None:
    rng = np.random.default_rng(n)
    for shape, axis in (((n, 33), 0), ((5, n), 1), ((n,), 0), ((2, n, 31), 1)):
        x = random_values(rng, shape, np.float32)
        w = random_weights(rng, [k - (a == axis) for a, k in enumerate(shape)], np.float32)
        expected = sgs.reference.line_filter(x, w, axis)
        magnitude = sgs.reference.line_filter(np.abs(x), w, axis)
        assert_within(sgs.line_filter(x, w, axis), expected, magnitude, n, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_sum_over_all_pairs(dtype: type, isa: str) -> None:
    """(5) by its definition, sum_v W(u, v) x_v, in extended precision: independent of any recurrence."""
    rng = np.random.default_rng(1)
    n = 97
    x, w = random_values(rng, (3, n), dtype), random_weights(rng, (3, n - 1), dtype)
    products = np.ones((3, n, n), np.longdouble)
    for u in range(n):
        for v in range(n):
            products[:, u, v] = np.prod(w[:, min(u, v) : max(u, v)].astype(np.longdouble), axis=1)
    expected = np.einsum("buv,bv->bu", products, x.astype(np.longdouble)).astype(np.float64)
    magnitude = np.einsum("buv,bv->bu", products, np.abs(x).astype(np.longdouble)).astype(np.float64)
    assert_within(sgs.line_filter(x, w), expected, magnitude, n, dtype)


@pytest.mark.parametrize("n", [0, 1])
def test_short_lines(n: int) -> None:
    x = np.arange(3 * n, dtype=np.float32).reshape(3, n)
    np.testing.assert_array_equal(sgs.line_filter(x, np.ones((3, 0), np.float32)), x)


def test_one_element_takes_in_from_both_sides() -> None:
    y = sgs.line_filter(np.float32([[1], [2]]), np.ones((2, 0), np.float32), initial=(np.float32([10, 20]), 100))
    np.testing.assert_array_equal(y, [[111], [122]])


def test_out_that_overlaps_the_inputs() -> None:
    """out may share memory with x at another place, or with w: what overlaps is copied first."""
    rng = np.random.default_rng(2)
    for shift in (1, 40, -1):
        memory = random_values(rng, (300,), np.float32)
        x = memory[50:250].reshape(4, 50)
        out = memory[50 + shift : 250 + shift].reshape(4, 50)
        w = random_weights(rng, (4, 49), np.float32)
        expected = sgs.line_filter(x.copy(), w)
        assert sgs.line_filter(x, w, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    memory = random_values(rng, (6, 50), np.float32)
    expected = sgs.line_filter(memory.copy(), memory[:, 1:] * 0 + 0.5)
    memory[...] = 0.5
    x = random_values(rng, (6, 50), np.float32)
    expected = sgs.line_filter(x, np.full((6, 49), 0.5, np.float32))
    sgs.line_filter(x, memory[:, 1:], out=memory)
    np.testing.assert_allclose(memory, expected, rtol=1e-5, atol=1e-5)
    flipped = random_values(rng, (6, 50), np.float32)
    expected = sgs.line_filter(flipped.copy(), 0.5 * np.ones((6, 49)))
    sgs.line_filter(flipped, 0.5 * np.ones((6, 49)), out=flipped[:, ::-1])
    np.testing.assert_allclose(flipped[:, ::-1], expected, rtol=1e-5, atol=1e-5)


def test_integer_and_bool_weights() -> None:
    x = random_values(np.random.default_rng(3), (2, 5), np.float32)
    cut = np.array([True, False, True, True])
    expected = sgs.line_filter(x, cut.astype(np.float32))
    np.testing.assert_array_equal(sgs.line_filter(x, cut), expected)
    np.testing.assert_array_equal(sgs.line_filter(x, cut.astype(np.int16)), expected)


def test_lists_are_arrays() -> None:
    np.testing.assert_allclose(sgs.line_filter([1.0, 2.0, 4.0], [0.5, 0.25]), [2.5, 3.5, 4.625])


@pytest.mark.parametrize("n", [127, 128, 129, 257])
def test_lines_that_lie_apart(n: int, isa: str) -> None:
    """Neither the lines nor their elements are neighbours in memory: they are copied, in chunks of 128."""
    rng = np.random.default_rng(n)
    x, w = np.empty((6, 2 * n))[::2, ::2], rng.random((3, n - 1))
    x[...] = rng.standard_normal(x.shape)
    y = sgs.line_filter(x, w, out=np.empty((6, 2 * n))[::2, ::2])
    np.testing.assert_allclose(y, sgs.reference.line_filter(x, w), rtol=1e-12, atol=1e-12)
