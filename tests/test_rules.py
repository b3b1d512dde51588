"""The rules of every path: cuts, NaN and Inf, confidence, subnormals, the same bits for any number of threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import BFLOAT16, FLOATS, assert_within, random_values, random_weights, run_python

import sgs

BAD = (np.nan, np.inf, -np.inf)
# Every operation that sums along a whole line in both directions, as a function of x and w on the last axis.
BOTH_WAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "line_filter": sgs.line_filter,
    "tree_first": lambda x, w: sgs.tree_update(sgs.tree_aggregate(x, w, root=0), w, root=0),
    "tree_last": lambda x, w: sgs.tree_update(sgs.tree_aggregate(x, w, root=-1), w, root=-1),
    "tree_middle": lambda x, w: sgs.tree_update(sgs.tree_aggregate(x, w, root=150), w, root=150),
}


def _is_bad(y: np.ndarray) -> np.ndarray:
    return ~np.isfinite(y)


# ---- the cut rule


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("cut", [0, 15, 16, 126, 127, 128, 254, 298])
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_nothing_crosses_a_cut(name: str, cut: int, zero: float, bad: float, isa: str) -> None:
    """Edge `cut` has weight 0: NaN and Inf on one side leave the other side as if it were a line of its own."""
    apply = BOTH_WAYS[name]
    rng = np.random.default_rng(cut)
    n = 300
    x = random_values(rng, (3, n), np.float32)
    w = rng.uniform(0.6, 1, (n - 1,)).astype(np.float32)
    w[cut] = zero
    clean = sgs.reference.line_filter(x, w)
    size = sgs.reference.line_filter(np.abs(x), w)
    left, right = slice(0, cut + 1), slice(cut + 1, n)
    for dirty, kept in ((left, right), (right, left)):
        soiled = x.copy()
        soiled[1, dirty] = bad
        y = apply(soiled, w)
        assert _is_bad(y[1, dirty]).all()
        assert_within(y[1, kept], clean[1, kept], size[1, kept], 2 * n, np.float32)
        assert_within(y[::2], clean[::2], size[::2], 2 * n, np.float32)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_stop_at_a_cut(reverse: bool, bad: float, isa: str) -> None:
    n, cut = 200, 130
    x = np.ones((40, n), np.float32)
    w = np.full((n - 1,), 0.5, np.float32)
    w[cut] = 0
    start = cut - 50 if not reverse else cut + 50
    x[7, start] = bad
    y = sgs.scan(x, w, reverse=reverse)
    wanted = np.zeros(x.shape, bool)
    wanted[7, start : cut + 1] = not reverse
    wanted[7, cut + 1 : start + 1] = reverse
    np.testing.assert_array_equal(_is_bad(y), wanted)
    expected = sgs.reference.scan(np.ones(n), w, reverse=reverse)
    np.testing.assert_allclose(y[~wanted], np.broadcast_to(expected, x.shape)[~wanted], rtol=1e-6)


@pytest.mark.parametrize("root", [0, 3, 4, 8])
def test_tree_passes_stop_at_a_cut(root: int, isa: str) -> None:
    """Each of the two passes by itself: a cut between 3 and 4, NaN and Inf on the left of it."""
    x, w = np.ones(9, np.float32), np.full(8, 0.5, np.float32)
    x[1], x[2], w[3] = np.nan, np.inf, 0
    for f in (sgs.tree_aggregate, sgs.tree_update):
        y = f(x, w, root=root)
        assert np.isfinite(y[4:]).all() and _is_bad(y[1:3]).all()
        expected = getattr(sgs.reference, f.__name__)(x, w, root=root)
        np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_weights_that_round_to_zero_cut(dtype: np.dtype, isa: str) -> None:
    """1e-60 is 0 in float32 and so cuts there; in float64 it is a weight, and 1e-60 Inf is Inf."""
    x = np.array([np.inf, 1, 1, 1, np.nan]).astype(dtype)
    w = np.array([1e-60, 0.5, 0.5, 1e-60])
    y = sgs.line_filter(x, w).astype(np.float64)
    if dtype == np.float64:
        assert _is_bad(y).all()
    else:
        np.testing.assert_array_equal(y[1:4], [1.75, 2, 1.75])
    # The smallest float32 is not 0: it does not cut.
    y = sgs.line_filter(x, np.array([2.0**-149, 0.5, 0.5, 2.0**-149]))
    assert _is_bad(y.astype(np.float64)).all()
    y = sgs.scan(x[:2], np.array([2.0**-151]))
    assert _is_bad(y.astype(np.float64)).tolist() == [True, dtype == np.float64]


@pytest.mark.parametrize(
    "place", [(10, 25, 20, 33), (0, 16, 0, 1), (15, 17, 31, 33), (16, 40, 32, 50), (39, 40, 49, 50)]
)
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("normalization", [None, "line", "cross"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_walls_in_the_guide_hold_in_the_filter(
    bad: float, normalization: str | None, channels: int, place: tuple[int, ...], isa: str
) -> None:
    """An object whose guide is far from its surroundings keeps NaN and Inf to itself, through any number of blocks."""
    rng = np.random.default_rng(0)
    top, bottom, left, right = place
    guide = rng.uniform(0, 1, (2, 40, 50))
    inside = (slice(None), slice(top, bottom), slice(left, right))
    guide[inside] += 1e6
    x = rng.uniform(1, 2, (channels, 40, 50))
    clean = sgs.semi_global_filter(x, guide, normalization=normalization, blocks=2)
    x[inside] = bad
    y = sgs.semi_global_filter(x, guide, normalization=normalization, blocks=2)
    outside = np.ones(x.shape, bool)
    outside[inside] = False
    np.testing.assert_array_equal(y[outside], clean[outside])
    assert _is_bad(y[inside]).all()


# ---- NaN and Inf elsewhere


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("normalization", [None, "line", "cross"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("channels", [4, 17])
def test_spread_along_own_row_and_column_only(
    dtype: np.dtype, normalization: str | None, bad: float, channels: int, isa: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (2, channels, 35, 40)).astype(dtype)
    guide = rng.uniform(0, 1, (3, 35, 40))
    expected = sgs.semi_global_filter(x, guide, normalization=normalization).astype(np.float64)
    x[1, 2, 33, 17] = bad
    y = sgs.semi_global_filter(x, guide, normalization=normalization).astype(np.float64)
    cross = np.zeros(x.shape, bool)
    cross[1, 2, 33, :] = cross[1, 2, :, 17] = True
    # The value itself, not just something that is not finite: Inf stays Inf with its sign.
    np.testing.assert_array_equal(y[cross], bad)
    np.testing.assert_array_equal(y[~cross], expected[~cross])


def test_nan_in_its_own_guide_stays_on_its_row_and_column(isa: str) -> None:
    """guide=None: the edges around a NaN have NaN weights, for all channels; other rows and columns know nothing of it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (3, 37, 41))
    expected = sgs.semi_global_filter(x)
    x[1, 20, 30] = np.nan
    y = sgs.semi_global_filter(x)
    cross = np.zeros(x.shape, bool)
    cross[:, 20, :] = cross[:, :, 30] = True
    np.testing.assert_array_equal(np.isnan(y), cross)
    np.testing.assert_array_equal(y[~cross], expected[~cross])


def test_infinities_of_both_signs_meet_as_nan(isa: str) -> None:
    x = np.ones(9, np.float32)
    x[2], x[6] = np.inf, -np.inf
    np.testing.assert_array_equal(sgs.scan(x, np.ones(8))[[1, 2, 5, 6, 8]], [2, np.inf, np.inf, np.nan, np.nan])
    assert np.isnan(sgs.line_filter(x, np.ones(8))).all()


# ---- confidence (8)


@pytest.mark.parametrize("missing", BAD)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("residual", [False, True])
def test_missing_values_are_never_read(dtype: np.dtype, missing: float, guided: bool, residual: bool, isa: str) -> None:
    """Where confidence is 0 it makes no difference at all what x holds: another number, NaN or Inf."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (2, 3, 35, 40)).astype(dtype)
    c = rng.uniform(0.1, 1, (35, 40)) * (rng.uniform(0, 1, (35, 40)) < 0.3)
    guide = rng.uniform(0, 1, (3, 35, 40)) if guided else None
    options: dict[str, Any] = {"confidence": c, "residual": residual, "blocks": 2}
    if residual and not guided:
        options["blocks"] = 1
    x[..., c == 0] = 1
    expected = sgs.semi_global_filter(x, guide, 0.5, **options)
    x[..., c == 0] = missing
    y = sgs.semi_global_filter(x, guide, 0.5, **options)
    assert np.isfinite(y.astype(np.float32)).all()
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_unsupported_positions_are_filled(dtype: np.dtype, isa: str) -> None:
    """One confident position supports its row and column up to the wall; the rest is fill_value."""
    x = np.full((2, 20, 30), np.nan).astype(dtype)
    x[:, 5, 7] = [3, -4]
    c = np.zeros((20, 30))
    c[5, 7] = 0.25
    guide = np.zeros((1, 20, 30))
    guide[:, 12:] = 1e9
    supported = np.zeros((20, 30), bool)
    supported[5, :] = supported[:12, 7] = True
    for fill in (0.0, -2.5, np.nan, np.inf):
        y = sgs.semi_global_filter(x, guide, confidence=c, fill_value=fill)
        for channel, value in ((0, 3), (1, -4)):
            np.testing.assert_array_equal(y[channel].astype(np.float64), np.where(supported, value, fill))
    # Two blocks fill the whole object and nothing behind the wall.
    y = sgs.semi_global_filter(x, guide, confidence=c, fill_value=-2.5, blocks=2)
    np.testing.assert_allclose(y[0, :12].astype(np.float64), 3, rtol=1e-6)
    np.testing.assert_array_equal(y[0, 12:].astype(np.float64), -2.5)


@pytest.mark.parametrize(
    ("dtype", "least"),
    [(np.float32, 2.0**-126), (np.float64, 2.0**-1022), (np.float16, 2.0**-126), (BFLOAT16, 2.0**-126)],
)
def test_least_support_is_the_smallest_normal_number(dtype: Any, least: float, isa: str) -> None:
    x = np.full((1, 1, 3), 2).astype(dtype)
    walls = np.array([[[0, 1e9, 2e9]]])
    c = np.array([[least, least / 2, 1.0]])
    y = sgs.semi_global_filter(x, walls, confidence=c, fill_value=-1)
    np.testing.assert_array_equal(y.astype(np.float64), [[[2, -1, 2]]])


def test_no_confidence_at_all_is_all_fill(isa: str) -> None:
    y = sgs.semi_global_filter(np.full((3, 9, 8), np.nan), confidence=np.zeros((9, 8)), fill_value=7, blocks=2)
    np.testing.assert_array_equal(y, 7)


def test_residual_adds_nothing_where_confidence_is_zero(isa: str) -> None:
    rng = np.random.default_rng(0)
    x, guide = rng.uniform(1, 2, (2, 12, 13)), rng.uniform(0, 1, (2, 12, 13))
    c = (rng.uniform(0, 1, (12, 13)) < 0.5) * 0.5
    plain = sgs.semi_global_filter(x, guide, confidence=c)
    with_residual = sgs.semi_global_filter(x, guide, confidence=c, residual=True)
    np.testing.assert_allclose(with_residual, plain + np.where(c == 0, 0, x), rtol=1e-14)


def test_next_block_trusts_by_support(isa: str) -> None:
    """S of a block is the confidence of the next: sum_a T_a(c) - (k - 1) c, filled positions having none."""
    rng = np.random.default_rng(0)
    x, guide = rng.uniform(1, 2, (2, 12, 13)), rng.uniform(0, 1, (2, 12, 13))
    guide[:, :, 9:] += 1e9
    c = (rng.uniform(0, 1, (12, 13)) < 0.2) * rng.uniform(0, 1, (12, 13))
    c[:, 9:] = 0
    once = sgs.semi_global_filter(x, guide, confidence=c, fill_value=5)
    support = sgs.semi_global_filter(c[np.newaxis], guide, normalization=None)[0] - c
    twice = sgs.semi_global_filter(once, guide, confidence=support, fill_value=5)
    at_once = sgs.semi_global_filter(x, guide, confidence=c, fill_value=5, blocks=2)
    np.testing.assert_allclose(at_once, twice, rtol=1e-12)
    assert (at_once[:, :, 9:] == 5).all() and (at_once[:, :, :9] < 2).all()
    # It is not the first confidence once more, nor trust in all alike.
    for other in (c, None, np.ones_like(c)):
        assert np.abs(sgs.semi_global_filter(once, guide, confidence=other, fill_value=5) - at_once).max() > 1e-3


def test_edges_of_missing_values_are_flat_without_a_guide(isa: str) -> None:
    """guide=None: d = 0 where an end has confidence 0, so that only the step fades support there."""
    x = np.array([[1.0, np.nan, 9.0, 2.0]])
    c = np.array([[1.0, 0.0, 1.0, 1.0]])
    y = sgs.semi_global_filter(x, None, 2.0, axes=-1, step=0.5, confidence=c, channel_axis=None)
    flat, far = np.exp(-0.25), np.exp(-(7 + 0.5) / 2)
    w = np.array([flat, flat, far])
    numerator = sgs.reference.line_filter([[1.0, 0, 9, 2]], w)
    np.testing.assert_allclose(y, numerator / sgs.reference.line_filter(c, w), rtol=1e-14)


def test_all_ones_is_not_no_confidence(isa: str) -> None:
    """One block is the same; a second one weighs by what supported the first."""
    rng = np.random.default_rng(0)
    x, guide = rng.uniform(1, 2, (2, 12, 13)), rng.uniform(0, 1, (2, 12, 13))
    ones = np.ones((12, 13))
    np.testing.assert_allclose(
        sgs.semi_global_filter(x, guide, confidence=ones), sgs.semi_global_filter(x, guide), rtol=1e-14
    )
    two = sgs.semi_global_filter(x, guide, confidence=ones, blocks=2)
    assert np.abs(two - sgs.semi_global_filter(x, guide, blocks=2)).max() > 1e-3


# ---- the process and its numbers


def test_importing_and_calling_keeps_subnormals() -> None:
    """Neither the import nor a call, on whatever threads, makes the process flush subnormal numbers to 0."""
    run_python(
        """
        import ctypes
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        def check():
            libm = ctypes.CDLL(None)
            libm.ldexp.restype, libm.ldexp.argtypes = ctypes.c_double, (ctypes.c_double, ctypes.c_int)
            assert 5e-324 * 1.0 == 5e-324 and 2.0**-1073 / 2 == 5e-324
            assert libm.ldexp(1.0, -1074) == 5e-324
            tiny = np.full(1000, 2.0**-148, np.float32)
            assert (tiny * np.float32(0.5) == np.float32(2.0**-149)).all() and (tiny != 0).all()
            assert (np.full(1000, 2.0**-1022) / 4 == 2.0**-1024).all()

        import sgs

        check()
        x = np.ones((8, 200, 300), np.float32)
        for isa in sgs._core.available_isas():
            sgs.set_isa(isa)
            for threads in (1, 4):
                sgs.semi_global_filter(x, num_threads=threads)
                sgs.line_filter(x, x[..., 1:], num_threads=threads)
                check()
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda _: check(), range(8)))
        """
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "tiny"), [(np.float32, 2.0**-149), (np.float64, 5e-324), (np.float16, 2.0**-24), (BFLOAT16, 2.0**-133)]
)
def test_subnormal_values_are_summed(dtype: Any, tiny: float, threads: int, isa: str) -> None:
    """No thread of the core flushes: sums of the smallest number are exact."""
    x = np.full((64, 100), tiny, np.float64).astype(dtype)
    w = np.ones((1, 99), np.float32)
    expected = np.broadcast_to(np.arange(1, 101) * np.float64(tiny), x.shape)
    y = sgs.scan(x, w, num_threads=threads).astype(np.float64)
    np.testing.assert_array_equal(y, expected.astype(dtype).astype(np.float64))
    y = sgs.semi_global_filter(x, x.astype(np.float64) * 0, num_threads=threads)
    np.testing.assert_array_equal(y.astype(np.float64), tiny)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("shape", [(8, 97, 1000), (1, 1000, 97), (3, 1, 5000), (200, 17, 16), (2, 3, 4, 65, 63)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_same_bits_for_any_number_of_threads(shape: tuple[int, ...], dtype: Any, threads: int) -> None:
    rng = np.random.default_rng(0)
    x = random_values(rng, shape, dtype)
    guide = random_values(rng, (2, *shape[-2:]), dtype)
    c = rng.uniform(0, 1, shape[-2:])
    calls: list[Callable[[int], np.ndarray]] = [
        lambda t: sgs.semi_global_filter(x, guide, 4.0, num_threads=t),
        lambda t: sgs.semi_global_filter(x, None, 4.0, blocks=2, confidence=c, num_threads=t),
        lambda t: sgs.semi_global_filter(x, guide, 4.0, normalization="line", residual=True, num_threads=t),
        lambda t: sgs.semi_global_filter(x, guide, 4.0, normalization=None, num_threads=t),
        lambda t: sgs.edge_weights(x, -1, 4.0, num_threads=t),
        lambda t: sgs.edge_weights(x, -2, 4.0, heads=x.shape[-3], num_threads=t),
        lambda t: sgs.attention_map(guide, (0, shape[-1] // 2), 4.0, blocks=2, num_threads=t),
    ]
    for axis in (-1, -2):
        edges = [n - (a == len(shape) + axis) for a, n in enumerate(shape)]
        w = random_weights(rng, edges, dtype)
        calls += [
            lambda t, w=w, axis=axis: sgs.scan(x, w, axis, reverse=True, num_threads=t),
            lambda t, w=w, axis=axis: sgs.line_filter(x, w, axis, num_threads=t),
            lambda t, w=w, axis=axis: sgs.tree_aggregate(x, w, axis, root=shape[axis] // 2, num_threads=t),
            lambda t, w=w, axis=axis: sgs.tree_update(x, w, axis, root=shape[axis] // 2, num_threads=t),
        ]
    for call in calls:
        # Bits, so that -0.0 and 0.0 differ.
        assert call(threads).tobytes() == call(1).tobytes()


def test_same_bits_in_every_run() -> None:
    rng = np.random.default_rng(0)
    x = random_values(rng, (4, 130, 170), np.float32)
    first = sgs.semi_global_filter(x, blocks=2, num_threads=2).tobytes()
    assert all(sgs.semi_global_filter(x, blocks=2, num_threads=2).tobytes() == first for _ in range(10))


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=lambda d: np.dtype(d).name)
def test_half_sums_do_not_overflow(dtype: Any, isa: str) -> None:
    """Sums of half types are float32: the mean of large values is right although their sum is beyond the type."""
    largest = 60000.0 if dtype is np.float16 else 2.0**120
    x = np.full((2, 50, 60), largest).astype(dtype)
    for normalization, times in (("cross", 1), ("line", 2 if dtype is BFLOAT16 else None)):
        if times is not None:
            y = sgs.semi_global_filter(x, np.zeros((1, 50, 60)), normalization=normalization)
            np.testing.assert_array_equal(y.astype(np.float64), times * x.astype(np.float64))
    # Without division the sum is rounded to the type, here to infinity.
    if dtype is np.float16:
        assert np.isposinf(sgs.semi_global_filter(x, np.zeros((1, 50, 60)), normalization=None)).all()


def test_small_addends_are_not_lost_in_half(isa: str) -> None:
    """1000 ones and a big value in float16 and bfloat16: their own arithmetic would stop counting at 2048 and 256."""
    for dtype in (np.float16, BFLOAT16):
        y = sgs.line_filter(np.ones(1500).astype(dtype), np.ones(1499))
        np.testing.assert_array_equal(y.astype(np.float64), np.float64(np.asarray(1500).astype(dtype)))
