"""What `sgs bench` measures: shapes beside a copy of the same values, rivals, instruction sets, and time against size."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import sgs
from sgs import _core

Array = npt.NDArray[Any]
Call = Callable[[], object]
Advance = Callable[[], None]  # called after each step of a computation

_SAMPLE_S = 2e-3  # shorter calls are repeated for as long, then neither the clock nor threads that wake up matter
_PAUSE_S = (
    5e-3  # threads of other libraries spin for a few milliseconds after a call, on the cores that the next one needs
)


def in_turn(calls: Mapping[str, Call], seconds: float, least: int = 3) -> dict[str, Array]:
    """Time calls in turn, round by round, so that what else the machine does falls on all of them alike.

    Parameters
    ----------
    calls : mapping of str to callable
        Each is called once or twice before, which warms caches and tells how often to repeat it within a round.
    seconds : float
        For how long to go on.
    least : int
        How many rounds there are at least, however long they take.

    Returns
    -------
    dict of str to ndarray, (rounds,)
        Wall-clock seconds of one call: the mean of the round's repetitions.
    """
    repeats = {}
    for name, call in calls.items():
        once = math.inf
        for _ in range(2):  # the first warms up; of a slow call it says enough
            start = time.perf_counter()
            call()
            once = min(once, time.perf_counter() - start)
            if once > 20 * _SAMPLE_S:
                break
        repeats[name] = math.ceil(_SAMPLE_S / once)
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(rounds[name]) < least or time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(_PAUSE_S)
            if repeats[name] > 1:
                call()  # untimed: threads that slept wake up
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            rounds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(times) for name, times in rounds.items()}


@dataclass(frozen=True)
class Timed:
    """Median seconds of one call on values of so many elements, and of a copy of them."""

    name: str
    elements: int
    seconds: float
    copy: float

    @property
    def ns_per_element(self) -> float:
        """Nanoseconds for one element of x."""
        return 1e9 * self.seconds / self.elements

    @property
    def share_of_copy(self) -> float:
        """1 where the call is as fast as a copy, 0.5 where it takes twice as long."""
        return self.copy / self.seconds


MAP, PHOTO = "feature map 512 x 97 x 97", "image 2048 x 2048 x 3"
# (C, H, W), or (H, W, C) where the channel axis is -1.
SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    MAP: ((512, 97, 97), -3),
    "feature map 64 x 512 x 512": ((64, 512, 512), -3),
    "image 512 x 512 x 3": ((512, 512, 3), -1),
    PHOTO: ((2048, 2048, 3), -1),
    "depth map 1024 x 1024": ((1, 1024, 1024), -3),
}
SIDES = (64, 128, 256, 512, 1024, 2048)
_CHANNELS = 4  # of the values against size, and of guides
_TOLERANCE = 1e-4  # of values between 0 and 1, in float32


class _Problem:
    """One block on random values, and a copy of them. Up to 4 channels guide themselves, others have a guide of 4.

    `shrink` divides height and width, for a quick run.
    """

    def __init__(self, shape: Sequence[int], channel_axis: int, shrink: int) -> None:
        channel = channel_axis % 3
        shape = [n if axis == channel else max(2, n // shrink) for axis, n in enumerate(shape)]
        rng = np.random.default_rng(0)
        self.x = rng.random(shape, np.float32)
        self.out = np.empty_like(self.x)
        self._guide = None if shape[channel] <= _CHANNELS else rng.random((_CHANNELS, *shape[1:]), np.float32)
        self._channel_axis = channel_axis

    def filter(self) -> object:
        return sgs.semi_global_filter(self.x, self._guide, channel_axis=self._channel_axis, out=self.out)

    def copy(self) -> object:
        np.copyto(self.out, self.x)
        return self.out

    def timed(self, name: str, seconds: float) -> Timed:
        times = in_turn({"filter": self.filter, "copy": self.copy}, seconds)
        return Timed(name, self.x.size, float(np.median(times["filter"])), float(np.median(times["copy"])))


def shapes(advance: Advance, seconds: float, shrink: int = 1) -> list[Timed]:
    """Each of `SHAPES` beside `np.copyto`."""
    results = []
    for name, (shape, channel_axis) in SHAPES.items():
        results.append(_Problem(shape, channel_axis, shrink).timed(name, seconds))
        advance()
    return results


def sizes(advance: Advance, seconds: float, shrink: int = 1) -> list[Timed]:
    """Squares of `SIDES` with 4 channels that guide themselves, beside `np.copyto`."""
    results = []
    for side in SIDES:
        results.append(_Problem((_CHANNELS, side, side), -3, shrink).timed(f"{side} x {side}", seconds))
        advance()
    return results


def instruction_sets(advance: Advance, seconds: float, shrink: int = 1) -> dict[str, float]:
    """Median seconds for `MAP` by each instruction set of this machine, in turn; all must give one answer.

    Raises
    ------
    RuntimeError
        They do not.
    """
    problem = _Problem(*SHAPES[MAP], shrink)

    def by(isa: str) -> Call:
        def call() -> object:
            sgs.set_isa(isa)
            return problem.filter()

        return call

    isas = _core.available_isas()
    before = sgs.get_isa()
    try:
        first, *others = [np.array(by(isa)()) for isa in isas]
        for isa, y in zip(isas[1:], others, strict=True):
            if not (difference := float(np.abs(y - first).max())) < _TOLERANCE:
                raise RuntimeError(f"{isa} and {isas[0]} differ by {difference}")
        times = in_turn({isa: by(isa) for isa in isas}, seconds)
    finally:
        sgs.set_isa(before)
    advance()
    return {isa: float(np.median(t)) for isa, t in times.items()}


def rivals(advance: Advance, seconds: float, shrink: int = 1) -> dict[str, float]:
    """Median seconds on `PHOTO`: ours and a copy, torch's copy and OpenCV's domain transform where they are installed."""
    problem = _Problem(*SHAPES[PHOTO], shrink)
    x, out = problem.x, problem.out
    calls: dict[str, Call] = {"sgs, one block": problem.filter, "np.copyto": problem.copy}
    threads = sgs.get_num_threads()
    with suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
        source, target = torch.from_numpy(x), torch.from_numpy(out)
        calls["torch copy_"] = lambda: target.copy_(source)
    with suppress(ImportError, AttributeError):  # opencv-python has no ximgproc
        import cv2

        transform, mode = cv2.ximgproc.dtFilter, cv2.ximgproc.DTF_RF
        cv2.setNumThreads(threads)
        calls["OpenCV dtFilter, one iteration"] = lambda: transform(x, x, 10.0, 1.0, dst=out, mode=mode, numIters=1)
    times = in_turn(calls, seconds)
    advance()
    return {name: float(np.median(t)) for name, t in times.items()}
