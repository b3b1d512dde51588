"""`sgs.scan` (4) against the reference."""

from typing import Any

import numpy as np
import pytest
from helpers import ISAS, LINE_FACTORS, assert_within, line_case, pairwise, random_values, random_weights, result_type

import sgs


@pytest.mark.parametrize("case", pairwise(**LINE_FACTORS, reverse=(False, True)))
def test_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    line = line_case(case)
    options = {"axis": line.axis, "reverse": case["reverse"]}
    expected = sgs.reference.scan(line.exact_x, line.exact_w, **options, initial=line.exact_initial)
    absolute = None if line.exact_initial is None else np.abs(line.exact_initial)
    magnitude = sgs.reference.scan(np.abs(line.exact_x), np.abs(line.exact_w), **options, initial=absolute)

    y = sgs.scan(line.x, line.w, **options, initial=line.initial, out=line.out, num_threads=case["threads"])

    assert line.out is None or y is line.out
    assert_within(y, expected, magnitude, line.n, result_type(line.x.dtype))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n", [31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 513])
def test_lengths_around_powers_of_two(n: int, reverse: bool, isa: str) -> None:
    rng = np.random.default_rng(n)
    for shape, axis in (((n, 33), 0), ((5, n), 1), ((n,), 0), ((2, n, 31), 1)):
        x = random_values(rng, shape, np.float32)
        w = random_weights(rng, [k - (a == axis) for a, k in enumerate(shape)], np.float32)
        expected = sgs.reference.scan(x, w, axis, reverse=reverse)
        magnitude = sgs.reference.scan(np.abs(x), w, axis, reverse=reverse)
        assert_within(sgs.scan(x, w, axis, reverse=reverse), expected, magnitude, n, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa_name", ISAS)
def test_weights_outside_the_unit_interval(dtype: type, isa_name: str) -> None:
    """(4) is a recurrence for any weight: negative, and growing."""
    sgs.set_isa(isa_name)
    rng = np.random.default_rng(0)
    x, w = random_values(rng, (3, 40), dtype), rng.uniform(-1.5, 1.5, (3, 39)).astype(dtype)
    magnitude = sgs.reference.scan(np.abs(x), np.abs(w))
    assert_within(sgs.scan(x, w), sgs.reference.scan(x, w), magnitude, 40, dtype)


def test_unaligned_and_byte_swapped_arrays() -> None:
    rng = np.random.default_rng(0)
    x, w = random_values(rng, (4, 17), np.float32), random_weights(rng, (4, 16), np.float32)
    expected = sgs.scan(x, w)
    records = np.zeros(4, np.dtype([("odd", "u1"), ("x", np.float32, 17)]))
    records["x"] = x
    assert not records["x"].flags.aligned
    np.testing.assert_array_equal(sgs.scan(records["x"], w), expected)
    swapped = sgs.scan(x.astype(">f4"), w.astype(">f4"))
    np.testing.assert_array_equal(swapped, expected)
    records["x"] = 0
    out = records["x"]
    assert sgs.scan(x, w, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (2, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    for axis in range(len(shape)):
        w = np.ones([max(k - 1, 0) if a == axis else k for a, k in enumerate(shape)], np.float32)
        y = sgs.scan(np.ones(shape, np.float32), w, axis)
        assert y.shape == shape and y.dtype == np.float32


def test_strides_beyond_32_bits() -> None:
    """Elements more than 2**31 apart: the memory between them is reserved but never touched."""
    import mmap

    gap = 2**31 + 8
    reserve_only = 0x4000  # MAP_NORESERVE, which `mmap` names only from Python 3.11 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_only
    memory = np.frombuffer(mmap.mmap(-1, 2 * (2 * gap + 64), flags=flags), np.float16)
    x = np.lib.stride_tricks.as_strided(memory, (3, 20), (2 * gap, 2))
    x[...] = random_values(np.random.default_rng(0), (3, 20), np.float16)
    w = np.full((2, 1), 0.5, np.float32)
    expected = sgs.scan(x.copy(), w, 0)
    np.testing.assert_array_equal(sgs.scan(x, w, 0), expected)
    np.testing.assert_array_equal(sgs.scan(x, w, 0, out=x), expected)
