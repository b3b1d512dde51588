"""`sgs.torch` through the code that is registered for CUDA tensors, on the emulated device: values and derivatives.

Tensors say that they are CUDA tensors, the guard and the stream are stand-ins, and the emulated module is `sgs._core.cuda`: from
there on everything is as it would be with a card, operators, memory from torch, pointers and launches.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Device, checking

torch = pytest.importorskip("torch")
if not checking():
    pytest.skip("values are not compared under a sanitizer", allow_module_level=True)

import sgs
import sgs.torch as st

STREAM = 77


class OnCard:
    """The emulated module, which notes what is called and how."""

    def __init__(self, module: Any) -> None:
        self.module, self.names, self.guarded = module, set(), 0

    def available(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)

        def call(*args: Any) -> int:
            assert args[-2] == STREAM and self.guarded == 1, (
                "on the caller's stream, the device of the tensors being current"
            )
            self.names.add(name)
            return int(function(*args[:-2], 0, args[-1]))

        return call


@pytest.fixture
def card(opened: Device) -> Iterator[Callable[[], Any]]:
    """Within `with card():` tensors are taken for CUDA tensors."""
    if not hasattr(opened.module, "set_order"):
        pytest.skip("for the emulated device")
    on_card = OnCard(opened.module)

    @contextlib.contextmanager
    def guard(device: Any) -> Iterator[None]:
        assert device == torch.device("cpu")
        on_card.guarded += 1
        yield
        on_card.guarded -= 1

    @contextlib.contextmanager
    def within() -> Iterator[OnCard]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)
            patch.setattr(torch.Tensor, "is_cpu", property(lambda _: False), raising=False)
            patch.setattr(torch.cuda, "device", guard)
            patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
            patch.setattr(sgs._core, "cuda", on_card, raising=False)
            yield on_card

    yield within


def tensor(*shape: int, low: float = -1.0, high: float = 1.0, dtype: Any = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=generator).to(dtype)


def weights(*shape: int) -> Any:
    return tensor(*shape, low=0.0, high=1.0)


def trust(*shape: int) -> Any:
    c = tensor(*shape, low=-0.5, high=1.0)
    return torch.where(c < 0, 0.0, c)


def number(value: float) -> Any:
    return torch.tensor(value, dtype=torch.float64)


X, G = (2, 4, 6, 7), (2, 2, 6, 7)
# Name: the function, its tensors, and the functions on the device that have to be called.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], set[str]]] = {
    "scan": (
        lambda x, w, i: st.scan(x, w, 1, initial=i),
        (tensor(3, 9, 2), weights(1, 8, 2), tensor(3, 2)),
        {"scan", "scan_backward"},
    ),
    "scan, reverse": (
        lambda x, w, i: st.scan(x, w, reverse=True, initial=i),
        (tensor(3, 70), weights(3, 69), tensor(3)),
        {"scan", "scan_backward"},
    ),
    "line_filter": (
        lambda x, w, a, b: st.line_filter(x, w, 0, initial=(a, b)),
        (tensor(9, 5), weights(8, 1), tensor(5), tensor(5)),
        {"line_filter", "line_filter_backward"},
    ),
    "tree_aggregate": (lambda x, w: st.tree_aggregate(x, w, root=3), (tensor(2, 9), weights(2, 8)), {"tree_aggregate"}),
    "tree_update": (lambda a, w: st.tree_update(a, w, 0, root=4), (tensor(9, 2), weights(8, 1)), {"tree_update"}),
    **{
        f"edge_weights, {metric}": (
            lambda g, s, t, m=metric: st.edge_weights(g, -1, s, step=t, metric=m, channel_axis=1, heads=2),
            (tensor(*X), number(0.7), number(0.2)),
            {"edge_weights", "edge_weights_backward"},
        )
        for metric in ("euclidean", "cityblock", "sqeuclidean")
    },
    **{
        f"semi_global_filter, {normalization}": (
            lambda x, g, s, n=normalization: st.semi_global_filter(x, g, scale=s, normalization=n, residual=True),
            (tensor(*X), tensor(*G), number(0.7)),
            {"edge_weights", "semi_global_filter", "semi_global_filter_backward", "edge_weights_backward"},
        )
        for normalization in ("cross", "line", None)
    },
    "semi_global_filter, heads and blocks": (
        lambda x, s, t: st.semi_global_filter(x, scale=(s, 0.9), step=t, heads=2, blocks=2),
        (tensor(*X), number(0.7), number(0.2)),
        {"semi_global_filter", "semi_global_filter_backward"},
    ),
    "semi_global_filter, confidence": (
        lambda x, g, c: st.semi_global_filter(x, g, confidence=c, blocks=2, residual=True, fill_value=3.0),
        (tensor(*X), tensor(*G), trust(2, 6, 7)),
        {"semi_global_filter", "semi_global_filter_backward"},
    ),
    "semi_global_filter, three axes": (
        lambda x, g: st.semi_global_filter(x, g, axes=(2, 3, 4), channel_axis=1),
        (tensor(1, 2, 4, 5, 6), tensor(1, 1, 4, 5, 6)),
        {"semi_global_filter", "semi_global_filter_backward"},
    ),
}


def derivatives(function: Callable[..., Any], tensors: tuple[Any, ...], pull: Any) -> list[Any]:
    """The result, its derivatives in one visit, the same to be derived, and the derivatives of their squares."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    g = pull.expand(y.shape) if pull.ndim == 0 else pull
    fused = torch.autograd.grad(y, leaves, g, retain_graph=True)
    again = torch.autograd.grad(y, leaves, g, create_graph=True)
    second = torch.autograd.grad(sum(a.square().sum() for a in again), leaves, allow_unused=True)
    return [y, *fused, *again, *(torch.zeros(()) if s is None else s for s in second)]


@pytest.mark.parametrize("name", CALLS)
def test_derivatives(card: Callable[[], Any], name: str) -> None:
    function, tensors, wanted = CALLS[name]
    pull = tensor(*function(*tensors).shape)
    expected = derivatives(function, tensors, pull)
    with card() as called:
        results = derivatives(function, tensors, pull)
    assert wanted <= called.names and called.guarded == 0
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_types(card: Callable[[], Any], name: str, dtype: Any) -> None:
    """Other types, and tensors whose memory is in another order."""
    function, tensors, _ = CALLS[name]
    given = [t.to(dtype).transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t.to(dtype) for t in tensors]

    def run() -> list[Any]:
        leaves = [t.clone().requires_grad_() for t in given]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y.float().sum(), leaves)]

    expected = run()
    with card():
        results = run()
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5}[dtype]
    for got, want in zip(results, expected, strict=True):
        assert got.dtype == want.dtype and got.stride() == want.stride()
        largest = float(want.double().abs().max())
        torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance * (1 + largest))


def test_transforms(card: Callable[[], Any]) -> None:
    """Tangents, and a batch of calls."""
    x, w, t = tensor(3, 4, 9), weights(4, 8), tensor(3, 4, 9)

    def run() -> Any:
        y, tangent = torch.func.jvp(lambda v: st.line_filter(v, w), (x,), (t,))
        batch = torch.func.vmap(lambda v: st.semi_global_filter(v, scale=0.5, axes=(-2, -1), channel_axis=None))(x)
        return y, tangent, batch

    expected = run()
    with card() as called:
        results = run()
    assert {"line_filter", "semi_global_filter"} <= called.names
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


NO_DRIVER = SimpleNamespace(available=lambda: False, reason=lambda: "no driver here")


@pytest.mark.parametrize("module", (NO_DRIVER, sgs._core.cuda), ids=("stand-in", "installed"))
def test_refused_without_cuda(card: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """What is missing is said when a CUDA tensor comes."""
    if module.available():
        pytest.skip("there is a device")
    assert module.reason()
    with card():
        monkeypatch.setattr(sgs._core, "cuda", module)
        with pytest.raises(RuntimeError, match=f"CUDA tensors cannot be filtered: {re.escape(module.reason())}"):
            st.scan(tensor(3), weights(2))
