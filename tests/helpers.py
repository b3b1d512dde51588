"""What the tests share: layouts, error bounds, combinations, and equations (7), (8) and (10) in float64 from given weights."""

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sgs
from sgs import _core

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
SIZES = (1, 2, 15, 16, 17, 63, 97, 1000)
THREADS = (1, 2, 3, 7)
ISAS = tuple(_core.available_isas())
LAYOUTS = ("c", "fortran", "swapped", "reversed", "stepped", "broadcast", "channels_last", "offset")
WRITEABLE_LAYOUTS = tuple(name for name in LAYOUTS if name != "broadcast")

# Unit roundoff of the storage-only types, and their smallest subnormal.
HALF_ROUNDING = {np.dtype(np.float16): (2.0**-11, 2.0**-24), BFLOAT16: (2.0**-8, 2.0**-133)}


def computing_type(dtype: Any) -> np.dtype:
    """float64 for float64, else float32."""
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)


def result_type(dtype: Any) -> np.dtype:
    """The type of the result for values of this type: integers and bool become float32."""
    return np.dtype(dtype) if np.dtype(dtype) in FLOATS else np.dtype(np.float32)


def used(a: Any, dtype: Any) -> np.ndarray:
    """`a` as the core uses it beside values of type `dtype`: rounded to the computing type; then exactly, in float64."""
    with np.errstate(over="ignore"):
        return np.asarray(a).astype(computing_type(dtype)).astype(np.float64)


def exact(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


# ---- inputs


def random_values(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float64) -> np.ndarray:
    """Values of both signs and several orders of magnitude; whole numbers for integer types."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iub":
        low, high = (0, 2) if dtype.kind == "b" else (max(-100, np.iinfo(dtype).min), 101)
        return rng.integers(low, high, shape).astype(dtype)
    return (rng.standard_normal(shape) * 4.0 ** rng.integers(-2, 3, shape)).astype(dtype)


def random_weights(rng: np.random.Generator, shape: Sequence[int], dtype: Any = np.float64) -> np.ndarray:
    """Weights in [0, 1]: short and very long reach, whole links and cuts."""
    kinds = rng.integers(0, 20, shape)
    w = np.where(kinds < 8, rng.uniform(0, 1, shape), 1 - rng.uniform(0, 0.05, shape))
    return np.where(kinds == 18, 1.0, np.where(kinds == 19, 0.0, w)).astype(dtype)


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """An array of the shape and values of `a` (for "broadcast": of its first slices) whose memory lies as named."""
    if layout == "c" or a.ndim == 0:
        return np.ascontiguousarray(a).reshape(a.shape)
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "swapped":  # the last two axes change places in memory
        if a.ndim < 2:
            return a.copy()
        return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "reversed":
        flip = (slice(None, None, -1),) * a.ndim
        return np.ascontiguousarray(a[flip])[flip]
    if layout == "stepped":
        steps = [2 + i % 2 for i in range(a.ndim)]
        base = np.full([n * s for n, s in zip(a.shape, steps, strict=True)], 77).astype(a.dtype)
        view = base[tuple(slice(s - 1, None, s) for s in steps)]
        view[...] = a
        return view
    if layout == "broadcast":  # zero strides on every other axis, the last included
        keep = tuple(slice(0, 1) if i % 2 == 0 else slice(None) for i in reversed(range(a.ndim)))
        return np.broadcast_to(a[keep], a.shape)
    if layout == "channels_last":
        axis = max(a.ndim - 3, 0)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, axis, -1)), -1, axis)
    if layout == "offset":  # odd row pitch, first element away from any vector boundary
        base = np.full([n + 3 for n in a.shape], 77).astype(a.dtype)
        view = base[tuple(slice(1, n + 1) for n in a.shape)]
        view[...] = a
        return view
    raise AssertionError(layout)


def poisoned_out(shape: Sequence[int], dtype: Any, layout: str = "c") -> np.ndarray:
    """An output array full of NaN."""
    return laid_out(np.full(shape, np.nan).astype(dtype), layout)


def pairwise(**factors: Sequence[Any]) -> list[Any]:
    """Rows of a table in which every pair of values of any two factors occurs: far fewer than all combinations.

    Returns `pytest.param`s, each a dict of one value for every factor.
    """
    names = list(factors)
    indices = [range(len(factors[name])) for name in names]
    columns = range(len(names))
    todo = {(a, i, b, j) for a, b in itertools.combinations(columns, 2) for i in indices[a] for j in indices[b]}
    rng = np.random.default_rng(len(todo))
    rows = []
    while todo:
        # Greedy: start from a pair still missing, then give each other factor the value that covers most.
        a, i, b, j = min(todo)
        row = {a: i, b: j}
        for c in rng.permutation([c for c in columns if c not in row]):
            gains = [
                sum((min((d, k), (c, v)) + max((d, k), (c, v))) in todo for d, k in row.items()) for v in indices[c]
            ]
            best = [v for v in indices[c] if gains[v] == max(gains)]
            row[int(c)] = int(rng.choice(best))
        todo -= {(a, row[a], b, row[b]) for a, b in itertools.combinations(columns, 2)}
        rows.append({name: factors[name][row[c]] for c, name in enumerate(names)})
    return [pytest.param(row, id="-".join(_label(v) for v in row.values())) for row in rows]


def _label(value: Any) -> str:
    return str(value).replace(" ", "")


def seeded(case: Any) -> np.random.Generator:
    """A generator of its own for each case, the same in every run."""
    return np.random.default_rng(list(str(case).encode()))


@dataclass
class Line:
    """Arguments of an operation along one axis, and the same as exact float64."""

    x: np.ndarray
    w: np.ndarray
    axis: int
    initial: Any
    out: np.ndarray | None
    exact_x: np.ndarray
    exact_w: np.ndarray
    exact_initial: Any

    @property
    def n(self) -> int:
        return self.x.shape[self.axis]


# What the operations along one axis are tried on; `line_case` makes arguments of a row of this table.
LINE_FACTORS: dict[str, Sequence[Any]] = {
    "n": SIZES,
    "m": SIZES,
    "ndim": (1, 2, 3, 4, 5),
    "axis": (0, 1, 2, 3, -1, -2),
    "dtype": (*(d.name for d in FLOATS), "int8", "uint16", "int64", "bool"),
    "w_dtype": tuple(d.name for d in FLOATS),
    "w_shape": ("full", "line", "shared", "short"),
    "layout": LAYOUTS,
    "w_layout": LAYOUTS,
    "out": (None, "x", *WRITEABLE_LAYOUTS),
    "initial": (None, "number", "full", "broadcast"),
    "threads": THREADS,
    "isa": ISAS,
}


def line_case(case: dict[str, Any]) -> Line:
    """x with n along an axis, m along another and a few along the rest; w, initial and out to go with it."""
    rng = seeded(case)
    ndim, n, m = case["ndim"], case["n"], case["m"]
    axis = case["axis"] % ndim if case["axis"] >= 0 else max(case["axis"], -ndim)
    at = axis % ndim
    few = 2 if n * m <= 20000 else 1
    shape = [few] * ndim
    if ndim > 1:
        shape[at - 1] = m
    shape[at] = n
    x = laid_out(random_values(rng, shape, np.dtype(case["dtype"])), case["layout"])

    w_shape = list(shape)
    w_shape[at] = n - 1
    if case["w_shape"] == "line":
        w_shape = [n - 1 if a == at else 1 for a in range(ndim)]
    elif case["w_shape"] == "shared":
        w_shape = [1 if a != at and a % 2 else length for a, length in enumerate(w_shape)]
    elif case["w_shape"] == "short":
        w_shape = w_shape[at:]
    w = laid_out(random_weights(rng, w_shape, np.dtype(case["w_dtype"])), case["w_layout"])

    rest = [length for a, length in enumerate(shape) if a != at]
    initial: Any = None
    if case["initial"] == "number":
        initial = 1.5
    elif case["initial"] == "full":
        initial = laid_out(random_values(rng, rest), case["w_layout"])
    elif case["initial"] == "broadcast":
        initial = random_values(rng, [length if a % 2 else 1 for a, length in enumerate(rest)], np.float32)
    kind = result_type(x.dtype)
    out = None
    if case["out"] == "x":
        # A writeable array only: neither broadcast nor of another type than the result.
        out = x if case["layout"] != "broadcast" and x.dtype == kind else None
    elif case["out"] is not None:
        out = poisoned_out(shape, kind, case["out"])
    exact_initial = None if initial is None else used(initial, kind)
    return Line(x, w, axis, initial, out, used(x, kind), used(w, kind), exact_initial)


# ---- the error bound


def assert_within(
    y: np.ndarray,
    expected: np.ndarray,
    magnitude: np.ndarray,
    n: int,
    dtype: Any,
    extra: float = 0,
    divided_by: Any = 1.0,
) -> None:
    """|y - expected| <= 2 n eps magnitude, plus one rounding for half types; NaN and Inf exactly where expected.

    `extra` are roundings that n does not count. n smallest subnormals are allowed for gradual underflow of the sums, before
    they are divided by `divided_by`.
    """
    dtype = np.dtype(dtype)
    assert y.dtype == dtype, f"dtype {y.dtype}, wanted {dtype}"
    assert y.shape == expected.shape, f"shape {y.shape}, wanted {expected.shape}"
    eps, smallest = (2.0**-53, 2.0**-1074) if dtype == np.float64 else (2.0**-24, 2.0**-149)
    y = exact(y)
    bound = (2 * n + extra) * eps * magnitude + (n + extra) * smallest / np.minimum(divided_by, 1.0)
    if dtype in HALF_ROUNDING:
        relative, absolute = HALF_ROUNDING[dtype]
        bound = bound + relative * (np.abs(expected) + bound) + absolute
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    error = np.abs(y - expected)
    good = ~finite | (error <= bound)
    if not good.all():
        worst = np.argwhere(~good)[0]
        at = tuple(int(i) for i in worst)
        raise AssertionError(
            f"{(~good).sum()} of {y.size} values beyond the bound, first at {at}: got {y[at]!r}, "
            f"expected {expected[at]!r}, bound {bound[at]!r}"
        )


# ---- equations (7), (8) and (10) from given weights, in float64


def neighbours(x: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
    """N_a(x) = T_a(x) - x without the subtraction: what flows into each position from both sides."""
    f = np.moveaxis(sgs.reference.scan(x, w, axis), axis, -1)
    b = np.moveaxis(sgs.reference.scan(x, w, axis, reverse=True), axis, -1)
    edges = list(x.shape)
    edges[axis] -= 1
    w = np.moveaxis(np.broadcast_to(w, edges), axis, -1)
    total = np.zeros(f.shape)
    with np.errstate(invalid="ignore"):
        total[..., 1:] += np.where(w == 0, 0, w * f[..., :-1])
        total[..., :-1] += np.where(w == 0, 0, w * b[..., 1:])
    return np.moveaxis(total, -1, axis)


@dataclass
class Composed:
    """A block's output, what its error is relative to, and what the sums were divided by."""

    y: np.ndarray
    magnitude: np.ndarray
    divisor: np.ndarray


def compose(
    x: np.ndarray,
    weights: Sequence[np.ndarray],
    axes: Sequence[int],
    normalization: str | None = "cross",
    residual: bool = False,
    confidence: np.ndarray | None = None,
    fill_value: float = 0.0,
    tiny: float = 2.0**-126,
) -> Composed:
    """One block by (7) and (8): x, the weights (each broadcast against x) and the confidence are given, in float64."""
    one = np.ones(x.shape)

    def apply(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c = one if confidence is None else np.broadcast_to(confidence, x.shape)
        cv = np.where(c == 0, 0.0, c * np.where(c == 0, 0.0, v)) if confidence is not None else v
        if normalization is None:
            return sum(cv + neighbours(cv, w, a) for w, a in zip(weights, axes, strict=True)), one
        if normalization == "line":
            parts = [(cv + neighbours(cv, w, a), 1 + neighbours(one, w, a)) for w, a in zip(weights, axes, strict=True)]
            return sum(t / t1 for t, t1 in parts), one
        s = c + sum(neighbours(c, w, a) for w, a in zip(weights, axes, strict=True))
        supported = s >= tiny
        t = cv + sum(neighbours(cv, w, a) for w, a in zip(weights, axes, strict=True))
        s = np.where(supported, s, 1)
        return np.where(supported, t / s, fill_value), s

    y, divisor = apply(x)
    magnitude, _ = apply(np.abs(x))
    magnitude = np.abs(magnitude)
    if residual:
        trusted = x if confidence is None else np.where(np.broadcast_to(confidence, x.shape) == 0, 0, x)
        y, magnitude = y + trusted, magnitude + np.abs(trusted)
    return Composed(y, magnitude, divisor)


def attention(
    position: tuple[int, ...],
    blocks: Sequence[Sequence[np.ndarray]],
    shape: Sequence[int],
    axes: Sequence[int],
    normalization: str | None = "cross",
    residual: bool = False,
    confidence: np.ndarray | None = None,
    tiny: float = 2.0**-126,
) -> np.ndarray:
    """Row `position` of the operator by the adjoint (10); `blocks` has one list of weights for each block."""
    one = np.ones(shape)
    c = None if confidence is None else np.broadcast_to(confidence, shape)
    confidences = []
    for weights in blocks:
        confidences.append(c)
        if c is not None:
            c = c + sum(neighbours(c, w, a) for w, a in zip(weights, axes, strict=True))
    row = np.zeros(shape)
    at: list[Any] = [slice(None)] * len(shape)
    for a, p in zip(axes, position, strict=True):
        at[a] = p
    row[tuple(at)] = 1
    for weights, c in zip(reversed(blocks), reversed(confidences), strict=True):
        pairs = list(zip(weights, axes, strict=True))
        through = row if c is None else np.where(c == 0, 0, row)
        if normalization is None:
            new = sum(row + neighbours(row, w, a) for w, a in pairs)
        elif normalization == "line":
            scaled = [row / (1 + neighbours(one, w, a)) for w, a in pairs]
            new = sum(v + neighbours(v, w, a) for v, (w, a) in zip(scaled, pairs, strict=True))
        else:
            start = one if c is None else c
            s = start + sum(neighbours(start, w, a) for w, a in pairs)
            v = np.where(s >= tiny, row / np.where(s >= tiny, s, 1), 0)
            new = start * (v + sum(neighbours(v, w, a) for w, a in pairs))
        row = new + through if residual else new
    return row


def filter_weights(
    x: np.ndarray,
    guide: np.ndarray | None,
    axes: Sequence[int],
    scale: Sequence[float],
    *,
    channel_axis: int,
    metric: str = "euclidean",
    step: Sequence[float] | float = 0.0,
    heads: int = 1,
    confidence: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The weights that a block of the filter uses for x, exactly, one array per axis, repeated for the channels of a head.

    `confidence` is given with x's shape but length 1 on the channel axis, and only matters where guide is None.
    """
    steps = [step] * len(axes) if np.isscalar(step) else list(step)  # type: ignore[call-overload]
    source = x if guide is None else guide
    weights = []
    for a, s, st in zip(axes, scale, steps, strict=True):
        options = {"channel_axis": channel_axis, "metric": metric, "step": st}
        w = sgs.edge_weights(source, a, s, heads=heads, **options)
        if guide is None and confidence is not None:
            # d = 0 where an end has confidence 0: the weight of an edge in a flat guide.
            flat = sgs.edge_weights(np.zeros_like(source), a, s, heads=heads, **options)
            empty = np.take(confidence, range(confidence.shape[a] - 1), a) == 0
            empty = empty | (np.take(confidence, range(1, confidence.shape[a]), a) == 0)
            w = np.where(empty, flat, w)
        w = used(w, x.dtype)
        weights.append(np.repeat(w, x.shape[channel_axis] // heads, channel_axis))
    return weights


# A part of a program for `run_python`, on Linux.
GUARDED = """
import ctypes, mmap
import numpy as np

def guarded(shape, dtype, beside=1 << 22):
    \"\"\"The same memory's first and last array of a shape, with `beside` bytes before and after that must not be touched.\"\"\"
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, pages + 2 * beside), np.uint8)
    for start in (0, beside + pages):
        libc.mprotect(memory.ctypes.data + start, beside, 0)
    return [memory[first : first + size].view(dtype).reshape(shape) for first in (beside, beside + pages - size)]
"""


def run_python(*parts: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program, in parts that may be indented, in a fresh interpreter; it must succeed."""
    code = "\n".join(textwrap.dedent(part) for part in parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
