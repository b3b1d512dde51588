"""Figures of the command line. They are drawn without pyplot, so that importing this changes no one's backend."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from sgs._images import new_file
from sgs.demo import Timing, exponents

Array = npt.NDArray[Any]


def save(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG; a failure leaves no file."""
    with new_file(path) as file:
        FigureCanvasAgg(figure).print_figure(file, format="png", dpi=dpi)


def _panels(
    rows: int, columns: int, aspect: float, title: str, bar: bool = False, width: float = 4.0
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of panels for pictures of height : width = `aspect`, without ticks, with room for a colour `bar`."""
    # In inches: a panel's title takes 0.3, the figure's 0.4, a bar with its numbers 1.2.
    size = width * columns + 1.2 * bar, (width * aspect + 0.3) * rows + 0.4
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes.tolist()


def _show(axis: Axes, image: Array, title: str, **options: Any) -> Any:
    axis.set_title(title, fontsize=10)
    return axis.imshow(image, interpolation="nearest" if image.ndim == 2 else "antialiased", **options)


def smoothing(photo: Array, smoothed: Mapping[float, Array], corner: tuple[int, int], side: int) -> Figure:
    """A photo (H, W, 3) and its smoothed versions by their scale, whole and a square detail of each."""
    pictures = {"photo": photo, **{f"scale {scale:g}": picture for scale, picture in smoothed.items()}}
    figure, axes = _panels(
        2, len(pictures), photo.shape[0] / photo.shape[1], "(a) Smoothed, edges kept: the larger the scale, the more"
    )
    y, x = corner
    for column, (name, picture) in enumerate(pictures.items()):
        _show(axes[0][column], picture.clip(0, 1), name)
        axes[0][column].add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="white", linewidth=1.2))
        _show(axes[1][column], picture[y : y + side, x : x + side].clip(0, 1), f"{name}, detail")
    return figure


def attention(
    photo: Array,
    names: Sequence[str],
    places: Sequence[tuple[int, int]],
    maps: Sequence[Sequence[Array]],
    title: str,
) -> Figure:
    """The paper's Figure 6: for each position the photo with a cross there, and its maps by 1, 2, ... blocks.

    Parameters
    ----------
    photo : ndarray, (H, W, 1 or 3)
    names : sequence of str
        What each position is called.
    places : sequence of (y, x)
    maps : sequence of sequence of ndarray, (H, W)
        For each position, for each number of blocks.
    title : str
    """
    figure, axes = _panels(len(places), 1 + len(maps[0]), photo.shape[0] / photo.shape[1], title, bar=True)
    for row, name, (y, x), of_blocks in zip(axes, names, places, maps, strict=True):
        grey = photo[:, :, 0] if photo.shape[2] == 1 else photo
        _show(row[0], grey.clip(0, 1), name, cmap="gray", vmin=0, vmax=1)
        row[0].plot(x, y, marker="+", markersize=15, markeredgewidth=4, color="white")
        row[0].plot(x, y, marker="+", markersize=14, markeredgewidth=2, color="red")
        for blocks, (axis, weights) in enumerate(zip(row[1:], of_blocks, strict=True), 1):
            if blocks == 1:
                # A cross of single pixels would be lost in a smaller panel.
                weights = ndimage.maximum_filter(weights, 1 + max(weights.shape) // 200)
            # Weights span many powers of ten. The position itself and what is next to it have most: the shape shows
            # below what all but a thousandth of the pixels stay under.
            top = float(np.quantile(weights, 0.999)) or float(weights.max()) or 1.0
            reach = "1 block: its row and column" if blocks == 1 else f"{blocks} blocks: the whole image"
            image = _show(axis, weights / top, reach, cmap="inferno", norm=LogNorm(1e-3, 1, clip=True))
            axis.plot(x, y, marker="+", markersize=9, markeredgewidth=1, color="cyan")
    figure.colorbar(image, ax=[row[-1] for row in axes], shrink=1 / len(axes), aspect=15, label="weight, relative")
    return figure


def disparities(title: str, photo: Array, truth: Array, results: Mapping[str, Array], known: Array) -> Figure:
    """The truth and disparity maps by name, below each where it is wrong by more than 2 pixels."""
    # A truth and its photo stand first; bands of at most four pairs.
    pairs = 1 + len(results)
    bands = -(-pairs // 4)
    columns = -(-pairs // bands)
    figure, axes = _panels(2 * bands, columns, photo.shape[0] / photo.shape[1], title, bar=True)
    options = {"cmap": "turbo", "vmin": float(truth[known].min()), "vmax": float(truth[known].max())}
    image = _show(axes[0][0], np.where(known, truth, np.nan), "truth (white: unknown)", **options)
    _show(axes[1][0], photo.clip(0, 1), "photo")
    for i, (name, disparity) in enumerate(results.items(), 1):
        band, column = divmod(i, columns)
        above, below = axes[2 * band][column], axes[2 * band + 1][column]
        _show(above, disparity, name, **options)
        wrong = known & (np.abs(disparity - truth) > 2)
        shades = np.select([wrong, known], [0.0, 1.0], 0.75)
        _show(below, shades, f"black: {100 * wrong[known].mean():.1f} % wrong by > 2", cmap="gray", vmin=0, vmax=1)
    for i in range(pairs, bands * columns):
        for half in (0, 1):
            axes[2 * (i // columns) + half][i % columns].set_axis_off()
    figure.colorbar(image, ax=[row[-1] for row in axes], shrink=1 / bands, aspect=25, label="disparity in pixels")
    return figure


def scaling(timings: Sequence[Timing]) -> Figure:
    """Time against the number of pixels, both logarithmic, with the fitted powers."""
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axis = figure.add_subplot()
    sides = [t.side for t in timings]
    ends = np.array([sides[0] ** 2, sides[-1] ** 2])
    curves = {
        "sgs": ([(t.side**2, t.linear) for t in timings], "tab:blue", "o"),
        "brute force": ([(t.side**2, t.brute) for t in timings if t.brute is not None], "tab:red", "s"),
    }
    for (name, (points, colour, marker)), power in zip(curves.items(), exponents(timings), strict=True):
        n, seconds = np.array(points).T
        axis.loglog(n, seconds, marker, color=colour, label=f"{name}: $N^{{{power:.2f}}}$")
        level = np.exp(np.mean(np.log(seconds) - power * np.log(n)))
        axis.loglog(ends, level * ends**power, color=colour, linewidth=1)
        for pixels, time in points:
            label = f"{time:.2g} s" if time >= 0.1 else f"{1000 * time:.2g} ms"
            axis.annotate(label, (pixels, time), xytext=(8, -10), textcoords="offset points", fontsize=8, color=colour)
    axis.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
    axis.minorticks_off()
    axis.margins(x=0.1)
    axis.set_xlabel("pixels N")
    axis.set_ylabel("seconds of CPU")
    axis.set_title("(e) Time for the same answer (lines: the fitted powers of N)")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
