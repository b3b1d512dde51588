"""`sgs.attention_map` (10): against the reference, and as the row of the filter's operator that it claims to be."""

from typing import Any

import numpy as np
import pytest
from helpers import ISAS, SIZES, attention, filter_weights, pairwise, random_values, seeded, used

import sgs

FACTORS = {
    "mode": ("none", "line", "cross", "trusted"),
    "residual": (False, True),
    "blocks": (1, 2, 3),
    "guides": ("one", "each"),
    "heads": (1, 2),
    "metric": ("euclidean", "cityblock", "sqeuclidean"),
    "step": (0.0, 0.2),
    "place": ("chw", "hwc", "bchw", "plane", "line", "volume", "reversed_axes"),
    "position": (0.0, 0.4, 1.0),
}
# (guide shape, channel_axis, axes, spatial axes as counted from the end)
PLACES: dict[str, tuple[tuple[int, ...], int | None, Any, tuple[int, ...]]] = {
    "chw": ((4, 7, 9), -3, None, (-2, -1)),
    "hwc": ((7, 9, 4), -1, None, (-3, -2)),
    "bchw": ((2, 4, 7, 9), -3, None, (-2, -1)),
    "plane": ((7, 9), -3, None, (-2, -1)),
    "line": ((4, 11), 0, -1, (-1,)),
    "volume": ((4, 3, 5, 4), 0, (1, 2, 3), (-3, -2, -1)),
    "reversed_axes": ((4, 7, 9), -3, (-1, -2), (-1, -2)),
}


def _arguments(case: dict[str, Any], dtype: Any = np.float64) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    rng = seeded(case)
    shape, channel_axis, axes, spatial = PLACES[case["place"]]
    single = len(shape) < 3 and axes is None
    normalization = {"none": None, "line": "line"}.get(case["mode"], "cross")
    confidence = None
    if case["mode"] == "trusted":
        rest = shape if single else tuple(np.delete(shape, channel_axis))
        confidence = rng.uniform(0, 2, rest) * (rng.uniform(0, 1, rest) < 0.6)
    count = case["blocks"] if case["guides"] == "each" else 1
    guides = [random_values(rng, shape, dtype) for _ in range(count)]
    position = tuple(round(case["position"] * (shape[a] - 1)) for a in spatial)
    options = {
        "channel_axis": channel_axis,
        "axes": axes,
        "blocks": case["blocks"],
        "normalization": normalization,
        "residual": case["residual"],
        "metric": case["metric"],
        "step": case["step"],
        "heads": 1 if single else case["heads"],
        "confidence": confidence,
    }
    return guides if case["guides"] == "each" else guides[0], position, options


@pytest.mark.parametrize("case", pairwise(**FACTORS, threads=(1, 3), isa=ISAS))
def test_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    guide, position, options = _arguments(case)
    expected = sgs.reference.attention_map(guide, position, (4.0, 2.0, 3.0)[: len(position)], **options)
    a = sgs.attention_map(guide, position, (4.0, 2.0, 3.0)[: len(position)], **options, num_threads=case["threads"])
    np.testing.assert_allclose(a, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("case", pairwise(**FACTORS))
def test_is_a_row_of_the_operator(case: dict[str, Any]) -> None:
    """Filter every one-hot field with the same guides: what arrives at `position` is the map, value by value."""
    guide, position, options = _arguments(case)
    shape, channel_axis, _, spatial = PLACES[case["place"]]
    scale = (4.0, 2.0, 3.0)[: len(position)]
    heads = options["heads"]
    a = sgs.attention_map(guide, position, scale, **options)
    if heads > 1:
        a = np.moveaxis(a, -len(spatial) - 1, 0)

    guides = guide if isinstance(guide, list) else [guide] * case["blocks"]
    channel = 0 if case["place"] == "plane" else channel_axis % len(shape)
    if case["place"] == "plane":
        guides = [g[np.newaxis] for g in guides]
    # Channels first, then batch, then space; a field of the batch's shape for each position that may be the hot one.
    guides = [np.moveaxis(g, channel, 0) for g in guides]
    rest = guides[0].shape[1:]
    at = {"reversed_axes": position[::-1]}.get(case["place"], position)
    kept = scale[::-1] if case["place"] == "reversed_axes" else scale
    space = rest[-len(position) :]
    hot = np.eye(int(np.prod(space))).reshape(-1, *(1,) * (len(rest) - len(space)), *space)
    call = {"channel_axis": 0, "axes": tuple(range(-len(space), 0)), "metric": case["metric"], "step": case["step"]}
    for head in range(heads):
        x = np.broadcast_to(hot, (len(hot), *rest))
        confidence = options["confidence"]
        for g in guides:
            size = len(g) // heads
            g = g[head * size : (head + 1) * size]
            y = sgs.semi_global_filter(
                x,
                g,
                kept,
                normalization=options["normalization"],
                residual=options["residual"],
                confidence=confidence,
                **call,
            )
            if confidence is not None:  # the next block's, S = c + sum of N_a(c) = sum of T_a(c) - (k - 1) c
                total = sgs.semi_global_filter(confidence[np.newaxis], g, kept, normalization=None, **call)[0]
                confidence = total - (len(space) - 1) * confidence
            x = y
        row = np.moveaxis(x[(..., *at)], 0, -1).reshape(rest)
        np.testing.assert_allclose(a if heads == 1 else a[head], row, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("normalization", [None, "line", "cross"])
@pytest.mark.parametrize("h", SIZES[1::2])
def test_error_bound_given_the_weights(h: int, normalization: str | None, dtype: type, isa: str) -> None:
    """All terms are positive: two blocks apply the line filter's bound twice for T and twice for its support."""
    width = 33
    guide = random_values(np.random.default_rng(h), (3, h, width), dtype)
    position = (h // 2, 5)
    weights = filter_weights(guide, None, (-2, -1), (8.0, 3.0), channel_axis=0)
    weights = [w[:1] for w in weights]
    expected = attention(position, [weights] * 2, (1, h, width), (-2, -1), normalization)[0]
    a = sgs.attention_map(guide, position, (8.0, 3.0), blocks=2, normalization=normalization)
    assert a.shape == (h, width)
    # float16 maps may be kept in float16: one rounding more.
    rounding = 2.0**-11 * expected + 2.0**-24 if a.dtype == np.float16 else 0
    eps = 2.0**-53 if dtype == np.float64 else 2.0**-24
    assert (np.abs(used(a, np.float64) - expected) <= 2 * 4 * (h + width) * eps * expected + 2.0**-140 + rounding).all()


def test_position_counts_from_the_axes_order() -> None:
    guide = np.zeros((1, 5, 7))
    a = sgs.attention_map(guide, (4, 1), normalization=None)
    b = sgs.attention_map(guide, (1, 4), axes=(-1, -2), normalization=None)
    np.testing.assert_array_equal(a, b)
    wanted = np.zeros((5, 7))
    wanted[4, :] += 1
    wanted[:, 1] += 1
    np.testing.assert_array_equal(a, wanted)


def test_two_blocks_reach_the_whole_image() -> None:
    guide = np.zeros((1, 6, 5))
    assert (sgs.attention_map(guide, (2, 3)) == 0).sum() == 20
    assert (sgs.attention_map(guide, (2, 3), blocks=2) > 0).all()
    np.testing.assert_allclose(sgs.attention_map(guide, (2, 3), blocks=2).sum(), 1)


def test_guides_are_used_in_their_order() -> None:
    """A wall between rows in the first block's guide, between columns in the second's: the map shows which came first."""
    rows, columns = np.zeros((1, 4, 4)), np.zeros((1, 4, 4))
    rows[:, 2:] = 1e9
    columns[:, 1:, 2:] = 1e9
    a = sgs.attention_map([rows, columns], (0, 0), blocks=2)
    expected = sgs.reference.attention_map([rows, columns], (0, 0), blocks=2)
    other = sgs.reference.attention_map([columns, rows], (0, 0), blocks=2)
    np.testing.assert_allclose(a, expected, rtol=1e-12)
    assert np.abs(a - other).max() > 0.01


@pytest.mark.parametrize("residual", [False, True])
def test_residual_of_an_unsupported_position(residual: bool) -> None:
    """A subnormal confidence supports nothing, but the residual is the value itself all the same."""
    guide = np.zeros((1, 3, 3), np.float32)
    confidence = np.full((3, 3), 1e-42, np.float32)
    options = {"residual": residual, "confidence": confidence, "scale": 1e-30}
    a = sgs.attention_map(guide, (1, 1), **options)
    wanted = np.zeros((3, 3))
    wanted[1, 1] = residual
    np.testing.assert_array_equal(a, wanted)
    np.testing.assert_array_equal(sgs.reference.attention_map(guide, (1, 1), **options), wanted)
