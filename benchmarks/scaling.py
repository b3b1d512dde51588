"""Time and memory of one attention-like block against the number of positions N, by four ways to compute one.

Each point is a fresh process (python -m benchmarks.scaling METHOD SIDE THREADS).
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import sgs
from benchmarks import memory, peers, problems
from benchmarks.problems import SCALE
from sgs._bench import Call, in_turn
from sgs.demo import brute_force

SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
CHANNELS, GUIDE_CHANNELS = 8, 4
SECONDS, GIBIBYTES = 4.0, 6.0  # of one call: a method stops before a size that is expected to take more
LONG = 1.0  # seconds: such a call is made once
FIT_FROM = 64  # below, what a call costs by itself hides how it grows


def _linear(x: Any, guide: Any, out: Any) -> Call:
    return lambda: sgs.semi_global_filter(x, guide, SCALE, out=out)


def _brute_force(x: Any, guide: Any, out: Any) -> Call:
    return lambda: np.copyto(out, brute_force(x, guide, SCALE))


def _attention(core: Callable[..., torch.Tensor]) -> Callable[..., Call]:
    def make(x: Any, guide: Any, out: Any) -> Call:
        query, value, y = (torch.from_numpy(a)[None] for a in (guide, x, out))
        key = torch.from_numpy(problems.random(guide.shape, seed=3))[None]
        return lambda: y.copy_(core(query, key, value))

    return make


# How to make the call, and the powers of N by which time and memory are expected to grow at most.
METHODS: dict[str, tuple[Callable[..., Call], float]] = {
    "linear (sgs)": (_linear, 1.0),
    "brute force": (_brute_force, 1.5),
    "criss-cross": (_attention(peers.criss_cross), 1.5),
    "Non-local": (_attention(peers.non_local), 2.0),
}


def _call(method: str, side: int) -> tuple[Call, Any, Any, Any]:
    problem = problems.feature_map(CHANNELS, side, side, guide_channels=GUIDE_CHANNELS)
    x, guide, out = (a[0] for a in problem.arrays())
    return METHODS[method][0](x, guide, out), x, guide, out


def measure(method: str, side: int) -> dict[str, float]:
    """Median seconds of a call, or those of the only one if that is long, and the bytes that it takes beyond its inputs and its output."""
    _call(method, 16)[0]()  # brings threads and code into memory
    call, x, guide, out = _call(method, side)
    start = time.perf_counter()
    extra = memory.beyond(call)
    seconds = time.perf_counter() - start
    if method in ("linear (sgs)", "brute force"):  # two ways to the same answer
        problem = problems.feature_map(CHANNELS, side, side, guide_channels=GUIDE_CHANNELS)
        problem.check(x[None], guide[None], out[None])
    else:
        assert 0 <= out.min() < out.max() <= 1  # means of values between 0 and 1
    if seconds < LONG:
        seconds = float(np.median(in_turn({"call": call}, 0.3)["call"]))
    return {"side": side, "seconds": seconds, "bytes": extra}


def measure_all(sides: Sequence[int], threads: int, advance: Callable[[str], None]) -> dict[str, Any]:
    """Points of each method as far as it gets, and why it stops."""
    results = {}
    for method, (_, power) in METHODS.items():
        points: list[dict[str, float]] = []
        stopped = ""
        for side in sides:
            advance(f"{method}: {side} x {side}")
            growth = (side / points[-1]["side"]) ** (2 * power) if points else 0.0
            seconds, gibibytes = (growth * points[-1][k] if points else 0.0 for k in ("seconds", "bytes"))
            if not stopped and (seconds > SECONDS or gibibytes / 2**30 > GIBIBYTES):
                stopped = f"{side} x {side} is expected to take {seconds:.2g} s and {gibibytes / 2**30:.2g} GiB"
            if not stopped:
                points.append(memory.in_fresh_process("benchmarks.scaling", method, side, threads))
        results[method] = {"points": points, "stopped": stopped}
    return results


def exponent(points: Sequence[dict[str, float]], key: str, least: float = 0.0) -> float | None:
    """The power of N that "seconds" or "bytes" grow by, fitted on logarithms, from `FIT_FROM` and `least` on."""
    kept = [p for p in points if p["side"] >= FIT_FROM and p[key] > least]
    if len(kept) < 2:
        return None
    sides, values = np.log([(p["side"], p[key]) for p in kept]).T
    return float(np.polyfit(2 * sides, values, 1)[0])


def main() -> None:
    """Measure one point, and print what came of it."""
    method, side, threads = sys.argv[1:]
    sgs.set_num_threads(int(threads))
    peers.set_threads(int(threads))
    print(json.dumps(measure(method, int(side))))


if __name__ == "__main__":
    main()
