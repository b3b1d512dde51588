"""Every operator of `sgs.torch` under every transform, compared by value with plain torch: the table of docs/torch.md.

What torch itself does not allow must raise; nothing may give a silent zero or a stale value.
"""

import copy
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch_reference as plain
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint
from torch_cases import CASES, Case

import sgs.torch

F64 = torch.float64
SIZES = (3, 4)
OTHER_SIZES = (5, 3)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """And one thread: tiny tensors gain nothing from more, and two processors shared with others make them slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


# Traced and differentiated as by the default compiler, but run by torch's own kernels: compiling C++ takes long.
compiled = functools.partial(torch.compile, backend="aot_eager")


def same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def loss(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A number that all derivatives of f matter to."""
    return lambda *tensors: f(*tensors).sin().sum()


def leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def gradients(f: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = leaves(tensors)
    return torch.autograd.grad(loss(f)(*inputs), inputs)


def second_derivatives(f: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = leaves(tensors)
    first = torch.autograd.grad(loss(f)(*inputs), inputs, create_graph=True)
    return torch.autograd.grad(sum((g * g.cos()).sum() for g in first), inputs)


def tangents(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.cos(3 * t + 1) for t in tensors)


def jvp(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors: torch.func.jvp(f, tensors, tangents(tensors))[1]


def batches(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack([t, 0.8 * t, t * 1.1]) for t in tensors)


def each(f: Callable[..., Any], batch: tuple[Tensor, ...]) -> Any:
    results = [f(*tensors) for tensors in zip(*(t.unbind() for t in batch), strict=True)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(torch.stack(r) for r in zip(*results, strict=True))


def all_of(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


# ---- transforms: each compares f, of sgs.torch, with r, the same of torch_reference

Check = Callable[[Callable[..., Tensor], Callable[..., Tensor], Case], None]
TRANSFORMS: dict[str, Check] = {}


def transform(name: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        TRANSFORMS[name] = check
        return check

    return add


@transform("eager")
def _eager(f: Any, r: Any, case: Case) -> None:
    for sizes in (SIZES, OTHER_SIZES):
        same(f(*case.tensors(*sizes)), r(*case.tensors(*sizes)))


@transform("gradient")
def _gradient(f: Any, r: Any, case: Case) -> None:
    same(gradients(f, case.tensors(*SIZES)), gradients(r, case.tensors(*SIZES)))


@transform("double backward")
def _double_backward(f: Any, r: Any, case: Case) -> None:
    same(second_derivatives(f, case.tensors(*SIZES)), second_derivatives(r, case.tensors(*SIZES)))


@transform("batched gradient")
def _batched_gradient(f: Any, r: Any, case: Case) -> None:
    results = []
    for g in (f, r):
        inputs = leaves(case.tensors(*SIZES))
        y = g(*inputs)
        directions = torch.stack([torch.ones_like(y), y.detach().cos()])
        rows = [torch.autograd.grad(y, inputs, d, retain_graph=True) for d in directions]
        expected = tuple(torch.stack(c) for c in zip(*rows, strict=True))
        results.append(torch.autograd.grad(y, inputs, directions, is_grads_batched=True) if g is f else expected)
    same(*results)


@transform("forward mode")
def _forward_mode(f: Any, r: Any, case: Case) -> None:
    tensors = case.tensors(*SIZES)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in zip(tensors, tangents(tensors), strict=True)]
        tangent = forward_ad.unpack_dual(f(*duals)).tangent
    same(tangent, jvp(r)(*tensors))


@transform("func.grad")
def _func_grad(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    same(torch.func.grad(loss(f), argnums=all_of(t))(*t), gradients(r, t))


@transform("vmap")
def _vmap(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    same(torch.vmap(f)(*batch), each(r, batch))
    first, *rest = case.tensors(*SIZES)
    dims = (0, *(None for _ in rest))
    same(torch.vmap(f, dims)(batch[0], *rest), torch.stack([r(t, *rest) for t in batch[0]]))
    moved = [t.movedim(0, -1) for t in batch]
    same(torch.vmap(f, -1, -1)(*moved), each(r, batch).movedim(0, -1))
    dims = (None, *(0 for _ in rest))
    same(torch.vmap(f, dims)(first, *batch[1:]), torch.stack([r(first, *ts) for ts in zip(*batch[1:], strict=True)]))


@transform("jvp")
def _jvp(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    same(jvp(f)(*t), jvp(r)(*t))
    for i in range(len(t)):  # one argument at a time, the others without a tangent

        def one(x: Tensor, g: Any, i: int = i) -> Tensor:
            return g(*t[:i], x, *t[i + 1 :])

        same(
            torch.func.jvp(lambda x: one(x, f), (t[i],), (tangents(t)[i],))[1],
            torch.func.jvp(lambda x: one(x, r), (t[i],), (tangents(t)[i],))[1],
        )


@transform("vjp")
def _vjp(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    y, pull = torch.func.vjp(f, *t)
    z, expected = torch.func.vjp(r, *t)
    same(pull(y.cos()), expected(z.cos()))


@transform("jacrev")
def _jacrev(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(2, 3)
    same(torch.func.jacrev(f, all_of(t))(*t), torch.func.jacfwd(r, all_of(t))(*t))


@transform("jacfwd")
def _jacfwd(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(2, 3)
    same(torch.func.jacfwd(f, all_of(t))(*t), torch.func.jacfwd(r, all_of(t))(*t))


@transform("hessian")
def _hessian(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(2, 2)
    same(
        torch.func.hessian(loss(f), all_of(t))(*t),
        torch.func.jacrev(torch.func.jacrev(loss(r), all_of(t)), all_of(t))(*t),
    )


@transform("vmap(grad)")
def _vmap_grad(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    same(torch.vmap(torch.func.grad(loss(f), all_of(batch)))(*batch), each(lambda *t: gradients(r, t), batch))


@transform("grad(vmap)")
def _grad_vmap(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    same(
        torch.func.grad(loss(torch.vmap(f)), all_of(batch))(*batch),
        each(lambda *t: gradients(r, t), batch),
    )


@transform("grad(grad)")
def _grad_grad(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)

    def twice(*tensors: Tensor) -> Tensor:
        return sum((g * g.cos()).sum() for g in torch.func.grad(loss(f), all_of(t))(*tensors))

    same(torch.func.grad(twice, all_of(t))(*t), second_derivatives(r, t))


@transform("jvp(grad)")
def _jvp_grad(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)

    def pushed(g: Any) -> Any:
        return torch.func.jvp(torch.func.grad(loss(g), all_of(t)), t, tangents(t))[1]

    same(pushed(f), pushed(r))


@transform("compile")
def _compile(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    same(compiled(f, fullgraph=True, dynamic=False)(*t), r(*t))


@transform("compile, dynamic")
def _compile_dynamic(f: Any, r: Any, case: Case) -> None:
    c = compiled(f, fullgraph=True, dynamic=True)
    for sizes in (SIZES, OTHER_SIZES, (6, 5)):
        same(c(*case.tensors(*sizes)), r(*case.tensors(*sizes)))


@transform("compile, training")
def _compile_training(f: Any, r: Any, case: Case) -> None:
    c = compiled(f, fullgraph=True, dynamic=False)
    same(gradients(c, case.tensors(*SIZES)), gradients(r, case.tensors(*SIZES)))


@transform("compile, training, dynamic")
def _compile_training_dynamic(f: Any, r: Any, case: Case) -> None:
    c = compiled(f, fullgraph=True, dynamic=True)
    for sizes in (SIZES, OTHER_SIZES):
        same(gradients(c, case.tensors(*sizes)), gradients(r, case.tensors(*sizes)))


@transform("compile(grad)")
def _compile_grad(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    same(compiled(torch.func.grad(loss(f), all_of(t)))(*t), gradients(r, t))


@transform("compile(jvp)")
def _compile_jvp(f: Any, r: Any, case: Case) -> None:
    for sizes in (SIZES, OTHER_SIZES):
        t = case.tensors(*sizes)
        same(compiled(jvp(f))(*t), jvp(r)(*t))


@transform("compile(vmap)")
def _compile_vmap(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    same(compiled(torch.vmap(f))(*batch), each(r, batch))


@transform("compile(vmap(grad))")
def _compile_vmap_grad(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    vg = torch.vmap(torch.func.grad(loss(f), all_of(batch)))
    same(compiled(vg)(*batch), each(lambda *t: gradients(r, t), batch))


@transform("compile(jacfwd)")
def _compile_jacfwd(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(2, 2)
    same(compiled(torch.func.jacfwd(f, all_of(t)))(*t), torch.func.jacfwd(r, all_of(t))(*t))


@transform("vmap(compile)")
def _vmap_compile(f: Any, r: Any, case: Case) -> None:
    batch = batches(case.tensors(*SIZES))
    same(torch.vmap(compiled(f))(*batch), each(r, batch))


class _Module(torch.nn.Module):
    def __init__(self, f: Callable[..., Tensor], count: int) -> None:
        super().__init__()
        self.f = f
        self.count = count

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return self.f(*tensors)


def _exported(f: Any, case: Case, strict: bool, dynamic: Any = None) -> Any:
    tensors = list(case.tensors(*SIZES))
    program = torch.export.export(_Module(f, len(tensors)), (tensors,), dynamic_shapes=dynamic, strict=strict)
    return program


@transform("export")
def _export(f: Any, r: Any, case: Case) -> None:
    for strict in (False, True):
        same(_exported(f, case, strict).module()(list(case.tensors(*SIZES))), r(*case.tensors(*SIZES)))


@transform("export, dynamic")
def _export_dynamic(f: Any, r: Any, case: Case) -> None:
    auto = torch.export.Dim.AUTO
    dims = ([dict.fromkeys(range(t.ndim), auto) for t in case.tensors(*SIZES)],)
    program = _exported(f, case, False, dims)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    for sizes in (SIZES, OTHER_SIZES):
        same(module(list(case.tensors(*sizes))), r(*case.tensors(*sizes)))


@transform("checkpoint")
def _checkpoint(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    for reentrant in (False, True):

        def g(*tensors: Tensor, reentrant: bool = reentrant) -> Tensor:
            return checkpoint(f, *tensors, use_reentrant=reentrant)

        if reentrant:  # which allows no autograd.grad
            inputs = leaves(t)
            loss(g)(*inputs).backward()
            same(tuple(i.grad for i in inputs), gradients(r, t))
        else:
            same(gradients(g, t), gradients(r, t))


@transform("inference mode")
def _inference_mode(f: Any, r: Any, case: Case) -> None:
    with torch.inference_mode():
        same(f(*case.tensors(*SIZES)), r(*case.tensors(*SIZES)))


@transform("no_grad")
def _no_grad(f: Any, r: Any, case: Case) -> None:
    inputs = leaves(case.tensors(*SIZES))
    with torch.no_grad():
        y = f(*inputs)
    assert not y.requires_grad
    same(y, r(*inputs).detach())


@transform("autocast")
def _autocast(f: Any, r: Any, case: Case) -> None:
    """x's dtype decides: nothing is cast."""
    t = case.tensors(*SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(gradients(f, t), gradients(r, t))
        half = f(*(s.to(torch.bfloat16) for s in t))
    wide = f(*(s.to(torch.bfloat16).float() for s in t))
    torch.testing.assert_close(half.float(), wide, rtol=2**-7, atol=2**-7)


@transform("deterministic")
def _deterministic(f: Any, r: Any, case: Case) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        t = case.tensors(*SIZES)
        same(gradients(f, t), gradients(r, t))
    finally:
        torch.use_deterministic_algorithms(False)


@transform("meta")
def _meta(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    y, z = f(*(s.to("meta") for s in t)), f(*t)
    assert (y.shape, y.dtype, y.device.type) == (z.shape, z.dtype, "meta")
    assert y.stride() == z.stride()


@transform("fake")
def _fake(f: Any, r: Any, case: Case) -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        t = case.tensors(*SIZES)
        inputs = [s.detach().requires_grad_() for s in t]
        y = f(*inputs)
        assert isinstance(y, torch._subclasses.FakeTensor)
        for g, s in zip(torch.autograd.grad(y.sum(), inputs), t, strict=True):
            assert g.shape == s.shape
    assert mode is not None
    assert y.shape == f(*case.tensors(*SIZES)).shape


@transform("saved tensor hooks")
def _saved_tensor_hooks(f: Any, r: Any, case: Case) -> None:
    t = case.tensors(*SIZES)
    with torch.autograd.graph.save_on_cpu():
        same(gradients(f, t), gradients(r, t))


@transform("gradcheck")
def _gradcheck(f: Any, r: Any, case: Case) -> None:
    # Away from distance 0, where derivatives are one-sided and stated, and from confidence 0, an edge.
    inputs = leaves(tuple(s + torch.rand_like(s) * 0.3 + 0.05 for s in case.tensors(2, 2)))
    assert gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@transform("gradgradcheck")
def _gradgradcheck(f: Any, r: Any, case: Case) -> None:
    inputs = leaves(tuple(s + torch.rand_like(s) * 0.3 + 0.05 for s in case.tensors(2, 2)))
    assert gradgradcheck(f, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


@transform("deepcopy of export")
def _deepcopy(f: Any, r: Any, case: Case) -> None:
    program = copy.deepcopy(_exported(f, case, False).module())
    same(program(list(case.tensors(*SIZES))), r(*case.tensors(*SIZES)))


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_transform(case: Case, name: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TRANSFORMS[name](case.function(sgs.torch), case.function(plain), case)


# ---- limits of torch itself: they raise


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_double_backward_of_a_compiled_function_raises(case: Case) -> None:
    f = compiled(case.function(sgs.torch))
    inputs = leaves(case.tensors(*SIZES))
    first = torch.autograd.grad(loss(f)(*inputs), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(sum(g.sum() for g in first), inputs)


@pytest.mark.parametrize("warm", [False, True])
def test_dual_tensors_into_a_compiled_function_raise(warm: bool) -> None:
    x, w = torch.randn(3, 4), torch.rand(3, 3)
    f = compiled(lambda a: sgs.torch.scan(a, w))
    if warm:
        f(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError):
        f(forward_ad.make_dual(x, torch.ones_like(x)))


def test_functorch_inside_a_full_graph_is_refused() -> None:
    x, w = torch.randn(3, 4), torch.rand(3, 3)
    f = compiled(lambda a: torch.func.jvp(lambda b: sgs.torch.scan(b, w), (a,), (a,))[1], fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        f(x)


# ---- the default compiler


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=lambda c: c.name)
def test_default_compiler(case: Case) -> None:
    f = torch.compile(case.function(sgs.torch), fullgraph=True)
    failure = getattr(torch._inductor.exc, "InductorError", torch._dynamo.exc.BackendCompilerFailed)  # until torch 2.7
    try:
        actual = gradients(f, case.tensors(*SIZES))
    except failure as error:  # no C++ compiler on this machine
        pytest.skip(str(error))
    same(actual, gradients(case.function(plain), case.tensors(*SIZES)))
