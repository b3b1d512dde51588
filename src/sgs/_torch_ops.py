"""The operators `torch.ops.sgs.*`: registration, derivatives and batching rules; `sgs.torch` checks arguments first.

The operators take what the core takes: negative axes, right-aligned operands, no notion of channels or heads but in
`edge_weights`. Every derivative is composed of the operators themselves and of torch's, so that it has derivatives of
any order. Equation numbers are those of `docs/math.md`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sgs import _core

Axis = int
Tangent = Tensor | None

_LIBRARY: Any = torch.library.Library("sgs", "DEF")  # type: ignore[no-untyped-call]
_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_WEIGHT_DTYPES = {2: torch.float32, 3: torch.float64}


# ---- calls into the core


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums of this type are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _raw(t: Tensor) -> tuple[Any, ...]:
    """Address, dtype, shape and strides; for data off its alignment those of a copy, which the tuple keeps alive."""
    address = t.data_ptr()
    if address & 7 and address % t.element_size():
        t = t.clone()
        return t.data_ptr(), _CODES[t.dtype], t.shape, t.stride(), t
    return address, _CODES[t.dtype], t.shape, t.stride()


def _raw_or_none(t: Tensor | None) -> tuple[Any, ...] | None:
    return None if t is None else _raw(t)


def _result_like(t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for a result, on large pages where it is large (NumPy's arrays have them anyway)."""
    y = torch.empty_like(t, dtype=dtype)
    if y.numel() >= 1 << 20 and y.is_cpu:
        _core.prefer_large_pages(y.data_ptr(), y.nbytes)
    return y


def _run(function: str, like: Tensor, num_threads: int, *args: object) -> None:
    """Run a function of the core where `like` lives; `num_threads` 0 is torch's own number."""
    if like.is_cuda:
        _run_on_cuda(function, like, args)
    else:
        getattr(_core, function)(*args, num_threads or torch.get_num_threads())


def _run_on_cuda(function: str, like: Tensor, args: Sequence[object]) -> None:
    cuda = getattr(_core, "cuda", None)
    if cuda is None or not cuda.available():
        why = "this build of sgs has no CUDA" if cuda is None else cuda.reason()
        raise RuntimeError(f"sgs::{function}: CUDA tensors cannot be filtered: {why}")
    with torch.cuda.device(like.device):
        stream = torch.cuda.current_stream().cuda_stream
        run = getattr(cuda, function)
        size = run(*args, stream, None)
        workspace = torch.empty(size, dtype=torch.uint8, device=like.device)
        run(*args, stream, (workspace.data_ptr(), size))


# ---- an operator and its ways through the transforms


_INCLUDED: Any = torch._C._dispatch_tls_is_dispatch_key_included
_PRE_DISPATCH: Any = torch._C.DispatchKey.PreDispatch  # on while pre-dispatch tracing has a mode
_PROFILED: Any = torch._C._autograd._profiler_enabled
_TRANSFORMED: Any = torch._C._are_functorch_transforms_active
_DISPATCH_MODES: Any = torch._C._len_torch_dispatch_stack
_FUNCTION_MODES: Any = torch._C._len_torch_function_stack
_HAS_STORAGE: Any = torch._C._has_storage
_TRACING: Any = torch._C._is_tracing


_unpack_dual: Any = forward_ad.unpack_dual


def is_direct(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a kernel may be called without the dispatcher: no derivative or transform wanted, nobody watching.

    The tensors are then dense and in memory, of a type that can be filtered. It costs more to ask than anything else that
    is done in Python for a call, so what is asked and how was timed.
    """
    if torch.compiler.is_compiling():
        return False
    recording = torch.is_grad_enabled()
    for t in tensors:
        if t is not None and not (
            type(t) is Tensor
            and t.is_cpu
            and not (recording and t.requires_grad)
            and t.dtype in _CODES
            and t.layout is torch.strided
            and not t.is_nested
            and not t.is_neg()
            and not t._is_zerotensor()  # which has no memory
            and _HAS_STORAGE(t)  # wrappers of vmap and functionalization have none
        ):
            return False
    # A transform, a mode, a tracer or a profiler wants to see the operator go by.
    return not (
        _TRANSFORMED()
        or forward_ad._current_level >= 0
        or _DISPATCH_MODES()
        or _FUNCTION_MODES()
        or _INCLUDED(_PRE_DISPATCH)
        or _TRACING()
        or _PROFILED()
    )


class _Constant:
    """Arguments that are no tensors, opaque to functorch."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class Operator:
    """One operator: a kernel for tensors in memory, and the rules that transforms of it follow.

    Its arguments are tensors first, each of which may be None, then constants; never lists of tensors, which the vmap
    behind `is_grads_batched` cannot take. `vjp(g, args, needs)` and `jvp(args, tangents)` have one entry for each tensor
    argument. With several results, g and the result of jvp are tuples.
    """

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        batch: Callable[..., tuple[Any, Any]],
        vjp: Callable[..., list[Any]],
        jvp: Callable[..., Any],
        *,
        tensors: int,
    ) -> None:
        self.kernel, self.tensors, self.vjp, self.jvp = kernel, tensors, vjp, jvp
        name = schema.partition("(")[0]
        qualified = f"sgs::{name}"
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device in ("CPU", "CUDA"):
            _LIBRARY.impl(name, self._run, device)
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_vmap(qualified, batch, lib=_LIBRARY)
        self.overload = getattr(torch.ops.sgs, name).default
        self.recorded = _recorded(self, name)
        _LIBRARY.impl(name, self._with_autograd, "Autograd", with_keyset=True)
        self.function = _function(self)

    def __call__(self, *args: Any) -> Any:
        if is_direct(args[: self.tensors]):
            return self.kernel(*args)  # as the dispatcher would, in half the time
        if torch._C._are_functorch_transforms_active():
            # Compiled, the operator alone would give silent zeros under jvp, and a Function with a jvp is refused: leave
            # the graph.
            return _transformed(self, args)
        if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
            return _transformed(self, args)
        return self.overload(*args)

    def _refuse_tangents(self, args: tuple[Any, ...]) -> None:
        """A compiled function, or a call that goes round `sgs.torch`, would lose them silently."""
        if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled():
            for t in args[: self.tensors]:
                if t is not None and _unpack_dual(t).tangent is not None:
                    raise RuntimeError(
                        f"{self.overload}: forward-mode derivatives of a compiled function or of a bare operator would be "
                        "lost: compile the jvp instead, and call the functions of sgs.torch"
                    )

    def _with_autograd(self, keyset: Any, *args: Any) -> Any:
        self._refuse_tangents(args)  # of functorch's levels, too, which end here
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args[: self.tensors]):
            return self.recorded.apply(keyset, *args)
        return self.below_autograd(keyset, args)

    def below_autograd(self, keyset: Any, args: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def _run(self, *args: Any) -> Any:
        self._refuse_tangents(args)  # where the level of autograd was left out
        return self.kernel(*args)


def _recorded(operator: Operator, name: str) -> Any:
    """What torch.library.register_autograd makes, which takes a third of a call to look for default values."""

    def forward(ctx: Any, keyset: Any, *args: Any) -> Any:
        ctx.constants = args[operator.tensors :]
        ctx.save_for_backward(*args[: operator.tensors])
        return operator.below_autograd(keyset, args)

    def backward(ctx: Any, *g: Any) -> Any:
        args = (*ctx.saved_tensors, *ctx.constants)
        grads = operator.vjp(g[0] if len(g) == 1 else g, args, ctx.needs_input_grad[1 : operator.tensors + 1])
        return (None, *grads, *(None for _ in ctx.constants))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"sgs_{name}", (torch.autograd.Function,), methods)  # its name shows in messages of autograd


def _function(operator: Operator) -> Any:
    class Transformed(torch.autograd.Function):
        """Only under functorch or forward-mode AD, where a registered operator alone gives silent zeros."""

        generate_vmap_rule = True

        @staticmethod
        def forward(constants: _Constant, *tensors: Tensor) -> Any:
            return operator.overload(*tensors, *constants.values)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.constants = inputs[0].values
            ctx.save_for_backward(*inputs[1:])
            ctx.save_for_forward(*inputs[1:])

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            args = (*ctx.saved_tensors, *ctx.constants)
            return (None, *operator.vjp(g[0] if len(g) == 1 else g, args, ctx.needs_input_grad[1:]))

        @staticmethod
        def jvp(ctx: Any, _: Any, *tangents: Tangent) -> Any:
            return operator.jvp((*ctx.saved_tensors, *ctx.constants), tangents)

    return Transformed


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _transformed(operator: Operator, args: Sequence[Any]) -> Any:
    return operator.function.apply(_Constant(tuple(args[operator.tensors :])), *args[: operator.tensors])


# ---- fused derivatives


def _fused() -> bool:
    """Whether no derivative of a derivative can be asked for: then one visit by the core gives all of them."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not transformed and not torch.is_grad_enabled()


def _wanted(t: Tensor | None, wanted: bool) -> Tensor | None:
    """Memory for the derivative by t."""
    return _result_like(t) if wanted and t is not None else None


def _filled(like: Tensor, *bars: Tensor | None) -> tuple[Tensor, ...]:
    """Results of an operator: an empty tensor for each that was not wanted."""
    return tuple(like.new_empty(0) if t is None else t for t in bars)


def _given(t: Tensor, wanted: bool) -> Tensor | None:
    return t if wanted else None


class Backward(Operator):
    """The derivative of another operator, by one visit; its own derivatives are those of the composed one.

    Its first argument is the derivative by the result, then come those of the operator, the first constant its axis or
    axes; the last say what is wanted. `by_sample`: a batch is a call for each sample.
    """

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        composed: Callable[..., Any],
        *,
        tensors: int,
        by_sample: bool = False,
    ) -> None:
        self.composed, self.by_sample = composed, by_sample
        super().__init__(schema, kernel, fake, self._batch, self._vjp, self._jvp, tensors=tensors)

    def _of_tensors(self, args: Sequence[Any]) -> tuple[Callable[..., Any], list[Tensor], list[int]]:
        """The composed derivative as a function of the tensors that there are, these, and their places."""
        at = [i for i in range(self.tensors) if args[i] is not None]

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            full = list(args)
            for i, t in zip(at, tensors, strict=True):
                full[i] = t
            return tuple(self.composed(*full))

        return function, [args[i] for i in at], at

    def _vjp(self, g: Any, args: Any, needs: Any) -> list[Any]:
        function, tensors, at = self._of_tensors(args)
        differentiated: Any = torch.func.vjp(function, *tensors)
        results, pull = differentiated
        g = tuple(torch.zeros_like(r) if t is None else t for t, r in zip(g, results, strict=True))
        grads: list[Any] = [None] * self.tensors
        for i, grad in zip(at, pull(g), strict=True):
            grads[i] = grad
        return grads

    def _jvp(self, args: Any, tangents: Any) -> Any:
        function, tensors, at = self._of_tensors(args)
        given = tuple(
            torch.zeros_like(t) if tangents[i] is None else tangents[i] for i, t in zip(at, tensors, strict=True)
        )
        return torch.func.jvp(function, tuple(tensors), given)[1]

    def _batch(self, info: Any, dims: Any, *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        if self.by_sample:
            each = []
            for i in range(size):
                picked = [t if d is None else t.select(d, i) for t, d in zip(args, dims, strict=True)]
                each.append(self.overload(*picked))
            return tuple(torch.stack(r) for r in zip(*each, strict=True)), (0,) * len(each[0])
        x = args[1]
        ndim = x.ndim - (dims[1] is not None)
        # All have the batch in front, for derivatives to be summed within each sample.
        leading, shapes = [], []
        for t, d in zip(args[: self.tensors], dims, strict=False):
            own = None if t is None else _lead_values(t, d, size)
            shapes.append(None if own is None else own.shape)
            leading.append(_lead(own, 0, ndim))
        constants = [_from_end_all(c, ndim) if i == 0 else c for i, c in enumerate(args[self.tensors :])]
        bars = self.overload(*leading, *constants)
        wanted = [b.numel() > 0 or shape is not None and 0 in shape for b, shape in zip(bars, shapes[1:], strict=True)]
        results = tuple(
            b.reshape(shape) if want else b for b, shape, want in zip(bars, shapes[1:], wanted, strict=True)
        )
        return results, tuple(0 if want else None for want in wanted)


# ---- pieces of derivatives


def _sum_to(t: Tensor, like: Tensor) -> Tensor:
    """The derivative by `like`, which was broadcast: summed over what it lacks, in its shape and type."""
    extra = t.ndim - like.ndim
    dims = [d for d in range(t.ndim) if d < extra or (like.shape[d - extra] == 1 and t.shape[d] != 1)]
    if dims:
        t = t.sum(dims, keepdim=True)
    return t.reshape(like.shape).to(like.dtype)


def _computing(*tensors: Tangent) -> list[Any]:
    """Tensors in the computing type of the first, in which derivatives are taken."""
    first = tensors[0]
    assert first is not None
    dtype = computing_dtype(first.dtype)
    return [None if t is None else t.to(dtype) for t in tensors]


def _edges_of(t: Tensor, axis: Axis, first: int) -> Tensor:
    """t at the first (0) or the second (1) end of every edge."""
    n = t.shape[axis]
    return t.narrow(axis, min(first, n), max(n - 1, 0))


def _at_ends(t: Tensor, n: int, axis: Axis, first: int) -> Tensor:
    """The transpose of `_edges_of`: values of edges put to their first or second end of n positions, 0 elsewhere."""
    if n == 0:
        return t
    return torch.nn.functional.pad(t, [0, 0] * (-1 - axis) + ([0, 1] if first == 0 else [1, 0]))


def _end(t: Tensor, axis: Axis, last: bool) -> Tensor:
    """The first or last slice along an axis; zeros where there is none."""
    n = t.shape[axis]
    if n == 0:
        shape = list(t.shape)
        shape[axis] = 1
        return t.new_zeros(shape)
    return t.narrow(axis, n - 1 if last else 0, 1)


def _total(terms: Sequence[Tangent]) -> Tensor:
    present = [t for t in terms if t is not None]
    total = present[0]
    for t in present[1:]:
        total = total + t
    return total


def split_axis(t: Tensor, axis: int, count: int) -> Tensor:
    """`axis`, counted from the end, as two axes, the first of length `count`: or both 1 where it is."""
    n = t.shape[axis]
    shape = list(t.shape)
    shape[axis : axis + 1 or None] = [1, 1] if n == 1 else [count, n // count]
    return t.reshape(shape)


def join_axes(t: Tensor, axis: int) -> Tensor:
    """What `split_axis` came from."""
    shape = list(t.shape)
    shape[axis - 1 : axis + 1 or None] = [shape[axis - 1] * shape[axis]]
    return t.reshape(shape)


def _lead(t: Tensor | None, dim: int | None, ndim: int) -> Tensor | None:
    """An operand of a batched call: its batch axis in front of `ndim` others."""
    if t is None or dim is None:
        return t
    t = t.movedim(dim, 0)
    return t[(slice(None),) + (None,) * (ndim + 1 - t.ndim)]


def _lead_values(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _from_end(axis: int, ndim: int) -> int:
    return axis if axis < 0 else axis - ndim


def _from_end_all(axes: Any, ndim: int) -> Any:
    return _from_end(axes, ndim) if isinstance(axes, int) else [_from_end(a, ndim) for a in axes]


def _like_first(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


# ---- scan (4)


def _scan_kernel(x: Tensor, w: Tensor, initial: Tensor | None, axis: int, reverse: bool, num_threads: int) -> Tensor:
    y = _result_like(x)
    _run("scan", x, num_threads, _raw(x), _raw(w), _raw(y), axis % x.ndim, reverse, _raw_or_none(initial))
    return y


def _scan_batch(
    info: Any, dims: Any, x: Tensor, w: Tensor, initial: Tensor | None, axis: int, *constants: Any
) -> tuple[Tensor, int]:
    ndim = x.ndim - (dims[0] is not None)
    x = _lead_values(x, dims[0], info.batch_size)
    return scan.overload(
        x, _lead(w, dims[1], ndim), _lead(initial, dims[2], ndim), _from_end(axis, ndim), *constants
    ), 0


def _scan_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    initial = args[2]
    wanted: Any = bool(needs[1]), initial is not None and bool(needs[2])
    if not _fused():
        return _scan_composed(g, *args, *wanted)
    x_bar, w_bar, initial_bar = scan_backward(g, *args, *wanted)
    return [x_bar, _given(w_bar, wanted[0]), _given(initial_bar, wanted[1])]


def _scan_composed(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    initial: Tensor | None,
    axis: int,
    reverse: bool,
    num_threads: int,
    want_w: bool,
    want_initial: bool,
) -> list[Any]:
    """(11): x_bar is the scan of g the other way."""
    xc, wc, start, g = _computing(x, w, initial, g)
    x_bar = scan(g, wc, None, axis, not reverse, num_threads)
    w_bar = initial_bar = None
    if want_w:
        y = scan(xc, wc, start, axis, reverse, num_threads)
        w_bar = _sum_to(_edges_of(y, axis, int(reverse)) * _edges_of(x_bar, axis, int(not reverse)), w)
    if initial is not None and want_initial:
        initial_bar = _sum_to(_end(x_bar, axis, reverse), initial)
    return [x_bar.to(x.dtype), w_bar, initial_bar]


def _through_edges(x: Tensor, w: Tensor, wt: Tensor, initial: Any, axis: int, reverse: bool, num_threads: int) -> Any:
    """The tangent of a scan when only weights change: what they let through more, scanned."""
    y = scan(x, w, initial, axis, reverse, num_threads)
    source = _at_ends(wt * _edges_of(y, axis, int(reverse)), x.shape[axis], axis, int(not reverse))
    return scan(source, w, None, axis, reverse, num_threads)


def _scan_jvp(args: Any, tangents: Any) -> Tensor:
    x, w, initial, axis, reverse, num_threads = args
    xc, wc, start, xt, wt, it = _computing(x, w, initial, *tangents)
    terms = []
    if xt is not None or it is not None:
        terms.append(scan(torch.zeros_like(xc) if xt is None else xt, wc, it, axis, reverse, num_threads))
    if wt is not None:
        terms.append(_through_edges(xc, wc, wt, start, axis, reverse, num_threads))
    return _total(terms).to(x.dtype)


scan = Operator(
    "scan(Tensor x, Tensor w, Tensor? initial, int axis, bool reverse, int num_threads) -> Tensor",
    _scan_kernel,
    _like_first,
    _scan_batch,
    _scan_vjp,
    _scan_jvp,
    tensors=3,
)


def _scan_backward_kernel(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    initial: Tensor | None,
    axis: int,
    reverse: bool,
    num_threads: int,
    want_w: bool,
    want_initial: bool,
) -> tuple[Tensor, ...]:
    x_bar = _result_like(x, computing_dtype(x.dtype) if want_initial else x.dtype)
    w_bar, initial_bar = _wanted(w, want_w), _wanted(initial, want_initial)
    inputs = _raw(x), _raw(w), _raw_or_none(initial), _raw(g)
    bars = _raw(x_bar), _raw_or_none(w_bar), _raw_or_none(initial_bar)
    _run("scan_backward", x, num_threads, *inputs, *bars, axis % x.ndim, reverse)
    return _filled(x, x_bar.to(x.dtype), w_bar, initial_bar)


def _scan_backward_fake(g: Tensor, x: Tensor, w: Tensor, initial: Any, *constants: Any) -> tuple[Tensor, ...]:
    bars = _wanted(w, constants[-2]), _wanted(initial, constants[-1])
    return _filled(x, torch.empty_like(x), *bars)


scan_backward = Backward(
    "scan_backward(Tensor g, Tensor x, Tensor w, Tensor? initial, int axis, bool reverse, int num_threads, "
    "bool want_w, bool want_initial) -> (Tensor, Tensor, Tensor)",
    _scan_backward_kernel,
    _scan_backward_fake,
    lambda g, x, *rest: _filled(x, *_scan_composed(g, x, *rest)),
    tensors=4,
)


# ---- line filter (5)


def _line_kernel(
    x: Tensor, w: Tensor, left: Tensor | None, right: Tensor | None, axis: int, num_threads: int
) -> Tensor:
    y = _result_like(x)
    ends = _raw_or_none(left), _raw_or_none(right)
    _run("line_filter", x, num_threads, _raw(x), _raw(w), _raw(y), axis % x.ndim, *ends)
    return y


def _line_batch(
    info: Any, dims: Any, x: Tensor, w: Tensor, left: Any, right: Any, axis: int, num_threads: int
) -> tuple[Tensor, int]:
    ndim = x.ndim - (dims[0] is not None)
    x = _lead_values(x, dims[0], info.batch_size)
    operands = (_lead(t, d, ndim) for t, d in zip((w, left, right), dims[1:4], strict=True))
    return line_filter.overload(x, *operands, _from_end(axis, ndim), num_threads), 0


def _edge_gradient(p: Tensor, q: Tensor, w: Tensor, axis: int, num_threads: int, left: Any, right: Any) -> Tensor:
    """(11): F_i(p) B_{i+1}(q) + F_i(q) B_{i+1}(p); left and right belong to p."""
    with_ends = (scan(p, w, left, axis, False, num_threads), scan(p, w, right, axis, True, num_threads))
    without = (scan(q, w, None, axis, False, num_threads), scan(q, w, None, axis, True, num_threads))
    forward, backward = _edges_of(with_ends[0], axis, 0), _edges_of(with_ends[1], axis, 1)
    return forward * _edges_of(without[1], axis, 1) + _edges_of(without[0], axis, 0) * backward


def _line_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    wanted = bool(needs[1]), *(t is not None and bool(n) for t, n in zip(args[2:4], needs[2:4], strict=True))
    if not _fused():
        return _line_composed(g, *args, *wanted)
    x_bar, *bars = line_filter_backward(g, *args, *wanted)
    return [x_bar, *(_given(t, want) for t, want in zip(bars, wanted, strict=True))]


def _line_composed(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    axis: int,
    num_threads: int,
    want_w: bool,
    want_left: bool,
    want_right: bool,
) -> list[Any]:
    """(11): the line filter is its own adjoint."""
    xc, wc, lc, rc, g = _computing(x, w, left, right, g)
    x_bar = line_filter(g, wc, None, None, axis, num_threads)
    w_bar = left_bar = right_bar = None
    if want_w:
        w_bar = _sum_to(_edge_gradient(xc, g, wc, axis, num_threads, lc, rc), w)
    if left is not None and want_left:
        left_bar = _sum_to(_end(x_bar, axis, False), left)
    if right is not None and want_right:
        right_bar = _sum_to(_end(x_bar, axis, True), right)
    return [x_bar.to(x.dtype), w_bar, left_bar, right_bar]


def _line_jvp(args: Any, tangents: Any) -> Tensor:
    x, w, left, right, axis, num_threads = args
    xc, wc, lc, rc, xt, wt, lt, rt = _computing(x, w, left, right, *tangents)
    terms = []
    if not (xt is None and lt is None and rt is None):
        terms.append(line_filter(torch.zeros_like(xc) if xt is None else xt, wc, lt, rt, axis, num_threads))
    if wt is not None:
        terms.append(_through_edges(xc, wc, wt, lc, axis, False, num_threads))
        terms.append(_through_edges(xc, wc, wt, rc, axis, True, num_threads))
    return _total(terms).to(x.dtype)


line_filter = Operator(
    "line_filter(Tensor x, Tensor w, Tensor? left, Tensor? right, int axis, int num_threads) -> Tensor",
    _line_kernel,
    _like_first,
    _line_batch,
    _line_vjp,
    _line_jvp,
    tensors=4,
)


def _line_backward_kernel(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    left: Tensor | None,
    right: Tensor | None,
    axis: int,
    num_threads: int,
    want_w: bool,
    want_left: bool,
    want_right: bool,
) -> tuple[Tensor, ...]:
    x_bar = _result_like(x, computing_dtype(x.dtype) if want_left or want_right else x.dtype)
    w_bar, left_bar, right_bar = _wanted(w, want_w), _wanted(left, want_left), _wanted(right, want_right)
    inputs = _raw(x), _raw(w), _raw_or_none(left), _raw_or_none(right), _raw(g)
    bars = _raw(x_bar), _raw_or_none(w_bar), _raw_or_none(left_bar), _raw_or_none(right_bar)
    _run("line_filter_backward", x, num_threads, *inputs, *bars, axis % x.ndim)
    return _filled(x, x_bar.to(x.dtype), w_bar, left_bar, right_bar)


def _line_backward_fake(
    g: Tensor, x: Tensor, w: Tensor, left: Any, right: Any, axis: int, num_threads: int, *wanted: bool
) -> tuple[Tensor, ...]:
    bars = (_wanted(t, want) for t, want in zip((w, left, right), wanted, strict=True))
    return _filled(x, torch.empty_like(x), *bars)


line_filter_backward = Backward(
    "line_filter_backward(Tensor g, Tensor x, Tensor w, Tensor? left, Tensor? right, int axis, int num_threads, "
    "bool want_w, bool want_left, bool want_right) -> (Tensor, Tensor, Tensor, Tensor)",
    _line_backward_kernel,
    _line_backward_fake,
    lambda g, x, *rest: _filled(x, *_line_composed(g, x, *rest)),
    tensors=5,
)


# ---- tree (6)


def _tree_kernel(function: str) -> Callable[..., Tensor]:
    def kernel(x: Tensor, w: Tensor, axis: int, root: int, num_threads: int) -> Tensor:
        y = _result_like(x)
        _run(function, x, num_threads, _raw(x), _raw(w), _raw(y), axis % x.ndim, root)
        return y

    return kernel


def _tree_batch(operator: Callable[[], Operator]) -> Callable[..., tuple[Tensor, int]]:
    def batch(info: Any, dims: Any, x: Tensor, w: Tensor, axis: int, root: int, num_threads: int) -> tuple[Tensor, int]:
        ndim = x.ndim - (dims[0] is not None)
        x = _lead_values(x, dims[0], info.batch_size)
        return operator().overload(x, _lead(w, dims[1], ndim), _from_end(axis, ndim), root, num_threads), 0

    return batch


def _sides(n: int, root: int) -> list[tuple[int, int, bool]]:
    """First node, number of nodes and direction of a walk from the root, on both sides, the root in each."""
    return [(0, root + 1, True), (root, n - root, False)]


def _outward(b: Tensor, w: Tensor, axis: int, root: int, num_threads: int) -> Tensor:
    """The transpose of `tree_aggregate`: each node adds what its parent has times the weight between."""
    parts = []
    for first, count, reverse in _sides(b.shape[axis], root):
        part, edges = b.narrow(axis, first, count), w.narrow(axis, first, count - 1)
        part = scan(part, edges, None, axis, reverse, num_threads)
        parts.append(part if reverse else part.narrow(axis, 1, count - 1))
    return torch.cat(parts, axis)


def _parents(t: Tensor, axis: int, root: int) -> Tensor:
    """t at the end of every edge that is nearer to the root."""
    n = t.shape[axis]
    return torch.cat([t.narrow(axis, 1, root), t.narrow(axis, root, n - 1 - root)], axis)


def _children(t: Tensor, axis: int, root: int) -> Tensor:
    n = t.shape[axis]
    return torch.cat([t.narrow(axis, 0, root), t.narrow(axis, root + 1, n - 1 - root)], axis)


def _to_parents(edges: Tensor, axis: int, root: int) -> Tensor:
    """Values of edges added up at the ends nearer to the root, 0 elsewhere."""
    n = edges.shape[axis] + 1
    left, right = edges.narrow(axis, 0, root), edges.narrow(axis, root, n - 1 - root)
    pad = torch.nn.functional.pad
    before = [0, 0] * (-1 - axis)
    return pad(left, [*before, 1, n - 1 - root]) + pad(right, [*before, root, 1])


def _to_children(edges: Tensor, axis: int, root: int) -> Tensor:
    n = edges.shape[axis] + 1
    left, right = edges.narrow(axis, 0, root), edges.narrow(axis, root, n - 1 - root)
    return torch.cat([torch.nn.functional.pad(left, [0, 0] * (-1 - axis) + [0, 1]), right], axis)


def _aggregate_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    x, w, axis, root, num_threads = args
    xc, wc, g = _computing(x, w, g)
    if x.shape[axis] == 0:
        return [g.to(x.dtype), torch.zeros_like(w)]
    x_bar = _outward(g, wc, axis, root, num_threads)
    w_bar = None
    if needs[1]:
        a = tree_aggregate(xc, wc, axis, root, num_threads)
        w_bar = _sum_to(_children(a, axis, root) * _parents(x_bar, axis, root), w)
    return [x_bar.to(x.dtype), w_bar]


def _aggregate_jvp(args: Any, tangents: Any) -> Tensor:
    x, w, axis, root, num_threads = args
    xc, wc, xt, wt = _computing(x, w, *tangents)
    source = xt
    if wt is not None and x.shape[axis]:
        a = tree_aggregate(xc, wc, axis, root, num_threads)
        source = _total([xt, _to_parents(wt * _children(a, axis, root), axis, root)])
    source = torch.zeros_like(xc) if source is None else source
    return tree_aggregate(source, wc, axis, root, num_threads).to(x.dtype)  # type: ignore[no-any-return]


tree_aggregate: Operator = Operator(
    "tree_aggregate(Tensor x, Tensor w, int axis, int root, int num_threads) -> Tensor",
    _tree_kernel("tree_aggregate"),
    _like_first,
    _tree_batch(lambda: tree_aggregate),
    _aggregate_vjp,
    _aggregate_jvp,
    tensors=2,
)


def _update_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    """U is the outward sum of (1 - w^2) A, whose transpose aggregates."""
    a, w, axis, root, num_threads = args
    ac, wc, g = _computing(a, w, g)
    if a.shape[axis] == 0:
        return [g.to(a.dtype), torch.zeros_like(w)]
    aggregated = tree_aggregate(g, wc, axis, root, num_threads)
    at_child = _children(aggregated, axis, root)
    one_hot = _end(aggregated.narrow(axis, root, 1), axis, False)
    n = a.shape[axis]
    at_root = torch.nn.functional.pad(one_hot, [0, 0] * (-1 - axis) + [root, n - 1 - root])
    a_bar = at_root + _to_children((1 - wc) * (1 + wc) * at_child, axis, root)
    w_bar = None
    if needs[1]:
        u = tree_update(ac, wc, axis, root, num_threads)
        w_bar = _sum_to((_parents(u, axis, root) - 2 * wc * _children(ac, axis, root)) * at_child, w)
    return [a_bar.to(a.dtype), w_bar]


def _update_jvp(args: Any, tangents: Any) -> Tensor:
    a, w, axis, root, num_threads = args
    ac, wc, at, wt = _computing(a, w, *tangents)
    terms = []
    if at is not None:
        terms.append(tree_update(at, wc, axis, root, num_threads))
    if wt is not None and a.shape[axis]:
        u = tree_update(ac, wc, axis, root, num_threads)
        source = wt * (_parents(u, axis, root) - 2 * wc * _children(ac, axis, root))
        terms.append(_outward(_to_children(source, axis, root), wc, axis, root, num_threads))
    return _total(terms or [torch.zeros_like(ac)]).to(a.dtype)


tree_update: Operator = Operator(
    "tree_update(Tensor a, Tensor w, int axis, int root, int num_threads) -> Tensor",
    _tree_kernel("tree_update"),
    _like_first,
    _tree_batch(lambda: tree_update),
    _update_vjp,
    _update_jvp,
    tensors=2,
)


# ---- edge weights (1), (2)


def _parameter(tensor: Tensor | None, value: float, guide: Tensor) -> Any:
    """scale or step for the core: a number, or where it lies on the guide's own device."""
    if tensor is None:
        return value
    if not tensor.is_cuda:
        return float(tensor)
    return tensor.data_ptr(), _CODES[tensor.dtype]


def _in_front(raw: tuple[Any, ...]) -> tuple[Any, ...]:
    """With an axis of length 1 in front."""
    return raw[0], raw[1], (1, *raw[2]), (0, *raw[3]), *raw[4:]


def _with_channel(t: Tensor, channel_axis: int | None) -> tuple[Any, int]:
    """A guide or its weights for the core, which wants a channel axis."""
    raw = _raw(t)
    return (_in_front(raw), 0) if channel_axis is None else (raw, channel_axis % t.ndim)


def _weights_like(guide: Tensor, channel_axis: int | None, axis: int, heads: int, dtype: int) -> Tensor:
    shape = list(guide.shape)
    shape[axis] = max(shape[axis] - 1, 0)
    if channel_axis is not None:
        shape[channel_axis] = heads
    return guide.new_empty(shape, dtype=_WEIGHT_DTYPES[dtype])


def _weights_kernel(
    guide: Tensor,
    scale: Tensor | None,
    step: Tensor | None,
    confidence: Tensor | None,
    scale_value: float,
    step_value: float,
    channel_axis: int | None,
    axis: int,
    heads: int,
    metric: int,
    dtype: int,
    num_threads: int,
) -> Tensor:
    w = _weights_like(guide, channel_axis, axis, heads, dtype)
    raw, channel = _with_channel(guide, channel_axis)
    out, _ = _with_channel(w, channel_axis)
    along = axis % guide.ndim + (channel_axis is None)
    length, added = _parameter(scale, scale_value, guide), _parameter(step, step_value, guide)
    trust = _raw_or_none(confidence)
    _run("edge_weights", guide, num_threads, raw, out, channel, along, length, added, metric, trust)
    return w


def _weights_fake(
    guide: Tensor,
    scale: Any,
    step: Any,
    confidence: Any,
    scale_value: float,
    step_value: float,
    channel_axis: int | None,
    axis: int,
    heads: int,
    metric: int,
    dtype: int,
    num_threads: int,
) -> Tensor:
    return _weights_like(guide, channel_axis, axis, heads, dtype)


def _weights_batch(
    info: Any,
    dims: Any,
    guide: Tensor,
    scale: Any,
    step: Any,
    confidence: Any,
    scale_value: float,
    step_value: float,
    channel_axis: int | None,
    axis: int,
    *constants: Any,
) -> tuple[Tensor, int]:
    ndim = guide.ndim - (dims[0] is not None)
    axis = _from_end(axis, ndim)
    channel_axis = None if channel_axis is None else _from_end(channel_axis, ndim)
    rest = (scale_value, step_value, channel_axis, axis, *constants)
    if dims[1] is None and dims[2] is None:
        guide = _lead_values(guide, dims[0], info.batch_size)
        return edge_weights.overload(guide, scale, step, _lead(confidence, dims[3], ndim), *rest), 0
    # The core takes one scale a call: one call for each in the batch.
    each = []
    for i in range(info.batch_size):
        tensors = (guide, scale, step, confidence)
        picked = [t if d is None else t.select(d, i) for t, d in zip(tensors, dims[:4], strict=True)]
        each.append(edge_weights.overload(*picked, *rest))
    return torch.stack(each), 0


class _Distance:
    """What derivatives of edge weights are made of, by torch's own operators; nothing where an edge is cut."""

    def __init__(self, args: Any) -> None:
        guide, scale, step, confidence, scale_value, step_value, channel_axis, axis, heads, metric, _, _ = args
        self.weights = edge_weights(*args)
        self.dtype = computing_dtype(guide.dtype)
        self.channel_axis, self.axis, self.heads, self.metric = channel_axis, axis, heads, metric
        self.scale = scale_value if scale is None else scale.reshape(()).to(self.dtype)
        self.step = step_value if step is None else step.reshape(()).to(self.dtype)
        w = self.split(self.weights).to(self.dtype)
        cut = w == 0
        self.w = torch.where(cut, 0.0, w)
        self.untouched = cut
        if confidence is not None:
            missing = self.split_confidence(confidence, guide.ndim) == 0
            self.untouched = cut | _edges_of(missing, self.inner, 0) | _edges_of(missing, self.inner, 1)
        self.cut = cut
        difference = self.difference(guide)
        self.d = self.distance(difference)
        # Derivative of the distance by the difference.
        if metric == _core.EUCLIDEAN:
            flat = self.d == 0
            self.slope = torch.where(flat, 0.0, difference / torch.where(flat, 1.0, self.d))
        else:
            self.slope = torch.sign(difference) if metric == _core.CITYBLOCK else 2 * difference

    @property
    def inner(self) -> Any:
        """The axis once channels are split into heads."""
        return self.axis - 1 if self.channel_axis is None or self.axis < self.channel_axis else self.axis

    @property
    def channels(self) -> int:
        return -1 if self.channel_axis is None else self.channel_axis

    def split(self, t: Tensor) -> Tensor:
        """The channel axis as two, heads and channels of a head; without one, an axis of length 1 at the end."""
        if self.channel_axis is None:
            return t.unsqueeze(-1)
        return split_axis(t, self.channel_axis, self.heads)

    def split_confidence(self, c: Tensor, ndim: int) -> Tensor:
        c = c[(None,) * (ndim - c.ndim)]
        return c.unsqueeze(-1) if self.channel_axis is None else c.unsqueeze(self.channel_axis)

    def join(self, t: Tensor) -> Tensor:
        return t.squeeze(-1) if self.channel_axis is None else join_axes(t, self.channel_axis)

    def difference(self, guide: Tensor) -> Tensor:
        """g_{i+1} - g_i, 0 on edges that no derivative passes."""
        g = self.split(guide).to(self.dtype)
        return torch.where(self.untouched, 0.0, _edges_of(g, self.inner, 1) - _edges_of(g, self.inner, 0))

    def distance(self, difference: Tensor) -> Tensor:
        """(1); its second derivative at 0 is 0 too."""
        if self.metric == _core.CITYBLOCK:
            return difference.abs().sum(self.channels, keepdim=True)
        squared = (difference * difference).sum(self.channels, keepdim=True)
        if self.metric == _core.SQEUCLIDEAN:
            return squared
        flat = squared == 0
        return torch.where(flat, 0.0, torch.where(flat, 1.0, squared).sqrt())


def _weights_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    scale, step = args[1:3]
    wanted = bool(needs[0]), scale is not None and bool(needs[1]), step is not None and bool(needs[2])
    if not _fused():
        return [*_weights_composed(g, *args, *wanted), None]
    bars = edge_weights_backward(g, *args, *wanted)
    return [*(_given(t, want) for t, want in zip(bars, wanted, strict=True)), None]


def _weights_composed(g: Tensor, *args: Any) -> list[Any]:
    """(11)."""
    *args, want_guide, want_scale, want_step = args  # type: ignore[assignment]
    guide, scale, step = args[:3]
    t = _Distance(args)
    w_bar = torch.where(t.cut, 0.0, t.split(g).to(t.dtype))
    d_bar = -t.w * w_bar / t.scale
    grads: list[Any] = [None, None, None]
    if want_guide:
        difference_bar = torch.where(t.untouched, 0.0, d_bar * t.slope)
        n, axis = guide.shape[t.axis], t.inner
        guide_bar = _at_ends(difference_bar, n, axis, 1) - _at_ends(difference_bar, n, axis, 0)
        grads[0] = t.join(guide_bar).to(guide.dtype)
    if scale is not None and want_scale:
        grads[1] = (-d_bar * (t.d + t.step) / t.scale).sum().reshape(scale.shape).to(scale.dtype)
    if step is not None and want_step:
        grads[2] = d_bar.sum().reshape(step.shape).to(step.dtype)
    return grads


def _weights_jvp(args: Any, tangents: Any) -> Tensor:
    t = _Distance(args)
    guide_t, scale_t, step_t, _ = tangents
    change: Any = 0.0  # of -(d + step) / scale
    if guide_t is not None:
        change = change - (t.slope * t.difference(guide_t)).sum(t.channels, keepdim=True) / t.scale
    if step_t is not None:
        change = change - step_t.reshape(()).to(t.dtype) / t.scale
    if scale_t is not None:
        change = change + (t.d + t.step) / t.scale**2 * scale_t.reshape(()).to(t.dtype)
    return t.join(torch.where(t.cut, 0.0, t.w * change)).to(t.weights.dtype)


edge_weights = Operator(
    "edge_weights(Tensor guide, Tensor? scale, Tensor? step, Tensor? confidence, float scale_value, float step_value, "
    "int? channel_axis, int axis, int heads, int metric, int dtype, int num_threads) -> Tensor",
    _weights_kernel,
    _weights_fake,
    _weights_batch,
    _weights_vjp,
    _weights_jvp,
    tensors=4,
)


def _weights_backward_kernel(
    g: Tensor,
    guide: Tensor,
    scale: Tensor | None,
    step: Tensor | None,
    confidence: Tensor | None,
    scale_value: float,
    step_value: float,
    channel_axis: int | None,
    axis: int,
    heads: int,
    metric: int,
    dtype: int,
    num_threads: int,
    want_guide: bool,
    want_scale: bool,
    want_step: bool,
) -> tuple[Tensor, ...]:
    guide_bar, scale_bar, step_bar = _wanted(guide, want_guide), _wanted(scale, want_scale), _wanted(step, want_step)
    raw, channel = _with_channel(guide, channel_axis)
    w_bar, _ = _with_channel(g, channel_axis)
    out = None if guide_bar is None else _with_channel(guide_bar, channel_axis)[0]
    along = axis % guide.ndim + (channel_axis is None)
    length, added = _parameter(scale, scale_value, guide), _parameter(step, step_value, guide)
    bars = out, _raw_or_none(scale_bar), _raw_or_none(step_bar)
    rest = channel, along, length, added, metric, _raw_or_none(confidence)
    _run("edge_weights_backward", guide, num_threads, raw, w_bar, *bars, *rest)
    return _filled(guide, guide_bar, scale_bar, step_bar)


def _weights_backward_fake(g: Tensor, guide: Tensor, scale: Any, step: Any, *rest: Any) -> tuple[Tensor, ...]:
    bars = (_wanted(t, want) for t, want in zip((guide, scale, step), rest[-3:], strict=True))
    return _filled(guide, *bars)


edge_weights_backward = Backward(
    "edge_weights_backward(Tensor g, Tensor guide, Tensor? scale, Tensor? step, Tensor? confidence, float scale_value, "
    "float step_value, int? channel_axis, int axis, int heads, int metric, int dtype, int num_threads, "
    "bool want_guide, bool want_scale, bool want_step) -> (Tensor, Tensor, Tensor)",
    _weights_backward_kernel,
    _weights_backward_fake,
    lambda g, guide, *rest: _filled(guide, *_weights_composed(g, guide, *rest)),
    tensors=5,
    by_sample=True,
)


# ---- semi-global filter (7), (8)


# Weights are as many arguments as there may be axes, None for those that are not.
MAX_AXES = 8
_WEIGHTS_SCHEMA = ", ".join(["Tensor w0", *(f"Tensor? w{i}" for i in range(1, MAX_AXES))])


class _Filter(NamedTuple):
    """The arguments of the filter, weights together."""

    x: Tensor
    confidence: Tensor | None
    weights: list[Tensor]
    axes: Sequence[int]
    normalization: int
    residual: bool
    fill_value: float
    num_threads: int

    @classmethod
    def of(cls, args: Sequence[Any]) -> "_Filter":
        x, confidence, *rest = args
        return cls(x, confidence, [w for w in rest[:MAX_AXES] if w is not None], *rest[MAX_AXES:])


def semi_global_filter(
    x: Tensor, confidence: Tensor | None, weights: Sequence[Tensor], *constants: Any, direct: bool = False
) -> Tensor:
    """Calls the operator; or its kernel, where that is known to do."""
    call: Any = filter_operator.kernel if direct else filter_operator
    return call(x, confidence, *weights, *(None,) * (MAX_AXES - len(weights)), *constants)  # type: ignore[no-any-return]


def _filter_kernel(*args: Any) -> Tensor:
    f = _Filter.of(args)
    y = _result_like(f.x)
    _run("semi_global_filter", f.x, f.num_threads, *_filter_arguments(f, y))
    return y


def _filter_arguments(f: _Filter, y: Tensor) -> tuple[Any, ...]:
    """Of the core's function, but for the number of threads."""
    ndim = f.x.ndim
    inputs = _raw(f.x), [_raw(w) for w in f.weights], _raw(y), [a % ndim for a in f.axes]
    return *inputs, f.normalization, f.residual, _raw_or_none(f.confidence), f.fill_value, None


def blocks_directly(x: Tensor, weights: Sequence[Tensor], blocks: int, *constants: Any) -> Tensor:
    """All blocks (9) in one call, where `is_direct`; without confidence."""
    f = _Filter(x, None, list(weights), *constants)
    y = _result_like(x)
    arguments = *_filter_arguments(f, y), f.num_threads or torch.get_num_threads(), blocks
    _core.semi_global_filter(*arguments)
    return y


def filter_directly(
    x: Tensor,
    guide: Tensor | None,
    confidence: Tensor | None,
    channel_axis: int | None,
    axes: Sequence[int],
    scales: Sequence[float],
    steps: Sequence[float],
    metric: int,
    normalization: int,
    residual: bool,
    fill_value: float,
    num_threads: int,
) -> Tensor:
    """The kernels of `edge_weights`, along every axis, and of the filter in one call, where `is_direct`; one head."""
    y = _result_like(x)
    values = _raw(x)
    result = (y.data_ptr(), values[1], values[2], y.stride())
    guided_by = values if guide is None else _raw(guide)
    trust = None if confidence is None else _raw(confidence)
    ndim = x.ndim
    if (
        channel_axis is None or channel_axis < -ndim
    ):  # the core wants a channel axis: x has none, the guide may have one
        if channel_axis is None:
            guided_by = _in_front(guided_by)
        values, result, ndim, channel_axis = _in_front(values), _in_front(result), ndim + 1, -ndim - 1
    _core.guided_filter(
        values,
        guided_by,
        channel_axis % ndim,
        scales,
        steps,
        metric,
        trust if guide is None else None,
        result,
        [a % ndim for a in axes],
        normalization,
        residual,
        trust,
        fill_value,
        None,
        num_threads or torch.get_num_threads(),
    )
    return y


def _filter_batch(info: Any, dims: Any, *args: Any) -> tuple[Tensor, int]:
    x, axes = args[0], args[2 + MAX_AXES]
    ndim = x.ndim - (dims[0] is not None)
    operands = (_lead(t, d, ndim) for t, d in zip(args[1 : 2 + MAX_AXES], dims[1 : 2 + MAX_AXES], strict=True))
    axes = [_from_end(a, ndim) for a in axes]
    x = _lead_values(x, dims[0], info.batch_size)
    return filter_operator.overload(x, *operands, axes, *args[3 + MAX_AXES :]), 0


def support_like(x: Tensor, confidence: Tensor | None, weights: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
    """The field that supports S are sums of, of x's rank and no longer than it need be: ones, or the confidence."""
    operands = [*weights] if confidence is None else [*weights, confidence]

    def length(d: int) -> Any:
        used = d in axes or any(t.ndim >= -d and t.shape[d] != 1 for t in operands)
        return x.shape[d] if used else 1

    shape = [length(d) for d in range(-x.ndim, 0)]
    dtype = computing_dtype(x.dtype)
    if confidence is None:
        return x.new_ones((), dtype=dtype).expand(shape)
    return confidence.to(dtype).expand(shape)


def cross_sum(x: Tensor, weights: Sequence[Tensor], axes: Sequence[int], num_threads: int) -> Any:
    """x + sum_a N_a(x)."""
    return semi_global_filter(x, None, list(weights), list(axes), _core.CROSS_SUM, False, 0.0, num_threads)


class _Parts:
    """The sums that a block divides and is divided by, in the computing type.

    y = sum over parts of P / S: one part for each axis, or one of all axes for "cross"; `sums(k, v)` is the linear map of part k.
    """

    def __init__(self, args: Any) -> None:
        x, confidence, weights, self.axes, normalization, self.residual, _, self.num_threads = _Filter.of(args)
        self.x, *self.weights = _computing(x, *weights)
        self.dtype = self.x.dtype
        self.together = normalization in (_core.CROSS, _core.CROSS_SUM)
        self.divided = normalization in (_core.CROSS, _core.LINE)
        self.confidence = None
        if confidence is not None:
            c = confidence.to(self.dtype)
            self.untrusted = c == 0
            self.confidence = torch.where(self.untrusted, 0.0, c)
        self.field = support_like(x, self.confidence, weights, self.axes)
        self.count = 1 if self.together else len(self.axes)
        self.source = self.trusted(self.x) if self.confidence is None else self.confidence * self.trusted(self.x)
        self.supports = [self.sums(k, self.field) for k in range(self.count)] if self.divided else []

    def trusted(self, x: Tensor) -> Tensor:
        """x, 0 where it is not read (8)."""
        return x if self.confidence is None else torch.where(self.untrusted, 0.0, x)

    def sums(self, k: int, v: Tensor) -> Tensor:
        if self.together:
            return cross_sum(v, self.weights, self.axes, self.num_threads)  # type: ignore[no-any-return]
        return line_filter(v, self.weights[k], None, None, self.axes[k], self.num_threads)  # type: ignore[no-any-return]

    def divide(self, k: int, v: Tensor) -> Tensor:
        """v / S; 0 where S is too small to count (8)."""
        if not self.divided:
            return v
        s = self.supports[k]
        if self.confidence is None:
            return v / s
        supported = s >= torch.finfo(self.dtype).tiny
        return torch.where(supported, v, 0.0) / torch.where(supported, s, 1.0)

    def axes_of(self, k: int) -> Sequence[int]:
        """Indices of the axes that part k sums over."""
        return range(len(self.axes)) if self.together else (k,)


def _filter_vjp(g: Tensor, args: Any, needs: Any) -> list[Any]:
    wanted = args[1] is not None and bool(needs[1]), any(needs[2:])
    if not _fused():
        return _filter_composed(g, *args, *wanted)
    x_bar, confidence_bar, *w_bars = filter_backward(g, *args, *wanted)
    given = (_given(t, wanted[1] and w is not None) for t, w in zip(w_bars, args[2 : 2 + MAX_AXES], strict=True))
    return [x_bar, _given(confidence_bar, wanted[0]), *given]


def _filter_composed(g: Tensor, *args: Any) -> list[Any]:
    """(11); y = P / S has derivatives through P and, where S depends on weights and confidence, through S."""
    *args, need_confidence, need_weights = args  # type: ignore[assignment]
    x, confidence, weights, *_ = _Filter.of(args)
    p = _Parts(args)
    g = g.to(p.dtype)
    x_bar: Tensor | None = None
    trust_bar: Tensor | None = None
    w_bars: list[Any] = [None] * MAX_AXES
    for k in range(p.count):
        z = p.divide(k, g)
        u = p.sums(k, z)
        x_bar = u if x_bar is None else x_bar + u
        if not (need_weights or need_confidence):
            continue
        s_bar = None
        if p.divided:  # S = sums of the field
            s_bar = -_sum_to(z * p.divide(k, p.sums(k, p.source)), p.field)
            if need_confidence:
                trust_bar = p.sums(k, s_bar)
        for a in p.axes_of(k) if need_weights else ():
            w, axis = p.weights[a], p.axes[a]
            w_bar = _sum_to(_edge_gradient(p.source, z, w, axis, p.num_threads, None, None), w)
            if s_bar is not None:
                w_bar = w_bar + _sum_to(_edge_gradient(p.field, s_bar, w, axis, p.num_threads, None, None), w)
            w_bars[a] = w_bar.to(weights[a].dtype)
    assert x_bar is not None
    confidence_bar = None
    if p.confidence is not None:
        if need_confidence:
            by_values = _sum_to(p.trusted(p.x) * x_bar, p.field)
            assert confidence is not None and trust_bar is not None
            confidence_bar = _sum_to(torch.where(p.untrusted, 0.0, by_values + trust_bar), confidence)
        x_bar = p.confidence * p.trusted(x_bar)
    if p.residual:
        x_bar = x_bar + p.trusted(g)
    return [x_bar.to(x.dtype), confidence_bar, *w_bars]


def _filter_jvp(args: Any, tangents: Any) -> Tensor:
    x = args[0]
    p = _Parts(args)
    xt, ct, *wts = tangents
    xt = None if xt is None else p.trusted(xt.to(p.dtype))
    ct = None if ct is None else torch.where(p.untrusted, 0.0, ct.to(p.dtype))
    terms = []
    if xt is not None:
        terms.append(xt if p.confidence is None else p.confidence * xt)
    if ct is not None:
        terms.append(ct * p.trusted(p.x))
    source_t = _total(terms) if terms else None

    def sums_t(k: int, v: Tensor, vt: Tensor | None) -> Tensor | None:
        changes = [] if vt is None else [p.sums(k, vt)]
        for a in p.axes_of(k):
            if wts[a] is not None:
                wt = wts[a].to(p.dtype)
                for reverse in (False, True):
                    changes.append(_through_edges(v, p.weights[a], wt, None, p.axes[a], reverse, p.num_threads))
        return _total(changes) if changes else None

    total: list[Any] = []
    for k in range(p.count):
        changed = sums_t(k, p.source, source_t)
        if changed is not None:
            total.append(p.divide(k, changed))
        if p.divided:
            s_t = sums_t(k, p.field, None if ct is None else ct.expand(p.field.shape))
            if s_t is not None:
                total.append(-p.divide(k, p.divide(k, p.sums(k, p.source)) * s_t))
    if p.residual and xt is not None:
        total.append(xt)
    return _total(total or [torch.zeros_like(p.x)]).expand(x.shape).to(x.dtype)


filter_operator = Operator(
    f"semi_global_filter(Tensor x, Tensor? confidence, {_WEIGHTS_SCHEMA}, int[] axes, int normalization, "
    "bool residual, float fill_value, int num_threads) -> Tensor",
    _filter_kernel,
    _like_first,
    _filter_batch,
    _filter_vjp,
    _filter_jvp,
    tensors=2 + MAX_AXES,
)


def _filter_backward_kernel(g: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *args, want_confidence, want_weights = args  # type: ignore[assignment]
    f = _Filter.of(args)
    x_bar, confidence_bar = _result_like(f.x), _wanted(f.confidence, want_confidence)
    w_bars = [torch.empty_like(w) for w in f.weights] if want_weights else []
    inputs = _raw(f.x), [_raw(w) for w in f.weights], _raw(g)
    by_support = (None,) if f.x.is_cuda else ()
    bars = _raw(x_bar), [_raw(w) for w in w_bars], _raw_or_none(confidence_bar)
    rest = [a % f.x.ndim for a in f.axes], f.normalization, f.residual, _raw_or_none(f.confidence)
    _run("semi_global_filter_backward", f.x, f.num_threads, *inputs, *by_support, *bars, *rest)
    return _filled(f.x, x_bar, confidence_bar, *w_bars, *(None,) * (MAX_AXES - len(w_bars)))


def _filter_backward_fake(g: Tensor, *args: Any) -> tuple[Tensor, ...]:
    f = _Filter.of(args[:-2])
    w_bars = [torch.empty_like(w) for w in f.weights] if args[-1] else []
    bars = torch.empty_like(f.x), _wanted(f.confidence, args[-2]), *w_bars
    return _filled(f.x, *bars, *(None,) * (MAX_AXES - len(w_bars)))


filter_backward = Backward(
    f"semi_global_filter_backward(Tensor g, Tensor x, Tensor? confidence, {_WEIGHTS_SCHEMA}, int[] axes, "
    "int normalization, bool residual, float fill_value, int num_threads, bool want_confidence, bool want_weights) "
    f"-> ({', '.join(['Tensor'] * (2 + MAX_AXES))})",
    _filter_backward_kernel,
    _filter_backward_fake,
    lambda g, x, *rest: _filled(x, *_filter_composed(g, x, *rest)),
    tensors=3 + MAX_AXES,
)
