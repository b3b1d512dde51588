"""On a real card only: the public functions against the CPU, streams, graphs, repeatability, and a benchmark.

`SGS_CUDA_MODULE=gpu python -m pytest tests/cuda -s` runs these, and all other tests of this folder on the card.
"""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device: torch.cuda.is_available() is false", allow_module_level=True)

import sgs

if not sgs._core.cuda_available():
    pytest.skip("this build of sgs has no CUDA", allow_module_level=True)

SHAPES = ((4, 7, 7), (2, 16, 97, 97), (2, 300, 1000), (1, 5000, 70))


def example(shape: tuple[int, ...], dtype: Any = torch.float32) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_filter_equals_the_cpu(shape: tuple[int, ...], dtype: Any) -> None:
    x = example(shape, dtype)
    results = []
    for device in ("cpu", "cuda"):
        t = x.detach().to(device).requires_grad_()
        alpha = torch.tensor(0.7, device=device, requires_grad=True)
        y = sgs.torch.semi_global_filter(t, scale=(alpha, 1.0), residual=True)
        y.float().square().mean().backward()
        results.append([v.detach().cpu().double() for v in (y, t.grad, alpha.grad)])
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for on_cpu, on_card in zip(*results, strict=True):
        torch.testing.assert_close(on_card, on_cpu, rtol=tolerance, atol=tolerance)


def test_graph_and_stream() -> None:
    """Captured, replayed on new values, on a stream that is not the default one."""
    x = example((2, 8, 64, 65)).cuda()
    step = torch.tensor(0.1, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        sgs.torch.semi_global_filter(x, step=step)  # warm up
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = sgs.torch.semi_global_filter(x, step=step)
        x.copy_(example((2, 8, 64, 65)).flip(-1))
        step.fill_(0.3)
        graph.replay()
    stream.synchronize()
    torch.testing.assert_close(y, sgs.torch.semi_global_filter(x, step=step), rtol=0, atol=0)


def test_repeats_bit_for_bit() -> None:
    x = example((2, 16, 97, 97)).cuda().requires_grad_()

    def once() -> tuple[Any, ...]:
        y = sgs.torch.semi_global_filter(x, scale=0.5)
        return (y.detach(), *torch.autograd.grad(y.square().sum(), x))

    first = once()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


def milliseconds(f: Callable[[], Any]) -> float:
    for _ in range(3):
        f()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(20):
        f()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 20


@pytest.mark.parametrize("shape", ((1, 512, 97, 97), (8, 64, 1024, 1024)))
def test_benchmark(shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Times beside those of a copy, which reads and writes as much as the filter has to."""
    x = torch.randn(shape, device="cuda")
    guide = torch.randn((shape[0], 8, *shape[2:]), device="cuda")
    y = torch.empty_like(x)
    copy = milliseconds(lambda: y.copy_(x))
    forward = milliseconds(lambda: sgs.torch.semi_global_filter(x, guide))
    x.requires_grad_()
    z = sgs.torch.semi_global_filter(x, guide)
    backward = milliseconds(lambda: torch.autograd.grad(z, x, y, retain_graph=True))
    with capsys.disabled():
        name = torch.cuda.get_device_name()
        print(f"\n{name} {shape}: copy {copy:.3f} ms, forward {forward:.3f} ms, backward {backward:.3f} ms")
