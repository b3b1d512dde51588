"""Planes that are filtered in bands of rows, and long lines in segments: as if they were one piece."""

import sys
from typing import Any

import numpy as np
import pytest
from helpers import (
    GUARDED,
    assert_within,
    compose,
    filter_weights,
    laid_out,
    pairwise,
    random_values,
    random_weights,
    run_python,
    seeded,
)

import sgs

AXES = (-2, -1)


# Few parts of planes side by side, each more than the cache that threads share.
FEW_LARGE = {
    "size": (630, 631),
    "dtype": "float64",
    "channels": 12,
    "layout": "c",
    "guide": "plain",
    "trust": False,
    "residual": False,
    "metric": "cityblock",
    "threads": 3,
    "in_place": False,
}


@pytest.mark.parametrize(
    "case",
    pairwise(
        size=((97, 1000), (1000, 97), (150, 700), (17, 5000), (5000, 17)),
        dtype=("float32", "float64", "float16"),
        channels=(1, 3, 5, 11, 20, 52),  # each by itself, or 16 side by side, which are few parts or many
        layout=("c", "channels_last", "fortran", "reversed"),
        normalization=(None, "line", "cross"),
        guide=(None, "plain", "wide"),
        trust=(False, True),
        residual=(False, True),
        metric=("euclidean", "cityblock", "sqeuclidean"),
        threads=(1, 3),
        in_place=(False, True),
    )
    + [{**FEW_LARGE, "normalization": normalization} for normalization in (None, "line", "cross")],
)
def test_planes_of_several_bands(case: dict[str, Any]) -> None:
    rng = seeded(case)
    dtype = np.dtype(case["dtype"])
    x = laid_out(random_values(rng, (case["channels"], *case["size"]), dtype), case["layout"])
    guide = None
    if case["guide"] is not None:
        guide = random_values(rng, (18 if case["guide"] == "wide" else 2, *case["size"]), dtype)
    trust = case["trust"] and case["normalization"] == "cross"
    confidence = (rng.random(case["size"]) < 0.7) * rng.random(case["size"]) if trust else None
    options = {"metric": case["metric"], "step": (0.1, 0.0)}
    values = laid_out(x.copy(), case["layout"])
    y = sgs.semi_global_filter(
        values,
        guide,
        (6.0, 9.0),
        out=values if case["in_place"] else None,
        normalization=case["normalization"],
        residual=case["residual"],
        confidence=confidence,
        num_threads=case["threads"],
        **options,
    )
    c = None if confidence is None else confidence.astype(np.float64 if dtype == np.float64 else np.float32)
    ignored = None if guide is not None or c is None else c[np.newaxis]
    weights = filter_weights(x, guide, AXES, (6.0, 9.0), channel_axis=0, confidence=ignored, **options)
    weights = [w[:1] for w in weights]
    composed = compose(
        x.astype(np.float64), weights, AXES, case["normalization"], residual=case["residual"], confidence=c
    )
    assert_within(y, composed.y, composed.magnitude, sum(case["size"]), dtype, extra=4, divided_by=composed.divisor)


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_nan_passes_all_bands_but_no_cut(scale: float, bad: float, channels: int, isa: str) -> None:
    """However small the weights are, and their product: only a weight of 0 keeps anything back."""
    height, width, wall = 200, 1000, 160
    guide = np.tile(np.arange(height, dtype=np.float32)[:, None] % 2, (1, width))[None]
    guide[:, wall:] += 1e9
    x = np.ones((channels, height, width), np.float32)
    for row in (0, 30, wall - 1, wall, height - 1):
        soiled = x.copy()
        soiled[0, row, 7] = bad
        y = sgs.semi_global_filter(soiled, guide, (scale, 1e12))
        expected = np.zeros(x.shape, bool)
        expected[0, row] = True
        expected[0, slice(0, wall) if row < wall else slice(wall, height), 7] = True
        np.testing.assert_array_equal(~np.isfinite(y), expected)


@pytest.mark.parametrize("guide_channels", [1, 18])  # weights made, and given
@pytest.mark.parametrize("shape", [(20, 40), (200, 1000)])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("wall", [1, 15, 16, 17, 19])
def test_one_wall(wall: int, axis: int, shape: tuple[int, int], guide_channels: int, isa: str) -> None:
    """The only cut of the plane, in one direction."""
    guide = np.zeros((guide_channels, *shape), np.float32)
    guide[:, wall:] += 1e9 if axis == 1 else 0
    guide[:, :, wall:] += 1e9 if axis == 2 else 0
    for side in (wall - 1, wall):
        at = (side, 3) if axis == 1 else (3, side)
        x = np.ones((1, *shape), np.float32)
        x[0, at[0], at[1]] = np.nan
        expected = np.zeros(shape, bool)
        behind = slice(0, wall) if side < wall else slice(wall, None)
        expected[behind if axis == 1 else slice(None), at[1]] = True
        expected[at[0], behind if axis == 2 else slice(None)] = True
        np.testing.assert_array_equal(np.isnan(sgs.semi_global_filter(x, guide))[0], expected)


def test_in_place_over_several_bands() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 6):
        x = random_values(rng, (channels, 150, 700), np.float32)
        wanted = [sgs.semi_global_filter(x, guide, 5.0, blocks=2, num_threads=1) for guide in (None, x.copy())]
        for guide, y in zip((None, x.copy()), wanted, strict=True):
            out = x.copy()
            sgs.semi_global_filter(out, guide, 5.0, blocks=2, out=out, num_threads=3)
            np.testing.assert_array_equal(out, y)


LONG = (4095, 4096, 4225)


@pytest.mark.parametrize("n", LONG)
@pytest.mark.parametrize("lines", [1, 3, 257])
@pytest.mark.parametrize("axis", [0, 1])
def test_long_lines(axis: int, lines: int, n: int, isa: str) -> None:
    rng = np.random.default_rng(n + lines)
    shape = (n, lines) if axis == 0 else (lines, n)
    x = random_values(rng, shape, np.float32)
    w = random_weights(rng, (n - 1, lines) if axis == 0 else (n - 1,), np.float32)
    left, right = random_values(rng, (lines,), np.float32), random_values(rng, (lines,), np.float32)
    sized = {"axis": axis, "initial": (np.abs(left), np.abs(right))}
    y = sgs.line_filter(x, w, axis, initial=(left, right), num_threads=2)
    expected = sgs.reference.line_filter(x, w, axis, initial=(left, right))
    assert_within(y, expected, sgs.reference.line_filter(np.abs(x), w, **sized), n, np.float32)
    for reverse in (False, True):
        y = sgs.scan(x, w, axis, reverse=reverse, initial=left, num_threads=2)
        expected = sgs.reference.scan(x, w, axis, reverse=reverse, initial=left)
        size = sgs.reference.scan(np.abs(x), w, axis, reverse=reverse, initial=np.abs(left))
        assert_within(y, expected, size, n, np.float32)


@pytest.mark.parametrize("low, high", [(-1.0, -0.9), (-1.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_beyond_zero_and_one(dtype: Any, low: float, high: float, isa: str) -> None:
    """Products may change their sign and leave the range of the type, and a line of zeros stays one."""
    rng = np.random.default_rng(3)
    n = 4500
    w = rng.uniform(low, high, n - 1).astype(dtype)
    w[::129] *= -1  # segments with an odd number of signs as well
    x = random_values(rng, (2, n), dtype)
    if high > 1:  # sums that do not overflow: values at the end of their way only
        x[:, 40:-40] = 0
        w[60:-60:50] = 1e-30
    for apply, reference in ((sgs.line_filter, sgs.reference.line_filter), (sgs.scan, sgs.reference.scan)):
        size = reference(np.abs(x), np.abs(w))
        assert_within(apply(x, w), reference(x, w), size, n, dtype)


def test_zeros_stay_zero_whatever_the_weights(isa: str) -> None:
    x = np.zeros((1, 5000), np.float32)
    x[0, -1] = 1
    y = sgs.scan(x, np.full(4999, 2, np.float32))
    np.testing.assert_array_equal(y, x)


def test_what_is_out_of_reach_adds_nothing(isa: str) -> None:
    """A huge value beyond weights whose product is no float32, beside tiny values."""
    x = np.full((1, 4500), 1e-12, np.float32)
    x[0, 127] = 1e38
    w = np.full(4499, 0.1, np.float32)
    for apply, reference in ((sgs.line_filter, sgs.reference.line_filter), (sgs.scan, sgs.reference.scan)):
        assert_within(apply(x, w), reference(x, w), reference(x, w), 4500, np.float32)
    plane = np.full((500, 500), 1e-12, np.float32)
    plane[111] = 1e38
    slope = np.repeat(2 * np.arange(500, dtype=np.float32)[:, np.newaxis], 500, 1)
    y = sgs.semi_global_filter(plane, slope, channel_axis=None)
    expected = sgs.reference.semi_global_filter(plane, slope, channel_axis=None)
    np.testing.assert_allclose(y[200:], expected[200:], rtol=1e-4)


@pytest.mark.parametrize("normalization", [None, "line", "cross"])
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_filter_of_long_lines(dtype: Any, trust: bool, normalization: str | None, isa: str) -> None:
    if trust and normalization != "cross":
        pytest.skip("confidence belongs to cross")
    rng = np.random.default_rng(1)
    x = random_values(rng, (2, 5000), dtype)
    confidence = (rng.random(5000) < 0.5).astype(np.float32) if trust else None
    weights = filter_weights(
        x, None, (-1,), (3.0,), channel_axis=0, confidence=None if confidence is None else confidence[np.newaxis]
    )
    composed = compose(
        x.astype(np.float64), [w[:1] for w in weights], (-1,), normalization, residual=True, confidence=confidence
    )
    y = sgs.semi_global_filter(
        x, scale=3.0, axes=-1, channel_axis=0, normalization=normalization, residual=True, confidence=confidence
    )
    assert_within(y, composed.y, composed.magnitude, 5000, dtype, extra=4, divided_by=composed.divisor)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("weight", [0.9, 1e-3])
def test_nan_passes_all_segments_but_no_cut(weight: float, bad: float, isa: str) -> None:
    n = 6000
    w = np.full(n - 1, weight, np.float32)
    for cut in (255, 256, 3000):
        w[cut] = 0
        for at in (0, cut, cut + 1, n - 1):
            x = np.ones(n, np.float32)
            x[at] = bad
            expected = (np.arange(n) <= cut) == (at <= cut)
            np.testing.assert_array_equal(~np.isfinite(sgs.line_filter(x, w)), expected)
            np.testing.assert_array_equal(~np.isfinite(sgs.scan(x, w)), expected & (np.arange(n) >= at))
        w[cut] = weight


@pytest.mark.parametrize("dtype", ("float32", "float16"))
@pytest.mark.parametrize("layout", ("c", "channels_last", "reversed"))
@pytest.mark.parametrize("size", ((17, 33), (150, 150), (300, 400), (20, 1000)))
@pytest.mark.parametrize("channels", (1, 3, 10, 12, 20, 64))
def test_blocks_are_calls_bit_for_bit(channels: int, size: tuple[int, int], layout: str, dtype: str) -> None:
    """(9), whatever way the planes are filtered, and in place too."""
    rng = seeded((channels, size, layout, dtype))
    x = laid_out(random_values(rng, (channels, *size), dtype), layout)
    guide = random_values(rng, (3, *size), dtype)
    for given in (guide, None):
        y = sgs.semi_global_filter(sgs.semi_global_filter(x, given, 2.0), given, 2.0)
        np.testing.assert_array_equal(sgs.semi_global_filter(x, given, 2.0, blocks=2), y)
        in_place = laid_out(np.array(x), layout)
        assert sgs.semi_global_filter(in_place, given, 2.0, blocks=2, out=in_place) is in_place
        np.testing.assert_array_equal(in_place, y)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory")
def test_few_planes_lower_than_a_band() -> None:
    """Nothing flows between bands where there is one, and no row before or after those of y is looked at."""
    code = """
import sgs

for height in (1, 3, 7, 8, 9, 23):
    rng = np.random.default_rng(height)
    shape = (height, 21504 // height, 16)
    x = rng.standard_normal(shape, np.float32)
    options = {"scale": 2.0, "channel_axis": -1, "confidence": (rng.random(shape[:2]) < 0.7).astype(np.float32)}
    expected = sgs.reference.semi_global_filter(x, x[..., :2], **options)
    for y in guarded(shape, np.float32):
        y[...] = np.nan
        sgs.semi_global_filter(x, x[..., :2], out=y, **options)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
"""
    run_python(GUARDED, code)


MANY = {
    "batch": 1,
    "layout": "c",
    "dtype": "float32",
    "normalization": "cross",
    "residual": False,
    "cuts": False,
}
# Many threads, whose parts outgrow every cache: block after block, the other way each time.
DOWN_AND_UP = {**MANY, "size": (300, 450), "channels": 80, "threads": 14}
# Pairs of threads that go through the parts of each image in turns, the last of which are too few for all.
PAIRS = {**MANY, "size": (210, 300), "channels": 56, "batch": 2, "threads": 8}


@pytest.mark.parametrize(
    "case",
    pairwise(
        # One band in cache; a part in the cache that threads share; more than that, few and many parts.
        size=((7, 7), (61, 97), (171, 130), (300, 211), (1000, 97), (330, 560), (5, 5000)),
        channels=(12, 16, 40, 80),
        batch=(1, 2),
        layout=("c", "channels_last", "reversed"),
        dtype=("float32", "float64", "float16"),
        normalization=(None, "line", "cross"),
        residual=(False, True),
        cuts=(False, True),
        blocks=(2, 3),
        threads=(1, 2, 3, 4, 8),
    )
    + [{**case, "blocks": blocks} for case in (DOWN_AND_UP, PAIRS) for blocks in (2, 3, 4)],
)
def test_planes_side_by_side_in_all_blocks_at_once(case: dict[str, Any], isa: str) -> None:
    """(9): the bits of so many calls, each with another number of threads, which may go another way."""
    rng = seeded(case)
    x = laid_out(random_values(rng, (case["batch"], case["channels"], *case["size"]), case["dtype"]), case["layout"])
    guide = random_values(rng, (case["batch"], 2, *case["size"]), case["dtype"])
    if case["cuts"]:
        guide += 1e4 * (rng.random(case["size"]) < 0.01).astype(guide.dtype)
    options = {name: case[name] for name in ("normalization", "residual")}
    y = x
    for block in range(case["blocks"]):
        y = sgs.semi_global_filter(y, guide, 2.0, num_threads=1 + block, **options)
    at_once = {"blocks": case["blocks"], "num_threads": case["threads"], **options}
    np.testing.assert_array_equal(sgs.semi_global_filter(x, guide, 2.0, **at_once), y)
    in_place = laid_out(np.array(x), case["layout"])
    sgs.semi_global_filter(in_place, guide, 2.0, out=in_place, **at_once)
    np.testing.assert_array_equal(in_place, y)


@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("here", ((slice(150), slice(None)), (slice(None), slice(100))), ids=("above", "left"))
def test_nothing_crosses_cuts_of_planes_that_threads_share(here: tuple[slice, slice], bad: float, isa: str) -> None:
    guide = np.zeros((1, 300, 211), np.float32)
    guide[0][here] = 1e6
    x = np.ones((20, 300, 211), np.float32)
    x[:, 149, 99] = bad
    y = sgs.semi_global_filter(x, guide, 100.0, blocks=2, num_threads=3)
    np.testing.assert_array_equal(np.isfinite(y), np.broadcast_to(guide == 0, y.shape))


@pytest.mark.parametrize("channels", (1, 8, 9, 11, 12))
@pytest.mark.parametrize("size", ((20, 33), (150, 200)))
def test_missing_values_of_planes_that_guide_themselves(channels: int, size: tuple[int, int]) -> None:
    """(8): an edge to a position of confidence 0 has no distance, whatever way the planes are filtered."""
    rng = seeded((channels, size))
    x = rng.standard_normal((channels, *size))
    confidence = (rng.random(size) > 0.3).astype(float)
    x[:, confidence == 0] = 1e3
    y = sgs.semi_global_filter(x, None, 2.0, confidence=confidence)
    expected = sgs.reference.semi_global_filter(x, None, 2.0, confidence=confidence)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_zeros_have_their_sign_for_any_number_of_threads(isa: str) -> None:
    """Negative numbers that fade below the range of the type, in a plane whose only cut is far from most of them."""
    guide = np.zeros((1, 512, 160), np.float32)
    guide[0, 400, 80] = 1e6
    guide[0] += 69 * np.arange(160)
    x = np.full((32, 512, 160), -0.0, np.float32)
    x[:, :, [0, -1]] = -1
    bits = [sgs.semi_global_filter(x, guide, 1.0, num_threads=n).view(np.int32) for n in (1, 3, 16)]
    np.testing.assert_array_equal(bits[1], bits[0])
    np.testing.assert_array_equal(bits[2], bits[0])
