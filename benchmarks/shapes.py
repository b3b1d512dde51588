"""Every shape beside a copy of the same array, and every instruction set on a few of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import sgs
from benchmarks import memory, problems
from benchmarks.peers import UnavailableError
from benchmarks.problems import Problem
from sgs import _core
from sgs._bench import Call, in_turn

BY_ISA = (problems.feature_map(512, 97, 97), problems.HALF, problems.PHOTO, problems.lines(1000, 1000))


def measure(problem: Problem, seconds: float, shrink: int = 1) -> dict[str, Any]:
    """Time one shape and torch's `copy_` of its values in turn.

    Returns
    -------
    dict
        Medians "ns" and "copy_ns" for each element, or why it was "skipped".
    """
    small = problem.smaller(shrink)
    described = {"kind": problem.kind, "name": problem.name, "batch": problem.batch, "elements": small.elements}
    try:
        memory.need(3 * small.nbytes)
    except UnavailableError as error:
        return {**described, "skipped": str(error)}
    x, guide, out = small.arrays()
    small.check(x, guide, small.run(x, guide, out=out))
    source, target = torch.from_numpy(x), torch.from_numpy(out)
    calls: dict[str, Call] = {"ns": lambda: small.run(x, guide, out=out), "copy_ns": lambda: target.copy_(source)}
    times = in_turn(calls, seconds)
    return {**described, **{name: 1e9 * float(np.median(t)) / small.elements for name, t in times.items()}}


def measure_all(
    chosen: Sequence[Problem], seconds: float, shrink: int, advance: Callable[[str], None]
) -> list[dict[str, Any]]:
    """`measure` of each, telling which is next."""
    results = []
    for problem in chosen:
        advance(f"{problem.kind}: {problem.batch} x {problem.name}")
        results.append(measure(problem, seconds, shrink))
    return results


def by_isa(seconds: float, shrink: int, advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Nanoseconds per element of each of `BY_ISA` with each instruction set, in turn."""

    def forced(isa: str, call: Call) -> Call:
        def with_isa() -> None:
            sgs.set_isa(isa)
            call()

        return with_isa

    results = []
    before = sgs.get_isa()
    for problem in BY_ISA:
        advance(f"{problem.kind}: {problem.name}")
        small = problem.smaller(shrink)
        x, guide, out = small.arrays()

        def run(small: Problem = small, x: Any = x, guide: Any = guide, out: Any = out) -> object:
            return small.run(x, guide, out=out)

        try:
            for isa in _core.available_isas():
                forced(isa, run)()
                small.check(x, guide, out)
            times = in_turn({isa: forced(isa, run) for isa in _core.available_isas()}, seconds)
        finally:
            sgs.set_isa(before)
        ns = {isa: 1e9 * float(np.median(t)) / small.elements for isa, t in times.items()}
        results.append({"kind": problem.kind, "name": problem.name, "ns": ns})
    return results
