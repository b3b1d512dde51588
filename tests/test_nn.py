"""`sgs.nn`: blocks against their definitions, as citizens of PyTorch, and in training."""

import copy
import importlib.util
import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.multiprocessing as mp
import torch_reference as plain
from distributed_worker import Net, distributed_worker
from torch import nn
from torch.nn.functional import conv2d, cross_entropy
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sgs.nn import CrissCrossAttention, HierarchicalSemiGlobalBlock, NonLocalBlock, SemiGlobalBlock

Tensor = torch.Tensor
F64 = torch.float64
NORMALIZATIONS = ("cross", "line", None)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# One of every kind and layout.
MODULES: dict[str, Callable[..., Any]] = {
    "semi-global": SemiGlobalBlock,
    "no alpha, beta": lambda *a, **k: SemiGlobalBlock(*a, learn_scale=False, **k),
    "heads and bias": lambda *a, **k: SemiGlobalBlock(*a, heads=2, bias=True, metric="cityblock", step=0.1, **k),
    "hierarchical": HierarchicalSemiGlobalBlock,
    "not shared": lambda *a, **k: HierarchicalSemiGlobalBlock(*a, blocks=3, share=False, **k),
    "criss-cross": CrissCrossAttention,
    "non-local": NonLocalBlock,
    "bottleneck": lambda *a, **k: NonLocalBlock(*a, bottleneck=True, bias=True, **k),
}


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The same numbers in every run; and one thread, as two processors shared with others make tiny tensors slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def wakened(module: Any) -> Any:
    """The module with every parameter drawn at random, so that no zero at the start hides what follows it."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape) * 0.4)
    return module


def features(*shape: int, dtype: Any = F64) -> Any:
    return torch.randn(shape, dtype=dtype)


# ---- the semi-global block


def defined(block: Any, x: Any) -> Any:
    """I' = A psi(I) + I by the plain definitions."""
    scale = (torch.exp(block.log_beta), torch.exp(block.log_alpha)) if block.learn_scale else 1.0
    options = {"normalization": block.normalization, "metric": block.metric, "step": block.step, "heads": block.heads}
    values = conv2d(x, block.psi.weight, block.psi.bias)
    return plain.semi_global_filter(values, conv2d(x, block.lambda_.weight), scale, **options) + x


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("learn_scale", [True, False])
def test_block_and_its_gradients_are_as_defined(normalization: str | None, heads: int, learn_scale: bool) -> None:
    block = SemiGlobalBlock(8, 2, heads, normalization, bias=True, learn_scale=learn_scale, dtype=F64, step=(0.1, 0.3))
    wakened(block)
    x = features(2, 8, 4, 5).requires_grad_()
    inputs = [x, *block.parameters()]
    y, expected = block(x), defined(block, x)
    torch.testing.assert_close(y, expected)
    back = features(*y.shape)
    for bar, wanted in zip(
        torch.autograd.grad(y, inputs, back), torch.autograd.grad(expected, inputs, back), strict=True
    ):
        torch.testing.assert_close(bar, wanted)
        assert wanted.any()
    torch.testing.assert_close(block(x[0]), y[0])


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "sqeuclidean"])
def test_metrics(metric: str) -> None:
    block = wakened(SemiGlobalBlock(8, 2, dtype=F64, metric=metric))
    x = features(1, 8, 3, 4)
    torch.testing.assert_close(block(x), defined(block, x))


def brute_force(block: Any, x: Any) -> Any:
    """Eq. 3 to 5 position by position: for one image, one head and "cross"."""
    guide, values = conv2d(x, block.lambda_.weight), conv2d(x, block.psi.weight)
    height, width = x.shape[-2:]
    y = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            cross = [(k, j, block.beta) for k in range(height)] + [(i, k, block.alpha) for k in range(width) if k != j]
            total, weight_sum = torch.zeros_like(x[:, 0, 0]), 0.0
            for k, m, scale in cross:
                rows, columns = range(min(i, k), max(i, k) + 1), range(min(j, m), max(j, m) + 1)
                path = [(a, b) for a in rows for b in columns]
                length = sum(torch.linalg.norm(guide[:, a, b] - guide[:, c, d]) for (a, b), (c, d) in pairwise(path))
                weight = math.exp(-length / scale)
                total, weight_sum = total + weight * values[:, k, m], weight_sum + weight
            y[:, i, j] = total / weight_sum + x[:, i, j]
    return y


@torch.no_grad()
def test_block_is_the_papers_brute_force() -> None:
    """alpha is horizontal, beta vertical, the centre counts once, and the residual is the input."""
    block = wakened(SemiGlobalBlock(4, 2, dtype=F64))
    x = features(4, 3, 5)
    torch.testing.assert_close(block(x), brute_force(block, x))


def test_scales_start_at_exactly_one_and_stay_positive() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, F64):
        block = SemiGlobalBlock(8, dtype=dtype)
        assert block.alpha == 1 and block.beta == 1 and block.alpha.dtype == dtype
    with torch.no_grad():
        block.log_alpha.fill_(-30.0)
    assert 0 < block.alpha < 1e-12 and block.beta == 1
    block.reset_parameters()
    assert block.alpha == 1
    fixed = SemiGlobalBlock(8, learn_scale=False)
    assert fixed.alpha == 1 and fixed.beta == 1
    assert [name for name, _ in fixed.named_parameters()] == ["lambda_.weight", "psi.weight"]


@pytest.mark.parametrize("share", [True, False])
def test_hierarchy_is_block_after_block(share: bool) -> None:
    module = wakened(HierarchicalSemiGlobalBlock(8, blocks=3, share=share, reduction=2, dtype=F64))
    x = features(2, 8, 4, 3)
    expected = x
    for k in range(3):
        expected = defined(module.blocks[0 if share else k], expected)
    torch.testing.assert_close(module(x), expected)
    assert len(module.blocks) == (1 if share else 3)
    module.reset_parameters()
    assert all(block.alpha == 1 for block in module.blocks)


def test_parameters_are_the_papers() -> None:
    """Tables 3 and 4: 0.295 M for one block and for two, 0.328 M for criss-cross, 0.131 M for non-local."""

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    convolutions = 512 * 64 + 512 * 512
    assert round(convolutions / 1e6, 3) == 0.295
    assert count(SemiGlobalBlock(512, device="meta")) == convolutions + 2
    assert count(HierarchicalSemiGlobalBlock(512, device="meta")) == convolutions + 2
    assert count(HierarchicalSemiGlobalBlock(512, learn_scale=False, device="meta")) == convolutions
    assert count(HierarchicalSemiGlobalBlock(512, share=False, device="meta")) == 2 * (convolutions + 2)
    assert round(count(CrissCrossAttention(512, device="meta")) / 1e6, 3) == 0.328
    assert round(count(NonLocalBlock(512, device="meta")) / 1e6, 3) == 0.328
    assert round(count(NonLocalBlock(512, bottleneck=True, device="meta")) / 1e6, 3) == 0.131


# ---- attention maps


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_attention_maps_are_as_defined(normalization: str | None, heads: int, residual: bool) -> None:
    module = wakened(HierarchicalSemiGlobalBlock(8, 2, True, 2, heads, normalization, dtype=F64, step=(0.1, 0.3)))
    block = module.blocks[0]
    x = features(2, 8, 4, 5)
    guides = [block.lambda_(x), block.lambda_(block(x))]
    options: dict[str, Any] = {"normalization": normalization, "residual": residual, "heads": heads}
    options |= {"scale": (block.beta, block.alpha), "step": block.step}
    for position in ((1, 2), (-1, 0)):
        one = block.attention_map(x, position, residual=residual)
        torch.testing.assert_close(one, plain.attention_map(guides[0], position, **options))
        two = module.attention_map(x, position, residual=residual)
        torch.testing.assert_close(two, plain.attention_map(guides, position, blocks=2, **options))
        assert two.shape == ((2, 4, 5) if heads == 1 else (2, 2, 4, 5))
    torch.testing.assert_close(module.attention_map(x[1], (1, 2)), module.attention_map(x, (1, 2))[1])


def test_attention_maps_are_what_the_output_depends_on() -> None:
    """By autograd through the values, the guides held fixed, also where the blocks are not shared."""
    module = wakened(HierarchicalSemiGlobalBlock(4, 3, False, 2, dtype=F64))
    x = features(1, 4, 3, 4)
    values = torch.ones(1, 1, 3, 4, dtype=F64, requires_grad=True)
    y = values
    for block in module.blocks:
        y = plain.semi_global_filter(y, block.lambda_(x), (block.beta, block.alpha)) + y
        x = block(x)
    (expected,) = torch.autograd.grad(y[0, 0, 2, 1], values)
    torch.manual_seed(0)
    module = wakened(HierarchicalSemiGlobalBlock(4, 3, False, 2, dtype=F64))
    result = module.attention_map(features(1, 4, 3, 4), (2, 1), residual=True)
    torch.testing.assert_close(result, expected[:, 0])


@pytest.mark.parametrize("name", ["hierarchical", "not shared", "criss-cross", "non-local"])
@torch.no_grad()
def test_attention_sums_to_one_and_reaches_everything(name: str) -> None:
    module = wakened(MODULES[name](8, 2, dtype=F64) if "shared" not in name else MODULES[name](8, dtype=F64))
    result = module.attention_map(features(2, 8, 4, 5), (2, 3))
    torch.testing.assert_close(result.sum((-2, -1)), torch.ones(2, dtype=F64))
    assert (result > 0).all()


# ---- the rivals


@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_criss_cross_attention_is_its_brute_force(heads: int) -> None:
    module = wakened(CrissCrossAttention(8, 2, heads, recurrence=2, bias=True, dtype=F64))
    image = features(8, 3, 4)
    x = image
    rows: list[dict[tuple[int, int], Any]] = []
    for _ in range(2):
        q, k, v = (c(x).unflatten(0, (heads, -1)) for c in (module.query_conv, module.key_conv, module.value_conv))
        y = torch.zeros_like(x).unflatten(0, (heads, -1))
        rows.append({})
        for i in range(3):
            for j in range(4):
                cross = [(a, j) for a in range(3)] + [(i, b) for b in range(4) if b != j]
                scores = torch.stack([(q[:, :, i, j] * k[:, :, a, b]).sum(1) for a, b in cross], -1)
                weights = scores.softmax(-1)
                rows[-1][i, j] = [(at, weights[:, n]) for n, at in enumerate(cross)]
                y[:, :, i, j] = sum(w[:, None] * v[:, :, a, b] for (a, b), w in rows[-1][i, j])
        x = module.gamma * y.flatten(0, 1) + x
    torch.testing.assert_close(module(image), x)
    torch.testing.assert_close(module(image[None]), x[None])
    expected = torch.zeros(heads, 3, 4, dtype=F64)
    for via, w in rows[1][1, 2]:
        for (a, b), v in rows[0][via]:
            expected[:, a, b] += w * v
    result = module.attention_map(image, (1, 2))
    torch.testing.assert_close(result, expected[0] if heads == 1 else expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
@torch.no_grad()
def test_non_local_block_is_its_brute_force(heads: int, bottleneck: bool) -> None:
    module = wakened(NonLocalBlock(8, 2, heads, bottleneck, bias=True, dtype=F64))
    x = features(8, 3, 4)
    theta, phi, g = (c(x).unflatten(0, (heads, -1)) for c in (module.theta, module.phi, module.g))
    y = torch.zeros_like(g)
    for i in range(3):
        for j in range(4):
            scores = torch.stack([(theta[:, :, i, j] * phi[:, :, a, b]).sum(1) for a in range(3) for b in range(4)], -1)
            weights = scores.softmax(-1).unflatten(-1, (3, 4))
            y[:, :, i, j] = (weights[:, None] * g).sum((-2, -1))
            result = module.attention_map(x, (i, j))
            torch.testing.assert_close(result, weights[0] if heads == 1 else weights)
    y = y.flatten(0, 1)
    expected = (module.out(y) if bottleneck else module.gamma * y) + x
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x[None]), expected[None])


@pytest.mark.parametrize("name", ["criss-cross", "non-local", "bottleneck"])
def test_rivals_start_as_the_identity_and_learn(name: str) -> None:
    module = MODULES[name](8)
    x = features(2, 8, 3, 4, dtype=torch.float32)
    assert torch.equal(module(x), x)
    (module(x) ** 2).sum().backward()
    last = module.out.weight if name == "bottleneck" else module.gamma
    assert last.grad.any()
    wakened(module).reset_parameters()
    assert torch.equal(module(x), x)


# ---- modules among others

KEYS = {
    "semi-global": ["log_alpha", "log_beta", "lambda_.weight", "psi.weight"],
    "no alpha, beta": ["lambda_.weight", "psi.weight"],
    "heads and bias": ["log_alpha", "log_beta", "lambda_.weight", "psi.weight", "psi.bias"],
    "hierarchical": [f"blocks.0.{k}" for k in ("log_alpha", "log_beta", "lambda_.weight", "psi.weight")],
    "not shared": [
        f"blocks.{i}.{k}" for i in range(3) for k in ("log_alpha", "log_beta", "lambda_.weight", "psi.weight")
    ],
    "criss-cross": ["gamma", "query_conv.weight", "key_conv.weight", "value_conv.weight"],
    "non-local": ["gamma", "theta.weight", "phi.weight", "g.weight"],
    "bottleneck": [f"{conv}.{k}" for conv in ("theta", "phi", "g", "out") for k in ("weight", "bias")],
}


@pytest.mark.parametrize("name", MODULES)
def test_state_copies_and_moves(name: str) -> None:
    module = wakened(MODULES[name](16))
    x = features(2, 16, 5, 4, dtype=torch.float32)
    y = module(x)
    assert list(module.state_dict()) == KEYS[name]

    other = MODULES[name](16)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), y)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), y) and repr(twin) == repr(module)
        wakened(twin)
        assert torch.equal(module(x), y)

    on_meta = MODULES[name](16, device="meta", dtype=F64)
    assert on_meta(x.to("meta", F64)).shape == y.shape and {p.dtype for p in on_meta.parameters()} == {F64}
    arrived = on_meta.to_empty(device="cpu")
    arrived.load_state_dict(module.state_dict())
    torch.testing.assert_close(arrived(x.double()), y.double(), rtol=1e-4, atol=1e-5)
    for dtype in (torch.bfloat16, torch.float16):
        moved = copy.deepcopy(module).to(dtype)
        assert moved(x.to(dtype)).dtype == dtype
        torch.testing.assert_close(moved(x.to(dtype)).float(), y, rtol=0.1, atol=0.25)


@pytest.mark.parametrize("name", MODULES)
def test_repr_rebuilds_the_module(name: str) -> None:
    module = MODULES[name](16)
    text = repr(module)
    assert text.startswith(type(module).__name__)
    for stated in ("16, reduction=8", "heads=", "bias="):
        assert stated in text
    if isinstance(module, SemiGlobalBlock):
        again = eval(f"SemiGlobalBlock({module.extra_repr()})")
    elif isinstance(module, HierarchicalSemiGlobalBlock):
        again = eval(f"HierarchicalSemiGlobalBlock(16, {module.extra_repr()})")
    else:
        again = eval(f"{type(module).__name__}({module.extra_repr()})")
    assert repr(again) == text


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1)])
def test_degenerate_maps(name: str, size: tuple[int, int]) -> None:
    module = wakened(MODULES[name](16))
    y = module(features(2, 16, *size, dtype=torch.float32))
    assert y.shape == (2, 16, *size) and torch.isfinite(y).all()
    assert module(torch.zeros(0, 16, 3, 4)).shape == (0, 16, 3, 4)


@pytest.mark.parametrize("name", MODULES)
def test_channels_last(name: str) -> None:
    module = wakened(MODULES[name](16))
    x = features(2, 16, 5, 4, dtype=torch.float32)
    y = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, module(x))
    if "al" not in name[:2] and isinstance(module, SemiGlobalBlock | HierarchicalSemiGlobalBlock):
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", MODULES)
def test_autocast(name: str) -> None:
    module = wakened(MODULES[name](16))
    x = features(2, 16, 5, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.float(), module(x), rtol=0.1, atol=0.25)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("shape", [(2, 16, 5, 4), (16, 1, 1)])
def test_the_input_is_left_alone(shape: tuple[int, ...]) -> None:
    """Even where nothing but the filter comes between it and the sum."""
    block = HierarchicalSemiGlobalBlock(16)
    block.blocks[0].psi = block.blocks[0].lambda_ = torch.nn.Identity()
    x = features(*shape, dtype=torch.float32)
    before = x.clone()
    with torch.no_grad():
        block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("module", [SemiGlobalBlock, HierarchicalSemiGlobalBlock, CrissCrossAttention, NonLocalBlock])
def test_wrong_arguments_are_refused(module: Any) -> None:
    for argument, value in (("channels", 0), ("reduction", 0), ("reduction", 17), ("heads", 0), ("heads", 3)):
        with pytest.raises(ValueError, match=f"^{argument}: expected"):
            module(**{"channels": 16, argument: value})
    built = module(16)
    with pytest.raises(IndexError, match=r"^position: expected a position in a map of \(4, 5\), got \(4, 0\)"):
        built.attention_map(torch.zeros(1, 16, 4, 5), (4, 0))
    with pytest.raises(ValueError, match=r"^position: expected \(row, column\), got 1"):
        built.attention_map(torch.zeros(1, 16, 4, 5), (1,))


@pytest.mark.parametrize("module", [SemiGlobalBlock, HierarchicalSemiGlobalBlock])
def test_wrong_options_are_refused(module: Any) -> None:
    wrong = {"normalization": "both", "metric": "cosine", "step": -1.0}
    for argument, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{argument}: expected"):
            module(16, **{argument: value})
    with pytest.raises(ValueError, match="^step: expected"):
        module(16, step=(0.0, math.nan))
    with pytest.raises(ValueError, match="^blocks: expected"):
        HierarchicalSemiGlobalBlock(16, blocks=0)
    with pytest.raises(ValueError, match="^recurrence: expected"):
        CrissCrossAttention(16, recurrence=0)


# ---- whole models


@pytest.mark.parametrize("name", ["heads and bias", "hierarchical", "criss-cross", "non-local"])
def test_export_with_dynamic_sizes(name: str) -> None:
    net = wakened(Net(MODULES[name](16))).eval()
    # From 3 on: torch treats lengths of 1 apart from others, and there is one edge less than positions.
    batch, height, width = (torch.export.Dim(d, min=3, max=64) for d in ("batch", "height", "width"))
    program = torch.export.export(
        net, (features(4, 3, 6, 7, dtype=torch.float32),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    )
    for shape in ((4, 3, 6, 7), (3, 3, 3, 4), (5, 3, 17, 33)):
        x = features(*shape, dtype=torch.float32)
        torch.testing.assert_close(program.module()(x), net(x))


def test_compile_trains_as_eager_does() -> None:
    net = wakened(Net(HierarchicalSemiGlobalBlock(16)))
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 3, 6, 7), (3, 3, 9, 5)):
        x = features(*shape, dtype=torch.float32)
        expected = torch.autograd.grad(net(x).sin().sum(), list(net.parameters()))
        result = compiled(x)
        torch.testing.assert_close(result, net(x))
        for a, b in zip(torch.autograd.grad(result.sin().sum(), list(net.parameters())), expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["heads and bias", "hierarchical", "not shared", "no alpha, beta"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_what_onnx_gets_is_the_same_function(
    name: str, normalization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = wakened(MODULES[name](16, normalization=normalization, dtype=F64))
    x = features(2, 16, 5, 4)
    expected = module(x), module(x[0])
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    torch.testing.assert_close((module(x), module(x[0])), expected)
    for metric in ("cityblock", "sqeuclidean"):
        block = SemiGlobalBlock(16, metric=metric, dtype=F64)
        result = block(x)
        with monkeypatch.context() as undone:
            undone.setattr(torch.onnx, "is_in_onnx_export", lambda: False)
            torch.testing.assert_close(result, block(x))


@pytest.mark.parametrize("name", ["heads and bias", "criss-cross", "non-local"])
def test_onnx_with_dynamic_sizes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    net = wakened(Net(MODULES[name](16))).eval()
    x = features(2, 3, 6, 7, dtype=torch.float32)
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.onnx.export(net, (x,), dynamic_shapes=(sizes,), dynamo=True)
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for shape in ((2, 3, 6, 7), (3, 3, 9, 33)):
        x = features(*shape, dtype=torch.float32)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed package")
def test_distributed_gradients_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = features(4, 3, 6, 7), torch.randint(3, (4, 6, 7))
    torch.manual_seed(0)
    net = Net(HierarchicalSemiGlobalBlock(16)).double()
    cross_entropy(net(images), labels).backward()
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    arguments = (tmp_path, images, labels)
    workers = mp.start_processes(distributed_worker, arguments, nprocs=2, join=False, start_method="spawn")
    try:
        deadline = time.monotonic() + 120
        while not all((tmp_path / f"done{rank}").exists() for rank in range(2)):
            workers.join(timeout=0.2)  # raises what a process raised
            assert time.monotonic() < deadline, "the processes have no gradients yet"
    finally:
        for process in workers.processes:
            process.kill()
            process.join()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"gradients{rank}.pt")
        for name, p in net.named_parameters():
            torch.testing.assert_close(gradients[name], p.grad)
            assert p.grad.any(), name


def marked_shapes(count: int, size: int = 20) -> tuple[Any, Any]:
    """Pictures with two wide boxes of random colour on black. A stroke across each tells which class the box is.

    Seen through a small window, a box far from its stroke looks the same for both classes: the stroke has to be
    found, and that of the other box must not be. The background has no label.
    """
    images, labels = torch.zeros(count, 4, size, size), torch.full((count, size, size), -100)
    for n in range(count):
        for top in (0, size // 2):
            height, width = int(torch.randint(7, size // 2, ())), int(torch.randint(14, size - 1, ()))
            left = int(torch.randint(size - width, ()))
            inside = (slice(top, top + height), slice(left, left + width))
            kind = int(torch.randint(2, ()))
            images[n, :3][(slice(None), *inside)] = torch.rand(3, 1, 1) * 0.5 + 0.5
            images[n, 3, inside[0], left + int(torch.randint(width, ()))] = 2.0 * kind - 1.0
            labels[n][inside] = kind
    return images, labels


class Segmenter(nn.Module):
    """Two 3x3 convolutions and a classifier, with or without something between."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.between = between
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.between(self.stem(x)))


def trained_loss(between: Callable[[], Any], steps: int = 100) -> float:
    """The mean loss of the last steps on fresh pictures."""
    torch.manual_seed(1)
    net = Segmenter(between())
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        images, labels = marked_shapes(8)
        loss = cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def test_a_network_learns_more_with_the_block_than_without() -> None:
    without = trained_loss(nn.Identity)
    with_block = trained_loss(lambda: SemiGlobalBlock(16, reduction=2))
    assert with_block < 0.1 * without, (with_block, without)


# ---- examples and tables


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_block_plugs_into_a_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    loaded("context_in_a_backbone").main()
    assert "parameters: 294,914 of" in capsys.readouterr().out


def test_tables_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    """Within 2 % of the paper, and what docs/paper_tables.md says of the rest."""
    tables = loaded("paper_tables")
    tables.main()
    printed = capsys.readouterr().out
    explained = (EXAMPLES.parent / "docs" / "paper_tables.md").read_text()
    for name, make, paper_flops, paper_parameters, _ in tables.TABLE_3 + tables.TABLE_4:
        module = make()
        counted = tables.flops(module)["total"] / 1e9
        assert f"{counted:.3f}" in printed and f"{counted:.3f}" in explained, name
        if "bottleneck" not in name:
            assert abs(counted / paper_flops - 1) < 0.02, name
        if name != "Non-local":
            assert round(tables.parameters(module) / 1e6, 3) == paper_parameters, name


def test_flops_are_those_of_the_linear_algorithm() -> None:
    block = SemiGlobalBlock(512, device="meta")
    counted = loaded("paper_tables").flops(block)
    edges = 2 * 97 * 96
    assert counted["aten.convolution"] == 2 * (64 + 512) * 512 * 97 * 97
    assert counted["sgs.edge_weights"] == edges * (3 * 64 + 3)
    assert counted["sgs.semi_global_filter"] == 6 * edges * (512 + 1) + 512 * 97 * 97


def test_every_operator_counts() -> None:
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("sgs::"):
            assert getattr(torch.ops.sgs, name.removeprefix("sgs::").partition(".")[0]) in flop_registry, name


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_training_flops_grow_with_the_number_of_positions(normalization: str | None) -> None:
    block = SemiGlobalBlock(16, normalization=normalization)

    def counted(size: int) -> int:
        x = features(2, 16, size, size, dtype=torch.float32)
        with FlopCounterMode(display=False) as counter:
            block(x).sum().backward()
        return int(sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).startswith("sgs")))

    forward = FlopCounterMode(display=False)
    with forward, torch.no_grad():
        block(features(2, 16, 24, 24, dtype=torch.float32))
    inference = sum(n for op, n in forward.get_flop_counts()["Global"].items() if str(op).startswith("sgs"))
    assert 2 * inference < counted(24) < 5 * inference
    assert 3.9 < counted(48) / counted(24) < 4.2
