"""`sgs.torch` itself: values, fused derivatives, the rules of derivatives, dtypes, layouts and errors."""

import doctest
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_reference as plain
from torch import Tensor
from torch.autograd import forward_ad
from torch_cases import CASES, Case, confidence, guide, number, values, weights

import sgs
import sgs.torch as st
from sgs import _torch_ops as ops

F64 = torch.float64
HALVES = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and two processors shared with others make them slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def gradients(f: Callable[..., Tensor], *tensors: Tensor, create_graph: bool = False) -> list[Tensor]:
    """Of the sum of y times fixed numbers; 0 for what does not matter."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    y = f(*inputs)
    direction = torch.cos(torch.arange(y.numel(), dtype=F64)).reshape(y.shape).to(y.dtype)
    grads = torch.autograd.grad(y, inputs, direction, allow_unused=True, create_graph=create_graph)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True)]


def second(f: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    def first(*inputs: Tensor) -> Tensor:
        y = f(*inputs)
        return sum(
            (g * g.cos()).sum() for g in torch.autograd.grad(y, inputs, y.detach().cos(), create_graph=True)
        ).reshape(())

    return gradients(first, *tensors)


def same(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 0.01, equal_nan=True)


# ---- values and derivatives against plain torch


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("sizes", [(3, 4), (2, 2), (5, 3)])
def test_values_and_derivatives(case: Case, sizes: tuple[int, int]) -> None:
    f, r, t = case.function(st), case.function(plain), case.tensors(*sizes)
    same(f(*t), r(*t))
    same(gradients(f, *t), gradients(r, *t))  # fused
    same(gradients(f, *t, create_graph=True), gradients(r, *t))  # composed
    same(second(f, *t), second(r, *t))


FILTERS = list(itertools.product(("cross", "line", None), ("euclidean", "cityblock", "sqeuclidean"), (1, 2), (1, 2)))


@pytest.mark.parametrize("given", [True, False], ids=["guide", "own guide"])
@pytest.mark.parametrize(("normalization", "metric", "heads", "blocks"), FILTERS)
def test_derivatives_of_the_filter(normalization: Any, metric: str, heads: int, blocks: int, given: bool) -> None:
    x, g, scale, step = guide(1, 2, 2, 3, 4), guide(2, 2, 4, 3, 4), number(2.0), number(0.3)
    for trust in [None, confidence(3, 2, 3, 4)] if normalization == "cross" else [None]:
        tensors = [x, scale, step, *([g] if given else []), *([trust] if trust is not None else [])]

        def call(module: Any, x: Tensor, scale: Tensor, step: Tensor, *rest: Tensor, trust: Any = trust) -> Tensor:
            kinds = {"normalization": normalization, "metric": metric, "heads": heads, "blocks": blocks}
            c = rest[-1] if trust is not None else None
            g = rest[0] if given else None
            return module.semi_global_filter(x, g, (scale, 1.5), step=step, residual=True, confidence=c, **kinds)

        f, r = (lambda *t: call(st, *t)), (lambda *t: call(plain, *t))
        same(f(*tensors), r(*tensors))
        same(gradients(f, *tensors), gradients(r, *tensors))
        same(second(f, *tensors), second(r, *tensors), 1e-8)


@pytest.mark.parametrize(
    "place", ["image", "single channel", "guide of the field", "one guide for all", "volume", "axis"]
)
def test_layouts_of_arguments(place: str) -> None:
    calls: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "image": (
            lambda m, x, g: m.semi_global_filter(x, g, channel_axis=-1),
            (values(1, 4, 5, 3), values(2, 4, 5, 2)),
        ),
        "single channel": (lambda m, x, g: m.semi_global_filter(x, g), (values(1, 4, 5), values(2, 3, 4, 5))),
        "guide of the field": (lambda m, x, g: m.semi_global_filter(x, g), (values(1, 2, 3, 4, 5), values(2, 4, 5))),
        "one guide for all": (lambda m, x, g: m.semi_global_filter(x, g), (values(1, 2, 3, 4, 5), values(2, 2, 4, 5))),
        "volume": (
            lambda m, x, g: m.semi_global_filter(x, g, channel_axis=None, axes=(0, 1, 2), normalization="line"),
            (values(1, 3, 4, 3), values(2, 3, 4, 3)),
        ),
        "axis": (
            lambda m, x, g: m.semi_global_filter(x, g, (0.7, 1.4), channel_axis=1, axes=(3, 0)),
            (values(1, 3, 2, 2, 4), values(2, 3, 3, 2, 4)),
        ),
    }
    call, tensors = calls[place]
    f, r = (lambda *t: call(st, *t)), (lambda *t: call(plain, *t))
    same(f(*tensors), r(*tensors))
    same(gradients(f, *tensors), gradients(r, *tensors))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values_are_those_of_numpy(case: Case) -> None:
    """Bit for bit: the same core."""
    tensors = case.tensors(9, 17)

    class Numpy:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                args, kwargs = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.numpy(), (args, kwargs))
                return getattr(sgs, name)(*args, **kwargs)

            return call

    actual, expected = case.call(st, *tensors).numpy(), case.call(Numpy(), *tensors)
    if case.name == "attention_map" or "confidence" in case.name:  # divided by torch there, and S summed by itself
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-15)
    else:
        np.testing.assert_array_equal(actual, expected)


GUIDES = {
    "own guide": (lambda x: None, {}),
    "guide": (lambda x: values(2, 2, 4, 9, 17), {}),
    "guide of the field": (lambda x: values(2, 9, 17), {}),
    "one guide for all, channels last": (lambda x: values(2, 1, 9, 17, 3).movedim(-1, 1), {}),
    "single channels": (lambda x: None, {"channel_axis": None, "axes": (3, 0, 2)}),
    "a guide of channels": (lambda x: values(2, 2, 3, 9, 17, 5), {"channel_axis": -1, "axes": (2, 3)}),
    "one axis": (lambda x: values(2, 2, 4, 9, 17), {"axes": -1}),
}


@pytest.mark.parametrize("normalization", ["cross", "line", None, "confidence"])
@pytest.mark.parametrize("kind", list(GUIDES))
def test_one_call_is_many(kind: str, normalization: Any) -> None:
    """Weights and filter in one call of the core, where nothing is in the way, are those of the operators bit for bit."""
    make, options = GUIDES[kind]
    for dtype, metric, step in (
        (F64, "euclidean", 0.0),
        (torch.float32, "cityblock", (0.1,)),
        (torch.bfloat16, "sqeuclidean", 0.2),
    ):
        x = values(1, 2, 3, 9, 17).to(dtype)
        if kind == "one guide for all, channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        if kind == "a guide of channels":
            x = values(1, 2, 6, 9, 17, 5).to(dtype)[:, ::2]
        g = make(x)
        axes = options.get("axes", (-2, -1))
        scale = torch.linspace(0.5, 2.0, len(axes) if isinstance(axes, tuple) else 1)
        kinds: dict[str, Any] = {**options, "metric": metric, "residual": dtype != F64, "normalization": normalization}
        kinds["step"] = step * len(scale) if isinstance(step, tuple) else step
        if normalization == "confidence":
            channel = kinds.get("channel_axis", -3)
            field = [n for a, n in enumerate(x.shape) if channel is None or a != channel % x.ndim]
            kinds |= {"normalization": "cross", "confidence": confidence(3, *field), "fill_value": 3.0}
        expected = st.semi_global_filter(x.clone().requires_grad_(), g, scale, **kinds).detach()
        actual = st.semi_global_filter(x, g, scale, **kinds)
        assert torch.equal(actual, expected)
        assert actual.stride() == expected.stride()


def test_arguments_of_another_type_are_not_taken_for_remembered_ones() -> None:
    """True == 1, but not as a number of heads."""
    x = torch.randn(2, 3, 4)
    st.semi_global_filter(x, heads=1)
    with pytest.raises(TypeError, match="heads"):
        st.semi_global_filter(x, heads=True)


# ---- the fused derivatives at sizes where their tiling shows


def _filter_problem(shape: tuple[int, ...], trust: bool, channels_last: bool) -> list[Tensor]:
    b, _, h, w = shape
    x, g = values(1, *shape), 0.4 * values(2, b, 3, h, w)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return [x, g, number(1.2), *([confidence(3, b, h, w)] if trust else [])]


SHAPES = [
    ((2, 35, 9, 12), False),
    ((2, 70, 10, 7), True),
    ((1, 3, 40, 33), True),
    ((1, 1, 60, 300), False),
    ((1, 2, 270, 5), False),
    ((9, 2, 5, 6), False),
    ((1, 40, 150, 3), True),
    ((1, 1, 1, 7), False),
]


@pytest.mark.parametrize("normalization", ["cross", "line", None, "confidence"])
@pytest.mark.parametrize(("shape", "channels_last"), SHAPES)
def test_fused_is_composed(shape: tuple[int, ...], channels_last: bool, normalization: Any) -> None:
    trust = normalization == "confidence"
    tensors = _filter_problem(shape, trust, channels_last)

    def f(x: Tensor, g: Tensor, s: Tensor, c: Any = None, n: int | None = None) -> Tensor:
        kind = "cross" if trust else normalization
        return st.semi_global_filter(x, g, s, normalization=kind, confidence=c, residual=True, num_threads=n)

    fused = gradients(f, *tensors)
    same(fused, gradients(f, *tensors, create_graph=True), 1e-8)
    assert fused[0].stride() == tensors[0].stride()
    for n in (1, 3):  # bit for bit for any number of threads
        again = gradients(lambda *t, n=n: f(*t, *(None,) * (4 - len(t)), n), *tensors)
        assert all(torch.equal(a, b) for a, b in zip(again, fused, strict=True))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("w_shape", ["full", "shared", "line"])
@pytest.mark.parametrize("n", [1, 2, 16, 129, 300])
def test_fused_lines(n: int, w_shape: str, axis: int) -> None:
    shape = [3, 18, 5]
    shape[axis] = n
    edges = [n - 1 if a == axis else (1 if w_shape == "line" or (w_shape == "shared" and a == 1) else s)
             for a, s in enumerate(shape)]  # fmt: skip
    x, w, end = values(1, *shape), weights(2, *edges) if n > 1 else torch.ones(edges, dtype=F64), number(0.3)
    for f in (
        lambda x, w, i: st.scan(x, w, axis, initial=i, num_threads=2),
        lambda x, w, i: st.scan(x, w, axis, initial=i, reverse=True, num_threads=2),
        lambda x, w, i: st.line_filter(x, w, axis, initial=(i, 2 * i), num_threads=2),
    ):
        same(gradients(f, x, w, end), gradients(f, x, w, end, create_graph=True), 1e-8)


@pytest.mark.parametrize("isa", sgs._core.available_isas())
def test_fused_by_every_instruction_set(isa: str) -> None:
    tensors = [t.float() for t in _filter_problem((1, 20, 17, 33), True, False)]
    expected = gradients(
        lambda x, g, s, c: plain.semi_global_filter(x, g, s, confidence=c), *(t.double() for t in tensors)
    )
    before = sgs.get_isa()
    sgs.set_isa(isa)
    try:
        actual = gradients(lambda x, g, s, c: st.semi_global_filter(x, g, s, confidence=c), *tensors)
    finally:
        sgs.set_isa(before)
    for a, e in zip(actual, expected, strict=True):
        assert (a.double() - e).abs().max() <= 2e-5 * e.abs().max()


@pytest.mark.parametrize("dtype", list(HALVES))
@pytest.mark.parametrize("name", ["scan", "line_filter", "semi_global_filter"])
def test_half_gradients_are_right_to_their_precision(name: str, dtype: Any) -> None:
    x, w = values(1, 2, 64, 9, 40).to(dtype), weights(2, 1, 1, 9, 39).to(dtype)
    g = values(3, 2, 5, 9, 40).to(dtype)

    def f(*t: Tensor) -> Tensor:
        if name == "semi_global_filter":
            return st.semi_global_filter(t[0], t[1], t[2])
        return getattr(st, name)(t[0], t[1], initial=t[2] if name == "scan" else (t[2], t[2]))

    tensors = [x, g, number(1.5).to(dtype)] if name == "semi_global_filter" else [x, w, number(0.3).to(dtype)]
    assert f(*tensors).dtype == dtype
    # The direction is rounded to the half type as well, alike for both.
    inputs = [t.detach().requires_grad_() for t in tensors]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    direction = torch.cos(torch.arange(x.numel(), dtype=F64)).reshape(x.shape).to(dtype)
    actual = torch.autograd.grad(f(*inputs), inputs, direction)
    expected = torch.autograd.grad(f(*exact), exact, direction.double())
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        # One rounding of the result, and float32 sums before it; a guide's derivatives along two axes are rounded each
        # and added by torch.
        roundings = 3 if name == "semi_global_filter" else 1
        assert (a.double() - e).abs().max() <= (roundings * HALVES[dtype] + 1e-4) * e.abs().max()


def test_what_is_kept_for_derivatives() -> None:
    """x, the guide and the weights; nothing that grows with N (H + W)."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t.numel()
        return t

    x, g = leaves(values(1, 1, 8, 30, 40), values(2, 1, 4, 30, 40))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        st.semi_global_filter(x, g)
    assert sum(kept.values()) <= x.numel() + g.numel() + 2 * 30 * 40


# ---- rules of derivatives


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "sqeuclidean"])
def test_equal_neighbours_have_gradient_0(metric: str) -> None:
    for create_graph in (False, True):
        (bar,) = gradients(
            lambda g: st.edge_weights(g, -1, metric=metric), torch.ones(2, 3, 4), create_graph=create_graph
        )
        assert torch.equal(bar, torch.zeros_like(bar))
    same(
        second(lambda g: st.edge_weights(g, -1, metric=metric), torch.ones(2, 3, 4, dtype=F64))[0],
        torch.zeros(2, 3, 4, dtype=F64),
    )


@pytest.mark.parametrize("d", [1e-30, 1e30])
def test_one_channel_has_weights_and_gradients_beyond_the_squares_of_float(d: float) -> None:
    """The distance is a magnitude there, whose square would be 0 or infinite."""
    results = []
    for metric in ("euclidean", "cityblock"):
        guide = torch.tensor([0, d], requires_grad=True)
        w = st.edge_weights(guide, 0, d, metric=metric)
        results.append((w.detach(), *torch.autograd.grad(w.sum(), guide)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert abs(float(results[0][0]) - np.exp(-1)) < 1e-6


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("composed", [False, True])
def test_a_cut_lets_no_derivative_through(bad: float, composed: bool) -> None:
    x, w = values(1, 6), torch.full((5,), 0.5, dtype=F64)
    w[2] = 0.0
    for f in (st.line_filter, st.scan, st.tree_aggregate, st.tree_update):
        inputs = leaves(x, w)
        y = f(*inputs)
        direction = torch.ones_like(y)
        direction[0] = bad
        x_bar, w_bar = torch.autograd.grad(y, inputs, direction, create_graph=composed)
        assert x_bar[3:].isfinite().all()
        assert w_bar[3:].isfinite().all()
        assert not x_bar[0].isfinite()


def test_a_cut_weight_passes_nothing_to_its_guide() -> None:
    """d = inf or large: w = 0, and every derivative is 0, whatever comes back."""
    g = torch.tensor([[0.0, INF, 1.0, 2.0, 500.0]])
    scale, step = torch.tensor(1.0), torch.tensor(0.5)
    for composed in (False, True):
        inputs = leaves(g, scale, step)
        y = st.edge_weights(inputs[0], -1, inputs[1], step=inputs[2])
        direction = torch.tensor([[NAN, INF, 1.0, NAN]])
        bars = torch.autograd.grad(y, inputs, direction, create_graph=composed)
        w = math.exp(-1.5)
        same(bars[0], torch.tensor([[0.0, 0.0, w, -w, 0.0]]), 1e-5)
        same(bars[1], torch.tensor(1.5 * w), 1e-5)
        same(bars[2], torch.tensor(-w), 1e-5)


@pytest.mark.parametrize("composed", [False, True])
def test_untrusted_values_have_gradient_0(composed: bool) -> None:
    x, c = values(1, 1, 2, 4, 5), torch.ones(1, 4, 5, dtype=F64)
    c[0, 1, 2] = c[0, 0, 0] = 0.0
    x[0, :, 1, 2], x[0, :, 0, 0] = NAN, INF
    g = guide(2, 1, 2, 4, 5)
    for blocks in (1, 2):
        x_bar, c_bar = gradients(
            lambda x, c, b=blocks: st.semi_global_filter(x, g, confidence=c, blocks=b, residual=True), x, c,
            create_graph=composed,
        )  # fmt: skip
        assert x_bar.isfinite().all() and c_bar.isfinite().all()
        assert (x_bar[:, :, c[0] == 0] == 0).all()
        assert (c_bar[c == 0] == 0).all()
        assert (c_bar[c != 0] != 0).any()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("composed", [False, True])
def test_filled_positions_pass_no_gradient_but_through_the_residual(composed: bool, residual: bool) -> None:
    x, c = values(1, 1, 1, 3, 4), torch.zeros(3, 4, dtype=F64)
    c[0], c[2] = 1.0, 1e-310  # too little to count, but not missing
    g = torch.arange(12, dtype=F64).reshape(1, 1, 3, 4) * 4000  # all edges cut
    inputs = leaves(x, c)
    y = st.semi_global_filter(inputs[0], g, confidence=inputs[1], fill_value=7.0, residual=residual)
    same(y, plain.semi_global_filter(x, g, confidence=c, fill_value=7.0, residual=residual))
    direction = torch.full_like(y, 3.0)
    direction[0, 0, 1] = NAN
    x_bar, c_bar = torch.autograd.grad(y, inputs, direction, create_graph=composed)
    expected = torch.zeros_like(x)
    expected[0, 0, 0] = 6.0 if residual else 3.0
    expected[0, 0, 2] = 3.0 if residual else 0.0
    same(x_bar, expected)
    assert c_bar.isfinite().all()
    assert (c_bar[1:] == 0).all()
    position = (2, 1)
    same(
        st.attention_map(g, position, confidence=c, residual=residual),
        plain.attention_map(g, position, confidence=c, residual=residual),
    )


@pytest.mark.parametrize("residual", [False, True])
def test_filled_positions_by_finite_differences(residual: bool) -> None:
    """First and second derivatives: where a value is filled in, x is still what the residual adds."""
    x, g, c = values(1, 1, 2, 3, 4), guide(2, 1, 2, 3, 4), torch.ones(1, 3, 4, dtype=F64)
    g = g + 4000 * torch.arange(3, dtype=F64).reshape(3, 1) + torch.rand_like(g)  # no row reaches another
    c[:, 1], c[:, 2] = 0.0, 1e-310  # missing; too little to count

    def f(x: Tensor, g: Tensor) -> Tensor:
        return st.semi_global_filter(x, g, confidence=c, fill_value=7.0, residual=residual)

    inputs = leaves(x, g)
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x, g: f(x, g).sin(), inputs)
    (x_bar,) = torch.autograd.grad(f(*inputs).sum(), inputs[0])
    same(x_bar[:, :, 1], torch.zeros(1, 2, 4, dtype=F64))
    same(x_bar[:, :, 2], torch.full((1, 2, 4), float(residual), dtype=F64))


def test_empty_tensors() -> None:
    for shape in ((0, 3), (2, 0), (2, 1)):
        w = torch.rand(1, max(shape[1] - 1, 0))
        for f in (st.scan, st.line_filter, st.tree_aggregate, st.tree_update):
            x_bar, w_bar = gradients(f, torch.randn(shape), w)
            assert x_bar.shape == shape
            assert (w_bar == 0).all()
    x, g = torch.randn(0, 2, 3, 4), torch.randn(1, 2, 3, 4)
    x_bar, g_bar = gradients(st.semi_global_filter, x, g)
    assert x_bar.shape == x.shape and (g_bar == 0).all()


# ---- the registered operators


def _operator_calls() -> list[Any]:
    x, w, i = values(1, 2, 3, 4), weights(2, 1, 1, 3), number(0.5)
    g, s, t = guide(3, 2, 3, 4), number(1.2), number(0.1)
    c = confidence(4, 1, 3, 4)
    wh, wv = weights(5, 1, 3, 3), weights(6, 1, 2, 4)
    none = (None,) * (ops.MAX_AXES - 2)
    edges = (g, s, t, None, 1.0, 0.0, -3, -1, 1, 0, 3, 1)
    block = (x, c, wv, wh, *none, [-2, -1], sgs._core.CROSS, True, 0.0, 1)
    return [
        ("scan", ops.scan, (x, w, i, -1, False, 1)),
        ("line_filter", ops.line_filter, (x, w, i, None, -1, 1)),
        ("tree_aggregate", ops.tree_aggregate, (x, w, -1, 1, 1)),
        ("tree_update", ops.tree_update, (x, w, -1, 1, 1)),
        ("edge_weights", ops.edge_weights, edges),
        ("semi_global_filter", ops.filter_operator, block),
        ("scan_backward", ops.scan_backward, (x.cos(), x, w, i, -1, False, 1, True, True)),
        ("line_filter_backward", ops.line_filter_backward, (x.cos(), x, w, i, None, -1, 1, True, True, False)),
        ("edge_weights_backward", ops.edge_weights_backward, (values(7, 1, 3, 3).expand(1, 3, 3), *edges, True, True, True)),
        ("semi_global_filter_backward", ops.filter_backward, (x.cos(), *block, True, True)),
    ]  # fmt: skip


OPERATORS = _operator_calls()


@pytest.mark.parametrize(("name", "operator", "args"), OPERATORS, ids=[o[0] for o in OPERATORS])
def test_opcheck(name: str, operator: Any, args: Any) -> None:
    args = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args]
    torch.library.opcheck(operator.overload, args)
    assert f"sgs.{name}.default" == str(operator.overload)


@pytest.mark.parametrize(("name", "operator", "args"), OPERATORS, ids=[o[0] for o in OPERATORS])
def test_bare_operators_refuse_tangents(name: str, operator: Any, args: Any) -> None:
    """Never a silent zero: also not where vmap stands between, for any of the tensors, or where a gradient is wanted."""
    bare = operator.overload
    for at in (i for i, a in enumerate(args) if isinstance(a, Tensor)):

        def f(t: Tensor, at: int = at) -> Any:
            return bare(*args[:at], t, *args[at + 1 :])

        t, batch = args[at], torch.stack([args[at]] * 2)
        for call in (
            lambda f=f, t=t: torch.func.jvp(f, (t,), (t,)),
            lambda f=f, t=t: torch.func.jvp(f, (t.clone().requires_grad_(),), (t,)),
            lambda f=f, t=t: torch.func.jacfwd(f)(t),
            lambda f=f, b=batch: torch.func.jvp(torch.vmap(f), (b,), (b,)),
            lambda f=f, b=batch: torch.vmap(lambda u, f=f: torch.func.jvp(f, (u,), (u,)))(b),
        ):
            with pytest.raises(RuntimeError, match="call the functions of sgs.torch"):
                call()
        with forward_ad.dual_level():
            f(t)  # no tangent, none lost
            with pytest.raises(RuntimeError, match="call the functions of sgs.torch"):
                f(forward_ad.make_dual(t, t))


@pytest.mark.parametrize(("name", "operator", "args"), OPERATORS[6:], ids=[o[0] for o in OPERATORS[6:]])
def test_derivatives_of_backward_operators(name: str, operator: Any, args: Any) -> None:
    """Composed of the unfused operators: reverse, forward, batched."""
    at = [i for i, a in enumerate(args) if isinstance(a, Tensor)]

    def function(*tensors: Tensor) -> Tensor:
        full = list(args)
        for i, t in zip(at, tensors, strict=True):
            full[i] = t
        return torch.cat([r.reshape(-1) for r in operator(*full)])

    def composed(*tensors: Tensor) -> Tensor:
        full = list(args)
        for i, t in zip(at, tensors, strict=True):
            full[i] = t
        return torch.cat([r.reshape(-1) for r in operator.composed(*full)])

    tensors = tuple(args[i] for i in at)
    same(function(*tensors), composed(*tensors))
    same(gradients(function, *tensors), gradients(composed, *tensors))
    directions = tuple(t.cos() for t in tensors)
    same(torch.func.jvp(function, tensors, directions)[1], torch.func.jvp(composed, tensors, directions)[1])
    batch = tuple(torch.stack([t, 0.9 * t]) for t in tensors)
    same(torch.vmap(function)(*batch), torch.stack([composed(*(b[i] for b in batch)) for i in range(2)]))
    same(torch.func.jacfwd(function)(*tensors), torch.func.jacrev(composed)(*tensors))


def test_modes_tracers_and_profilers_see_the_operators() -> None:
    """A call that needs no derivative goes to the core directly, but not where anything watches."""
    x, w = torch.randn(3, 4), torch.rand(3, 3)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        st.scan(x, w)
    assert "sgs.scan.default" in seen
    for pre_dispatch in (False, True):
        traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x, w: st.scan(x, w), pre_dispatch=pre_dispatch)(x, w)
        same(traced(2 * x, w), st.scan(2 * x, w), 1e-6)
    with torch.profiler.profile() as profile:
        st.scan(x, w)
    assert any("sgs::scan" in event.key for event in profile.key_averages())


# ---- tensors of all kinds


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("w_dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype: Any, w_dtype: Any) -> None:
    x, w = values(1, 3, 7).to(dtype), weights(2, 3, 6).to(w_dtype)
    y = st.line_filter(x, w)
    assert y.dtype == dtype
    same(y.double(), plain.line_filter(x.double(), w.double()), 2**-7 if dtype in HALVES else 1e-5)
    x_bar, w_bar = gradients(st.line_filter, x, w)
    assert (x_bar.dtype, w_bar.dtype) == (dtype, w_dtype)
    guide = values(3, 2, 5, 6).to(w_dtype)
    assert st.edge_weights(guide, -1).dtype == (F64 if w_dtype == F64 else torch.float32)
    assert st.semi_global_filter(values(4, 3, 5, 6).to(dtype), guide).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integers_become_float32(dtype: Any) -> None:
    x = torch.tensor([0, 1, 1, 0]).to(dtype)
    y = st.scan(x, torch.full((3,), 0.5))
    assert y.dtype == torch.float32
    same(y, torch.tensor([0.0, 1.0, 1.5, 0.75]), 1e-6)


def test_strides_and_memory_formats() -> None:
    base = values(1, 4, 6, 10, 14)
    guide = values(2, 4, 3, 10, 14)
    for change in (
        lambda t: t,
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        lambda t: torch.stack([t, t], -1)[..., 1],
        lambda t: t[..., :1].expand(t.shape),
        lambda t: t.flip(3).flip(3),
    ):
        x = change(base)
        y = st.semi_global_filter(x, change(guide))
        same(y, plain.semi_global_filter(x, change(guide)))
        assert y.stride() == torch.empty_like(x).stride()
        same(gradients(st.semi_global_filter, x, change(guide)), gradients(plain.semi_global_filter, x, change(guide)))
    video = values(3, 2, 3, 2, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    y = st.semi_global_filter(video, channel_axis=1)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    same(y, plain.semi_global_filter(video, channel_axis=1))


def test_negative_bit_and_unaligned_data() -> None:
    negative = torch.complex(values(1, 5), values(2, 5)).conj().imag
    assert negative.is_neg()
    w = weights(3, 4)
    same(st.scan(negative, w), plain.scan(-values(2, 5), w))
    same(st.scan(values(2, 5), (-torch.complex(w, w)).conj().imag), plain.scan(values(2, 5), w))
    raw = torch.frombuffer(bytearray(b"\0" + values(4, 5).float().numpy().tobytes()), dtype=torch.uint8)[1:]
    unaligned = torch.frombuffer(memoryview(raw.numpy()), dtype=torch.float32)
    if unaligned.data_ptr() % 4:
        same(st.scan(unaligned, w.float()), plain.scan(values(4, 5).float(), w.float()), 1e-6)


def test_scale_and_step_of_every_kind() -> None:
    x = guide(1, 1, 2, 4, 5)
    expected = plain.semi_global_filter(x, None, (0.5, 2.0), step=(0.1, 0.0))
    for scale in (
        (0.5, 2.0),
        (number(0.5), 2),
        torch.tensor([0.5, 2.0], dtype=F64),
        [torch.tensor([0.5]), number(2.0)],
    ):
        same(st.semi_global_filter(x, None, scale, step=(torch.tensor(0.1, dtype=F64), 0)), expected)
    same(st.semi_global_filter(x, None, number(0.5)), plain.semi_global_filter(x, None, 0.5))


def test_a_thread_of_its_own_can_differentiate() -> None:
    from concurrent.futures import ThreadPoolExecutor

    tensors = _filter_problem((1, 8, 20, 20), False, False)
    expected = gradients(st.semi_global_filter, *tensors[:2])
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: gradients(st.semi_global_filter, *tensors[:2]), range(8)):
            assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


# ---- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: st.scan(np.ones(3), torch.ones(2)), TypeError, "x: expected a torch tensor, got ndarray"),
        (lambda: st.scan(torch.ones(3), [1.0, 2.0]), TypeError, "w: expected a torch tensor"),
        (lambda: st.scan(torch.ones(3, dtype=torch.complex64), torch.ones(2)), TypeError, "x: .*complex64"),
        (lambda: st.scan(torch.eye(3).to_sparse(), torch.ones(2)), TypeError, "x: .*sparse"),
        (lambda: st.scan(torch.eye(3).to_sparse_csr(), torch.ones(2)), TypeError, "x: .*sparse"),
        (lambda: st.scan(torch.eye(3).to_mkldnn(), torch.ones(2)), TypeError, "x: .*mkldnn"),
        (lambda: st.scan(torch.nested.nested_tensor([torch.ones(3)]), torch.ones(2)), TypeError, "x: .*nested"),
        (lambda: st.scan(torch.ones(3), torch.ones(2, device="meta")), ValueError, "w: expected a tensor on cpu"),
        (lambda: st.scan(torch.ones(3), torch.ones(3)), ValueError, "w: expected length 2 on axis 0, got 3"),
        (lambda: st.scan(torch.ones(()), torch.ones(3)), ValueError, "x: expected at least one axis"),
        (lambda: st.scan(torch.ones(3), torch.ones(2), 1), np.exceptions.AxisError, "axis"),
        (lambda: st.scan(torch.ones(3), torch.ones(2), num_threads=0), ValueError, "num_threads"),
        (lambda: st.line_filter(torch.ones(3), torch.ones(2), initial=1.0), TypeError, "initial"),
        (lambda: st.tree_update(torch.ones(3), torch.ones(2), root=3), IndexError, "root"),
        (lambda: st.edge_weights(torch.ones(2, 3, 4), -1, 0.0), ValueError, "scale: .* got 0.0"),
        (lambda: st.edge_weights(torch.ones(2, 3, 4), -1, step=-1.0), ValueError, "step"),
        (lambda: st.edge_weights(torch.ones(2, 3, 4), -1, torch.ones(2)), ValueError, "scale"),
        (lambda: st.edge_weights(torch.ones(2, 3, 4), -3), ValueError, "axis"),
        (lambda: st.semi_global_filter(torch.ones(2, 3, 4), metric="L2"), ValueError, "metric: .*'L2'"),
        (lambda: st.semi_global_filter(torch.ones(2, 3, 4), scale=torch.ones(3)), ValueError, "scale"),
        (lambda: st.semi_global_filter(torch.ones(2, 3, 4), heads=3), ValueError, "heads"),
        (lambda: st.semi_global_filter(torch.ones(2, 3, 4), torch.ones(2, 3, 5)), ValueError, "guide"),
        (
            lambda: st.semi_global_filter(torch.ones(2, 3, 4), normalization="line", confidence=torch.ones(3, 4)),
            ValueError,
            "confidence: expected normalization='cross'",
        ),
        (lambda: st.attention_map(torch.ones(2, 3, 4), (3, 0)), IndexError, "position"),
        (lambda: st.attention_map([torch.ones(2, 3, 4)], (0, 0), blocks=2), ValueError, "guide: expected 2 guides"),
        (
            lambda: st.semi_global_filter(torch.ones((1,) * 10), channel_axis=None, axes=tuple(range(9))),
            ValueError,
            "at most 8 spatial axes",
        ),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_likely_images_are_warned_of_here() -> None:
    with pytest.warns(UserWarning, match="channel_axis=-1") as caught:
        st.semi_global_filter(torch.ones(5, 6, 3))
    assert caught[0].filename == __file__


def test_num_threads_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def scan(*args: Any) -> None:
        asked.append(args[-1])

    monkeypatch.setattr(ops._core, "scan", scan)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        st.scan(torch.ones(3), torch.ones(2))
        st.scan(torch.ones(3), torch.ones(2), num_threads=5)
    finally:
        torch.set_num_threads(before)
    assert asked == [3, 5]


def test_examples() -> None:
    results = doctest.testmod(st, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 10 and results.failed == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrappers_without_memory_do_not_reach_a_kernel(case: Case) -> None:
    """Gradients that are zero by their kind, and tensors of the vmap behind `is_grads_batched`, while nothing records."""
    f, inputs = case.function(st), leaves(*case.tensors(4, 5))
    y = f(*inputs)
    zeros = torch.autograd.grad(y, inputs, torch._efficientzerotensor(y.shape, dtype=y.dtype), allow_unused=True)
    assert all(g is None or not g.any() for g in zeros)
    with torch.no_grad():
        batched = torch._vmap_internals._vmap(lambda first: f(first, *inputs[1:]))(torch.stack([inputs[0]] * 2))
        torch.testing.assert_close(batched, torch.stack([f(*inputs)] * 2))


def test_an_input_changed_after_the_forward_pass_is_refused() -> None:
    (x,) = leaves(torch.rand(3, 9))
    changed = x * 1
    w = torch.rand(8, requires_grad=True)
    y = st.line_filter(changed, w)
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "sgs_line_filterBackward"  # what messages of autograd show
    changed.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
