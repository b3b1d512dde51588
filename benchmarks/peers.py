"""What a user could pick instead, written as well as its own users would write it.

The line filters take values (C, H, W) and, shared by all channels, the weights of the edges along rows (H, W - 1) and along
columns (H - 1, W). Each prepares what can be prepared, layouts and compilation, before the call that is timed.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan
from torch.nn.functional import pad, scaled_dot_product_attention

Array = npt.NDArray[Any]
LineFilters = Callable[[], tuple[Array, Array]]  # both line filters: along rows, along columns


class UnavailableError(Exception):
    """A peer, an instruction set or memory that this machine has not."""


def set_threads(count: int) -> None:
    """The same number for all."""
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    cv2.setNumThreads(count)


# ---- line filters: the same function as ours


@numba.njit(fastmath={"contract"}, inline="always")
def _numba_rows(x: Array, w: Array, y: Array) -> None:
    """Four rows at a time: each waits for its own last sum only."""
    height, width = x.shape
    whole = height - height % 4
    for i in range(0, whole, 4):
        a = b = c = d = np.float32(0)
        for j in range(width):
            if j:
                a, b, c, d = w[i, j - 1] * a, w[i + 1, j - 1] * b, w[i + 2, j - 1] * c, w[i + 3, j - 1] * d
            a, b, c, d = x[i, j] + a, x[i + 1, j] + b, x[i + 2, j] + c, x[i + 3, j] + d
            y[i, j], y[i + 1, j], y[i + 2, j], y[i + 3, j] = a, b, c, d
        a, b, c, d = x[i, -1], x[i + 1, -1], x[i + 2, -1], x[i + 3, -1]
        for j in range(width - 2, -1, -1):
            a, b, c, d = w[i, j] * a, w[i + 1, j] * b, w[i + 2, j] * c, w[i + 3, j] * d
            y[i, j] += a
            y[i + 1, j] += b
            y[i + 2, j] += c
            y[i + 3, j] += d
            a, b, c, d = x[i, j] + a, x[i + 1, j] + b, x[i + 2, j] + c, x[i + 3, j] + d
    for i in range(whole, height):
        a = np.float32(0)
        for j in range(width):
            a = x[i, j] + (w[i, j - 1] * a if j else np.float32(0))
            y[i, j] = a
        a = x[i, -1]
        for j in range(width - 2, -1, -1):
            a = w[i, j] * a
            y[i, j] += a
            a += x[i, j]


@numba.njit(fastmath={"contract"}, inline="always")
def _numba_columns(x: Array, w: Array, y: Array) -> None:
    """Blocks of columns whose last sums stay in the nearest cache; the inner loop runs along memory."""
    height, width = x.shape
    block = 512
    last = np.empty(min(block, width), np.float32)
    for start in range(0, width, block):
        stop = min(start + block, width)
        for j in range(start, stop):
            y[0, j] = x[0, j]
        for i in range(1, height):
            for j in range(start, stop):
                y[i, j] = x[i, j] + w[i - 1, j] * y[i - 1, j]
        for j in range(start, stop):
            last[j - start] = x[height - 1, j]
        for i in range(height - 2, -1, -1):
            for j in range(start, stop):
                flow = w[i, j] * last[j - start]
                y[i, j] += flow
                last[j - start] = x[i, j] + flow


@numba.njit(parallel=True, fastmath={"contract"})
def _numba_line_filters(x: Array, rows: Array, columns: Array, along_rows: Array, along_columns: Array) -> None:
    for c in numba.prange(x.shape[0]):
        _numba_rows(x[c], rows, along_rows[c])
        _numba_columns(x[c], columns, along_columns[c])


def numba_line_filters(x: Array, rows: Array, columns: Array) -> LineFilters:
    """One parallel function, a plane at a time, so that it is in cache for the second axis."""
    along_rows, along_columns = np.empty_like(x), np.empty_like(x)

    def call() -> tuple[Array, Array]:
        _numba_line_filters(x, rows, columns, along_rows, along_columns)
        return along_rows, along_columns

    return call


def _by_axis(
    x: Array, rows: Array, columns: Array, prepare: Callable[[Tensor], Callable[[Tensor], Tensor]], at: int
) -> LineFilters:
    """Both filters by a function that wants the filtered axis at `at`: there and back is part of what is timed.

    Weights, (1, n - 1, ...) with that axis moved, are prepared before.
    """
    values = torch.from_numpy(x)

    def along(w: Array, axis: int) -> Callable[[], Array]:
        apply = prepare(torch.from_numpy(w[np.newaxis]).movedim(axis, at).contiguous())
        return lambda: apply(values.movedim(axis, at).contiguous()).movedim(at, axis).contiguous().numpy()

    in_rows, in_columns = along(rows, -1), along(columns, -2)
    return lambda: (in_rows(), in_columns())


def torch_loop(x: Array, rows: Array, columns: Array) -> LineFilters:
    """A loop over rows and over columns, two fused operations on whole slices for each."""

    def prepare(w: Tensor) -> Callable[[Tensor], Tensor]:
        def apply(x: Tensor) -> Tensor:
            y = torch.empty_like(x)
            y[0] = x[0]
            for i in range(1, len(x)):
                torch.addcmul(x[i], w[i - 1], y[i - 1], out=y[i])
            last = x[-1]
            for i in range(len(x) - 2, -1, -1):
                flow = w[i] * last
                y[i] += flow
                last = x[i] + flow
            return y

        return apply

    return _by_axis(x, rows, columns, prepare, at=0)


def _combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    (a, x), (b, y) = left, right
    return a * b, y + b * x


def _scanned(x: Tensor, w: Tensor, reverse: bool) -> Tensor:
    return associative_scan(_combine, (w, x), dim=0, combine_mode="generic", reverse=reverse)[1]


def compiled_associative_scan(x: Array, rows: Array, columns: Array) -> LineFilters:
    """torch's parallel scan, compiled. One weight for all channels and one function for each direction are fastest."""
    scanned = torch.compile(_scanned, dynamic=False)

    def prepare(w: Tensor) -> Callable[[Tensor], Tensor]:
        before, after = (pad(w, (0, 0, 0, 0, *ends)) for ends in ((1, 0), (0, 1)))
        return lambda x: scanned(x, before, False).add_(scanned(x, after, True)).sub_(x)

    return _by_axis(x, rows, columns, prepare, at=0)


def philtorch_recurrence(x: Array, rows: Array, columns: Array) -> LineFilters:
    """PhilTorch's recurrence with coefficients that vary, on sequences (lines, n), there and back."""
    try:
        from philtorch.lpv import linear_recurrence
    except ImportError as error:
        raise UnavailableError(f"PhilTorch: {error}") from error

    zero = torch.zeros(())

    def prepare(w: Tensor) -> Callable[[Tensor], Tensor]:
        # It wants a weight for every value of every sequence.
        shape = (len(x), *w.shape[1:-1], w.shape[-1] + 1)
        before, after = (pad(w, ends).expand(shape).reshape(-1, shape[-1]) for ends in ((1, 0), (0, 1)))
        after = after.flip(-1)

        def apply(values: Tensor) -> Tensor:
            lines = values.view(before.shape)
            forward = linear_recurrence(before, zero, lines)
            backward = linear_recurrence(after, zero, lines.flip(-1)).flip(-1)
            return (forward + backward - lines).view(shape)

        return apply

    return _by_axis(x, rows, columns, prepare, at=-1)


# ---- attention: another function of the same inputs


def criss_cross(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The core of `sgs.nn.CrissCrossAttention`, once: query and key (N, C', H, W), value (N, C, H, W)."""
    column = torch.einsum("ncij,nckj->nijk", query, key)
    row = torch.einsum("ncij,ncik->nijk", query, key)
    height = query.shape[-2]
    # The centre is on both lines and counts in the row only.
    column = column.masked_fill(torch.eye(height, dtype=torch.bool, device=query.device).unsqueeze(1), float("-inf"))
    joint = torch.cat([column, row], -1).softmax(-1)
    column, row = joint[..., :height], joint[..., height:]
    return torch.einsum("nijk,nckj->ncij", column, value) + torch.einsum("nijk,ncik->ncij", row, value)


def non_local(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The core of `sgs.nn.NonLocalBlock`: every position attends to every other."""
    q, k, v = (a.flatten(-2).transpose(-1, -2) for a in (query, key, value))
    y = scaled_dot_product_attention(q, k, v, scale=1.0)
    return y.transpose(-1, -2).unflatten(-1, value.shape[-2:])


# ---- OpenCV: other edge-aware filters


def domain_transform(photo: Array, out: Array) -> Array:
    """One iteration of the recursive filter of the domain transform, which both axes make, on (H, W, C)."""
    return cv2.ximgproc.dtFilter(photo, photo, 10.0, 1.0, dst=out, mode=cv2.ximgproc.DTF_RF, numIters=1)


def guided_filter(guide: Array, volume: Array, out: Array) -> Array:
    """OpenCV's guided filter of radius 9 on every plane (D, H, W); what depends on the guide (H, W, 3) is computed once."""
    guided = cv2.ximgproc.createGuidedFilter(guide, 9, 0.01)
    for plane, result in zip(volume, out, strict=True):
        guided.filter(plane, result)
    return out
