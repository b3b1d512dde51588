"""The computations of `sgs demo`, on the photos that come with scikit-image.

Parameters of all methods, ours and others', were chosen by a search on the very pictures shown here, so the figures
compare methods at their best and say nothing about pictures that no one has tuned for."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import interpolate, ndimage, stats
from skimage import data, transform
from skimage.util import img_as_float32

import sgs
from sgs import _stereo

Array = npt.NDArray[Any]
Advance = Callable[[], None]  # called after each step of a computation


def _ignore() -> None:
    pass


def _ximgproc() -> Any:
    """OpenCV's module of edge-aware filters, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return getattr(cv2, "ximgproc", None)


# ---- (a) smoothing


SMOOTHING_SCALES = (0.05, 0.15, 0.45)


def smoothing(advance: Advance = _ignore) -> tuple[Array, dict[float, Array], dict[float, float]]:
    """(a) The astronaut, smoothed at each scale, and the seconds that it took."""
    photo = img_as_float32(data.astronaut())
    smoothed, seconds = {}, {}
    for scale in SMOOTHING_SCALES:
        start = time.perf_counter()
        smoothed[scale] = sgs.semi_global_filter(photo, photo, scale, channel_axis=-1, blocks=3, step=0.02)
        seconds[scale] = time.perf_counter() - start
        advance()
    return photo, smoothed, seconds


# ---- (b) attention


POSITIONS = ((450, 330), (345, 130), (150, 290))  # helmet, suit, wall
ATTENTION_SCALE = 0.5  # wide enough to see whole objects


def attention(
    photo: Array,
    positions: Sequence[tuple[int, int]],
    scale: float | Sequence[float],
    step: float | Sequence[float] = 0.0,
    metric: str = "euclidean",
) -> list[list[Array]]:
    """(b) For each position (y, x) in a photo (H, W, C) the maps of one block and of two."""
    options: dict[str, Any] = {"scale": scale, "step": step, "metric": metric, "channel_axis": -1}
    return [[sgs.attention_map(photo, at, blocks=blocks, **options) for blocks in (1, 2)] for at in positions]


def astronaut_attention(advance: Advance = _ignore) -> tuple[Array, list[list[Array]]]:
    """(b) The astronaut and its maps at `POSITIONS`."""
    photo = img_as_float32(data.astronaut())
    maps = []
    for position in POSITIONS:
        maps += attention(photo, [position], ATTENTION_SCALE)
        advance()
    return photo, maps


def effective_pixels(weights: Array) -> float:
    """How many pixels count in a map: the exponential of its entropy, which of n equal weights is n."""
    return float(np.exp(stats.entropy(weights.ravel())))


# ---- (c) and (d): disparities


@dataclass(frozen=True)
class Scored:
    """A disparity map and how good it is where the truth is known."""

    name: str
    ours: bool
    disparity: Array
    seconds: float
    mean_error: float
    wrong_by_1: float  # per cent of pixels
    wrong_by_2: float


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on `stereo_motorcycle`."""

    photo: Array
    truth: Array
    results: list[Scored]


def _all_scored(
    truth: Array, methods: dict[str, Callable[[], Array]], decide: Callable[[Array], Array], advance: Advance
) -> list[Scored]:
    """Run each method, which alone is timed, and score the disparities that `decide` makes of its result."""
    results = []
    for name, method in methods.items():
        start = time.perf_counter()
        result = method()
        seconds = time.perf_counter() - start
        disparity = decide(result)
        wrong = [_stereo.percent_wrong(disparity, truth, by) for by in (1, 2)]
        mean_error = float(_stereo.errors(disparity, truth).mean())
        results.append(Scored(name, name.startswith("sgs"), disparity, seconds, mean_error, *wrong))
        advance()
    return results


def _every_plane(volume: Array, method: Callable[[Array], Array]) -> Array:
    return np.stack([method(plane) for plane in volume])


STEREO_BLOCKS = 6
STEREO: dict[str, Any] = {"scale": (0.08, 0.14), "step": 0.0}


def stereo(advance: Advance = _ignore) -> Comparison:
    """(c) A matching cost of 72 disparities, aggregated in several ways; the disparity of least cost is taken."""
    left, right, truth = data.stereo_motorcycle()
    photo = img_as_float32(left)
    cost = _stereo.matching_cost(photo, img_as_float32(right))
    guide8 = _stereo.smooth_guide(left)
    guide = img_as_float32(guide8)
    channels_first = np.moveaxis(guide, -1, 0)
    advance()

    def ours() -> Array:
        return sgs.semi_global_filter(cost, channels_first, blocks=STEREO_BLOCKS, **STEREO)

    methods: dict[str, Callable[[], Array]] = {
        "no aggregation": lambda: cost,
        "box filter, 17 x 17": lambda: ndimage.uniform_filter(cost, (1, 17, 17)),
    }
    if (ximgproc := _ximgproc()) is not None:
        methods["guided filter"] = lambda: _every_plane(cost, ximgproc.createGuidedFilter(guide, 9, 0.01).filter)
        methods["fast global smoother"] = lambda: _every_plane(
            cost, ximgproc.createFastGlobalSmootherFilter(guide8, 100, 12, 0.15, 3).filter
        )
    methods[f"sgs, {STEREO_BLOCKS} blocks"] = ours
    return Comparison(photo, truth, _all_scored(truth, methods, lambda cost: cost.argmin(axis=0), advance))


FILL_BLOCKS = 8
FILL: dict[str, Any] = {"scale": 0.0043, "step": 0.004, "metric": "sqeuclidean"}


def fill(advance: Advance = _ignore) -> Comparison:
    """(d) Every 8th pixel of the truth in rows and columns, and the rest filled from them."""
    left, _, truth = data.stereo_motorcycle()
    photo = img_as_float32(left)
    confidence = np.zeros(truth.shape, np.float32)
    confidence[4::8, 4::8] = _stereo.known(truth)[4::8, 4::8]
    samples = np.where(confidence > 0, truth, 0).astype(np.float32)
    advance()

    def bilinear() -> Array:
        return _bilinear(samples[4::8, 4::8], confidence[4::8, 4::8] > 0, truth.shape)

    def smoother() -> Array:
        smooth = ximgproc.createFastGlobalSmootherFilter(left, 6, 5, 0.7, 5).filter
        total, support = smooth(samples), smooth(confidence)
        return np.asarray(np.divide(total, support, out=np.zeros_like(total), where=support > 0))

    def ours() -> Array:
        guide = np.moveaxis(photo, -1, 0)
        return sgs.semi_global_filter(samples, guide, channel_axis=0, blocks=FILL_BLOCKS, confidence=confidence, **FILL)

    methods = {"bilinear": bilinear}
    if (ximgproc := _ximgproc()) is not None:
        methods["fast global smoother"] = smoother
    methods[f"sgs, {FILL_BLOCKS} blocks"] = ours
    return Comparison(photo, truth, _all_scored(truth, methods, np.asarray, advance))


def _bilinear(grid: Array, valid: Array, shape: tuple[int, int]) -> Array:
    """Between samples at rows and columns 4, 12, 20, ...; samples that are missing are taken from the nearest."""
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    axes = tuple(np.arange(4, n, 8) for n in shape)
    between = interpolate.RegularGridInterpolator(axes, grid[tuple(nearest)], bounds_error=False, fill_value=None)
    return np.asarray(between(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)))


# ---- (e) time


SIDES = (64, 128, 256, 512, 1024, 2048)
_BUDGET_S = 5.0  # the brute force stops before a size that would take longer
_CACHED = 2**17  # numbers of the brute force that are worked on at a time
_TOLERANCE = 1e-4  # of values between 0 and 1, in float32


@dataclass(frozen=True)
class Timing:
    """One size: CPU seconds of the filter and of the brute force, and by how much their answers differ at most.

    CPU time because, unlike the clock, it does not mind what else the machine does.
    """

    side: int
    linear: float
    brute: float | None
    difference: float | None


def brute_force(x: Array, guide: Array, scale: float) -> Array:
    """One "cross" block as its definition says: for each row and column the matrix of all pairs, times the values.

    Parameters
    ----------
    x, guide : ndarray, (C, H, W)
    scale : float

    Returns
    -------
    ndarray, (C, H, W)
    """
    x, guide = (np.ascontiguousarray(np.moveaxis(a, 0, -1)) for a in (x, guide))
    total, support = x.copy(), np.ones((*x.shape[:2], 1), x.dtype)
    for axis in (0, 1):
        lines, values = (np.ascontiguousarray(np.moveaxis(a, axis, 1)) for a in (guide, x))
        sums, weights = np.moveaxis(total, axis, 1), np.moveaxis(support, axis, 1)
        steps = np.linalg.norm(np.diff(lines, axis=1), axis=2) / scale
        along = np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0))).astype(x.dtype)
        # As many rows of the matrices at a time as stay in cache, of several lines where lines are short.
        length = along.shape[1]
        rows = min(length, max(1, _CACHED // length))
        together = max(1, _CACHED // (rows * length))
        for first, start in itertools.product(range(0, len(along), together), range(0, length, rows)):
            some, strip = slice(first, first + together), slice(start, start + rows)
            pairs = along[some, strip, np.newaxis] - along[some, np.newaxis]
            np.abs(pairs, out=pairs)
            np.minimum(pairs, 80, out=pairs)  # e^-80 adds nothing; below come subnormal numbers, which are slow
            np.exp(np.negative(pairs, out=pairs), out=pairs)
            row = np.arange(pairs.shape[1])
            pairs[:, row, start + row] = 0  # the centre is counted already
            sums[some, strip] += pairs @ values[some]
            weights[some, strip, 0] += pairs.sum(axis=2)
    return np.moveaxis(total / support, -1, 0)


def _cpu_seconds(call: Callable[[], object], least: float = 0.2) -> float:
    """CPU time of the fastest of the calls that fit into `least` seconds, the first of which may be the only one."""
    best, end = math.inf, time.perf_counter() + least
    while best == math.inf or time.perf_counter() < end:
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def timing(advance: Advance = _ignore, sides: Sequence[int] = SIDES) -> list[Timing]:
    """(e) One block on the astronaut at growing sizes, beside the brute force as far as time allows."""
    photo = img_as_float32(data.astronaut())
    scale, results, expected = 0.1, [], 0.0
    for side in sides:
        resized = transform.resize(photo, (side, side), anti_aliasing=True)
        x = np.ascontiguousarray(np.moveaxis(resized, -1, 0), np.float32)

        def linear(x: Array = x) -> Array:
            return sgs.semi_global_filter(x, x, scale, channel_axis=0, num_threads=1)

        brute = difference = None
        if expected < _BUDGET_S:
            start = time.process_time()
            answer = brute_force(x, x, scale)
            brute = time.process_time() - start
            difference = float(np.abs(answer - linear()).max())
            if not difference < _TOLERANCE:
                raise RuntimeError(f"filter and brute force differ by {difference} at {side} x {side}")
            expected = 8 * brute  # twice the side: four times the pixels, each with twice the partners
        results.append(Timing(side, _cpu_seconds(linear), brute, difference))
        advance()
    return results


def exponents(timings: Sequence[Timing]) -> tuple[float, float]:
    """The powers of N that the filter's and the brute force's times grow by, fitted on logarithms."""

    def power(points: list[tuple[int, float]]) -> float:
        sides, seconds = np.log(points).T
        return float(np.polyfit(2 * sides, seconds, 1)[0])

    return (
        power([(t.side, t.linear) for t in timings]),
        power([(t.side, t.brute) for t in timings if t.brute is not None]),
    )
