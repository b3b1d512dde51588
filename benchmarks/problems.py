"""Every shape that is measured and every input, once.

Values and guides are seeded random numbers between 0 and 1. The answer is checked where it is measured: at a few positions
of any problem, however large, by the definition (3), (7), which for one position takes its lines alone.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import sgs

Array = npt.NDArray[Any]

SCALE = 1.0
LARGEST = 2.5 * 2**30  # bytes of x, with what a view leaves out, that fit a machine of 16 GiB twice and more
GUIDE_CHANNELS = 4


def random(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32, seed: int = 0) -> Array:
    """Random values between 0 and 1, which repeat themselves after a prime number of them, so that large ones are soon made."""
    period = np.random.default_rng(seed).random(999_983, np.float32).astype(dtype)
    return np.resize(period, shape)


@dataclass(frozen=True)
class Problem:
    """One call of `semi_global_filter`, with the normaliser and the edge weights as part of it.

    Parameters
    ----------
    kind : str
        The class whose shapes should take about the same time for each element.
    name : str
        The shape, without the batch.
    batch : int
    shape : tuple of int
        That of x, which is C-contiguous but for views.
    channel_axis : int or None
    spatial : int
        How many axes are filtered.
    guide_channels : int
        0: guided by its own values.
    view : str
        How x lies in an array that is C-contiguous, see `VIEWS`.
    """

    kind: str
    name: str
    batch: int
    shape: tuple[int, ...]
    channel_axis: int | None
    spatial: int = 2
    guide_channels: int = 0
    view: str = ""

    @property
    def elements(self) -> int:
        """Of x."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Of x in float32, and of what lies between."""
        base, _ = VIEWS[self.view]
        return 4 * int(np.prod(base(self.shape), dtype=np.int64))

    @property
    def axes(self) -> tuple[int, ...]:
        """Spatial axes of x."""
        last = self.spatial + (self.channel_axis == -1)
        return tuple(range(-last, -last + self.spatial))

    def smaller(self, shrink: int) -> "Problem":
        """The same with lines of 1 / `shrink` of their length, but of two positions at least."""
        if shrink == 1:
            return self
        spatial = {axis % len(self.shape) for axis in self.axes}
        return replace(self, shape=tuple(max(2, n // shrink) if i in spatial else n for i, n in enumerate(self.shape)))

    def arrays(self, dtype: npt.DTypeLike = np.float32) -> tuple[Array, Array | None, Array]:
        """Values, guide and a place for the result, all of whose pages are there."""
        base, seen = VIEWS[self.view]
        x = seen(random(base(self.shape), dtype))
        guide = None
        if self.guide_channels:
            shape = list(self.shape)
            shape[self.channel_axis] = self.guide_channels
            guide = random(tuple(shape), dtype, seed=1)
        out = np.empty_like(x)
        out.fill(0)
        return x, guide, out

    def run(self, x: Array, guide: Array | None, **options: Any) -> Array:
        """The call that is measured."""
        return sgs.semi_global_filter(x, guide, SCALE, channel_axis=self.channel_axis, axes=self.axes, **options)

    def check(self, x: Array, guide: Array | None, y: Array) -> None:
        """Compare y at a few positions with the definition.

        Raises
        ------
        AssertionError
        """
        values, lines, result = (self._fields(a) for a in (x, x if guide is None else guide, y))
        rng = np.random.default_rng(2)
        shape = values.shape[1:]
        corners = [(0,) * len(shape), tuple(n - 1 for n in shape)]
        for position in [*corners, *(tuple(int(rng.integers(n)) for n in shape) for _ in range(4))]:
            expected = self._by_definition(values, lines, position)
            tolerance = 1e-4 if y.dtype == np.float32 else 2e-2
            np.testing.assert_allclose(
                result[(slice(None), *position)].astype(float), expected, rtol=tolerance, atol=tolerance
            )

    def _fields(self, a: Array) -> Array:
        """Channels first."""
        return a[np.newaxis] if self.channel_axis is None else np.moveaxis(a, self.channel_axis, 0)

    def _by_definition(self, values: Array, guide: Array, position: tuple[int, ...]) -> Array:
        total, support = values[(slice(None), *position)].astype(float), 1.0
        ndim = len(position)
        for axis in range(ndim - self.spatial, ndim):
            line = (slice(None), *(slice(None) if a == axis else p for a, p in enumerate(position)))
            distances = np.linalg.norm(np.diff(guide[line].astype(float), axis=1), axis=0)
            along = np.concatenate([[0], np.cumsum(distances)]) / SCALE
            weights = np.exp(-np.abs(along - along[position[axis]]))
            weights[position[axis]] = 0  # the centre is counted already
            total += values[line].astype(float) @ weights
            support += weights.sum()
        return total / support


def _every_second(axis: int) -> tuple[Any, Any]:
    """The shape to be stepped through, and every second of its entries along an axis."""

    def base(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(2 * n if i == axis % len(shape) else n for i, n in enumerate(shape))

    return base, lambda a: a[(..., slice(None, None, 2), *(slice(None),) * (-axis - 1))]


VIEWS: dict[str, tuple[Any, Any]] = {
    "": (lambda shape: shape, lambda a: a),
    "transposed": (lambda shape: (*shape[:-2], shape[-1], shape[-2]), lambda a: a.swapaxes(-1, -2)),
    "axes reversed": (lambda shape: shape[::-1], lambda a: a.T),
    "every 2nd column": _every_second(-1),
    "every 2nd row": _every_second(-2),
    "every 2nd channel": _every_second(-3),
}

_SIZES = (
    (64, 7, 7),
    (2048, 7, 7),
    (2048, 33, 33),
    (512, 97, 97),
    (512, 128, 128),
    (512, 96, 96),
    (64, 255, 257),
    (64, 512, 512),
    (16, 1024, 1024),
    (4, 2048, 2048),
    (1, 8192, 8192),
)
_LAST_CHANNELS = (1, 3, 4, 64, 512)
_LINES = ((1, 10**6), (1000, 1000), (10**6, 10))


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _own_guide(channels: int) -> int:
    """As many channels of a guide as there are; few guide themselves, as images do."""
    return GUIDE_CHANNELS if channels > GUIDE_CHANNELS else 0


def feature_map(
    channels: int, *size: int, batch: int = 1, guide_channels: int | None = None, view: str = ""
) -> Problem:
    """(batch, channels, *size)."""
    given = _own_guide(channels) if guide_channels is None else guide_channels
    spatial = len(size)
    kind = "views" if view else "feature maps" if spatial == 2 else "3-D"
    name = _name((channels, *size)) + (f", {view}" if view else "")
    return Problem(kind, name, batch, (batch, channels, *size), -1 - spatial, spatial, given, view)


def image(height: int, width: int, channels: int, batch: int = 1) -> Problem:
    """(batch, height, width, channels)."""
    shape = (height, width, channels)
    return Problem("channels last", _name(shape), batch, (batch, *shape), -1, 2, _own_guide(channels))


def lines(count: int, length: int, batch: int = 1) -> Problem:
    """(batch, count, length): one value for each position, which are their own guide, filtered along the last axis."""
    return Problem("lines", _name((count, length)), batch, (batch, count, length), None, 1)


def _all() -> Iterator[Problem]:
    sizes = sorted({size[1:] for size in _SIZES})
    views = [view for view in VIEWS if view]
    for batch in (1, 32):
        yield from (feature_map(*size, batch=batch) for size in _SIZES)
        yield from (image(*size, channels, batch=batch) for size, channels in itertools.product(sizes, _LAST_CHANNELS))
        yield from (feature_map(64, 512, 512, batch=batch, view=view) for view in views)
        yield from (lines(*size, batch=batch) for size in _LINES)
        yield feature_map(4, 64, 128, 128, batch=batch)


EVERY = sorted(_all(), key=lambda p: p.kind)
SHAPES = [p for p in EVERY if p.nbytes <= LARGEST]
TOO_LARGE = [p for p in EVERY if p.nbytes > LARGEST]

# ---- those of the table of ratios, named where they are used more than once

BATCH = feature_map(512, 97, 97, batch=8)
PHOTO = image(2048, 2048, 3)
MAP = feature_map(512, 97, 97, guide_channels=64)
TRAINING = feature_map(512, 97, 97, batch=2, guide_channels=64)
CACHED = feature_map(64, 97, 97)
SMALL, LARGE = ({c: feature_map(c, n, n) for c in (4, 64)} for n in (512, 4096))
HALF = feature_map(64, 512, 512)
MEMORY = feature_map(16, 4096, 4096)
STEREO = (72, 500, 741)
"""Disparities, height and width of the cost volume."""
