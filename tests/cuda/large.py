"""Runs sizes that are too large for the tests on the emulated device, and compares with the CPU core: `python tests/cuda/large.py`.

Planes of 8192 x 8192 and lines of 10^6, forward and backward, and more blocks than 65,535. It takes some minutes and 9 GB.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

import harness
from harness import CROSS, LINE, Out

import build
import sgs.torch

F32 = np.dtype(np.float32)


def near(name: str, got: np.ndarray, want: Any) -> None:
    """Within a thousandth of what rounding may do to sums of that many terms; CPU and device add in different orders."""
    want = want.detach().numpy()
    error = np.abs(got - want) / (1 + np.abs(want))
    if not (np.isfinite(got).all() and error.max(initial=0) < 1e-4):
        raise SystemExit(f"{name}: differs by {error.max()}")
    print(f"  {name}: largest difference {error.max(initial=0):.1e}")


def fresh(like: np.ndarray) -> np.ndarray:
    return np.full_like(like, np.nan)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(F32)


def random_weights(*shape: int) -> np.ndarray:
    w = np.random.default_rng(shape).uniform(0.5, 1, shape).astype(F32)
    w.flat[::1009] = 0
    return w


def line(device: harness.Device, n: int, rows: int) -> None:
    x, w, y_bar = random(rows, n), random_weights(1, n - 1), random(rows, n)[:, ::-1]
    y, x_bar, w_bar = fresh(x), fresh(x), fresh(w)
    device.call("line_filter", x, w, Out(y), 1, None, None)
    device.call("line_filter_backward", x, w, None, None, y_bar, Out(x_bar), Out(w_bar), None, None, 1)
    xt, wt = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    yt = sgs.torch.line_filter(xt, wt)
    yt.backward(torch.tensor(y_bar.copy()))
    near("y", y, yt)
    near("x_bar", x_bar, xt.grad)
    near("w_bar", w_bar, wt.grad)


def planes(device: harness.Device, shape: Sequence[int], code: int = CROSS) -> None:
    channels, rows, columns = shape
    x, y_bar = random(*shape), random(*shape)[:, ::-1]
    weights = [random_weights(1, rows - 1, columns), random_weights(1, rows, columns - 1)]
    y = fresh(x)
    device.call("semi_global_filter", x, weights, Out(y), [1, 2], code, True, None, 0.0, None)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *weights)]
    constants = ([-2, -1], code, True, 0.0, 0)
    yt = torch.ops.sgs.semi_global_filter(leaves[0], None, *leaves[1:], *(None,) * 6, *constants)
    near("y", y, yt)
    x_bar, w_bars = fresh(x), [fresh(w) for w in weights]
    outs = (None, Out(x_bar), [Out(b) for b in w_bars], None)
    device.call("semi_global_filter_backward", x, weights, y_bar, *outs, [1, 2], code, True, None)
    yt.backward(torch.tensor(y_bar.copy()))
    for name, got, leaf in zip(("x_bar", "w_bar down", "w_bar across"), (x_bar, *w_bars), leaves, strict=True):
        near(name, got, leaf.grad)


RUNS: dict[str, Callable[[harness.Device], None]] = {
    "one line of 10^6": lambda d: line(d, 10**6, 1),
    "three lines of 10^6": lambda d: line(d, 10**6, 3),
    "ten lines of 10^5": lambda d: line(d, 10**5, 10),
    "70,000 planes of 2x3": lambda d: planes(d, (70_000, 2, 3)),
    'planes of 1100x900, "line"': lambda d: planes(d, (2, 1100, 900), LINE),
    "a plane of 8192x8192": lambda d: planes(d, (1, 8192, 8192)),
    "a plane of 3x10^6": lambda d: planes(d, (1, 3, 10**6)),
}


def main(words: list[str]) -> None:
    device = harness.open_device(str(build.build(build.folder("fibers"))))
    for name, run in RUNS.items():
        if words and not any(w in name for w in words):
            continue
        begin = time.perf_counter()
        print(name, flush=True)
        run(device)
        print(f"  {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
