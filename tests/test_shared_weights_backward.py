"""Derivatives of the filter where a dozen planes and more share their weights: channels side by side (11)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from helpers import ISAS, pairwise, seeded

torch = pytest.importorskip("torch")

import torch_reference as plain

import sgs
import sgs.torch
from sgs import _core, _torch_ops

F64 = torch.float64
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("c", "channels_last", "transposed", "stepped", "pitched", "batch_inside")
# Of the largest derivative; the inputs are exact, half types are rounded on their way back.
TOLERANCE = {torch.float64: 2e-14, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def set_back() -> Iterator[None]:
    isa, threads = sgs.get_isa(), torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    sgs.set_isa(isa)
    torch.set_num_threads(threads)


def laid_out(t: Any, layout: str) -> Any:
    """The same values of (..., C, H, W) in another order in memory."""
    if layout == "channels_last":
        return t.movedim(-3, -1).contiguous().movedim(-1, -3)
    if layout == "transposed":
        return t.mT.contiguous().mT
    if layout == "batch_inside":
        return t.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "stepped":
        wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan)
        wide[..., ::2] = t
        return wide[..., ::2]
    if layout == "pitched":  # rows lie farther apart than they are long
        return torch.cat([t, torch.full_like(t, torch.nan)], -1)[..., : t.shape[-1]]
    return t.contiguous()


def problem(case: dict[str, Any], guide_channels: int = 3) -> tuple[Any, Any, Any]:
    rng = seeded(case)
    shape = (2, case["channels"], case["height"], case["width"])
    x, seed = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(2))
    guide = torch.from_numpy(rng.standard_normal((2, guide_channels, *shape[-2:])))
    return x, guide, seed


def derivatives(module: Any, dtype: Any, inputs: Sequence[Any], seed: Any, **kwargs: Any) -> list[Any]:
    leaves = [t.to(dtype) if t.dtype != dtype else t for t in inputs]
    leaves = [t.detach().requires_grad_() for t in leaves]
    x, guide, *confidence = leaves
    if confidence:
        kwargs["confidence"] = confidence[0]
    y = module.semi_global_filter(x, guide, (1.5, 2.5), **kwargs)
    return list(torch.autograd.grad(y, leaves, seed.to(y.dtype), materialize_grads=True))


def assert_near(actual: Sequence[Any], expected: Sequence[Any], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert torch.equal(a.isnan(), e.isnan())
        difference = (a.double() - e.double()).nan_to_num(0.0).abs().max().item()
        assert difference <= tolerance * max(e.nan_to_num(0.0).abs().max().item(), 1.0)


CASES = pairwise(
    isa=ISAS,
    channels=(12, 16, 17, 33, 64),
    height=(1, 2, 7, 8, 9, 17, 33),
    width=(1, 2, 15, 16, 17, 31, 33),
    dtype=DTYPES,
    layout=LAYOUTS,
    normalization=("cross", None),
    residual=(False, True),
    trusted=(False, True),
)


@pytest.mark.parametrize("case", CASES)
def test_as_the_definition(case: dict[str, Any]) -> None:
    sgs.set_isa(case["isa"])
    dtype = case["dtype"]
    x, guide, seed = (t.to(dtype).double() for t in problem(case))
    inputs, kwargs = [x, guide], {"normalization": case["normalization"], "residual": case["residual"]}
    if case["trusted"] and case["normalization"] == "cross":
        c = torch.from_numpy(seeded(case).uniform(0.1, 1.0, (2, *x.shape[-2:]))).to(dtype).double()
        missing = torch.from_numpy(seeded(case).random(c.shape) < 0.2)
        c[missing] = 0.0
        x[missing[:, None].expand(x.shape)] = torch.nan
        inputs.append(c)
    expected = derivatives(plain, F64, inputs, seed, **kwargs)
    strided = [laid_out(x.to(dtype), case["layout"]), *inputs[1:]]
    actual = derivatives(sgs.torch, dtype, strided, laid_out(seed.to(dtype), case["layout"]), **kwargs)
    assert_near(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("channels", "size"), [(16, 97), (33, 63), (64, 64)])
def test_planes_of_many_blocks(isa: str, channels: int, size: int) -> None:
    sgs.set_isa(isa)
    x, guide, seed = problem({"channels": channels, "height": size, "width": size})
    expected = derivatives(plain, F64, [x, guide], seed)
    assert_near(derivatives(sgs.torch, F64, [x, guide], seed), expected, TOLERANCE[F64])
    assert_near(derivatives(sgs.torch, torch.float32, [x, guide], seed), expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", ["c", "channels_last"])
def test_only_what_is_wanted(isa: str, layout: str) -> None:
    """x alone: no sums are made, and x_bar is the same number for number."""
    sgs.set_isa(isa)
    x, guide, seed = problem({"channels": 20, "height": 19, "width": 21})
    x = laid_out(x, layout).requires_grad_()
    alone = torch.autograd.grad(sgs.torch.semi_global_filter(x, guide, 2.0), x, seed)[0]
    guide.requires_grad_()
    both = torch.autograd.grad(sgs.torch.semi_global_filter(x, guide, 2.0), (x, guide), seed)
    assert torch.equal(alone, both[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_threads(dtype: Any) -> None:
    case = {"channels": 100, "height": 23, "width": 37}
    x, guide, seed = (t.to(dtype) for t in problem(case))
    c = torch.from_numpy(seeded(case).uniform(0.0, 1.0, (2, 23, 37))).to(dtype)
    results = [derivatives(sgs.torch, dtype, [x, guide, c], seed, num_threads=n) for n in (1, 2, 3, 7)]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", [0, 6, 7, 8, 15, 16])
@pytest.mark.parametrize("before", [True, False])
def test_nothing_crosses_a_cut(isa: str, dtype: Any, edge: int, before: bool) -> None:
    """Weights of 0 around NaN and Inf, in x and in y_bar: what lies beyond is as it would be without."""
    sgs.set_isa(isa)
    rng = np.random.default_rng(edge)
    height, width = 19, 18
    x, seed = (torch.from_numpy(rng.standard_normal((16, height, width))).to(dtype) for _ in range(2))
    down = torch.from_numpy(rng.uniform(0.1, 1, (1, height - 1, width))).to(dtype)
    across = torch.from_numpy(rng.uniform(0.1, 1, (1, height, width - 1))).to(dtype)
    down[:, edge], across[:, :, edge] = 0.0, 0.0

    def all_derivatives(x: Any, seed: Any) -> list[Any]:
        leaves = [t.clone().requires_grad_() for t in (x, down, across)]
        y = _torch_ops.semi_global_filter(leaves[0], None, leaves[1:], [-2, -1], _core.CROSS, False, 0.0, 2)
        return list(torch.autograd.grad(y, leaves, seed))

    # The derivative by a cut weight itself sees both sides.
    first, second = slice(0, edge), slice(edge + 1, None)
    dirty, beyond = (slice(0, edge + 1), second) if before else (second, first)
    clean = all_derivatives(x, seed)
    x, seed = x.clone(), seed.clone()
    x[3, dirty, dirty] = torch.nan
    seed[5, dirty, dirty] = torch.inf
    spoilt = all_derivatives(x, seed)
    for a, b in zip(clean, spoilt, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a[:, beyond, beyond], b[:, beyond, beyond])
    assert not spoilt[0][:, dirty, dirty].isfinite().all()


@pytest.mark.parametrize("isa", ISAS)
def test_nan_stays_on_its_row_and_column(isa: str) -> None:
    sgs.set_isa(isa)
    x, guide, seed = problem({"channels": 16, "height": 21, "width": 20})
    seed[1, 4, 9, 7] = torch.nan
    x_bar = derivatives(sgs.torch, F64, [x, guide], seed)[0]
    expected = torch.zeros(x.shape, dtype=torch.bool)
    expected[1, 4, 9, :] = expected[1, 4, :, 7] = True
    assert torch.equal(x_bar.isnan(), expected)


def test_planes_shared_along_two_dimensions() -> None:
    """A guide without batch: all planes of the batch share its weights."""
    x, guide, seed = problem({"channels": 10, "height": 12, "width": 13})
    expected = derivatives(plain, F64, [x, guide[0]], seed)
    assert_near(derivatives(sgs.torch, F64, [x, guide[0]], seed), expected, TOLERANCE[F64])


def test_heads() -> None:
    x, guide, seed = problem({"channels": 48, "height": 12, "width": 13}, guide_channels=6)
    for heads in (2, 3):
        expected = derivatives(plain, F64, [x, guide], seed, heads=heads)
        assert_near(derivatives(sgs.torch, F64, [x, guide], seed, heads=heads), expected, TOLERANCE[F64])


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("shape", [(3, 4, 2100), (3, 2100, 4), (2, 1025, 2)])
@pytest.mark.parametrize("order", ["c", "transposed", "channels_last"])
def test_guides_of_long_rows(shape: tuple[int, ...], axis: int, order: str) -> None:
    """Rows of more elements than are computed together, along the edges and across."""
    rng = np.random.default_rng(axis + sum(shape))
    guide = laid_out(torch.from_numpy(rng.standard_normal(shape)), order).requires_grad_()
    results = [module.edge_weights(guide, axis, 2.0, step=0.1) for module in (plain, sgs.torch)]
    seed = torch.from_numpy(rng.standard_normal(results[0].shape))
    expected, actual = (torch.autograd.grad(w, guide, seed) for w in results)
    assert_near(actual, expected, TOLERANCE[F64])
