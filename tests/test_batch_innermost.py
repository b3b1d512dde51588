"""A batch as the innermost axis of memory, where neighbours belong to different filters, each with weights of its own."""

from typing import Any

import numpy as np
import pytest
from helpers import ISAS, assert_within, compose, filter_weights, pairwise, random_values, seeded

import sgs

AXES = (-2, -1)


@pytest.mark.parametrize(
    "case",
    pairwise(
        batch=(11, 12, 16, 20, 33),
        channels=(1, 3, 14),
        # Whole planes, small ones, and several bands; the last also where parts of 16 are few.
        size=((1, 9), (9, 1), (17, 23), (40, 63), (160, 150), (97, 260)),
        order=("batch, rows", "batch, channels", "batch, columns"),
        dtype=("float32", "float64", "float16"),
        normalization=(None, "line", "cross"),
        trust=(False, True),
        residual=(False, True),
        threads=(1, 3),
        in_place=(False, True),
        isa=ISAS,
    ),
)
def test_batch_innermost(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    rng = seeded(case)
    dtype = np.dtype(case["dtype"])
    shape = (case["batch"], case["channels"], *case["size"])
    nearest = {"batch, rows": (0, 2, 3, 1), "batch, channels": (0, 1, 2, 3), "batch, columns": (0, 3, 1, 2)}
    order = nearest[case["order"]][::-1]

    def laid_out(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))

    x = laid_out(random_values(rng, shape, dtype))
    guide = laid_out(random_values(rng, (shape[0], 2, *shape[2:]), dtype))
    confidence = None
    if case["trust"] and case["normalization"] == "cross":
        confidence = (rng.random((shape[0], *shape[2:])) < 0.7) * rng.random((shape[0], *shape[2:]))
    options = {"normalization": case["normalization"], "residual": case["residual"], "num_threads": case["threads"]}
    values = laid_out(x.copy())
    out = values if case["in_place"] else None
    y = sgs.semi_global_filter(values, guide, (6.0, 9.0), confidence=confidence, out=out, step=0.1, **options)
    for b in range(shape[0]):
        c = None
        if confidence is not None:
            c = confidence[b].astype(np.float64 if dtype == np.float64 else np.float32)
        weights = filter_weights(x[b], guide[b], AXES, (6.0, 9.0), channel_axis=0, metric="euclidean", step=(0.1, 0.1))
        composed = compose(
            x[b].astype(np.float64),
            [w[:1] for w in weights],
            AXES,
            case["normalization"],
            residual=case["residual"],
            confidence=c,
        )
        assert_within(y[b], composed.y, composed.magnitude, sum(shape[2:]), dtype, extra=4, divided_by=composed.divisor)


@pytest.mark.parametrize("batch", [16, 20])
@pytest.mark.parametrize("size", [(17, 23), (160, 150)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_one_has_does_not_show_in_the_others(bad: float, size: tuple[int, int], batch: int, isa: str) -> None:
    """Neither a cut nor what is not finite changes a bit of another's result; and nothing passes the cut."""
    rng = np.random.default_rng(0)
    x = np.asfortranarray(random_values(rng, (batch, 2, *size), np.float32))
    guide = np.asfortranarray(random_values(rng, (batch, 1, *size), np.float32))
    clean = sgs.semi_global_filter(x, guide, 5.0)
    others = np.arange(batch) != 3
    guide[3, :, 5:] += 1e9
    x[3, 1, 2, 4] = bad
    y = sgs.semi_global_filter(x, guide, 5.0)
    np.testing.assert_array_equal(y[others], clean[others])
    expected = np.zeros((2, *size), bool)
    expected[1, 2] = expected[1, :5, 4] = True
    np.testing.assert_array_equal(~np.isfinite(y[3]), expected)


@pytest.mark.parametrize("channels", [2, 8, 14])
@pytest.mark.parametrize("order", ["rows, columns, batch, channels", "rows, columns, channels, batch"])
@pytest.mark.parametrize("own", [False, True])
def test_blocks_are_calls_and_in_place_is_the_same(own: bool, order: str, channels: int, isa: str) -> None:
    """Supports are the same sums in the same order, whatever finds them."""
    axes = (2, 3, 0, 1) if order.endswith("channels") else (2, 3, 1, 0)
    rng = np.random.default_rng(0)
    shape = (12, channels, 17, 27)
    x = np.ascontiguousarray(random_values(rng, shape, np.float32).transpose(axes)).transpose(np.argsort(axes))
    guide = None if own else random_values(rng, (12, 1, 17, 27), np.float32)
    once = sgs.semi_global_filter(x, guide, 4.0)
    twice = sgs.semi_global_filter(once, guide, 4.0)
    np.testing.assert_array_equal(sgs.semi_global_filter(x, guide, 4.0, blocks=2), twice)
    in_place = x.copy(order="K")
    sgs.semi_global_filter(in_place, guide, 4.0, out=in_place)
    np.testing.assert_array_equal(in_place, once)
