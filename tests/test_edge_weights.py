"""`sgs.edge_weights` (1), (2) against the reference."""

from typing import Any

import numpy as np
import pytest
from helpers import (
    FLOATS,
    ISAS,
    LAYOUTS,
    SIZES,
    THREADS,
    computing_type,
    laid_out,
    pairwise,
    random_values,
    result_type,
    seeded,
    used,
)

import sgs

# Where the channels are: (channel_axis, axis of the edges, shape as a function of channels, n, m).
PLACES = {
    "chw_rows": (-3, -1, lambda c, n, m: (c, m, n)),
    "chw_columns": (-3, -2, lambda c, n, m: (c, n, m)),
    "hwc_rows": (-1, -2, lambda c, n, m: (m, n, c)),
    "hwc_columns": (-1, 0, lambda c, n, m: (n, m, c)),
    "batch": (1, 3, lambda c, n, m: (2, c, m, n)),
    "middle": (-2, 0, lambda c, n, m: (n, c, m)),
    "batch_edges": (-3, 0, lambda c, n, m: (n, c, m, 2)),
    "volume": (0, 1, lambda c, n, m: (c, n, m, 2, 1)),
    "line": (0, 1, lambda c, n, m: (c, n)),
    "single": (None, -1, lambda c, n, m: (m, n)),
    "single_line": (None, 0, lambda c, n, m: (n,)),
    "single_volume": (None, 1, lambda c, n, m: (2, n, m)),
}
CASES = pairwise(
    place=tuple(PLACES),
    n=SIZES,
    m=(1, 2, 17, 33, 97),
    channels=(1, 3, 4, 12),
    heads=(1, "half", "all"),
    dtype=(*(d.name for d in FLOATS), "uint8", "bool"),
    layout=LAYOUTS,
    metric=("euclidean", "cityblock", "sqeuclidean"),
    scale=(0.05, 1.0, 37),
    step=(0.0, 0.3, 2),
    threads=THREADS,
    isa=ISAS,
)


def _bound(expected: np.ndarray, scale: float, channels: int, dtype: Any) -> np.ndarray:
    """Roundings of the distance and of the argument are multiplied by the size of the argument; exp adds its own."""
    eps, smallest = (2.0**-53, 2.0**-1074) if computing_type(dtype) == np.float64 else (2.0**-24, 2.0**-149)
    argument = -np.log(np.maximum(expected, smallest))
    return eps * ((channels + 8) * argument + 8) * expected + 4 * smallest


@pytest.mark.parametrize("case", CASES)
def test_against_reference(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    channel_axis, axis, shape_of = PLACES[case["place"]]
    channels = 1 if channel_axis is None else case["channels"]
    heads = {1: 1, "half": max(channels // 2, 1) if channels % 2 == 0 else 1, "all": channels}[case["heads"]]
    shape = shape_of(channels, case["n"], case["m"])
    guide = laid_out(random_values(seeded(case), shape, np.dtype(case["dtype"])), case["layout"])
    options = {"channel_axis": channel_axis, "metric": case["metric"], "step": case["step"], "heads": heads}
    dtype = computing_type(result_type(guide.dtype))
    # Scale and step are used in the computing type too.
    rounded = {**options, "step": float(used(case["step"], dtype))}
    expected = sgs.reference.edge_weights(used(guide, dtype), axis, float(used(case["scale"], dtype)), **rounded)

    w = sgs.edge_weights(guide, axis, case["scale"], **options, num_threads=case["threads"])

    wanted = list(shape)
    wanted[axis] -= 1
    if channel_axis is not None:
        wanted[channel_axis] = heads
    assert w.shape == tuple(wanted) and w.dtype == dtype
    error = np.abs(w.astype(np.float64) - expected)
    assert (error <= _bound(expected, case["scale"], channels, dtype)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa_name", ISAS)
def test_weights_of_every_size(dtype: type, isa_name: str) -> None:
    """exp over its whole range, subnormal weights and cuts included."""
    sgs.set_isa(isa_name)
    largest = 800 if dtype == np.float64 else 120
    distances = np.concatenate([np.linspace(0, largest, 20001), 10.0 ** np.arange(-40, 30)]).astype(dtype)
    guide = np.stack([np.zeros_like(distances), distances])  # each column is one edge of the given length
    w = sgs.edge_weights(guide, 0, channel_axis=None)[0]
    with np.errstate(under="ignore"):
        expected = np.exp(-distances.astype(np.longdouble)).astype(np.float64)
    assert (np.abs(w - expected) <= _bound(expected, 1.0, 1, dtype)).all()
    assert w[0] == 1 and w[-1] == 0 and (np.diff(w[:20001]) <= 0).all()


def test_far_ends_of_half_types_are_computed_in_float32() -> None:
    """The difference of two float16 that overflows float16 is a plain float32."""
    guide = np.float16([[-60000, 60000, 60000]])
    w = sgs.edge_weights(guide, 1, 1e6, channel_axis=0)
    np.testing.assert_allclose(w, [[np.exp(-0.12), 1]], rtol=1e-6)


def test_flat_guide_is_fully_linked() -> None:
    for metric in ("euclidean", "cityblock", "sqeuclidean"):
        assert (sgs.edge_weights(np.full((3, 4, 5), 7.3), -1, 0.01, metric=metric) == 1).all()


def test_walls_cut() -> None:
    guide = np.float32([[0, 0, np.inf, np.inf, 0]])
    w = sgs.edge_weights(guide, 1, channel_axis=0)
    np.testing.assert_array_equal(w, [[1, 0, np.nan, 0]])  # inf - inf is no distance


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_complements_of_numbers_do_not_wrap(dtype: type) -> None:
    """uint8 distances are taken in float32: 0 and 255 are 255 apart in both directions."""
    guide = np.uint8([[0, 255, 0]])
    expected = sgs.edge_weights(guide.astype(dtype), 1, 100, channel_axis=0)
    np.testing.assert_allclose(sgs.edge_weights(guide, 1, 100, channel_axis=0), expected, rtol=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_no_edges(n: int) -> None:
    assert sgs.edge_weights(np.ones((3, 4, n)), -1).shape == (1, 4, 0)
    assert sgs.edge_weights(np.ones((3, 0, 5)), -1).shape == (1, 0, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", ISAS)
def test_rows_of_any_number_of_vectors(isa: str, dtype: Any) -> None:
    """Sums of a few vectors stay in registers, and a last one that is not whole overlaps the one before."""
    sgs.set_isa(isa)
    rng = np.random.default_rng(0)
    for edges in (*range(1, 40), *range(62, 70), *range(125, 150), 255, 256, 257, 273, 1023, 1024, 1025, 1041):
        guide = rng.random((5, 2, edges + 1)).astype(dtype)
        distance = np.sqrt((np.diff(guide.astype(np.float64), axis=-1) ** 2).sum(axis=0))
        w = sgs.edge_weights(guide, -1, 0.7)
        np.testing.assert_allclose(w[0], np.exp(-distance / 0.7), rtol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("axis", (-1, -2))
def test_a_guide_without_channels_has_no_distances(axis: int) -> None:
    guide = np.zeros((0, 5, 6), np.float32)
    w = sgs.edge_weights(guide, axis, 2.0, step=0.5)
    np.testing.assert_allclose(w, sgs.reference.edge_weights(guide, axis, 2.0, step=0.5), rtol=1e-6)
    x = np.ones((3, 5, 6), np.float32)
    for blocks in (1, 2):
        y = sgs.semi_global_filter(x, guide, 2.0, blocks=blocks, normalization=None)
        expected = sgs.reference.semi_global_filter(x, guide, 2.0, blocks=blocks, normalization=None)
        np.testing.assert_allclose(y, expected, rtol=1e-5)
