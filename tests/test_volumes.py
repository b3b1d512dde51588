"""Filters over three axes and more, and over one that lies across memory: which axes go first, what they add to."""

from typing import Any

import numpy as np
import pytest
from helpers import BFLOAT16, FLOATS, ISAS, laid_out, pairwise, poisoned_out

import sgs

# Shape of one channel's field: few steps and many lines, rows of several strips, lines of several parts, axes of one.
FIELDS = [
    (3, 20, 31),
    (2, 90, 200),
    (1100, 3, 20),
    (70, 40, 17),
    (1, 5, 33),
    (9, 1, 64),
    (4, 3, 2, 19),
    (2, 3, 1030, 5),
]
TOLERANCES = {2: 3e-3, 4: 4e-5, 8: 1e-11}


def _tolerance(dtype: np.dtype) -> float:
    return 2e-2 if dtype == BFLOAT16 else TOLERANCES[dtype.itemsize]


def _confidence(rng: np.random.Generator, kind: str, field: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    if kind == "none":
        return None
    shape = field if kind == "each" else (field[0], *(1 for _ in field[1:]))
    c = rng.uniform(0.5, 2, shape) * (rng.random(shape) < 0.6)
    return np.broadcast_to(c.astype(dtype if kind == "each" else np.float64), field)


@pytest.mark.parametrize(
    "case",
    pairwise(
        field=tuple(FIELDS),
        channels=(1, 4, 17),
        axes=("all", "first", "first and last", "backwards"),
        guide=("own", "by heads"),
        normalization=("cross", "line", None),
        confidence=("none", "each", "by slab"),
        residual=(False, True),
        layout=("c", "reversed", "channels last", "stepped"),
        out=("c", "reversed", "x"),
        blocks=(1, 2),
        threads=(1, 3),
        dtype=FLOATS,
        isa=ISAS,
    ),
)
def test_every_way(case: dict[str, Any]) -> None:
    """The reference's answer; the same bits for any number of threads."""
    sgs.set_isa(case["isa"])
    dtype, field = case["dtype"], case["field"]
    rng = np.random.default_rng(len(str(case)))
    x = rng.uniform(0.5, 1.5, (case["channels"], *field)).astype(dtype)
    heads = 4 if case["guide"] == "by heads" and case["channels"] == 4 else 1
    guide = rng.random((4, *field))
    guide[:, field[0] // 2] += 1e4  # nothing crosses
    last = len(field)
    axes = {"all": range(1, last + 1), "first": (1,), "first and last": (1, last), "backwards": range(last, 0, -1)}
    trust = "none" if case["normalization"] != "cross" else case["confidence"]
    options: dict[str, Any] = {"channel_axis": 0, "axes": tuple(axes[case["axes"]]), "heads": heads}
    options |= {"normalization": case["normalization"], "residual": case["residual"], "blocks": case["blocks"]}
    confidence = _confidence(rng, trust, field, dtype)
    options |= {"confidence": confidence, "fill_value": -7.5}

    expected = sgs.reference.semi_global_filter(x.astype(np.float64), guide, 0.3, **options)
    if case["layout"] == "channels last":
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    else:
        x = laid_out(x, case["layout"])
    if confidence is not None:
        x[:, confidence == 0] = np.nan  # is never read
    out = x.copy(order="K") if case["out"] == "x" else poisoned_out(x.shape, dtype, case["out"])
    source = out if case["out"] == "x" else x
    y = sgs.semi_global_filter(source, guide, 0.3, out=out, num_threads=case["threads"], **options)
    assert y is out
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=_tolerance(dtype) * case["blocks"])
    again = poisoned_out(x.shape, dtype, "c") if case["out"] != "x" else x.copy(order="K")
    if case["out"] != "reversed":
        source = again if case["out"] == "x" else x
        sgs.semi_global_filter(source, guide, 0.3, out=again, num_threads=5, **options)
        np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize("shape", [(33, 4, 200, 260), (4, 120, 130, 40), (70, 2, 30, 17, 150)])
def test_parts_do_not_depend_on_where_sums_are_kept(shape: tuple[int, ...], isa: str) -> None:
    """Several parts, in place and in blocks: the same bits. float16, whose sums are kept beside y, nearly the same."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    channel_axis = 0 if shape[0] > 4 else -1
    options: dict[str, Any] = {"channel_axis": channel_axis, "axes": tuple(range(len(shape)))[-3:]}
    if channel_axis == -1:
        options["axes"] = (0, 1, 2)
    guide = x[:1] if channel_axis == 0 else x[..., :1]
    for normalization in ("cross", "line"):
        options["normalization"] = normalization
        y = sgs.semi_global_filter(x, guide, **options)
        in_place = x.copy()
        sgs.semi_global_filter(in_place, guide, out=in_place, num_threads=3, **options)
        np.testing.assert_array_equal(in_place, y)
        twice = sgs.semi_global_filter(x, guide, blocks=2, **options)
        np.testing.assert_array_equal(twice, sgs.semi_global_filter(y, guide, **options))
        half = sgs.semi_global_filter(x.astype(np.float16), guide, **options)
        np.testing.assert_allclose(half.astype(np.float32), y, rtol=3e-3)


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_few_long_lines(confidence: bool, residual: bool, isa: str) -> None:
    """An axis of 20000 positions that is added to planes of six, in segments."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1.5, (20000, 2, 3))
    guide = rng.random(x.shape)
    options: dict[str, Any] = {"channel_axis": None, "axes": (0, 1, 2), "residual": residual}
    if confidence:
        options["confidence"] = rng.uniform(0.5, 2, x.shape) * (rng.random(x.shape) < 0.6)
        x[options["confidence"] == 0] = np.nan
    expected = sgs.reference.semi_global_filter(x, guide, 2.0, **options)
    y = sgs.semi_global_filter(x, guide, 2.0, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-10)
    sgs.semi_global_filter(x, guide, 2.0, out=x, num_threads=3, **options)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("channels", [2, 17])  # by themselves, side by side
@pytest.mark.parametrize("normalization", ["cross", "line", None])
def test_nothing_crosses_a_cut(normalization: str | None, channels: int, isa: str) -> None:
    """NaN and infinity stay on their side of a slab of cut edges, along the axis that is added last."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((channels, 20, 9, 33))
    guide = np.zeros((1, *x.shape[1:]))
    guide[:, 8:] = 1e6
    options: dict[str, Any] = {"channel_axis": 0, "axes": (1, 2, 3), "normalization": normalization}
    clean = sgs.semi_global_filter(x, guide, **options)
    x[0, 3, 4, 20], x[1, 2, 0, 0] = np.nan, np.inf
    y = sgs.semi_global_filter(x, guide, **options)
    np.testing.assert_array_equal(y[:, 8:], clean[:, 8:])
    assert np.isnan(y[0, :8, 4, 20]).all() and np.isposinf(y[1, :8, 0, 0]).all()
