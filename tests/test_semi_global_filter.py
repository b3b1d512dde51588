"""`sgs.semi_global_filter` (7), (8), (9): to the error bound given its weights, and every option against the reference."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import (
    FLOATS,
    ISAS,
    LAYOUTS,
    SIZES,
    THREADS,
    WRITEABLE_LAYOUTS,
    assert_within,
    compose,
    computing_type,
    filter_weights,
    laid_out,
    pairwise,
    poisoned_out,
    random_values,
    result_type,
    seeded,
    used,
)

import sgs


@dataclass(frozen=True)
class Place:
    """Where channels and spatial axes are; `axes` as given to the filter (None: its default), all from the end."""

    shape: tuple[int | str, ...]
    channel_axis: int | None
    axes: tuple[int, ...] | int | None
    spatial: tuple[int, ...]

    def concrete(self, channels: int, h: int, w: int) -> tuple[int, ...]:
        sizes = {"c": channels, "h": h, "w": w}
        return tuple(sizes[k] if isinstance(k, str) else k for k in self.shape)


PLACES = {
    "line": Place(("w",), -3, None, (-1,)),
    "plane": Place(("h", "w"), -3, None, (-2, -1)),
    "plane_of_none": Place(("h", "w"), None, (-1, -2), (-1, -2)),
    "chw": Place(("c", "h", "w"), -3, None, (-2, -1)),
    "hwc": Place(("h", "w", "c"), -1, None, (-3, -2)),
    "hcw": Place(("h", "c", "w"), 1, None, (-3, -1)),
    "bchw": Place((2, "c", "h", "w"), -3, (-2, -1), (-2, -1)),
    "bchw_transposed": Place((2, "c", "h", "w"), 1, (3, 2), (-1, -2)),
    "chw_rows": Place(("c", "h", "w"), 0, -1, (-1,)),
    "chw_columns": Place(("c", "h", "w"), -3, (1,), (-2,)),
    "bhw": Place((2, "h", "w"), None, None, (-2, -1)),
    "volume": Place(("c", 3, "h", "w"), 0, (1, 2, 3), (-3, -2, -1)),
    "channels_last_volume": Place(("h", 2, "w", "c"), -1, (0, 2, 1), (-4, -2, -3)),
    "five": Place((2, 1, "c", "h", "w"), -3, None, (-2, -1)),
}
# "cross" without confidence, with one value per position of each batch item, with one map for all of the batch.
MODES = {
    "none": (None, None),
    "line": ("line", None),
    "cross": ("cross", None),
    "trusted": ("cross", "full"),
    "trusted_map": ("cross", "map"),
}
COMMON = {
    "place": tuple(PLACES),
    "mode": tuple(MODES),
    "residual": (False, True),
    "metric": ("euclidean", "cityblock", "sqeuclidean"),
    "step": (0.0, 0.1, "per_axis"),
    "scale": (0.5, 20.0, "per_axis"),
    "heads": (1, 2, 4),
    "guide": (None, "four_channels", "more_channels", "shared_by_batch", "half"),
    "channels": (4, 16, 36),
}


def _per_axis(value: Any, axes: tuple[int, ...], values: tuple[float, ...]) -> Any:
    return tuple(values[: len(axes)]) if value == "per_axis" else value


def _arguments(case: dict[str, Any], h: int, w: int) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """x, guide and the keyword arguments of a case."""
    rng = seeded(case)
    place = PLACES[case["place"]]
    # Many channels only where the plane is small, for the time it takes.
    channels = case["channels"] if h * w <= 5000 else 4
    x = random_values(rng, place.concrete(channels, h, w), np.dtype(case.get("dtype", "float64")))
    single = place.channel_axis is None or x.ndim < 3
    heads = 1 if single else case["heads"]
    normalization, trust = MODES[case["mode"]]

    guide = None
    if case["guide"] is not None:
        dtype = np.dtype("float16" if case["guide"] == "half" else "float64")
        shape = place.concrete(8 if case["guide"] == "more_channels" else 4, h, w)
        if case["guide"] == "shared_by_batch" and place.shape[0] == 2:
            shape = shape[1:] if place.channel_axis != 1 else (1, *shape[1:])
        guide = random_values(rng, shape, dtype)

    confidence = None
    if trust is not None:
        shape = list(x.shape)
        if not single:
            assert place.channel_axis is not None
            del shape[place.channel_axis]
        if trust == "map" and place.shape[0] == 2:
            shape = shape[1:] if case["residual"] else [1, *shape[1:]]
        confidence = rng.uniform(0, 2, shape) * (rng.uniform(0, 1, shape) < 0.6)
    options = {
        "channel_axis": place.channel_axis,
        "axes": place.axes,
        "scale": _per_axis(case["scale"], place.spatial, (3.0, 1.0, 0.4)),
        "step": _per_axis(case["step"], place.spatial, (0.2, 0.0, 0.7)),
        "metric": case["metric"],
        "normalization": normalization,
        "residual": case["residual"],
        "heads": heads,
        "confidence": confidence,
        "fill_value": -7.5,
    }
    return x, guide, options


def _hide(x: np.ndarray, options: dict[str, Any], channel_axis: int | None) -> np.ndarray:
    """x with NaN where confidence is 0: missing data that must never be read."""
    confidence = options["confidence"]
    if confidence is None or x.dtype.kind in "iub":
        return x
    if channel_axis is not None and x.ndim > 2:
        confidence = np.expand_dims(np.broadcast_to(confidence, np.delete(x.shape, channel_axis)), channel_axis)
    return np.where(confidence == 0, np.nan, x).astype(x.dtype)


@pytest.mark.parametrize(
    "case",
    pairwise(
        **COMMON,
        h=SIZES,
        w=SIZES,
        dtype=(*(d.name for d in FLOATS), "uint8"),
        layout=LAYOUTS,
        out=(None, "x", *WRITEABLE_LAYOUTS),
        threads=THREADS,
        isa=ISAS,
    ),
)
def test_error_bound_given_the_weights(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    place = PLACES[case["place"]]
    x, guide, options = _arguments(case, case["h"], case["w"])
    channel_axis = None if x.ndim < 3 else place.channel_axis
    x = laid_out(_hide(x, options, channel_axis), case["layout"])
    confidence = options["confidence"]
    if case["layout"] == "broadcast" and confidence is not None:
        confidence = options["confidence"] = np.ones_like(confidence)
        x = np.nan_to_num(x, nan=1.25)
    dtype = result_type(x.dtype)

    # The same with a channel axis in any case, which is how the helpers want it, and exactly.
    with_channels = np.expand_dims(x, 0) if channel_axis is None else x
    axis = -with_channels.ndim if channel_axis is None else channel_axis % x.ndim - x.ndim
    if guide is not None and channel_axis is None:
        guide_with_channels = guide.reshape((1,) * (x.ndim + 1 - guide.ndim) + guide.shape)
    else:
        guide_with_channels = guide
    trust = None
    if confidence is not None:
        trust = np.broadcast_to(confidence, np.delete(with_channels.shape, axis))
        trust = np.expand_dims(used(trust, dtype), axis)
    scale = np.broadcast_to(options["scale"], len(place.spatial))
    step = np.broadcast_to(options["step"], len(place.spatial))
    weights = filter_weights(
        with_channels.astype(dtype),
        guide_with_channels,
        place.spatial,
        [float(s) for s in scale],
        channel_axis=axis,
        metric=options["metric"],
        step=[float(s) for s in step],
        heads=options["heads"],
        confidence=trust,
    )
    composed = compose(
        used(with_channels, dtype),
        weights,
        place.spatial,
        options["normalization"],
        options["residual"],
        trust,
        options["fill_value"],
        tiny=float(np.finfo(computing_type(dtype)).tiny),
    )
    out = None
    if case["out"] == "x" and case["layout"] != "broadcast" and x.dtype == dtype:
        out = x
    elif case["out"] not in (None, "x"):
        out = poisoned_out(x.shape, dtype, case["out"])

    y = sgs.semi_global_filter(x, guide, **options, out=out, num_threads=case["threads"])

    assert out is None or y is out
    n = sum(x.shape[a] for a in place.spatial)
    expected, magnitude, divisor = (a.reshape(x.shape) for a in (composed.y, composed.magnitude, composed.divisor))
    # The product with c, the division, and the sum over axes and residual are not among the n steps along the lines.
    assert_within(y, expected, magnitude, n, dtype, extra=6, divided_by=divisor)


@pytest.mark.parametrize("case", pairwise(**COMMON, blocks=(1, 2, 3), threads=(1, 2), isa=ISAS))
def test_options_against_reference(case: dict[str, Any]) -> None:
    """Every option in float64: the whole call, weights and blocks included, is the reference's."""
    sgs.set_isa(case["isa"])
    x, guide, options = _arguments(case, 9, 14)
    guide = None if guide is None else guide.astype(np.float64)  # or distances would be float32
    options["blocks"] = case["blocks"]
    x = _hide(x, options, PLACES[case["place"]].channel_axis)
    expected = sgs.reference.semi_global_filter(x, guide, **options)

    y = sgs.semi_global_filter(x, guide, **options, num_threads=case["threads"])

    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(31, 33), (32, 32), (127, 129), (128, 128), (129, 257), (256, 31), (1, 300), (300, 1)]
)
def test_planes_around_powers_of_two(shape: tuple[int, int], dtype: type, isa: str) -> None:
    x = random_values(np.random.default_rng(0), (2, *shape), dtype)
    guide = random_values(np.random.default_rng(1), (3, *shape), dtype)
    weights = filter_weights(x, guide, (-2, -1), (5.0, 5.0), channel_axis=0)
    for normalization in (None, "line", "cross"):
        composed = compose(x.astype(np.float64), weights, (-2, -1), normalization)
        y = sgs.semi_global_filter(x, guide, 5.0, normalization=normalization)
        assert_within(y, composed.y, composed.magnitude, sum(shape), dtype, extra=4)


@pytest.mark.parametrize("channels", [15, 16, 31, 32, 33, 64, 65])
def test_channels_around_powers_of_two(channels: int, isa: str) -> None:
    rng = np.random.default_rng(channels)
    guide = random_values(rng, (1, 9, 18), np.float32)
    for dtype in (np.float32, np.float64):
        x = random_values(rng, (channels, 9, 18), dtype)
        weights = filter_weights(x, guide, (-2, -1), (5.0, 5.0), channel_axis=0)
        weights = [w[:1] for w in weights]
        for normalization in (None, "line", "cross"):
            composed = compose(x.astype(np.float64), weights, (-2, -1), normalization)
            for layout in ("c", "channels_last"):
                y = sgs.semi_global_filter(laid_out(x, layout), guide, 5.0, normalization=normalization)
                assert_within(y, composed.y, composed.magnitude, 27, dtype, extra=4)


def test_scale_belongs_to_its_axis(isa: str) -> None:
    """scale = (beta, alpha): the second one is of the rows. A guide with one wall in each direction shows which."""
    guide = np.zeros((1, 5, 6), np.float64)
    guide[:, 3:, :] += 1
    guide[:, :, 4:] += 10
    x = np.zeros((1, 5, 6))
    x[0, 0, 0] = 1
    y = sgs.semi_global_filter(x, guide, (2.0, 5.0), normalization=None)
    np.testing.assert_allclose(y[0, :, 0], [2, 1, 1, np.exp(-0.5), np.exp(-0.5)])
    np.testing.assert_allclose(y[0, 0, :], [2, 1, 1, 1, np.exp(-2), np.exp(-2)])
    swapped = sgs.semi_global_filter(x, guide, (5.0, 2.0), axes=(-1, -2), normalization=None)
    np.testing.assert_allclose(swapped, y, rtol=1e-15)
    steps = sgs.semi_global_filter(x, np.zeros_like(guide), 1.0, step=(0.25, 0.5), normalization=None)
    np.testing.assert_allclose(steps[0, 4, 0], np.exp(-1))
    np.testing.assert_allclose(steps[0, 0, 4], np.exp(-2))


def test_heads_are_consecutive_groups() -> None:
    rng = np.random.default_rng(0)
    x, guide = rng.standard_normal((2, 6, 9, 8)), rng.standard_normal((2, 4, 9, 8))
    y = sgs.semi_global_filter(x, guide, heads=2, residual=True)
    for head in range(2):
        own = slice(3 * head, 3 * head + 3)
        alone = sgs.semi_global_filter(x[:, own], guide[:, 2 * head : 2 * head + 2], residual=True)
        np.testing.assert_array_equal(y[:, own], alone)


def test_guides_of_a_single_channel_array() -> None:
    """A 2-D array is one channel; its guide may be (H, W) or carry its channels where channel_axis says."""
    rng = np.random.default_rng(0)
    x, guide = rng.standard_normal((9, 8)), rng.standard_normal((3, 9, 8))
    expected = sgs.semi_global_filter(x[np.newaxis], guide)[0]
    np.testing.assert_allclose(sgs.semi_global_filter(x, guide), expected, rtol=1e-14)
    last = np.moveaxis(guide, 0, -1)
    np.testing.assert_allclose(sgs.semi_global_filter(x, last, channel_axis=-1), expected, rtol=1e-14)
    flat = sgs.semi_global_filter(x[np.newaxis], guide[:1])[0]
    for channel_axis in (-3, -1, None):
        np.testing.assert_allclose(sgs.semi_global_filter(x, guide[0], channel_axis=channel_axis), flat, rtol=1e-14)
    row = sgs.semi_global_filter(x[0], guide[0, 0])
    np.testing.assert_allclose(row, sgs.reference.semi_global_filter(x[0], guide[0, 0]), rtol=1e-13)


@pytest.mark.parametrize("blocks", [1, 2])
def test_out_that_overlaps_the_inputs(blocks: int) -> None:
    rng = np.random.default_rng(0)
    memory = rng.standard_normal(2000)
    shape = (2, 20, 30)

    def at(offset: int) -> np.ndarray:
        return memory[offset : offset + 1200].reshape(shape)

    guide = rng.standard_normal(shape)
    for source, target in ((0, 0), (0, 1), (100, 70), (0, 600)):
        memory[...] = rng.standard_normal(2000)
        expected = sgs.semi_global_filter(at(source).copy(), guide, blocks=blocks)
        assert sgs.semi_global_filter(at(source), guide, blocks=blocks, out=at(target)) is not None
        np.testing.assert_allclose(at(target), expected, rtol=1e-12, atol=1e-12)
    # The output in place of the guide, which every block still needs, and of the confidence.
    x = rng.standard_normal(shape)
    memory[...] = rng.standard_normal(2000)
    expected = sgs.semi_global_filter(x, at(0).copy(), blocks=blocks)
    np.testing.assert_allclose(sgs.semi_global_filter(x, at(0), blocks=blocks, out=at(0)), expected, rtol=1e-12)
    memory[...] = rng.uniform(0, 1, 2000)
    confidence = at(0)[1]
    expected = sgs.semi_global_filter(x, guide, blocks=blocks, confidence=confidence.copy())
    y = sgs.semi_global_filter(x, guide, blocks=blocks, confidence=confidence, out=at(0))
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    # x is its own guide and is overwritten.
    expected = sgs.semi_global_filter(x.copy(), blocks=blocks)
    np.testing.assert_allclose(sgs.semi_global_filter(x, blocks=blocks, out=x), expected, rtol=1e-12)


def test_inputs_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((4, 9, 8)), rng.standard_normal((4, 9, 8)), rng.uniform(0, 1, (9, 8))]
    before = [a.copy() for a in inputs]
    x, guide, confidence = inputs
    for a in inputs:
        a.flags.writeable = False
    sgs.semi_global_filter(x, guide, blocks=2, confidence=confidence)
    sgs.semi_global_filter(x, blocks=2, residual=True)
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(0, 5, 6), (4, 0, 6), (4, 5, 0), (0, 4, 5, 6), (4, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("normalization", [None, "line", "cross"])
def test_empty_and_single(shape: tuple[int, ...], normalization: str | None) -> None:
    x = np.ones(shape, np.float32)
    guide = np.ones((2, *shape[-2:]), np.float32)
    for g in (None, guide):
        y = sgs.semi_global_filter(x, g, normalization=normalization, blocks=2)
        assert y.shape == shape and y.dtype == np.float32
        # A position alone on its row and column is its own mean, or counted once by each axis.
        np.testing.assert_array_equal(y, 1 if normalization == "cross" else 4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("width", [112, 113, 120, 127, 128, 129, 250, 500])
def test_rows_about_a_whole_kibibyte(width: int, channels_last: bool, isa: str) -> None:
    """Rows of such lengths are laid out with a gap, which must hold nothing and overwrite nothing."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((3, 18, width)).astype(np.float32)
    expected = sgs.reference.semi_global_filter(x, scale=2.0)
    if channels_last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    frame = np.full((5, 20, width + 32), np.nan, np.float32)
    out = frame[1:-1, 1:-1, 16:-16]
    sgs.semi_global_filter(x, scale=2.0, out=out)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    out.fill(np.nan)
    assert np.isnan(frame).all(), "written outside of `out`"


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "batch_last"])
@pytest.mark.parametrize("channels", [12, 33])
@pytest.mark.parametrize("size", [(1, 9), (7, 7), (33, 40), (9, 200)])
def test_many_channels(size: tuple[int, int], channels: int, layout: str, isa: str) -> None:
    """Planes side by side: every option at once, for planes of all sizes and neighbours of all kinds."""
    rng = np.random.default_rng(channels)
    for trial, dtype in enumerate([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]):
        x = rng.standard_normal((2, channels, *size)).astype(dtype)
        guide = rng.standard_normal((2, 3, *size)).astype(np.float32)
        confidence = (rng.random((2, *size)) > 0.3).astype(np.float32) * rng.random((2, *size)).astype(np.float32)
        options: dict[str, Any] = {"normalization": ("cross", "line", None)[trial % 3], "residual": trial % 2 == 1}
        if trial == 3:
            options |= {"normalization": "cross", "confidence": confidence, "fill_value": -3.0}
        if layout == "channels_last":
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        elif layout == "batch_last":
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
        for scale in (1.5, 0.02):  # the second cuts most edges
            expected = sgs.reference.semi_global_filter(x, guide, (scale, 2 * scale), **options)
            y = sgs.semi_global_filter(x, guide, (scale, 2 * scale), num_threads=2, **options)
            tolerance = 2e-2 if trial > 1 else 2e-5
            np.testing.assert_allclose(y.astype(float), expected, rtol=tolerance, atol=tolerance)
            in_place = x.copy(order="K")
            sgs.semi_global_filter(in_place, guide, (scale, 2 * scale), out=in_place, num_threads=1, **options)
            np.testing.assert_array_equal(in_place.astype(float), y.astype(float))


@pytest.mark.parametrize("shape", [(17, 97, 1), (17, 1, 97), (3, 1, 9), (1, 1, 1)])
def test_strides_of_axes_of_one_element_do_not_matter(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, np.float32)
    expected = sgs.semi_global_filter(x)
    for stride in (0, -4, 1, 3, 1 << 40):
        strides = tuple(stride if n == 1 else s for n, s in zip(shape, x.strides, strict=True))
        odd = np.lib.stride_tricks.as_strided(x, shape, strides)
        out = np.lib.stride_tricks.as_strided(np.empty_like(x), shape, strides)
        np.testing.assert_array_equal(sgs.semi_global_filter(odd, out=out), expected)
