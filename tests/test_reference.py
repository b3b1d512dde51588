"""The reference against brute force: weights multiplied along every path, sums written out position by position."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sgs import reference as ref

Array = npt.NDArray[np.float64]
TINY32 = float(np.finfo(np.float32).tiny)
METRICS: dict[str, Callable[[Array], float]] = {
    "euclidean": lambda d: math.sqrt(sum(float(v) ** 2 for v in d)),
    "cityblock": lambda d: sum(abs(float(v)) for v in d),
    "sqeuclidean": lambda d: sum(float(v) ** 2 for v in d),
}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def operator(w: Array) -> Array:
    """W(u, v) of (3) for one line, a product for each pair."""
    n = len(w) + 1
    return np.array([[math.prod(w[min(u, v) : max(u, v)]) for v in range(n)] for u in range(n)])


def channels_at(u: tuple[int, ...]) -> tuple[Any, ...]:
    return (slice(None), *u)


def path_weight(guide: Array, path: list[tuple[int, ...]], scale: float, step: float, metric: str) -> float:
    """W(u, v) over the positions of a path; guide (C, *spatial)."""
    distances = [METRICS[metric](guide[channels_at(a)] - guide[channels_at(b)]) for a, b in pairwise(path)]
    return math.exp(-sum((d + step) / scale for d in distances))


def line_through(u: tuple[int, ...], axis: int, shape: tuple[int, ...]) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Every position of u's line along `axis`, as its index there and the path to it from u."""
    for i in range(shape[axis]):
        towards = range(u[axis], i + 1) if i >= u[axis] else range(u[axis], i - 1, -1)
        yield i, [(*u[:axis], j, *u[axis + 1 :]) for j in towards]


def brute_filter(
    x: Array,
    guide: Array,
    scale: tuple[float, ...],
    step: tuple[float, ...],
    metric: str = "euclidean",
    normalization: str | None = "cross",
    residual: bool = False,
) -> Array:
    """(7) for x (C, *spatial) and guide (C', *spatial): "cross" as one set of positions, the centre once."""
    shape = x.shape[1:]
    y = np.zeros_like(x)
    for u in product(*map(range, shape)):
        at_u = channels_at(u)
        cross: dict[tuple[int, ...], float] = {}
        for axis in range(len(shape)):
            line = {
                path[-1]: path_weight(guide, path, scale[axis], step[axis], metric)
                for _, path in line_through(u, axis, shape)
            }
            total = sum(w * x[channels_at(v)] for v, w in line.items())
            if normalization is None:
                y[at_u] += total
            if normalization == "line":
                y[at_u] += total / sum(line.values())
            cross |= line
        if normalization == "cross":
            assert len(cross) == sum(shape) - len(shape) + 1
            y[at_u] = sum(w * x[channels_at(v)] for v, w in cross.items()) / sum(cross.values())
        if residual:
            y[at_u] += x[at_u]
    return y


def matrix_of(apply: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """The linear part of `apply`, column by column from one-hots."""
    size = math.prod(shape)
    constant = apply(np.zeros(shape)).ravel()
    return np.stack([apply(e.reshape(shape)).ravel() - constant for e in np.eye(size)], axis=1)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_scan_is_a_sum_over_one_side(rng: np.random.Generator, n: int) -> None:
    x, w = rng.normal(size=n), rng.random(max(n - 1, 0))
    weights = operator(w)
    np.testing.assert_allclose(ref.scan(x, w), np.tril(weights) @ x)
    np.testing.assert_allclose(ref.scan(x, w, reverse=True), np.triu(weights) @ x)
    np.testing.assert_allclose(ref.scan(x, w, initial=2.5), np.tril(weights) @ x + 2.5 * weights[:, 0])
    np.testing.assert_allclose(ref.scan(x, w, reverse=True, initial=2.5), np.triu(weights) @ x + 2.5 * weights[:, -1])


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_line_filter_is_the_sum_over_the_line(rng: np.random.Generator, n: int) -> None:
    x, w = rng.normal(size=n), rng.random(max(n - 1, 0))
    weights = operator(w)
    np.testing.assert_allclose(ref.line_filter(x, w), weights @ x)
    expected = weights @ x + 2.5 * weights[:, 0] - 1.5 * weights[:, -1]
    np.testing.assert_allclose(ref.line_filter(x, w, initial=(2.5, -1.5)), expected)
    expected = weights @ x - 1.5 * weights[:, -1]
    np.testing.assert_allclose(ref.line_filter(x, w, initial=(None, -1.5)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_any_axis_with_weights_and_initial_broadcast(rng: np.random.Generator, axis: int) -> None:
    x = rng.normal(size=(4, 3, 5))
    edges = [1, 1, 1]
    edges[axis] = x.shape[axis] - 1
    w = rng.random(edges)
    left = rng.normal(size=np.delete(x.shape, axis))
    start = np.moveaxis(np.zeros_like(x), axis, 0)
    start[0] = left
    with_left = x + np.moveaxis(start, 0, axis)
    weights = operator(w.ravel())
    for got, matrix in [
        (ref.scan(x, w, axis, initial=left), np.tril(weights)),
        (ref.line_filter(x, w, axis, initial=(left, 0.0)), weights),
        (ref.tree_update(ref.tree_aggregate(with_left, w, axis, root=1), w, axis, root=1), weights),
    ]:
        np.testing.assert_allclose(got, np.moveaxis(np.tensordot(matrix, with_left, (1, axis)), 0, axis))
    # The same weights of lower rank, right-aligned.
    if axis % 3 == 2:
        np.testing.assert_array_equal(ref.line_filter(x, w.ravel(), axis), ref.line_filter(x, w, axis))


def test_one_weight_per_line(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(2, 3, 6)), rng.random((3, 5))
    got = ref.line_filter(x, w)
    for b, r in product(range(2), range(3)):
        np.testing.assert_allclose(got[b, r], operator(w[r]) @ x[b, r])


@pytest.mark.parametrize("name", ["scan", "line_filter"])
def test_chunks_compose_through_initial(rng: np.random.Generator, name: str) -> None:
    x, w = rng.normal(size=(3, 9)), rng.random(8)
    left = w[3] * ref.scan(x[:, :4], w[:3])[:, -1]
    right = w[3] * ref.scan(x[:, 4:], w[4:], reverse=True)[:, 0]
    if name == "scan":
        parts = [ref.scan(x[:, :4], w[:3]), ref.scan(x[:, 4:], w[4:], initial=left)]
        np.testing.assert_allclose(np.hstack(parts), ref.scan(x, w))
    else:
        parts = [
            ref.line_filter(x[:, :4], w[:3], initial=(None, right)),
            ref.line_filter(x[:, 4:], w[4:], initial=(left, None)),
        ]
        np.testing.assert_allclose(np.hstack(parts), ref.line_filter(x, w))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_tree_form_is_the_line_filter_for_every_root(rng: np.random.Generator, n: int) -> None:
    x, w = rng.normal(size=n), rng.random(n - 1)
    w[1:3] = [0.0, 1.0][: len(w[1:3])]
    for root in range(n):
        a = ref.tree_aggregate(x, w, root=root)
        below = operator(w)
        for u, v in product(range(n), range(n)):
            if not (v <= u <= root or v >= u >= root):  # v is not in the subtree of u
                below[u, v] = 0.0
        np.testing.assert_allclose(a, below @ x)
        np.testing.assert_allclose(ref.tree_update(a, w, root=root), ref.line_filter(x, w))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    w = np.zeros((*shape[:-1], max(shape[-1] - 1, 0)))
    for f in (ref.scan, ref.line_filter, ref.tree_aggregate, ref.tree_update):
        assert f(x, w).shape == shape
    assert ref.semi_global_filter(x).shape == shape
    assert ref.edge_weights(x, -1).shape == w.shape


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_crosses_a_cut_and_bad_values_spread_up_to_it(bad: float) -> None:
    x, w = np.ones(9), np.full(8, 0.5)
    w[2] = w[6] = 0.0
    x[4] = bad
    spread = np.zeros(9, dtype=bool)
    spread[3:7] = True
    clean = ref.line_filter(np.where(spread, 1.0, x), w)
    for got, where in [
        (ref.line_filter(x, w), spread),
        (ref.scan(x, w), spread & (np.arange(9) >= 4)),
        (ref.scan(x, w, reverse=True), spread & (np.arange(9) <= 4)),
        *((ref.tree_update(ref.tree_aggregate(x, w, root=r), w, root=r), spread) for r in (0, 4, 8)),
    ]:
        np.testing.assert_array_equal(~np.isfinite(got), where)
    np.testing.assert_array_equal(ref.line_filter(x, w)[~spread], clean[~spread])
    np.testing.assert_array_equal(ref.line_filter(x, w)[spread], bad)


def test_bad_weight_spreads_over_its_line_only(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(3, 6)), rng.random((3, 5))
    w[1, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(ref.line_filter(x, w)), [[False] * 6, [True] * 6, [False] * 6])


def test_bad_guide_shows() -> None:
    guide = np.zeros((3, 4))
    guide[1, 2] = np.nan
    for normalization in ("cross", "line", None):
        got = ref.semi_global_filter(np.ones((3, 4)), guide, normalization=normalization)
        assert np.isnan(got[1]).all()
        assert np.isnan(got[:, 2]).all()
        assert np.isfinite(np.delete(np.delete(got, 1, axis=0), 2, axis=1)).all()


def test_bad_value_spreads_over_its_row_and_column_only(rng: np.random.Generator) -> None:
    x, guide = rng.normal(size=(2, 4, 5)), rng.normal(size=(3, 4, 5))
    x[1, 2, 3] = np.nan
    expected = np.zeros(x.shape, dtype=bool)
    expected[1, 2, :] = expected[1, :, 3] = True
    for normalization in ("cross", "line", None):
        got = ref.semi_global_filter(x, guide, normalization=normalization)
        np.testing.assert_array_equal(np.isnan(got), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("heads", [1, 2])
def test_edge_weights(rng: np.random.Generator, metric: str, heads: int) -> None:
    guide = rng.normal(size=(2, 4, 3, 5))  # (B, C, H, W)
    got = ref.edge_weights(guide, -2, 0.7, metric=metric, step=0.3, heads=heads)
    assert got.shape == (2, heads, 2, 5)
    for b, h, i, j in product(range(2), range(heads), range(2), range(5)):
        group = guide[b, h * (4 // heads) : (h + 1) * (4 // heads), :, j]
        expected = math.exp(-(METRICS[metric](group[:, i] - group[:, i + 1]) + 0.3) / 0.7)
        assert got[b, h, i, j] == pytest.approx(expected)
    channels_last = ref.edge_weights(
        np.moveaxis(guide, 1, -1), 1, 0.7, channel_axis=-1, metric=metric, step=0.3, heads=heads
    )
    np.testing.assert_allclose(np.moveaxis(channels_last, -1, 1), got)


def test_edge_weights_of_a_single_channel(rng: np.random.Generator) -> None:
    guide = rng.normal(size=(4, 5))
    expected = np.exp(-np.abs(np.diff(guide, axis=0)))
    np.testing.assert_allclose(ref.edge_weights(guide, 0), expected)
    np.testing.assert_allclose(ref.edge_weights(guide, 0, channel_axis=None), expected)
    np.testing.assert_allclose(ref.edge_weights(guide, 1, channel_axis=0)[0], np.exp(-np.hypot.reduce(np.diff(guide))))


@pytest.mark.parametrize("normalization", ["cross", "line", None])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_filter_is_the_sum_over_row_and_column(
    rng: np.random.Generator, normalization: str | None, residual: bool, metric: str
) -> None:
    x, guide = rng.normal(size=(2, 4, 5)), rng.normal(size=(3, 4, 5))
    options: dict[str, Any] = {"metric": metric, "normalization": normalization, "residual": residual}
    expected = brute_filter(x, guide, (0.8, 1.7), (0.1, 0.4), **options)
    got = ref.semi_global_filter(x, guide, (0.8, 1.7), step=(0.1, 0.4), **options)
    np.testing.assert_allclose(got, expected)
    swapped = ref.semi_global_filter(x, guide, (1.7, 0.8), step=(0.4, 0.1), axes=(-1, -2), **options)
    np.testing.assert_allclose(swapped, expected)
    last = ref.semi_global_filter(
        np.moveaxis(x, 0, -1), np.moveaxis(guide, 0, -1), (0.8, 1.7), step=(0.1, 0.4), channel_axis=-1, **options
    )
    np.testing.assert_allclose(np.moveaxis(last, -1, 0), expected)


@pytest.mark.parametrize("normalization", ["cross", "line", None])
@pytest.mark.parametrize("axes", [(1,), (1, 2), (1, 2, 3)])
def test_any_number_of_axes(rng: np.random.Generator, normalization: str | None, axes: tuple[int, ...]) -> None:
    shape = (2, 3, 4, 2)[: len(axes) + 1]
    x, guide = rng.normal(size=shape), rng.normal(size=shape)
    scale, step = (0.8, 1.7, 1.2)[: len(axes)], (0.1, 0.4, 0.0)[: len(axes)]
    got = ref.semi_global_filter(x, guide, scale, step=step, channel_axis=0, axes=axes, normalization=normalization)
    np.testing.assert_allclose(got, brute_filter(x, guide, scale, step, normalization=normalization))


def test_single_channels(rng: np.random.Generator) -> None:
    x, guide = rng.normal(size=(4, 5)), rng.normal(size=(3, 4, 5))
    expected = brute_filter(x[None], x[None], (1.0, 1.0), (0.0, 0.0))[0]
    for channel_axis in (-3, -1, None):
        np.testing.assert_allclose(ref.semi_global_filter(x, channel_axis=channel_axis), expected)
        np.testing.assert_allclose(ref.semi_global_filter(x, x, channel_axis=channel_axis), expected)
    expected = brute_filter(x[None], guide, (1.0, 1.0), (0.0, 0.0))[0]
    np.testing.assert_allclose(ref.semi_global_filter(x, guide), expected)
    np.testing.assert_allclose(ref.semi_global_filter(x, np.moveaxis(guide, 0, -1), channel_axis=-1), expected)
    line = brute_filter(x[None, 0], guide[:, 0], (1.0,), (0.0,))[0]
    np.testing.assert_allclose(ref.semi_global_filter(x[0], guide[:, 0], channel_axis=0), line)
    stack = ref.semi_global_filter(np.stack([x, 2 * x]), x, channel_axis=None)
    np.testing.assert_allclose(stack[1], 2 * stack[0])


def test_batch_axes_of_the_guide_broadcast(rng: np.random.Generator) -> None:
    x, guide = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 4, 5))
    expected = np.stack([ref.semi_global_filter(image, guide) for image in x])
    np.testing.assert_array_equal(ref.semi_global_filter(x, guide), expected)
    np.testing.assert_array_equal(ref.semi_global_filter(x, guide[None]), expected)


def test_a_guide_of_the_spatial_axes_alone_is_a_single_channel(rng: np.random.Generator) -> None:
    x, guide, c = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 5)), rng.random((4, 5))
    expected = ref.semi_global_filter(x, guide[None], confidence=c)
    np.testing.assert_array_equal(ref.semi_global_filter(x, guide, confidence=c), expected)
    image = np.moveaxis(x, 0, -1)
    got = ref.semi_global_filter(image, guide, channel_axis=-1, confidence=c)
    np.testing.assert_array_equal(np.moveaxis(got, -1, 0), expected)
    got = ref.semi_global_filter(image, guide, channel_axis=None, axes=(0, 1), confidence=c)  # a batch behind
    np.testing.assert_array_equal(np.moveaxis(got, -1, 0), expected)
    got = ref.semi_global_filter(np.stack([x, x], axis=1), np.stack([guide, guide]), channel_axis=0, confidence=c)
    np.testing.assert_array_equal(got, np.stack([expected, expected], axis=1))


def test_heads_are_filters_side_by_side(rng: np.random.Generator) -> None:
    x, guide = rng.normal(size=(4, 3, 5)), rng.normal(size=(6, 3, 5))
    halves = [ref.semi_global_filter(x[2 * h : 2 * h + 2], guide[3 * h : 3 * h + 3], blocks=2) for h in range(2)]
    np.testing.assert_array_equal(ref.semi_global_filter(x, guide, heads=2, blocks=2), np.concatenate(halves))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_blocks_are_repeated_calls(rng: np.random.Generator, guided: bool, residual: bool) -> None:
    x = rng.normal(size=(2, 4, 5))
    guide = rng.normal(size=(3, 4, 5)) if guided else None
    expected = x
    for _ in range(3):
        expected = ref.semi_global_filter(expected, guide, residual=residual)
    np.testing.assert_array_equal(ref.semi_global_filter(x, guide, blocks=3, residual=residual), expected)


def brute_cross(guide: Array, scale: float = 1.0) -> Array:
    """The matrix with the weights of every position's cross in its row; guide (C, H, W)."""
    shape = guide.shape[1:]
    matrix = np.zeros(shape + shape)
    for u in product(*map(range, shape)):
        for axis in range(len(shape)):
            for _, path in line_through(u, axis, shape):
                matrix[u + path[-1]] = path_weight(guide, path, scale, 0.0, "euclidean")
    return matrix.reshape(math.prod(shape), -1)


@pytest.mark.parametrize("residual", [False, True])
def test_confidence_weights_values_and_flows_on(rng: np.random.Generator, residual: bool) -> None:
    x, guide, c = rng.normal(size=(2, 4, 5)), rng.normal(size=(3, 4, 5)), rng.random((4, 5))
    c[1, 2] = 0.0
    with_hole = x.copy()
    with_hole[:, 1, 2] = np.nan
    x[:, 1, 2] = 0.0
    cross, support, y = brute_cross(guide), c.ravel(), x.reshape(2, -1)
    for blocks in (1, 2, 3):
        total = (cross @ (support * y).T).T
        trusted = np.where(support == 0, 0.0, y)
        support = cross @ support
        y = total / support + (trusted if residual else 0.0)
        got = ref.semi_global_filter(with_hole, guide, blocks=blocks, confidence=c, residual=residual)
        np.testing.assert_allclose(got, y.reshape(x.shape))


def test_confidence_one_is_the_first_block_without(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4, 5))
    np.testing.assert_allclose(ref.semi_global_filter(x, confidence=np.ones((4, 5))), ref.semi_global_filter(x))
    two = ref.semi_global_filter(x, blocks=2, confidence=np.ones((4, 5)))
    assert not np.allclose(two, ref.semi_global_filter(x, blocks=2))


def test_confidence_broadcasts_over_batch_and_heads(rng: np.random.Generator) -> None:
    x, c = rng.normal(size=(2, 4, 3, 5)), rng.random((3, 5))
    got = ref.semi_global_filter(x, heads=2, confidence=c, blocks=2)
    for b, h in product(range(2), range(2)):
        head = slice(2 * h, 2 * h + 2)
        expected = ref.semi_global_filter(x[b, head], confidence=c, blocks=2)
        np.testing.assert_array_equal(got[b, head], expected)
    np.testing.assert_array_equal(ref.semi_global_filter(x, heads=2, confidence=c[None], blocks=2), got)


@pytest.mark.parametrize("residual", [False, True])
def test_unsupported_positions_are_filled(residual: bool) -> None:
    x = np.array([1.0, 2.0, np.nan, np.nan, np.inf, 3.0])
    c = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    guide = np.array([0.0, 0.0, np.inf, np.inf, -np.inf, 0.0])
    guide[3] = guide[2] = 1e9  # edges 1-2, 3-4 and 4-5 are cut, 2-3 is not
    got = ref.semi_global_filter(x, guide, confidence=c, fill_value=-7.0, residual=residual)
    expected = np.array([1.5, 1.5, -7.0, -7.0, -7.0, 3.0])
    np.testing.assert_allclose(got, expected + (np.array([1.0, 2.0, 0.0, 0.0, 0.0, 3.0]) if residual else 0.0))


@pytest.mark.parametrize("residual", [False, True])
def test_support_below_the_smallest_normal_is_none(residual: bool) -> None:
    c = np.array([TINY32 / 2, TINY32])
    guide = np.array([0.0, 1e9])
    x = np.array([3.0, 5.0])
    once = x if residual else np.zeros(2)
    got = ref.semi_global_filter(x, guide, confidence=c, fill_value=-1.0, residual=residual)
    np.testing.assert_array_equal(got, x + once)
    for dtype in (np.float32, np.float16, np.int64):
        got = ref.semi_global_filter(x.astype(dtype), guide, confidence=c, fill_value=-1.0, residual=residual)
        np.testing.assert_array_equal(got, np.array([-1.0, 5.0]) + once)


def test_a_filled_value_goes_on_with_the_support_it_had() -> None:
    x, c = np.array([3.0, 5.0], dtype=np.float32), np.array([TINY32 / 8, TINY32])
    w = 0.25
    got = ref.semi_global_filter(x, np.array([0.0, -math.log(w)]), confidence=c, fill_value=-1.0, blocks=2)
    support = operator(np.array([w])) @ c
    assert support[0] < TINY32 < support[1]
    first = [-1.0, (5.0 * c[1] + w * 3.0 * c[0]) / support[1]]
    total = operator(np.array([w])) @ (support * first)
    support = operator(np.array([w])) @ support
    expected = np.where(support >= TINY32, total / support, -1.0)
    np.testing.assert_allclose(got, expected)


def test_missing_values_do_not_guide() -> None:
    x = np.array([[0.0, np.nan, 4.0, 5.0]])
    c = np.array([[1.0, 0.0, 1.0, 1.0]])
    got = ref.semi_global_filter(x, confidence=c, step=0.5, scale=2.0)
    w = np.exp(-(np.array([0.0, 0.0, 1.0]) + 0.5) / 2.0)
    weights = operator(w) * c
    expected = weights @ [0.0, 0.0, 4.0, 5.0] / weights.sum(axis=1)
    np.testing.assert_allclose(got[0], expected)
    # Given as a guide, the same values are taken as they are.
    assert np.isnan(ref.edge_weights(x, 1)[0, :2]).all()


def test_blocks_with_confidence_are_repeated_calls(rng: np.random.Generator) -> None:
    x, c = rng.normal(size=(2, 4, 5)), np.ones((4, 5))
    c[:, 1:4] = 0.0
    c[1:] = 0.0
    distance = [np.sqrt((np.diff(x, axis=axis) ** 2).sum(axis=0)) for axis in (1, 2)]
    missing = [(c[:-1] == 0) | (c[1:] == 0), (c[:, :-1] == 0) | (c[:, 1:] == 0)]
    w = [np.exp(-np.where(m, 0.0, d)) for m, d in zip(missing, distance, strict=True)]
    support = ref.line_filter(c, w[0], 0) + ref.line_filter(c, w[1], 1) - c
    values = np.where(c == 0, 0.0, c * x)
    total = ref.line_filter(values, w[0], 1) + ref.line_filter(values, w[1], 2) - values
    unreached = np.s_[1:, 1:4]
    np.testing.assert_array_equal(support[unreached], 0.0)
    support[unreached] = 1.0
    expected = total / support
    support[unreached] = 0.0
    first = ref.semi_global_filter(x, confidence=c)
    np.testing.assert_allclose(first, expected)
    second = ref.semi_global_filter(first, confidence=support)
    np.testing.assert_allclose(ref.semi_global_filter(x, confidence=c, blocks=2), second)


@pytest.mark.parametrize("normalization", ["cross", "line", None])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_attention_map_is_a_row_of_the_operator(
    rng: np.random.Generator, normalization: str | None, residual: bool, blocks: int
) -> None:
    guide = rng.normal(size=(2, 3, 4))
    options: dict[str, Any] = {"step": 0.1, "blocks": blocks, "normalization": normalization, "residual": residual}
    matrix = matrix_of(lambda x: ref.semi_global_filter(x, guide, (0.8, 1.7), **options), (3, 4))
    for y, x in product(range(3), range(4)):
        got = ref.attention_map(guide, (y, x), (0.8, 1.7), **options)
        np.testing.assert_allclose(got, matrix[y * 4 + x].reshape(3, 4), atol=1e-15)
        swapped = ref.attention_map(guide, (x, y), (1.7, 0.8), axes=(-1, -2), **options)
        np.testing.assert_allclose(swapped, got)
    if normalization == "cross":
        np.testing.assert_allclose(matrix.sum(axis=1), 2.0**blocks if residual else 1.0)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_attention_map_with_confidence(rng: np.random.Generator, residual: bool, blocks: int) -> None:
    guide, c = rng.normal(size=(2, 3, 4)), rng.random((3, 4))
    guide[:, :2, 3] += 1e9  # a corner cut off from everything,
    c[:2, 3] = 0.0  # with nothing in it
    c[1, 1] = 0.0
    options: dict[str, Any] = {"blocks": blocks, "confidence": c, "residual": residual}
    matrix = matrix_of(lambda x: ref.semi_global_filter(x, guide, fill_value=3.0, **options), (3, 4))
    for position in product(range(3), range(4)):
        got = ref.attention_map(guide, position, **options)
        np.testing.assert_allclose(got.ravel(), matrix[position[0] * 4 + position[1]], atol=1e-14)
    np.testing.assert_array_equal(ref.attention_map(guide, (0, 3), **options), 0.0)
    assert not matrix[:, 5].any()


def test_attention_map_of_an_unsupported_position() -> None:
    guide, c = np.array([0.0, 1e9], dtype=np.float32), np.array([TINY32 / 2, 1.0])
    np.testing.assert_array_equal(ref.attention_map(guide, 0, confidence=c), [0.0, 0.0])
    np.testing.assert_array_equal(ref.attention_map(guide, 0, confidence=c, residual=True), [1.0, 0.0])
    np.testing.assert_array_equal(ref.attention_map(guide.astype(np.float64), 0, confidence=c), [1.0, 0.0])


def test_attention_map_with_a_guide_for_each_block(rng: np.random.Generator) -> None:
    guides = [rng.normal(size=(2, 3, 4)), rng.normal(size=(1, 3, 4))]
    first = matrix_of(lambda x: ref.semi_global_filter(x, guides[0]), (3, 4))
    second = matrix_of(lambda x: ref.semi_global_filter(x, guides[1]), (3, 4))
    got = ref.attention_map(guides, (1, 2), blocks=2)
    np.testing.assert_allclose(got.ravel(), (second @ first)[6])
    np.testing.assert_array_equal(ref.attention_map(tuple(guides), (1, 2), blocks=2), got)


def test_attention_map_shapes(rng: np.random.Generator) -> None:
    guide = rng.normal(size=(3, 4, 5, 6))
    got = ref.attention_map(guide, (2, 3), heads=2)
    assert got.shape == (3, 2, 5, 6)
    for b, h in product(range(3), range(2)):
        expected = ref.attention_map(guide[b, 2 * h : 2 * h + 2], (2, 3))
        np.testing.assert_array_equal(got[b, h], expected)
    assert ref.attention_map(guide, (2, 3)).shape == (3, 5, 6)
    assert ref.attention_map(guide, (1, 2, 3), channel_axis=0, axes=(1, 2, 3)).shape == (4, 5, 6)
    assert ref.attention_map(guide[0, 0], (1, 2)).shape == (5, 6)
    line = ref.attention_map(guide[0, 0, 0], 2)
    w = ref.edge_weights(guide[0, 0, 0], 0)
    np.testing.assert_allclose(line, operator(w)[2] / operator(w)[2].sum())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int16", "uint8", "bool"])
def test_any_dtype_is_taken_to_float64_first(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = (np.arange(20).reshape(4, 5) * 7 % 11).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for got, expected in [
        (ref.semi_global_filter(x), ref.semi_global_filter(x.astype(np.float64))),
        (ref.edge_weights(x, 0), ref.edge_weights(x.astype(np.float64), 0)),
        (ref.attention_map(x, (1, 2)), ref.attention_map(x.astype(np.float64), (1, 2))),
    ]:
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, expected)


def test_arguments_stay_as_they_were(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(3, 5)), rng.random((3, 4))
    kept = x.copy(), w.copy()
    ref.scan(x, w, initial=1.0)
    ref.line_filter(x, w, initial=(1.0, 1.0))
    ref.tree_update(ref.tree_aggregate(x, w, root=2), w, root=2)
    ref.semi_global_filter(x, residual=True, normalization=None)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(w, kept[1])
