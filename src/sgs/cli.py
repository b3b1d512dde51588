"""The command line: `sgs filter`, `sgs attention`, `sgs demo`, `sgs bench` and `sgs info`."""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import sgs
from sgs import _images

if TYPE_CHECKING:
    from sgs import _bench, _sections

Array = npt.NDArray[Any]
Metric = Literal["euclidean", "cityblock", "sqeuclidean"]
Normalization = Literal["cross", "line", "none"]

_IMAGE_SCALE, _MAP_SCALE, _ATTENTION_SCALE = 0.1, 1.0, 0.5

app = typer.Typer(
    help="Semi-global filter: every pixel gathers support from its whole row and column, in linear time.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_console = Console()
_complaints = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _complaining() -> Iterator[None]:
    """What the user can put right is said in one line; anything else is a bug and keeps its traceback."""
    try:
        yield
    except (_images.FileError, ValueError, TypeError, IndexError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        _complaints.print(f"sgs: {text}", markup=False)
        raise typer.Exit(1) from None


def _say(text: str) -> None:
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


def _note(text: str) -> None:
    _complaints.print(f"sgs: note: {text}", markup=False)


def _numbers(option: str, text: str) -> float | tuple[float, ...]:
    """One number, or several with commas between."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: expected a number, or two with a comma between, got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _position(text: str) -> tuple[int, int]:
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--at: expected Y,X such as 120,40, got {text!r}") from None
    return y, x


# Options that commands share.
_Step = Annotated[
    str,
    typer.Option(
        metavar="NUMBER",
        help="Added to every difference: above 0 support fades with distance even where the guide is flat.",
    ),
]
_MetricOption = Annotated[
    Metric,
    typer.Option(
        metavar="METRIC", help="How the differences of the channels make one: euclidean, cityblock or sqeuclidean."
    ),
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", "--force", "-f", help="Replace the output if it exists, even if it is the input.")
]


# ---- filter


@app.command("filter")
def filter_file(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="PNG, JPEG or TIFF of 8 or 16 bits, or .npy (C, H, W) or (H, W).")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Of an image: an image of the same bits, or .npy. Of .npy: .npy.")
    ],
    guide: Annotated[
        Path | None,
        typer.Option(help="Image or .npy that says where edges are. Without it each block is guided by its own input."),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="The larger, the more is smoothed: about the difference of neighbours that still mix. Images go from "
            "0 to 1 whatever their bits, .npy is taken as it is. A,B is A vertically, B horizontally.",
            show_default=f"{_IMAGE_SCALE} if the guide is an image, {_MAP_SCALE:g} if .npy",
        ),
    ] = None,
    step: _Step = "0",
    blocks: Annotated[int, typer.Option(help="How often to filter; two blocks reach the whole image.")] = 2,
    normalization: Annotated[
        Normalization,
        typer.Option(
            help="What the sums are divided by; none, whose sums leave an image's range, is for .npy outputs."
        ),
    ] = "cross",
    metric: _MetricOption = "euclidean",
    confidence: Annotated[
        Path | None,
        typer.Option(
            help="How far to trust each pixel: a grey image (black 0, white 1) or .npy >= 0. Where 0, it is filled."
        ),
    ] = None,
    fill_value: Annotated[
        float, typer.Option(help="The result where no trusted pixel lends any support; 0 to 1 for images.")
    ] = 0.0,
    residual: Annotated[bool, typer.Option("--residual", help="Add each block's input to its output.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """Smooth an image or feature map and keep its edges.

    Colours are filtered and rounded back to the input's bits; alpha is passed through. An image is turned upright as
    its EXIF orientation asks; colour profile and EXIF are kept where the format can.
    """
    with _complaining():
        to_map = _images.is_map(output)
        _images.check_output(output, overwrite)
        x, picture = _read(source)
        if picture is None and not to_map:
            raise _images.FileError(f"{output}: the result of a .npy has no range of colours; write .npy")
        if picture is not None and not to_map:
            _check_range(normalization, residual, confidence, fill_value)
            _images.check_holds(output, picture)
        default = _MAP_SCALE if _images.is_map(guide or source) else _IMAGE_SCALE
        settings: dict[str, Any] = {
            "guide": None if guide is None else _beside("--guide", guide, source, x),
            "scale": default if scale is None else _numbers("--scale", scale),
            "blocks": blocks,
            "normalization": None if normalization == "none" else normalization,
            "metric": metric,
            "step": _numbers("--step", step),
            "confidence": None if confidence is None else _confidence(confidence, source, x),
            "fill_value": fill_value,
            "residual": residual,
        }
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            y = sgs.semi_global_filter(x if x.ndim > 2 else x[np.newaxis], **settings).reshape(x.shape)
        seconds = time.perf_counter() - start
        for warning in caught if picture is None else ():  # of images it is known where the channels are
            _note(f"{source}: {warning.message}")
        if picture is None or to_map:
            _images.write_map(output, y)
            kind = f"{y.dtype} {y.shape}"
        else:
            # What makes a constant picture stay as it is: each block multiplies it by this.
            gain = (2 if normalization == "line" else 1) + residual
            _images.write_picture(output, picture.with_values(y / gain**blocks))
            kind = str(picture)
            if _images.loses_profile(output, picture):
                _note(f"{output}: 16-bit PNG is written without the colour profile; TIFF keeps it")
        _say(f"{output}: {kind}, filtered in {seconds:.2g} s")


def _read(path: Path) -> tuple[Array, _images.Picture | None]:
    """Values, channels first, and the picture that they are of, if any."""
    if _images.is_map(path):
        return _images.read_map(path), None
    picture = _images.read_picture(path)
    return picture.values(), picture


def _beside(option: str, path: Path, source: Path, x: Array) -> Array:
    """Values of the same height and width as x."""
    values, _ = _read(path)
    if values.shape[-2:] != x.shape[-2:]:
        (h, w), (height, width) = values.shape[-2:], x.shape[-2:]
        raise ValueError(f"{option} {path} is {w} x {h} (width x height), but {source} is {width} x {height}")
    return values


def _confidence(path: Path, source: Path, x: Array) -> Array:
    """Values without the channel axis: in images, and in maps with as many axes as x, it must say nothing."""
    values = _beside("--confidence", path, source, x)
    if values.ndim < max(x.ndim, 3):
        return values
    if not (values == values[..., :1, :, :]).all():
        raise ValueError(f"--confidence {path}: expected one channel, got {values.shape[-3]}")
    return values[..., 0, :, :]


def _check_range(normalization: str, residual: bool, confidence: Path | None, fill_value: float) -> None:
    """Refuse what would not come out between 0 and 1."""
    if normalization == "none":
        raise ValueError("--normalization none: sums are outside of an image's range; write .npy")
    if residual and confidence is not None:
        raise ValueError("--residual with --confidence: brightness would change from pixel to pixel; write .npy")
    if not 0 <= fill_value <= 1:
        raise ValueError(f"--fill-value: expected 0 to 1 for an image, got {fill_value}")


# ---- attention


@app.command()
def attention(
    source: Annotated[Path, typer.Argument(metavar="IMAGE", help="PNG, JPEG or TIFF.")],
    at: Annotated[
        list[Any],
        typer.Option(metavar="Y,X", help="Row and column of a position, from 0; may be given several times."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="The figure to write.")],
    scale: Annotated[
        str,
        typer.Option(
            metavar="NUMBER", help="The larger, the farther: about the sum of differences, from 0 to 1, on the way."
        ),
    ] = f"{_ATTENTION_SCALE}",
    step: _Step = "0",
    metric: _MetricOption = "euclidean",
    max_side: Annotated[int, typer.Option(min=16, help="Images with a longer side are reduced to it first.")] = 1024,
    overwrite: _Overwrite = False,
) -> None:
    """Show what a position gathers its context from, as in the paper's Figure 6.

    One row for each position: the image, the weights of all pixels after one block, and after two.
    """
    with _complaining():
        if output.suffix.lower() != ".png":
            raise _images.FileError(f"{output}: expected a name ending in .png")
        _images.check_output(output, overwrite)
        if _images.is_map(source):
            raise _images.FileError(f"{source}: expected an image")
        photo = np.moveaxis(_images.read_picture(source).values(), 0, -1)
        height, width = photo.shape[:2]
        positions = [_position(text) for text in at]
        for y, x in positions:
            if not (0 <= y < height and 0 <= x < width):
                raise IndexError(f"--at {y},{x}: expected Y from 0 to {height - 1} and X from 0 to {width - 1}")
        small = _reduced(photo, max_side)
        small_height, small_width = small.shape[:2]
        places = [(int((y + 0.5) * small_height / height), int((x + 0.5) * small_width / width)) for y, x in positions]
        if small is not photo:
            _note(f"{width} x {height} is reduced to {small_width} x {small_height} first, see --max-side")
        from sgs import demo, plots  # slow to load, and needed only here

        maps = demo.attention(small, places, _numbers("--scale", scale), _numbers("--step", step), metric)
        names = [f"position {y},{x}" for y, x in positions]
        plots.save(
            plots.attention(small, names, places, maps, f"{source.name}: where a position's context comes from"), output
        )
        _say(str(output))


def _reduced(photo: Array, max_side: int) -> Array:
    """The photo (H, W, C), or a smaller one whose longest side is `max_side`."""
    height, width, channels = photo.shape
    factor = max_side / max(height, width)
    if factor >= 1:
        return photo
    size = max(1, round(width * factor)), max(1, round(height * factor))
    planes = [Image.fromarray(photo[:, :, c]).resize(size, Image.Resampling.BOX) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


# ---- demo


@app.command("demo")
def run_demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where pictures go; made if it is not there.")
    ] = Path("sgs-demo"),
) -> None:
    """Run the main jobs on real photos: smoothing, attention, stereo, filling and timing, with pictures and tables.

    The photos come with scikit-image. Takes under a minute; replaces the pictures of an earlier run.
    """
    with _complaining():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _images.FileError(f"{directory}: cannot be made a directory: {error.strerror or error}") from error
        from sgs import _sections, plots  # slow to load, and needed only here

        begin = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=_console, transient=True) as progress:
            for part in _sections.PARTS:
                task = progress.add_task(part.title, total=part.steps)
                section = part.run(partial(progress.advance, task))
                plots.save(section.figure, directory / part.picture)
                progress.remove_task(task)
                progress.console.print(part.title, style="bold", highlight=False)
                progress.console.print(_table(section))
                progress.console.print(
                    f"{section.note} Picture: {directory / part.picture}\n", style="dim", highlight=False
                )
        seconds, threads = time.perf_counter() - begin, sgs.get_num_threads()
        _say(f"Took {seconds:.0f} s on {threads} thread{'s' * (threads > 1)} ({sgs.get_isa()}).")


def _table(section: "_sections.Section") -> Table:
    first, *others = section.columns
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    for row in section.rows:
        table.add_row(*row.cells, style="bold green" if row.ours else None)
    return table


# ---- bench


@app.command()
def bench(
    threads: Annotated[
        int | None, typer.Option(min=1, help="For all that is measured.", show_default="as `sgs info` says")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each line of the tables.")] = 0.5,
    shrink: Annotated[
        int, typer.Option(min=1, help="Divides height and width of all shapes: to see it run, not to measure.")
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there as well.")
    ] = None,
    overwrite: _Overwrite = False,
) -> None:
    """Measure this machine: shapes beside a copy, other libraries, instruction sets, and time against size.

    Medians of wall-clock time, of calls that take turns; nothing else should run. Takes under half a minute. torch and
    OpenCV join in where they are installed.
    """
    with _complaining():
        if json_file is not None:
            _images.check_output(json_file, overwrite)
        from sgs import _bench

        with sgs.num_threads(threads or sgs.get_num_threads()):
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=_console, transient=True) as progress:
                task = progress.add_task("Measuring", total=len(_bench.SHAPES) + len(_bench.SIDES) + 2)
                advance = partial(progress.advance, task)
                by_shape = _bench.shapes(advance, seconds, shrink)
                rivals = _bench.rivals(advance, seconds, shrink)
                isas = _bench.instruction_sets(advance, seconds, shrink)
                by_size = _bench.sizes(advance, seconds, shrink)
            _console.print(_timed_table("One block, edge weights included", by_shape))
            _console.print(_seconds_table(f"The {_bench.PHOTO}", "what", rivals))
            _console.print(_seconds_table(f"The {_bench.MAP}", "instruction set", isas))
            _console.print(_timed_table("Against size, 4 channels", by_size))
            used, isa = sgs.get_num_threads(), sgs.get_isa()
        _say(f"{used} thread{'s' * (used > 1)}, {isa}; copies are by np.copyto, on one thread.")
        if shrink > 1:
            _note(f"height and width were divided by {shrink}: the figures say nothing about the shapes that are named")
        if json_file is not None:
            found = {
                "sgs": sgs.__version__,
                "threads": used,
                "instruction set": isa,
                "shrink": shrink,
                "shapes": [asdict(t) for t in by_shape],
                "rivals": rivals,
                "instruction sets": isas,
                "sizes": [asdict(t) for t in by_size],
            }
            with _images.new_file(json_file) as file:
                file.write((json.dumps(found, indent=1) + "\n").encode())


def _timed_table(title: str, results: "list[_bench.Timed]") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("shape", no_wrap=True)
    for name in ("time", "ns per element", "share of copy speed"):
        table.add_column(name, justify="right")
    for t in results:
        share = f"{100 * t.share_of_copy:.0f} %"
        table.add_row(t.name, f"{1000 * t.seconds:.3g} ms", f"{t.ns_per_element:.3g}", share)
    return table


def _seconds_table(title: str, what: str, results: dict[str, float]) -> Table:
    """Times, and how many times as long as the first each takes."""
    table = Table(title=title, title_justify="left")
    table.add_column(what, no_wrap=True)
    for name in ("time", "of the first"):
        table.add_column(name, justify="right")
    first = next(iter(results.values()))
    for name, seconds in results.items():
        table.add_row(name, f"{1000 * seconds:.3g} ms", f"{seconds / first:.2f} x")
    return table


# ---- info

_PACKAGES = (
    "torch",
    "pillow",
    "imagecodecs",
    "tifffile",
    "matplotlib",
    "scikit-image",
    "scipy",
    "typer",
    "rich",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@app.command()
def info() -> None:
    """Print versions, instruction set, threads and CUDA."""
    sgs.show_config()
    found = []
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    _say(f"packages         {', '.join(found)}")  # in line with what `show_config` prints
