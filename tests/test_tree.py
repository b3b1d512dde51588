"""`sgs.tree_aggregate` and `sgs.tree_update` (6) against the reference, for roots anywhere."""

from typing import Any

import numpy as np
import pytest
from helpers import LINE_FACTORS, assert_within, line_case, pairwise, random_values, random_weights, result_type

import sgs

FACTORS = {name: values for name, values in LINE_FACTORS.items() if name != "initial"}
ROOTS = (0.0, 0.3, 0.5, 1.0)


def _root(n: int, share: float) -> int:
    return round(share * (n - 1))


@pytest.mark.parametrize("case", pairwise(**FACTORS, root=ROOTS))
def test_aggregate_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    line = line_case({**case, "initial": None})
    root = _root(line.n, case["root"])
    expected = sgs.reference.tree_aggregate(line.exact_x, line.exact_w, line.axis, root=root)
    magnitude = sgs.reference.tree_aggregate(np.abs(line.exact_x), line.exact_w, line.axis, root=root)

    y = sgs.tree_aggregate(line.x, line.w, line.axis, root=root, out=line.out, num_threads=case["threads"])

    assert line.out is None or y is line.out
    assert_within(y, expected, magnitude, line.n, result_type(line.x.dtype))


@pytest.mark.parametrize("case", pairwise(**FACTORS, root=ROOTS))
def test_update_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    line = line_case({**case, "initial": None})
    root = _root(line.n, case["root"])
    expected = sgs.reference.tree_update(line.exact_x, line.exact_w, line.axis, root=root)
    # 0 <= w <= 1 makes every factor positive, so the same update of |a| bounds the sizes that are summed.
    magnitude = sgs.reference.tree_update(np.abs(line.exact_x), line.exact_w, line.axis, root=root)

    y = sgs.tree_update(line.x, line.w, line.axis, root=root, out=line.out, num_threads=case["threads"])

    assert line.out is None or y is line.out
    assert_within(y, expected, magnitude, line.n, result_type(line.x.dtype), extra=4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 97, 1000])
def test_both_compose_to_the_line_filter(n: int, dtype: type, isa: str) -> None:
    rng = np.random.default_rng(n)
    x, w = random_values(rng, (n, 5), dtype), random_weights(rng, (n - 1, 1), dtype)
    expected = sgs.reference.line_filter(x, w, 0)
    magnitude = sgs.reference.line_filter(np.abs(x), w, 0)
    for root in sorted({0, n // 3, n // 2, n - 1}):
        a = sgs.tree_aggregate(x, w, 0, root=root)
        y = sgs.tree_update(a, w, 0, root=root)
        # Two operations after one another: their bounds add up.
        assert_within(y, expected, magnitude, 2 * n, dtype)


def test_root_collects_the_whole_line() -> None:
    x, w = np.arange(1.0, 8.0), np.full(6, 0.5)
    for root in range(7):
        weights = 0.5 ** np.abs(np.arange(7) - root)
        assert sgs.tree_aggregate(x, w, root=root)[root] == (weights * x).sum()


def test_negative_root_counts_from_the_end() -> None:
    x, w = np.arange(1.0, 8.0), np.full(6, 0.5)
    np.testing.assert_array_equal(sgs.tree_aggregate(x, w, root=-2), sgs.tree_aggregate(x, w, root=5))
    np.testing.assert_array_equal(sgs.tree_update(x, w, root=-2), sgs.tree_update(x, w, root=5))


def test_whole_links_leave_nothing_of_the_child() -> None:
    """w = 1: 1 - w^2 is exactly 0 and the child takes its parent's value."""
    a = np.float32([1, 2, 3, 4])
    np.testing.assert_array_equal(sgs.tree_update(a, np.ones(3, np.float32), root=3), [4, 4, 4, 4])


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 2.0**-24), (np.float64, 2.0**-53)])
def test_small_difference_of_weights_from_one(dtype: type, eps: float, isa: str) -> None:
    """1 - w^2 keeps its digits where w is close to 1, where the parent's value is 0 and nothing else is left."""
    w = 1 - 2.0**-20
    expected = (2.0**-19 - 2.0**-40) * 3  # exact in float64
    y = sgs.tree_update(np.array([0, 3], dtype), np.array([w], dtype), root=0)
    np.testing.assert_allclose(y[1], expected, rtol=4 * eps)
