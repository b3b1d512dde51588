"""Types of the compiled core. Callers validate first (`sgs._check`); the core trusts shapes, strides and dtypes."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

# An ndarray, or (address, dtype code, shape, strides in elements); codes: 0 float16, 1 bfloat16, 2 float32, 3 float64.
Array: TypeAlias = npt.NDArray[Any] | tuple[int, int, Sequence[int], Sequence[int]]

# Codes of `normalization`: what `semi_global_filter` divides by (7). CROSS_SUM is "cross" before the division: x + sum_a N_a(x).
NONE: int
LINE: int
CROSS: int
CROSS_SUM: int
# Codes of `metric` (1).
EUCLIDEAN: int
CITYBLOCK: int
SQEUCLIDEAN: int

def scan(x: Array, w: Array, y: Array, axis: int, reverse: bool, initial: Array | None, num_threads: int) -> None: ...
def line_filter(
    x: Array, w: Array, y: Array, axis: int, left: Array | None, right: Array | None, num_threads: int
) -> None: ...
def tree_aggregate(x: Array, w: Array, y: Array, axis: int, root: int, num_threads: int) -> None: ...
def tree_update(a: Array, w: Array, y: Array, axis: int, root: int, num_threads: int) -> None: ...
def edge_weights(
    guide: Array,
    w: Array,
    channel_axis: int,
    axis: int,
    scale: float,
    step: float,
    metric: int,
    confidence: Array | None,
    num_threads: int,
) -> None: ...
def semi_global_filter(
    x: Array,
    weights: Sequence[Array],
    y: Array,
    axes: Sequence[int],
    normalization: int,
    residual: bool,
    confidence: Array | None,
    fill_value: float,
    support: Array | None,
    num_threads: int,
    blocks: int = 1,
) -> None: ...
def guided_filter(
    x: Array,
    guide: Array,
    channel_axis: int,
    scales: Sequence[float],
    steps: Sequence[float],
    metric: int,
    guide_confidence: Array | None,
    y: Array,
    axes: Sequence[int],
    normalization: int,
    residual: bool,
    confidence: Array | None,
    fill_value: float,
    support: Array | None,
    num_threads: int,
) -> None: ...

# Derivatives (11): the inputs of the forward call and the derivative by its result; then where to write derivatives, each
# of its input's shape, None where not wanted.
def scan_backward(
    x: Array,
    w: Array,
    initial: Array | None,
    y_bar: Array,
    x_bar: Array,
    w_bar: Array | None,
    initial_bar: Array | None,
    axis: int,
    reverse: bool,
    num_threads: int,
) -> None: ...
def line_filter_backward(
    x: Array,
    w: Array,
    left: Array | None,
    right: Array | None,
    y_bar: Array,
    x_bar: Array,
    w_bar: Array | None,
    left_bar: Array | None,
    right_bar: Array | None,
    axis: int,
    num_threads: int,
) -> None: ...
def edge_weights_backward(
    guide: Array,
    w_bar: Array,
    guide_bar: Array | None,
    scale_bar: Array | None,
    step_bar: Array | None,
    channel_axis: int,
    axis: int,
    scale: float,
    step: float,
    metric: int,
    confidence: Array | None,
    num_threads: int,
) -> None: ...
def semi_global_filter_backward(
    x: Array,
    weights: Sequence[Array],
    y_bar: Array,
    x_bar: Array,
    weights_bar: Sequence[Array | None],
    confidence_bar: Array | None,
    axes: Sequence[int],
    normalization: int,
    residual: bool,
    confidence: Array | None,
    num_threads: int,
) -> None: ...
def get_isa() -> str: ...
def set_isa(name: str) -> None: ...
def available_isas() -> list[str]: ...
def forked() -> bool: ...
def keep_scratch(size: int) -> None: ...
def prefer_large_pages(address: int, size: int) -> None: ...
def cuda_available() -> bool: ...
def build_info() -> dict[str, str]: ...

# The same functions on device memory (python/cuda_module.cpp): each ends with a stream and a workspace.
cuda: Any
