"""What `sgs bench` measures: shapes beside a copy of the same arrays, instruction sets, and time against size."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import sgs
from sgs import _core

Array = npt.NDArray[Any]
Call = Callable[[], object]
Advance = Callable[[], None]  # called after each step of a computation

_SAMPLE_S = 1e-3  # shorter calls are repeated for about as long, then neither the clock nor the first of them matters
_PAUSE_S = 5e-3  # threads of other libraries spin for a few milliseconds after a call, on the cores that the next one needs


def in_turn(calls: Mapping[str, Call], seconds: float, least: int = 3) -> dict[str, Array]:
    """Time calls in turn, round by round, so that what else the machine does falls on all of them alike.

    Parameters
    ----------
    calls : mapping of str to callable
        Each is called once before, which warms caches and tells how often to repeat it within a round.
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
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(_SAMPLE_S / (time.perf_counter() - start)))
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
    """Median seconds of one call, for how many elements, and of a copy of them."""

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


# (H, W, C) images and (C, H, W) feature maps; `sgs bench` divides H and W for a quick run.
SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "feature map 512 x 97 x 97": ((512, 97, 97), -3),
    "feature map 64 x 128 x 128": ((64, 128, 128), -3),
    "feature map 16 x 1024 x 1024": ((16, 1024, 1024), -3),
    "image 1024 x 1024 x 3": ((1024, 1024, 3), -1),
    "image 2048 x 2048 x 3": ((2048, 2048, 3), -1),
    "depth map 1024 x 1024": ((1, 1024, 1024), -3),
}
SIDES = (128, 256, 512, 1024, 2048)
_CHANNELS = 4  # of guides, and of the values against size


def _smaller(shape: Sequence[int], channel_axis: int, shrink: int) -> tuple[int, ...]:
    channel = channel_axis % len(shape)
    return tuple(n if axis == channel else max(2, n // shrink) for axis, n in enumerate(shape))


def _random(shape: Sequence[int]) -> Array:
    return np.random.default_rng(0).random(shape, np.float32)


def _filter_and_copy(shape: Sequence[int], channel_axis: int) -> dict[str, Call]:
    """One block on random values, and a copy of them. Images guide themselves, feature maps have a smaller guide."""
    x = _random(shape)
    own = shape[channel_axis] <= _CHANNELS
    guide = None if own else _random((_CHANNELS, *shape[1:]))
    out = np.empty_like(x)
    return {
        "filter": lambda: sgs.semi_global_filter(x, guide, channel_axis=channel_axis, out=out),
        "copy": lambda: np.copyto(out, x),
    }


def _timed(name: str, shape: Sequence[int], channel_axis: int, seconds: float) -> Timed:
    times = in_turn(_filter_and_copy(shape, channel_axis), seconds)
    return Timed(name, int(np.prod(shape)), float(np.median(times["filter"])), float(np.median(times["copy"])))


def shapes(advance: Advance, seconds: float, shrink: int = 1) -> Iterable[Timed]:
    """Each of `SHAPES`, H and W divided by `shrink`, beside `np.copyto`."""
    for name, (shape, channel_axis) in SHAPES.items():
        small = _smaller(shape, channel_axis, shrink)
        yield _timed(name, small, channel_axis, seconds)
        advance()


def sizes(advance: Advance, seconds: float, shrink: int = 1) -> Iterable[Timed]:
    """Squares of `SIDES` divided by `shrink`, with 4 channels that guide themselves."""
    for side in SIDES:
        shape = _smaller((_CHANNELS, side, side), -3, shrink)
        yield _timed(f"{shape[1]} x {shape[2]}", shape, -3, seconds)
        advance()


def instruction_sets(advance: Advance, seconds: float, shrink: int = 1) -> Mapping[str, float]:
    """Nanoseconds per element of the first shape, by each instruction set that this machine has, in turn."""
    shape, channel_axis = next(iter(SHAPES.values()))
    small = _smaller(shape, channel_axis, shrink)
    filtering = _filter_and_copy(small, channel_axis)["filter"]

    def by(isa: str) -> Call:
        def call() -> None:
            sgs.set_isa(isa)
            filtering()

        return call

    before = sgs.get_isa()
    try:
        times = in_turn({isa: by(isa) for isa in _core.available_isas()}, seconds)
    finally:
        sgs.set_isa(before)
    advance()
    return {isa: 1e9 * float(np.median(t)) / int(np.prod(small)) for isa, t in times.items()}


def others(advance: Advance, seconds: float, shrink: int = 1) -> Mapping[str, float]:
    """Median seconds on the image of `SHAPES`: ours, and OpenCV's domain transform where it is installed."""
    shape, channel_axis = SHAPES["image 2048 x 2048 x 3"]
    x = _random(_smaller(shape, channel_axis, shrink))
    out = np.empty_like(x)
    calls: dict[str, Call] = {"sgs": lambda: sgs.semi_global_filter(x, channel_axis=channel_axis, out=out)}
    return calls
