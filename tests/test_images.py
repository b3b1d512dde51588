"""Few planes that share their weights: all of them go through one kernel, in panels of 16 x 16 positions."""

from typing import Any

import numpy as np
import pytest
from helpers import (
    FLOATS,
    ISAS,
    LAYOUTS,
    assert_within,
    compose,
    filter_weights,
    laid_out,
    pairwise,
    poisoned_out,
    random_values,
    seeded,
)

import sgs

SIZES = (1, 2, 15, 16, 17, 63, 97, 1000)
AXES = (-2, -1)


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """What all calls of a case have in common; the step differs between the axes."""
    return {
        "scale": (6.0, 9.0),
        "metric": case["metric"],
        "step": case["step"],
        "normalization": case["normalization"],
        "residual": case["residual"],
    }


CASES = pairwise(
    height=SIZES,
    width=SIZES,
    channels=(1, 2, 3, 4, 5, 8, 11),
    layout=(*LAYOUTS, "channels_last"),
    dtype=tuple(d.name for d in FLOATS),
    normalization=(None, "cross"),
    guide=(None, "one", "three", "four"),
    guide_layout=("c", "channels_last", "swapped"),
    trust=(False, True),
    residual=(False, True),
    metric=("euclidean", "cityblock", "sqeuclidean"),
    step=((0.0, 0.0), (0.1, 0.4)),
    threads=(1, 3),
    isa=ISAS,
)
# Whose rows are asked for in several chunks.
WIDE = pairwise(
    height=(17, 40),
    width=(4357, 5000),
    channels=(3, 4),
    layout=("c", "channels_last"),
    dtype=("float16", "float32"),
    normalization=("cross",),
    guide=(None, "three"),
    guide_layout=("c", "channels_last"),
    trust=(False, True),
    residual=(False, True),
    metric=("euclidean",),
    step=((0.1, 0.4),),
    threads=(1, 3, 5),
    isa=ISAS,
)


@pytest.mark.parametrize("case", [*CASES, *WIDE])
def test_few_planes(case: dict[str, Any]) -> None:
    rng = seeded(case)
    sgs.set_isa(case["isa"])
    dtype = next(d for d in FLOATS if d.name == case["dtype"])
    size = (case["height"], case["width"] if case["height"] < 1000 else min(case["width"], 97))
    x = laid_out(random_values(rng, (case["channels"], *size), dtype), case["layout"])
    guide = None
    if case["guide"] is not None:
        count = {"one": 1, "three": 3, "four": 4}[case["guide"]]
        guide = laid_out(random_values(rng, (count, *size), dtype), case["guide_layout"])
    trust = case["trust"] and case["normalization"] == "cross"
    confidence = (rng.random(size) < 0.7) * rng.random(size) if trust else None
    options = options_of(case)
    y = sgs.semi_global_filter(x, guide, confidence=confidence, fill_value=0.25, num_threads=case["threads"], **options)

    c = None if confidence is None else confidence.astype(np.float64 if dtype == np.float64 else np.float32)
    ignored = None if guide is not None or c is None else c[np.newaxis]
    made = {"metric": case["metric"], "step": case["step"]}
    weights = filter_weights(x, guide, AXES, options["scale"], channel_axis=0, confidence=ignored, **made)
    composed = compose(
        x.astype(np.float64),
        [w[:1] for w in weights],
        AXES,
        case["normalization"],
        residual=case["residual"],
        confidence=c,
        fill_value=0.25,
        tiny=2.0**-1022 if dtype == np.float64 else 2.0**-126,
    )
    assert_within(y, composed.y, composed.magnitude, sum(size), dtype, extra=4, divided_by=composed.divisor)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "case",
    pairwise(
        size=((1, 40), (40, 1), (15, 17), (33, 50), (64, 64), (200, 700)),
        channels=(1, 2, 3, 4, 5),
        last=(False, True),
        dtype=("float32", "float64", "float16"),
        normalization=(None, "cross"),
        guided=(False, True),
        trust=(False, True),
        residual=(False, True),
        metric=("euclidean", "cityblock", "sqeuclidean"),
        step=((0.0, 0.0), (0.1, 0.4)),
    ),
)
def test_one_answer_bit_for_bit(case: dict[str, Any], isa: str) -> None:
    """In place or not, on any number of threads, with weights and supports that are made or given, alone or in blocks."""
    sgs.set_isa(isa)
    rng = seeded(case)
    shape = (*case["size"], case["channels"]) if case["last"] else (case["channels"], *case["size"])
    channel_axis = -1 if case["last"] else 0
    x = random_values(rng, shape, np.dtype(case["dtype"]))
    field = case["size"]
    options = options_of(case) | {"channel_axis": channel_axis, "axes": (0, 1) if case["last"] else (1, 2)}
    if case["trust"] and case["normalization"] == "cross":
        options["confidence"] = (rng.random(field) < 0.7) * rng.random(field)
    if case["guided"]:
        options["guide"] = random_values(rng, shape, np.dtype(case["dtype"]))
    once = sgs.semi_global_filter(x, num_threads=1, **options)
    np.testing.assert_array_equal(sgs.semi_global_filter(x, num_threads=3, **options), once)
    out = x.copy()
    np.testing.assert_array_equal(sgs.semi_global_filter(out, out=out, num_threads=2, **options), once)
    explicit = options if case["guided"] or "confidence" in options else options | {"guide": x.copy()}
    np.testing.assert_array_equal(sgs.semi_global_filter(x, **explicit), once)
    if "confidence" not in options:  # else the second block's confidence is the first one's support
        twice = sgs.semi_global_filter(once, **options)
        np.testing.assert_array_equal(sgs.semi_global_filter(x, blocks=2, **options), twice)


@pytest.mark.parametrize("threads", [2, 4, 5, 14])
@pytest.mark.parametrize("size", [(1, 1000), (17, 1000), (97, 1000), (300, 530), (48, 2100), (1000, 63)])
@pytest.mark.parametrize("layout", ["c", "channels_last"])
def test_threads_of_a_half_follow_each_other(layout: str, size: tuple[int, int], threads: int) -> None:
    """More threads than processors, columns in strips, blocks that wait for the one before."""
    x = laid_out(random_values(np.random.default_rng(7), (3, *size), np.float32), layout)
    once = sgs.semi_global_filter(x, None, 4.0, num_threads=1)
    for _ in range(3):
        np.testing.assert_array_equal(sgs.semi_global_filter(x, None, 4.0, num_threads=threads), once)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("wall", [16, 37])
def test_nan_stays_in_its_channel_row_and_column(wall: int, channels: int, isa: str) -> None:
    height, width = 70, 83
    guide = np.zeros((height, width, 1), np.float32)
    guide[wall:] += 1e9
    guide[:, wall:] += 3e9
    for row, column in ((0, 0), (wall - 1, wall), (wall, wall - 1), (height - 1, width - 1), (50, 5)):
        x = np.ones((height, width, channels), np.float32)
        x[row, column, channels - 1] = np.nan
        y = sgs.semi_global_filter(x, guide, channel_axis=-1, axes=(0, 1))
        above, left = row < wall, column < wall
        expected = np.zeros(x.shape, bool)
        expected[slice(0, wall) if above else slice(wall, None), column, channels - 1] = True
        expected[row, slice(0, wall) if left else slice(wall, None), channels - 1] = True
        np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 50.0])
def test_products_of_weights_of_any_size(scale: float, isa: str) -> None:
    """What crosses whole blocks: weights so small that a product of 16 of them is no float32, and near 1."""
    rng = np.random.default_rng(5)
    x = random_values(rng, (3, 150, 40), np.float32)
    guide = rng.random((1, 150, 40)).astype(np.float32)
    y = sgs.semi_global_filter(x, guide, scale)
    weights = filter_weights(x, guide, AXES, (scale, scale), channel_axis=0)
    composed = compose(x.astype(np.float64), [w[:1] for w in weights], AXES)
    assert_within(y, composed.y, composed.magnitude, 190, np.float32, extra=4, divided_by=composed.divisor)


def test_planes_far_apart_and_a_guide_that_overlaps_the_result() -> None:
    rng = np.random.default_rng(6)
    base = random_values(rng, (5, 60, 2, 70), np.float32)
    x = base[::2, :, 0]  # three planes with others between them
    wanted = sgs.semi_global_filter(x.copy(), x.copy())
    np.testing.assert_array_equal(sgs.semi_global_filter(x, x.copy()), wanted)
    shifted = np.concatenate([x[:, :1], x], axis=1)  # the guide's rows are the result's, one further
    wanted = sgs.semi_global_filter(shifted[:, 1:].copy(), shifted[:, :-1].copy())
    np.testing.assert_array_equal(sgs.semi_global_filter(shifted[:, 1:], shifted[:, :-1], out=shifted[:, 1:]), wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_guides_that_start_where_x_does(channels: int) -> None:
    """Other views on the memory of x are not x."""
    x = random_values(np.random.default_rng(7), (channels, 40, 40), np.float32)
    for guide in (x.swapaxes(1, 2), np.broadcast_to(x[:, :1], x.shape), np.broadcast_to(x[:1], x.shape), x[:1]):
        np.testing.assert_array_equal(sgs.semi_global_filter(x, guide), sgs.semi_global_filter(x, guide.copy()))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("options", [{}, {"residual": True}, {"normalization": None}, {"trust": True}], ids=str)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1040, 1366, 3), np.float32),
        ((2, 1000, 1600, 2), np.float32),
        ((610, 890, 4), np.float64),
        ((1, 1300, 3301), np.float32),
        ((3, 515, 2800), np.float32),
    ],
    ids=str,
)
def test_results_past_the_caches(shape: tuple[int, ...], dtype: Any, options: dict[str, Any], isa: str) -> None:
    """Large results are written otherwise than where columns are not neighbours in memory, on some processors by many
    threads alone, and are the same."""
    sgs.set_isa(isa)
    rng = np.random.default_rng(0)
    channel_axis = 0 if shape[0] in (1, 3) else -1
    x = rng.random(shape, np.float32).astype(dtype)
    options = dict(options)
    if options.pop("trust", False):
        field = np.delete(shape, channel_axis)
        options["confidence"] = np.round(rng.random(field[-2:], np.float32))
        options["fill_value"] = 7.0
    y = sgs.semi_global_filter(x, channel_axis=channel_axis, out=poisoned_out(shape, dtype), num_threads=5, **options)
    apart = poisoned_out(shape, dtype, "reversed")
    assert apart.strides[-1] != y.strides[-1]
    sgs.semi_global_filter(x, channel_axis=channel_axis, out=apart, **options)
    np.testing.assert_array_equal(y, apart)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(sgs.semi_global_filter(x, channel_axis=channel_axis, out=x, **options), y)
