"""What must hold for any input: Hypothesis looks for one where it does not."""

from typing import Any

import numpy as np
from helpers import assert_within, random_values, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st

import sgs

# The same examples in every run: a failure here is the code's, not the day's.
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 97, 128, 129, 200]))
NORMALIZATIONS = st.sampled_from([None, "line", "cross"])
METRICS = st.sampled_from(["euclidean", "cityblock", "sqeuclidean"])


class Example(tuple[Any, ...]):
    """Arguments that are named by their shapes, not their values, where an example is reported."""

    def __repr__(self) -> str:
        return repr([(v.shape, v.dtype.name) if isinstance(v, np.ndarray) else v for v in self])


@st.composite
def lines(draw: st.DrawFn, dtypes: Any = (np.float64,)) -> Example:
    """x, weights shared by some of its axes, the axis, and a generator for more."""
    rng = np.random.default_rng(draw(SEEDS))
    ndim = draw(st.integers(1, 3))
    axis = draw(st.integers(0, ndim - 1))
    shape = [draw(st.integers(1, 5)) for _ in range(ndim)]
    shape[axis] = draw(LENGTHS)
    w_shape = [n if draw(st.booleans()) else 1 for n in shape]
    w_shape[axis] = shape[axis] - 1
    dtype = draw(st.sampled_from(dtypes))
    return Example((random_values(rng, shape, dtype), random_weights(rng, w_shape, dtype), axis, rng))


@st.composite
def images(draw: st.DrawFn, dtypes: Any = (np.float64,)) -> Example:
    """x (C, H, W), a guide, and options of the filter without confidence."""
    rng = np.random.default_rng(draw(SEEDS))
    h, w = draw(LENGTHS), draw(LENGTHS)
    dtype = draw(st.sampled_from(dtypes))
    x, guide = random_values(rng, (2, h, w), dtype), random_values(rng, (4, h, w), dtype)
    options = {
        "scale": draw(st.floats(0.1, 50)),
        "step": draw(st.floats(0, 1)),
        "metric": draw(METRICS),
        "heads": draw(st.integers(1, 2)),
        "residual": draw(st.booleans()),
    }
    return Example((x, guide, options))


@EXAMPLES
@given(lines(), st.floats(-4, 4), st.booleans())
def test_linear(line: Any, factor: float, reverse: bool) -> None:
    x, w, axis, rng = line
    y = random_values(rng, x.shape)
    n = x.shape[axis]
    mixed = factor * x + y
    size = abs(factor) * np.abs(x) + np.abs(y)
    expected = factor * sgs.line_filter(x, w, axis) + sgs.line_filter(y, w, axis)
    magnitude = sgs.line_filter(size, w, axis)
    assert_within(sgs.line_filter(mixed, w, axis), expected, magnitude, 2 * n, np.float64, extra=6)
    expected = factor * sgs.scan(x, w, axis, reverse=reverse) + sgs.scan(y, w, axis, reverse=reverse)
    assert_within(sgs.scan(mixed, w, axis, reverse=reverse), expected, magnitude, 2 * n, np.float64, extra=6)


@EXAMPLES
@given(lines())
def test_self_adjoint(line: Any) -> None:
    """<Tx, y> = <x, Ty>, and the adjoint of a scan is the reverse scan."""
    x, w, axis, rng = line
    y = random_values(rng, x.shape)
    size = (sgs.line_filter(np.abs(x), w, axis) * np.abs(y)).sum()
    close = 4 * (x.size + 2) * 2.0**-53 * size
    assert abs((sgs.line_filter(x, w, axis) * y).sum() - (x * sgs.line_filter(y, w, axis)).sum()) <= close
    assert abs((sgs.scan(x, w, axis) * y).sum() - (x * sgs.scan(y, w, axis, reverse=True)).sum()) <= close


@EXAMPLES
@given(lines(dtypes=(np.float32, np.float64)))
def test_flipped(line: Any) -> None:
    """Filtering the flipped line flips the result; a reverse scan is the scan of the flipped line."""
    x, w, axis, _ = line
    n = x.shape[axis]
    flipped_x, flipped_w = np.flip(x, axis), np.flip(w, axis)
    magnitude = sgs.reference.line_filter(np.abs(x), w, axis)
    y = np.flip(sgs.line_filter(flipped_x, flipped_w, axis), axis).astype(np.float64)
    assert_within(sgs.line_filter(x, w, axis), y, magnitude, 2 * n, x.dtype)
    f = np.flip(sgs.scan(flipped_x, flipped_w, axis), axis).astype(np.float64)
    assert_within(sgs.scan(x, w, axis, reverse=True), f, magnitude, 2 * n, x.dtype)


@EXAMPLES
@given(lines(), st.data())
def test_chunks_compose_through_initial(line: Any, data: st.DataObject) -> None:
    """Cut a line anywhere: what one chunk ends with, times the linking weight, is the next chunk's `initial`."""
    x, w, axis, _ = line
    x, w = np.moveaxis(x, axis, 0), np.moveaxis(w, axis, 0)
    n = len(x)
    cut = data.draw(st.integers(1, max(n - 1, 1)))
    if cut >= n:
        return
    magnitude = sgs.reference.line_filter(np.abs(x), w, 0)
    link = np.broadcast_to(w[cut - 1], x.shape[1:])

    first = sgs.scan(x[:cut], w[: cut - 1], 0)
    second = sgs.scan(x[cut:], w[cut:], 0, initial=link * first[-1])
    assert_within(np.concatenate([first, second]), sgs.scan(x, w, 0), magnitude, 2 * n, np.float64)

    last = sgs.scan(x[cut:], w[cut:], 0, reverse=True)
    rest = sgs.scan(x[:cut], w[: cut - 1], 0, reverse=True, initial=link * last[0])
    whole = sgs.scan(x, w, 0, reverse=True)
    assert_within(np.concatenate([rest, last]), whole, magnitude, 2 * n, np.float64)

    left = sgs.line_filter(x[:cut], w[: cut - 1], 0, initial=(None, link * last[0]))
    right = sgs.line_filter(x[cut:], w[cut:], 0, initial=(link * first[-1], None))
    assert_within(np.concatenate([left, right]), sgs.line_filter(x, w, 0), magnitude, 2 * n, np.float64)


@EXAMPLES
@given(LENGTHS, SEEDS, st.floats(0, 1))
def test_impulse_response_is_the_product_of_weights(n: int, seed: int, where: float) -> None:
    """(3): an impulse at v arrives at u as W(u, v)."""
    w = random_weights(np.random.default_rng(seed), (n - 1,))
    v = round(where * (n - 1))
    impulse = np.zeros(n)
    impulse[v] = 1
    right = np.concatenate([np.ones(1), np.cumprod(w[v:])])
    left = np.cumprod(w[:v][::-1])[::-1]
    expected = np.concatenate([left, right])
    assert_within(sgs.line_filter(impulse, w), expected, expected, n, np.float64)
    forward = np.concatenate([np.zeros(v), right])
    assert_within(sgs.scan(impulse, w), forward, forward, n, np.float64)


@EXAMPLES
@given(images(dtypes=(np.float32, np.float64)), st.floats(-100, 100))
def test_constant_fields(image: Any, value: float) -> None:
    """Under "cross" a constant stays, under "line" it becomes k times itself."""
    x, guide, options = image
    options["residual"] = False
    constant = np.full_like(x, value)
    n = sum(x.shape[-2:])
    size = np.abs(constant.astype(np.float64))
    same = sgs.semi_global_filter(constant, guide, normalization="cross", **options)
    assert_within(same, constant.astype(np.float64), size, 2 * n, x.dtype, extra=6)
    twice = sgs.semi_global_filter(constant, guide, normalization="line", **options)
    assert_within(twice, 2 * constant.astype(np.float64), 2 * size, 2 * n, x.dtype, extra=6)
    rows = sgs.semi_global_filter(constant, guide, axes=-1, normalization="line", **options)
    assert_within(rows, constant.astype(np.float64), size, 2 * n, x.dtype, extra=6)


@EXAMPLES
@given(images(dtypes=(np.float16, np.float32, np.float64)), NORMALIZATIONS, st.integers(2, 4), st.booleans())
def test_blocks_are_calls(image: Any, normalization: str | None, blocks: int, guided: bool) -> None:
    """(9), bit for bit: with a guide of its own for all blocks, and with each block guided by its own input."""
    x, guide, options = image
    x = (x / 8).astype(x.dtype)
    g = guide if guided else None
    at_once = sgs.semi_global_filter(x, g, normalization=normalization, blocks=blocks, **options)
    y = x
    for _ in range(blocks):
        y = sgs.semi_global_filter(y, g, normalization=normalization, **options)
    np.testing.assert_array_equal(at_once, y)


@EXAMPLES
@given(images(), NORMALIZATIONS)
def test_filter_flips_with_its_input(image: Any, normalization: str | None) -> None:
    x, guide, options = image
    y = sgs.semi_global_filter(x, guide, normalization=normalization, **options)
    flipped = sgs.semi_global_filter(x[:, ::-1, ::-1], guide[:, ::-1, ::-1], normalization=normalization, **options)
    size = np.abs(sgs.semi_global_filter(np.abs(x), guide, normalization=normalization, **options))
    assert_within(flipped[:, ::-1, ::-1], y, size, 2 * sum(x.shape[-2:]), np.float64, extra=6)


@EXAMPLES
@given(images(), NORMALIZATIONS)
def test_filter_turns_with_its_input(image: Any, normalization: str | None) -> None:
    """Rows and columns have the same rights: the transposed image with the scales swapped gives the transposed result."""
    x, guide, options = image
    vertical, horizontal = options.pop("scale"), 2.5
    y = sgs.semi_global_filter(x, guide, (vertical, horizontal), normalization=normalization, **options)
    turned = sgs.semi_global_filter(
        x.swapaxes(1, 2), guide.swapaxes(1, 2), (horizontal, vertical), normalization=normalization, **options
    )
    np.testing.assert_allclose(turned.swapaxes(1, 2), y, rtol=1e-10, atol=1e-12 * (1 + np.abs(y).max()))


@EXAMPLES
@given(lines(), st.floats(0, 1))
def test_tree_form_for_any_root(line: Any, where: float) -> None:
    """(6): U = T(x) wherever the root is."""
    x, w, axis, _ = line
    n = x.shape[axis]
    root = round(where * (n - 1))
    a = sgs.tree_aggregate(x, w, axis, root=root)
    u = sgs.tree_update(a, w, axis, root=root)
    magnitude = sgs.reference.line_filter(np.abs(x), w, axis)
    assert_within(u, sgs.line_filter(x, w, axis), magnitude, 3 * n, np.float64, extra=4)


@EXAMPLES
@given(images(), st.booleans())
def test_attention_maps_are_the_filter(image: Any, residual: bool) -> None:
    """The map's inner product with x is the filtered value at its position."""
    x, guide, options = image
    options.update(residual=residual, heads=1)
    y = sgs.semi_global_filter(x, guide, blocks=2, **options)
    position = (x.shape[1] // 2, x.shape[2] // 3)
    a = sgs.attention_map(guide, position, blocks=2, **options)
    np.testing.assert_allclose((a * x).sum((1, 2)), y[:, position[0], position[1]], rtol=1e-9, atol=1e-9)


@EXAMPLES
@given(images(), SEEDS)
def test_confidence_counts_by_proportion_only(image: Any, seed: int) -> None:
    """Twice as much confidence everywhere is the same result; a filtered constant stays one wherever it is supported."""
    x, guide, options = image
    rng = np.random.default_rng(seed)
    options["residual"] = False
    c = rng.uniform(0, 1, x.shape[1:]) * (rng.uniform(0, 1, x.shape[1:]) < 0.5)
    y = sgs.semi_global_filter(x, guide, confidence=c, fill_value=3, **options)
    doubled = sgs.semi_global_filter(x, guide, confidence=2 * c, fill_value=3, **options)
    # Twice as much may be the least support where once was just too little.
    np.testing.assert_allclose(np.where(y == 3, 3, doubled), y, rtol=1e-12)
    constant = sgs.semi_global_filter(np.full_like(x, 3), guide, confidence=c, fill_value=3, **options)
    np.testing.assert_allclose(constant, 3, rtol=1e-11)
