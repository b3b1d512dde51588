"""`torch_reference` against `sgs.reference` in values, against finite differences and stated rules in derivatives."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_reference as plain
from torch.autograd import gradcheck, gradgradcheck

from sgs import reference

F64 = torch.float64
NORMALIZATIONS = ("cross", "line", None)
METRICS = ("euclidean", "cityblock", "sqeuclidean")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, by far where processors are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def values(seed: int, *shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def weights(seed: int, *shape: int, cut: bool = True) -> Any:
    w = torch.from_numpy(np.random.default_rng(seed).uniform(0.05, 1, shape))
    if cut and w.numel():
        w.view(-1)[w.numel() // 2] = 0.0
    return w


def definition(name: str, *args: Any, **kwargs: Any) -> np.ndarray:
    """What `sgs.reference` says."""
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.numpy(), (args, kwargs))
    return getattr(reference, name)(*args, **kwargs)


def assert_same(actual: Any, expected: np.ndarray, tolerance: float = 1e-13) -> None:
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


# ---- values


@pytest.mark.parametrize("n", [0, 1, 2, 7])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lines_are_those_of_the_reference(n: int, axis: int) -> None:
    shape, edges = [2, 3, 4], [1, 1, 1]
    shape[axis], edges[axis] = n, max(n - 1, 0)
    x, w = values(1, *shape), weights(2, *edges)
    inflow = values(3, *np.delete(shape, axis))
    for reverse in (False, True):
        assert_same(plain.scan(x, w, axis, reverse=reverse), definition("scan", x, w, axis, reverse=reverse))
        assert_same(
            plain.scan(x, w, axis, reverse=reverse, initial=inflow),
            definition("scan", x, w, axis, reverse=reverse, initial=inflow),
        )
    for initial in (None, (inflow, None), (None, 0.5), (inflow, 2 * inflow)):
        assert_same(
            plain.line_filter(x, w, axis, initial=initial), definition("line_filter", x, w, axis, initial=initial)
        )
    for root in range(-n, n):
        a = plain.tree_aggregate(x, w, axis, root=root)
        assert_same(a, definition("tree_aggregate", x, w, axis, root=root))
        assert_same(plain.tree_update(a, w, axis, root=root), definition("line_filter", x, w, axis), 1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("shape", "channel_axis", "axis", "heads"), [
    ((2, 4, 3, 5), -3, -1, 1),
    ((2, 4, 3, 5), -3, 2, 2),
    ((3, 5, 4), -1, 0, 4),
    ((3, 5), None, 1, 1),
    ((6,), -3, 0, 1),
])  # fmt: skip
def test_edge_weights_are_those_of_the_reference(
    shape: tuple[int, ...], channel_axis: int | None, axis: int, heads: int, metric: str
) -> None:
    options: dict[str, Any] = {"channel_axis": channel_axis, "metric": metric, "heads": heads}
    guide = values(4, *shape)
    for scale, step in ((1.0, 0.0), (0.3, 0.2)):
        expected = definition("edge_weights", guide, axis, scale, step=step, **options)
        assert_same(plain.edge_weights(guide, axis, scale, step=step, **options), expected)
        as_tensors = (torch.tensor(scale, dtype=F64), torch.tensor(step, dtype=F64))
        assert_same(plain.edge_weights(guide, axis, as_tensors[0], step=as_tensors[1], **options), expected)


LAYOUTS = [
    {"shape": (2, 4, 3, 5)},
    {"shape": (2, 4, 3, 5), "heads": 2, "guide": (2, 6, 3, 5)},
    {"shape": (2, 4, 3, 5), "guide": (1, 3, 5)},
    {"shape": (2, 4, 3, 5), "guide": (3, 5)},
    {"shape": (3, 5, 4), "channel_axis": -1, "guide": (3, 5)},
    {"shape": (3, 5, 4), "channel_axis": -1, "heads": 4},
    {"shape": (3, 5), "guide": (3, 3, 5)},
    {"shape": (3, 5)},
    {"shape": (7,)},
    {"shape": (2, 3, 4, 2, 3), "channel_axis": 1, "axes": (2, 4, 3)},
    {"shape": (2, 4, 3, 5), "axes": -2},
    {"shape": (2, 3, 5), "channel_axis": None, "axes": (0, -1)},
]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_filter_is_that_of_the_reference(layout: dict[str, Any], normalization: str | None) -> None:
    options = dict(layout)
    x = values(5, *options.pop("shape"))
    guide = values(6, *options.pop("guide")) if "guide" in options else None
    count = 1 if x.ndim == 1 or isinstance(options.get("axes"), int) else len(options.get("axes", (0, 0)))
    scale, step = [0.5, 1.5, 2.5][:count], [0.0, 0.1, 0.2][:count]
    for blocks in (1, 2):
        more = options | {"blocks": blocks, "normalization": normalization, "residual": blocks == 2}
        expected = definition("semi_global_filter", x, guide, scale, step=step, metric="cityblock", **more)
        result = plain.semi_global_filter(x, guide, torch.tensor(scale), step=tuple(step), metric="cityblock", **more)
        assert_same(result, expected)


def holes(shape: tuple[int, ...]) -> Any:
    """Confidence with zeros, a corner whose support is 0 included once w is 0 around it."""
    c = torch.from_numpy(np.random.default_rng(7).uniform(0, 2, shape))
    return torch.where(c < 0.6, torch.zeros_like(c), c)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_confidence_is_that_of_the_reference(guided: bool, residual: bool) -> None:
    x, c = values(8, 2, 4, 3, 5), holes((2, 3, 5))
    c[:, 0], c[:, :, 0] = 0.0, 0.0
    x[(c == 0).unsqueeze(1).expand_as(x)] = math.nan
    guide = values(9, 2, 3, 5) if guided else None
    if guide is not None:
        guide[:, 0, 0] = 1e9  # cut off: the corner is supported by nobody
    for blocks in (1, 2):
        options: dict[str, Any] = {"blocks": blocks, "residual": residual, "confidence": c, "fill_value": -3.0}
        expected = definition("semi_global_filter", x, guide, (0.4, 0.8), **options)
        assert_same(plain.semi_global_filter(x, guide, (0.4, 0.8), **options), expected)
        assert np.isfinite(expected).all() and (not guided or (expected[..., 0, 0] == -3.0).all())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_that_of_the_reference(normalization: str | None, heads: int) -> None:
    guides = [values(10, 2, 4, 3, 5), values(11, 2, 2, 3, 5)]
    c = holes((2, 3, 5)) if normalization == "cross" else None
    for given, blocks in ((guides[0], 1), (guides[0], 2), (guides, 2)):
        options: dict[str, Any] = {"blocks": blocks, "normalization": normalization, "residual": True, "heads": heads}
        options |= {"step": (0.0, 0.1), "confidence": c}
        expected = definition("attention_map", given, (1, -2), (0.7, 1.3), **options)
        assert_same(plain.attention_map(given, (1, -2), (0.7, 1.3), **options), expected)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_support_too_small_to_count_is_that_of_the_reference(residual: bool, blocks: int) -> None:
    x, c = torch.tensor([1.0, 2.0, 3.0], dtype=F64), torch.tensor([1e-310, 0.0, 0.5], dtype=F64)
    guide = torch.tensor([0.0, 1e9, 2e9], dtype=F64)
    options: dict[str, Any] = {"blocks": blocks, "residual": residual, "confidence": c}
    expected = definition("semi_global_filter", x, guide, fill_value=7.0, **options)
    assert_same(plain.semi_global_filter(x, guide, fill_value=7.0, **options), expected)
    for position in (0, 2):
        expected = definition("attention_map", guide, position, **options)
        assert_same(plain.attention_map(guide, position, **options), expected)


def test_half_types_are_summed_in_float32() -> None:
    x, w = values(12, 3, 9), weights(13, 8)
    for dtype in (torch.float16, torch.bfloat16):
        y = plain.line_filter(x.to(dtype), w)
        assert y.dtype == dtype
        assert torch.equal(y, plain.line_filter(x.to(dtype).float(), w).to(dtype))
        assert plain.edge_weights(x.to(dtype), -1).dtype == torch.float32
    assert plain.scan(torch.arange(5), w[:4]).dtype == torch.float32


# ---- derivatives


def checked(f: Callable[..., Any], *inputs: Any) -> None:
    inputs = tuple(i.clone().requires_grad_() for i in inputs)
    assert gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_scan(reverse: bool) -> None:
    x, w, inflow = values(20, 2, 4, 2), weights(21, 3, 1), values(22, 2, 1)
    checked(lambda x, w, i: plain.scan(x, w, -2, reverse=reverse, initial=i), x, w, inflow)


def test_derivatives_of_line_filter_and_trees() -> None:
    x, w = values(23, 2, 5), weights(24, 4)
    checked(lambda x, w, a, b: plain.line_filter(x, w, initial=(a, b)), x, w, values(25, 2), values(26, 1))
    checked(lambda x, w: plain.tree_aggregate(x, w, root=2), x, w)
    checked(lambda x, w: plain.tree_update(x, w, root=2), x, w)


@pytest.mark.parametrize("metric", METRICS)
def test_derivatives_of_edge_weights(metric: str) -> None:
    scale, step = torch.tensor(0.8, dtype=F64), torch.tensor(0.3, dtype=F64)
    checked(
        lambda g, s, t: plain.edge_weights(g, -2, s, metric=metric, step=t, heads=2), values(27, 4, 3, 2), scale, step
    )


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_derivatives_of_the_filter(normalization: str | None, blocks: int) -> None:
    scale, step = torch.tensor([0.8, 1.2], dtype=F64), torch.tensor([0.1, 0.3], dtype=F64)
    options: dict[str, Any] = {"normalization": normalization, "blocks": blocks, "residual": True}
    checked(lambda x, s, t: plain.semi_global_filter(x, None, s, step=t, **options), values(28, 2, 2, 3), scale, step)
    checked(lambda x, g: plain.semi_global_filter(x, g, **options), values(29, 1, 3, 2), values(30, 2, 3, 2))


@pytest.mark.parametrize("guided", [False, True])
def test_derivatives_of_confidence(guided: bool) -> None:
    x, c, guide = values(31, 2, 3, 2), values(32, 3, 2).abs() + 0.2, values(33, 2, 3, 2)
    options: dict[str, Any] = {"blocks": 2, "residual": True, "fill_value": 2.0}
    checked(lambda x, c: plain.semi_global_filter(x, guide if guided else None, confidence=c, **options), x, c)


def test_derivatives_of_attention() -> None:
    scale = torch.tensor([0.8, 1.2], dtype=F64)
    checked(
        lambda g, h, s: plain.attention_map([g, h], (1, 0), s, blocks=2, residual=True),
        values(34, 1, 2, 3),
        values(35, 2, 2, 3),
        scale,
    )
    c = values(36, 2, 3).abs() + 0.2
    checked(lambda g, c: plain.attention_map(g, (1, 2), confidence=c, blocks=2), values(37, 1, 2, 3), c)


def test_transforms_nest() -> None:
    x, w = values(38, 2, 4), weights(39, 3)

    def loss(x: Any, w: Any) -> Any:
        return plain.line_filter(x, w).sin().sum()

    by_rows = torch.func.hessian(loss, argnums=(0, 1))(x, w)
    again = torch.func.jacrev(torch.func.jacrev(loss, argnums=(0, 1)), argnums=(0, 1))(x, w)
    for a, b in zip(torch.utils._pytree.tree_leaves(by_rows), torch.utils._pytree.tree_leaves(again), strict=True):
        torch.testing.assert_close(a, b)
    each = torch.vmap(torch.func.grad(loss), (0, None))(x, w)
    torch.testing.assert_close(each, torch.func.grad(loss)(x, w))


# ---- the rules that no finite difference shows


def gradients(f: Callable[..., Any], *inputs: Any) -> list[Any]:
    inputs = tuple(i.clone().requires_grad_() for i in inputs)
    return list(torch.autograd.grad(f(*inputs).sum(), inputs))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_neighbours_have_derivatives_of_zero(metric: str) -> None:
    guide = torch.ones(2, 3, 4, dtype=F64, requires_grad=True)
    w = plain.edge_weights(guide, -1, metric=metric)
    (first,) = torch.autograd.grad((w**2).sum(), guide, create_graph=True)
    (second,) = torch.autograd.grad((first * values(40, 2, 3, 4)).sum(), guide)
    assert torch.equal(first, torch.zeros_like(first))
    assert torch.isfinite(second).all() and (metric == "sqeuclidean" or not second.any())


def test_nothing_crosses_a_cut() -> None:
    x, w = values(41, 6), weights(42, 5, cut=False)
    w[2] = 0.0
    x[4] = math.nan
    y = plain.line_filter(x, w)
    assert torch.isfinite(y[:3]).all() and torch.isnan(y[3:]).all()
    # What comes back as NaN stays on its side, too.
    back = torch.tensor([1.0, 1, 1, 1, math.inf, 1], dtype=F64)
    leaf = values(43, 6).requires_grad_()
    (x_bar,) = torch.autograd.grad(plain.line_filter(leaf, w), leaf, back)
    assert torch.isfinite(x_bar[:3]).all() and not torch.isfinite(x_bar[3:]).any()


def test_a_weight_of_zero_has_a_derivative_and_its_guide_has_none() -> None:
    (w_bar,) = gradients(lambda w: plain.scan(values(44, 3), w), torch.zeros(2, dtype=F64))
    torch.testing.assert_close(w_bar, values(44, 3)[:2])
    for far in (1e9, math.inf):
        guide = torch.tensor([0.0, 0.5, far], dtype=F64)
        x = torch.tensor([1.0, 2.0, math.inf], dtype=F64)
        scale, step = torch.tensor(1.0, dtype=F64), torch.tensor(0.1, dtype=F64)
        bars = gradients(
            lambda g, s, t, x=x: plain.line_filter(x, plain.edge_weights(g, 0, s, step=t))[:2], guide, scale, step
        )
        assert all(torch.isfinite(b).all() and b.any() for b in bars)
        assert bars[0][2] == 0


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_missing_and_unsupported_positions_have_no_gradient(guided: bool, blocks: int) -> None:
    x, c = values(45, 2, 4, 5), holes((4, 5))
    c[0], c[:, 0] = 0.0, 0.0
    x[(c == 0).expand_as(x)] = math.nan
    guide = values(46, 1, 4, 5)
    guide[:, 0, 0] = 1e9
    options: dict[str, Any] = {"blocks": blocks, "residual": True, "fill_value": 5.0}
    x_bar, c_bar, g_bar = gradients(
        lambda x, c, g: plain.semi_global_filter(x, g if guided else None, confidence=c, **options) + 0 * g.sum(),
        x, c, guide,
    )  # fmt: skip
    for bar in (x_bar, c_bar, g_bar):
        assert torch.isfinite(bar).all()
    assert not x_bar[:, c == 0].any() and not c_bar[c == 0].any()
    assert x_bar[:, c > 0].any() and c_bar[c > 0].any() and g_bar.any() == guided
    assert g_bar[0, 0, 0] == 0
