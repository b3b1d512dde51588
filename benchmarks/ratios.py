"""The table of ratios: ours against theirs, measured in turn in one session, and what to reach.

`python -m benchmarks` writes the table, `pytest benchmarks -n 0` times each side by itself; both take the rows from here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from skimage import data
from skimage.util import img_as_float32

import sgs
from benchmarks import memory, peers, problems
from benchmarks.peers import UnavailableError
from benchmarks.problems import SCALE, Problem
from sgs import _core, _stereo
from sgs._bench import Call, in_turn

Array = np.ndarray


class Pair(NamedTuple):
    """Two calls whose answers have been checked; `work` is how many times as much ours has to do.

    `copies` does nothing but read the values and write the results as often as ours has to: what remains of its time if
    all sums cost nothing.
    """

    ours: Call
    theirs: Call
    work: float = 1.0
    copies: Call | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    work, against : str
        What is timed, ours and theirs.
    bar, aim : float
        Time of ours over time of theirs: what it must reach, and what it should.
    make : callable
        Makes inputs whose lines are 1 / its argument as long as they should be, checks both answers, and returns the calls.
    """

    work: str
    against: str
    bar: float
    aim: float
    make: Callable[[int], Pair]

    @property
    def name(self) -> str:
        """Of the row, in results."""
        return f"{self.work} / {self.against}"


def measure(row: Row, seconds: float, shrink: int = 1) -> dict[str, Any]:
    """Time both sides of a row in turn.

    Parameters
    ----------
    row : Row
    seconds : float
        For how long, unless three rounds take longer.
    shrink : int
        By how much lines are shortened.

    Returns
    -------
    dict
        Medians of the rounds: "ours" and "theirs" in seconds and their "ratio", with its "quartiles" and how many
        "rounds" there were, and the ratio "copies" of what ours reads and writes, if that is known; or why it was
        "skipped".
    """
    try:
        ours, theirs, work, copies = row.make(shrink)
        # After ours, which leaves in the caches what it can, while ours comes after theirs.
        between = {} if copies is None else {"copies": copies}
        times = in_turn({"ours": ours, **between, "theirs": theirs}, seconds)
    except UnavailableError as error:
        return {"skipped": str(error)}
    ratios = times["ours"] / times["theirs"] / work
    bound = {name: float(np.median(times[name] / times["theirs"])) for name in between}
    return {
        "ours": float(np.median(times["ours"])),
        "theirs": float(np.median(times["theirs"])),
        "ratio": float(np.median(ratios)),
        "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
        "rounds": len(ratios),
        "torch": torch.__version__,
        **bound,
    }


def _copies(x: Array, *results: Array) -> Call:
    """A copy of x to each result, by torch."""
    source, targets = torch.from_numpy(x), [torch.from_numpy(y) for y in results]

    def call() -> None:
        for target in targets:
            target.copy_(source)

    return call


def _agree(y: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(y), np.asarray(expected), rtol=1e-4, atol=1e-4)


def _ours(problem: Problem, shrink: int, dtype: Any = np.float32, **options: Any) -> tuple[Call, Array, Array]:
    """Our call, checked by the definition, and its arrays: values and result."""
    problem = problem.smaller(shrink)
    memory.need(3 * problem.nbytes)
    x, guide, out = problem.arrays(dtype)

    def call() -> Array:
        return problem.run(x, guide, out=out, **options)

    problem.check(x, guide, call())
    return call, x, out


# ---- against copies


def _torch_copy(shrink: int) -> Pair:
    call, x, _ = _ours(problems.BATCH, shrink)
    target = np.empty_like(x)
    copy = _copies(x, target)
    copy()
    _agree(target, x)
    return Pair(call, copy)


def _numpy_copy(shrink: int) -> Pair:
    call, x, _ = _ours(problems.PHOTO, shrink)
    target = np.empty_like(x)
    np.copyto(target, x)
    _agree(target, x)
    return Pair(call, lambda: np.copyto(target, x))


# ---- against other filters


def _domain_transform(shrink: int) -> Pair:
    call, x, result = _ours(problems.PHOTO, shrink)
    photo = x[0]
    out = np.empty_like(photo)
    constant = np.full_like(photo, 0.5)
    _agree(peers.domain_transform(constant, out), constant)
    smooth = peers.domain_transform(photo, out)
    assert 0 <= smooth.min() < smooth.max() <= 1 + 1e-5
    assert smooth.std() < photo.std()
    return Pair(call, lambda: peers.domain_transform(photo, out), copies=_copies(x, result))


def _stereo_volume(shrink: int) -> Pair:
    left, right, _ = (a[::shrink, ::shrink] for a in data.stereo_motorcycle())
    photo = img_as_float32(left)
    volume = _stereo.matching_cost(photo, img_as_float32(right), problems.STEREO[0] // shrink)
    guide = np.ascontiguousarray(np.moveaxis(photo, -1, 0))
    assert shrink > 1 or volume.shape == problems.STEREO

    result, few = np.empty_like(volume), volume[:2]

    def ours() -> Array:
        return sgs.semi_global_filter(volume, guide, 0.1, blocks=3, out=result)

    _agree(ours()[:2], sgs.reference.semi_global_filter(few, guide, 0.1, blocks=3))
    theirs, constant = np.empty_like(volume), np.full_like(few, 0.5)
    _agree(peers.guided_filter(photo, constant, np.empty_like(few)), constant)
    return Pair(ours, lambda: peers.guided_filter(photo, volume, theirs), copies=_copies(volume, result))


# ---- against attention


def _attention(core: Callable[..., torch.Tensor], shrink: int) -> Pair:
    problem = problems.MAP.smaller(shrink)
    arrays = problem.arrays()
    x, guide = (torch.from_numpy(a) for a in arrays[:2])
    key = torch.from_numpy(problems.random(tuple(guide.shape), seed=3))

    def ours() -> torch.Tensor:
        return sgs.torch.semi_global_filter(x, guide, SCALE)

    problem.check(*arrays[:2], ours().numpy())
    _check_attention(core, guide, key, x)
    return Pair(ours, lambda: core(guide, key, x), copies=_copies(arrays[0], arrays[2]))


def _check_attention(
    core: Callable[..., torch.Tensor], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> None:
    """At one position, in float64, the weighted mean of the positions that it attends to."""
    y = core(query, key, value)
    height, width = value.shape[-2:]
    i, j = height // 3, width // 2
    seen = torch.ones(height, width, dtype=torch.bool)
    if core is peers.criss_cross:
        seen[...] = False
        seen[i] = seen[:, j] = True
    q, k, v = query[0, :, i, j].double(), key[0][:, seen].double(), value[0][:, seen].double()
    _agree(y[0, :, i, j], v @ (q @ k).softmax(-1))


# ---- line filters alone


def _line_filters(peer: Callable[[Array, Array, Array], peers.LineFilters], shrink: int) -> Pair:
    channels, height, width = problems.MAP.smaller(shrink).shape[1:]
    x = problems.random((channels, height, width))
    rows, columns = problems.random((height, width - 1), seed=1), problems.random((height - 1, width), seed=2)
    along_rows, along_columns = np.empty_like(x), np.empty_like(x)

    def ours() -> tuple[Array, Array]:
        return sgs.line_filter(x, rows, -1, out=along_rows), sgs.line_filter(x, columns, -2, out=along_columns)

    theirs = peer(x, rows, columns)
    for y, w, axis, by_peer in zip(ours(), (rows, columns), (-1, -2), theirs(), strict=True):
        _agree(by_peer, y)
        _agree(y[:2], sgs.reference.line_filter(x[:2], w, axis))
    return Pair(ours, theirs, copies=_copies(x, along_rows, along_columns))


# ---- against ourselves


def _block(shrink: int) -> Pair:
    x = torch.from_numpy(problems.MAP.smaller(shrink).arrays()[0])
    block = sgs.nn.SemiGlobalBlock(problems.MAP.shape[1])

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return block(x)

    @torch.no_grad()
    def convolutions() -> tuple[torch.Tensor, torch.Tensor]:
        return block.lambda_(x), block.psi(x)

    guide, values = (a.numpy() for a in convolutions())
    few = sgs.reference.semi_global_filter(values[:, :2], guide, 1.0)  # alpha and beta start at 1
    _agree(ours()[:, :2], few + x[:, :2].numpy())
    return Pair(ours, convolutions)


def _backward(shrink: int) -> Pair:
    problem = problems.TRAINING.smaller(shrink)
    x, guide = (torch.from_numpy(a).requires_grad_() for a in problem.arrays()[:2])
    seed = torch.from_numpy(problems.random(problem.shape, seed=3))

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return sgs.torch.semi_global_filter(x, guide, SCALE)

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(sgs.torch.semi_global_filter(x, guide, SCALE), (x, guide), seed)

    # The filter is linear in x, so <y, seed> = <x, gradient of x>.
    product = float((x.detach().double() * both()[0].double()).sum())
    _agree(product / float((forward().double() * seed.double()).sum()), 1.0)
    return Pair(both, forward)


def _half(isa: str, dtype: Any, shrink: int) -> Pair:
    if f"x86-64-{isa}" not in _core.available_isas():
        raise UnavailableError(f"this machine has no {isa}")

    def forced(call: Call) -> Call:
        def with_isa() -> object:
            before = sgs.get_isa()
            sgs.set_isa(f"x86-64-{isa}")
            try:
                return call()
            finally:
                sgs.set_isa(before)

        return with_isa

    half, full = (forced(_ours(problems.HALF, shrink, kind)[0]) for kind in (dtype, np.float32))
    return Pair(half, full)


def _threads(shrink: int) -> Pair:
    two, one = (_ours(problems.CACHED, shrink, num_threads=n)[0] for n in (2, 1))
    return Pair(two, one)


def _sizes(channels: int, shrink: int) -> Pair:
    large, x, _ = _ours(problems.LARGE[channels], shrink)
    small, y, _ = _ours(problems.SMALL[channels], shrink)
    return Pair(large, small, x.size / y.size)


_FEATURES = "forward, 512x97x97, guide of 64 channels"
_LINES = "both line filters alone, 512x97x97"
ROWS = (
    Row("forward, 8x512x97x97, guide of 4 channels", "torch copy_", 2.5, 1.5, _torch_copy),
    Row("forward, image 2048x2048x3, self-guided", "np.copyto", 10, 5, _numpy_copy),
    Row("forward, image 2048x2048x3, self-guided", "OpenCV dtFilter RF", 1 / 5, 1 / 15, _domain_transform),
    Row(_FEATURES, "criss-cross attention", 1 / 20, 1 / 40, partial(_attention, peers.criss_cross)),
    Row(_FEATURES, "Non-local attention", 1 / 200, 1 / 400, partial(_attention, peers.non_local)),
    Row(_LINES, "numba, parallel", 1 / 4, 1 / 8, partial(_line_filters, peers.numba_line_filters)),
    Row(_LINES, "torch loop", 1 / 20, 1 / 40, partial(_line_filters, peers.torch_loop)),
    Row(_LINES, "compiled associative_scan", 1 / 50, 1 / 100, partial(_line_filters, peers.compiled_associative_scan)),
    Row(_LINES, "PhilTorch", 1 / 10, 1 / 20, partial(_line_filters, peers.philtorch_recurrence)),
    Row("SemiGlobalBlock(512) forward, 97x97", "its two 1x1 convolutions", 1.2, 1.1, _block),
    Row("forward + backward, 2x512x97x97, guide of 64", "forward", 4, 3, _backward),
    *(
        Row(f"{name} forward, 64x512x512, {isa}", f"float32 forward, {isa}", 1, 0.7, partial(_half, isa, dtype))
        for isa in ("v3", "v4")
        for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16))
    ),
    Row("2 threads, 64x97x97, in cache", "1 thread", 0.6, 0.52, _threads),
    *(Row(f"time per position, {c}x4096x4096", f"{c}x512x512", 1.5, 1.1, partial(_sizes, c)) for c in problems.LARGE),
    Row("stereo cost volume 72x500x741, 3 blocks", "OpenCV guided filter, r 9", 1 / 15, 1 / 40, _stereo_volume),
)
