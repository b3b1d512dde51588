"""Memory that calls leave for later ones: never seen in a result, shared safely by threads, bounded."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers import run_python

import sgs
from sgs import _core

KEPT = 1 << 26

CALLS = {
    "image": lambda x: sgs.semi_global_filter(x[:3], num_threads=2),
    "planes": lambda x: sgs.semi_global_filter(x[:11], x[:2], normalization="line", num_threads=2),
    "side_by_side": lambda x: sgs.semi_global_filter(x, x[:2], residual=True, num_threads=2),
    "trusted": lambda x: sgs.semi_global_filter(x, x[:2], confidence=np.ones_like(x[0]), blocks=2, num_threads=2),
    "lines": lambda x: sgs.line_filter(x, np.abs(x[0, :, 1:]) % 1, num_threads=2),
    "long_line": lambda x: sgs.semi_global_filter(x.reshape(1, -1), axes=(-1,), num_threads=2),
    "float64": lambda x: sgs.semi_global_filter(x.astype(np.float64), num_threads=2),
}


@pytest.fixture
def kept() -> Iterator[None]:
    """As for users: all other tests ask for fresh memory, which is poisoned."""
    _core.keep_scratch(KEPT)
    yield
    _core.keep_scratch(0)


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((17, 97, 130)).astype(np.float32)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("kept")
def test_what_a_call_leaves_is_not_seen(call: Any) -> None:
    x = values(0)
    _core.keep_scratch(0)
    expected = call(x)
    _core.keep_scratch(KEPT)
    for poison in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            call(np.full_like(x, poison))
        np.testing.assert_array_equal(call(x), expected)


@pytest.mark.usefixtures("kept")
def test_calls_at_the_same_time_do_not_share() -> None:
    inputs = [values(seed) for seed in range(8)]
    expected = [CALLS["side_by_side"](x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for y, one in zip(pool.map(CALLS["side_by_side"], inputs), expected, strict=True):
                np.testing.assert_array_equal(y, one)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use from /proc")
def test_bounded_and_given_back() -> None:
    code = """
import numpy as np
import sgs

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

x = np.ones((16, 512, 4096), np.float32)
y = np.zeros_like(x)
def call(width):
    sgs.semi_global_filter(x[..., :width], x[:2, :, :width], out=y[..., :width], num_threads=2)
call(40)
before = resident()
for width in (3000, 1000, 4096, 300, 2000):
    call(width)
kept = resident()
sgs._core.keep_scratch(0)
print(kept - before, resident() - before)
"""
    kept, afterwards = (int(n) for n in run_python(code).stdout.split())
    slack = 16 << 20  # the allocator's
    assert slack < kept <= KEPT + slack
    assert afterwards < slack
