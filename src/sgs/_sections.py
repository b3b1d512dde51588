"""The parts of `sgs demo`: each is computed by `sgs.demo` and told as a table and a figure."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from sgs import _stereo, demo, plots
from sgs.demo import Advance, Comparison


class Row(NamedTuple):
    """A line of a table; `ours` are set off."""

    cells: tuple[str, ...]
    ours: bool = False


class Section(NamedTuple):
    """What a part found."""

    columns: tuple[str, ...]
    rows: list[Row]
    note: str
    figure: Figure


class Part(NamedTuple):
    """A part before it is run; `steps` is how often it reports progress."""

    title: str
    picture: str
    steps: int
    run: Callable[[Advance], Section]


def _seconds(seconds: float) -> str:
    if seconds < 1e-5:
        return ""  # nothing was done
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _smoothing(advance: Advance) -> Section:
    photo, smoothed, seconds = demo.smoothing(advance)
    rows = [
        Row((f"{scale:g}", f"{abs(smooth - photo).mean() * 255:.1f}", _seconds(seconds[scale])), ours=True)
        for scale, smooth in smoothed.items()
    ]
    note = "How far pixels moved, in levels of 255, while edges stayed."
    figure = plots.smoothing(photo, smoothed, corner=(60, 160), side=130)
    return Section(("scale", "mean change", "time"), rows, note, figure)


def _attention(advance: Advance) -> Section:
    photo, maps = demo.astronaut_attention(advance)
    rows = []
    for (y, x), of_blocks in zip(demo.POSITIONS, maps, strict=True):
        counts = [f"{demo.effective_pixels(weights):,.0f}" for weights in of_blocks]
        rows.append(Row((f"{y},{x}", *counts), ours=True))
    names = [f"position {y},{x}" for y, x in demo.POSITIONS]
    figure = plots.attention(photo, names, demo.POSITIONS, maps, "(b) Where a position's context comes from")
    note = "Pixels that count: the exponential of the entropy of the weights."
    return Section(("position Y,X", "pixels that count, 1 block", "2 blocks"), rows, note, figure)


def _rows(comparison: Comparison) -> list[Row]:
    return [
        Row(
            (r.name, f"{r.mean_error:.2f}", f"{r.wrong_by_1:.1f} %", f"{r.wrong_by_2:.1f} %", _seconds(r.seconds)),
            r.ours,
        )
        for r in comparison.results
    ]


_DISPARITY_COLUMNS = ("method", "mean error", "off by > 1", "off by > 2", "time")


def _figure(comparison: Comparison, title: str) -> Figure:
    maps = {r.name: r.disparity for r in comparison.results}
    known = _stereo.known(comparison.truth)
    return plots.disparities(title, comparison.photo, comparison.truth, maps, known)


def _stereo_matching(advance: Advance) -> Section:
    comparison = demo.stereo(advance)
    figure = _figure(comparison, "(c) Stereo: a matching cost, aggregated, and the best match taken")
    note = "Errors in pixels where the truth is known. Every method is tuned on this pair."
    return Section(_DISPARITY_COLUMNS, _rows(comparison), note + _missing(comparison), figure)


def _filling(advance: Advance) -> Section:
    comparison = demo.fill(advance)
    figure = _figure(comparison, "(d) Every 8th pixel of the truth kept in rows and columns, the others filled")
    note = "Filled from 1.6 % of the pixels, guided by the photo. Every method is tuned on this picture."
    return Section(_DISPARITY_COLUMNS, _rows(comparison), note + _missing(comparison), figure)


def _missing(comparison: Comparison) -> str:
    if any("smoother" in r.name for r in comparison.results):
        return ""
    return " OpenCV's filters join in where opencv-contrib-python is installed."


def _timing(advance: Advance) -> Section:
    timings = demo.timing(advance)
    rows = []
    for t in timings:
        compared = ("too slow", "", "")
        if t.brute is not None and t.difference is not None:
            compared = _seconds(t.brute), f"{t.brute / t.linear:,.1f} x", f"{t.difference:.0e}"
        rows.append(Row((f"{t.side} x {t.side}", _seconds(t.linear), *compared)))
    linear, brute = demo.exponents(timings)
    note = f"Fitted: time grows as N^{linear:.2f} (sgs) and N^{brute:.2f} (brute force) with N pixels. Seconds of CPU."
    return Section(("pixels", "sgs", "brute force", "ratio", "largest difference"), rows, note, plots.scaling(timings))


PARTS = (
    Part("(a) A photo smoothed at three scales", "a-smoothing.png", 3, _smoothing),
    Part("(b) Attention maps at three positions", "b-attention.png", 3, _attention),
    Part("(c) Stereo matching: stereo_motorcycle, 72 disparities", "c-stereo.png", 6, _stereo_matching),
    Part("(d) Depth filled from every 8th pixel", "d-fill.png", 4, _filling),
    Part("(e) Time against the number of pixels", "e-timing.png", len(demo.SIDES), _timing),
)
