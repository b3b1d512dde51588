"""How much memory a call takes: no hidden copy of x whatever its strides, beyond the weights only scratch.

Memory of the compiled core is not seen by tracemalloc, so each case is a process of its own whose peak the kernel reports.
"""

import sys

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")

MEBIBYTE = 2**20
PREPARE = """
import numpy as np
import sgs

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def filled(shape, dtype=np.float32):
    a = np.empty(shape, dtype)
    a.fill(0.5)
    return a
"""
MEASURE = """
# Threads, their stacks and the code itself are there after a small call.
sgs.semi_global_filter(filled((2, 40, 40)), num_threads=2)
before = status("VmRSS")
try:
    forget_peak()
except OSError:
    pass  # then the peak so far counts, which nothing above made larger than what lies in memory now
call()
print(status("VmHWM") - before, x.size * x.itemsize)
"""
# 64 MiB of values each, in memory that x and out share with nobody.
LAYOUTS = {
    "c": "x, out = filled((16, 1024, 1024)), filled((16, 1024, 1024))",
    "transposed": "x, out = filled((1024, 1024, 16)).T, filled((1024, 1024, 16)).T",
    "channels_last": "x, out = np.moveaxis(filled((1024, 1024, 16)), -1, 0), np.moveaxis(filled((1024, 1024, 16)), -1, 0)",
    "reversed": "x, out = filled((16, 1024, 1024))[::-1, ::-1, ::-1], filled((16, 1024, 1024))[:, ::-1]",
    "stepped": "x, out = filled((16, 1024, 2048))[:, :, ::2], filled((16, 2048, 1024))[:, 1::2]",
    "broadcast": "x, out = np.broadcast_to(filled((1024, 1)), (16, 1024, 1024)), filled((16, 1024, 1024))",
    "in_place": "x = out = filled((1024, 1024, 16)).T",
    "half": "x, out = filled((1024, 1024, 32), np.float16).T, filled((1024, 1024, 32), np.float16).T",
    "half_rows": "x = out = filled((32, 1024, 1024), np.float16)",
}
CALLS = {
    "line_rows": "sgs.line_filter(x, w, -1, out=out, num_threads=2)",
    "line_columns": "sgs.line_filter(x, w.T, -2, out=out, num_threads=2)",
    "scan": "sgs.scan(x, w, -1, out=out, num_threads=2)",
    "scan_channels": "sgs.scan(x, w[:15, :1, None], 0, reverse=True, out=out, num_threads=2)",
    "tree": "sgs.tree_aggregate(x, w, -1, root=500, out=out, num_threads=2)",
    "cross": "sgs.semi_global_filter(x, guide, out=out, num_threads=2)",
    "line": "sgs.semi_global_filter(x, guide, normalization='line', residual=True, out=out, num_threads=2)",
    "blocks": "sgs.semi_global_filter(x, guide, blocks=3, normalization=None, out=out, num_threads=2)",
    "trusted": "sgs.semi_global_filter(x, guide, blocks=2, confidence=guide[0], out=out, num_threads=2)",
    "own_guide": "sgs.semi_global_filter(x, blocks=2, out=out, num_threads=2)",
}
PAIRS = [
    *(("cross", layout) for layout in LAYOUTS),
    ("line_rows", "transposed"),
    ("line_rows", "channels_last"),
    ("line_columns", "stepped"),
    ("line_columns", "in_place"),
    ("scan", "reversed"),
    ("scan_channels", "channels_last"),
    ("tree", "transposed"),
    ("line", "channels_last"),
    ("blocks", "transposed"),
    ("blocks", "in_place"),
    ("blocks", "half_rows"),
    ("trusted", "stepped"),
    ("own_guide", "broadcast"),
]


@pytest.mark.parametrize(("call", "layout"), PAIRS)
def test_no_hidden_copy(call: str, layout: str) -> None:
    """One weight per edge and axis is 8 MiB here, the support 4 MiB: less than half of x in all, with scratch."""
    setup = f"{LAYOUTS[layout]}\nw, guide = filled((1024, 1023)), filled((1, 1024, 1024))\n"
    code = f"{PREPARE}\n{setup}\ndef call():\n    {CALLS[call]}\n{MEASURE}"
    extra, size = (int(v) for v in run_python(code).stdout.split())
    assert size == 64 * MEBIBYTE
    assert extra <= 28 * MEBIBYTE, f"{extra / MEBIBYTE:.1f} MiB beside x and out"


def test_memory_does_not_grow_with_the_number_of_lines() -> None:
    """Of the order of the weights, never of N (H + W): here that would be 512 MiB."""
    setup = "x = filled((1, 256, 262144))\nout = filled(x.shape)\nguide = filled((1, 1, 262144))\n"
    code = f"{PREPARE}\n{setup}\ndef call():\n    sgs.line_filter(x, guide[..., 1:], -1, out=out)\n{MEASURE}"
    extra, size = (int(v) for v in run_python(code).stdout.split())
    assert size == 256 * MEBIBYTE
    assert extra <= 16 * MEBIBYTE, f"{extra / MEBIBYTE:.1f} MiB beside x and out"


def test_results_are_freed() -> None:
    """Hundreds of calls leave no more memory behind than ten."""
    code = f"""{PREPARE}
x = filled((4, 120, 120))
def call(times):
    for _ in range(times):
        sgs.semi_global_filter(x, blocks=2, confidence=x[0], num_threads=2)
        sgs.attention_map(x, (1, 1), num_threads=2)
call(10)
before = status("VmRSS")
call(60)
print(status("VmRSS") - before)
"""
    assert int(run_python(code).stdout) < 1.5 * MEBIBYTE  # one array of 56 KiB lost in each call would be 3.3
