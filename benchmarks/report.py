"""Tables and plots of what was measured: from results, kept as JSON, to a part of docs/performance.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import problems, ratios, scaling
from sgs import plots

BEGIN, END = "<!-- measured by `python -m benchmarks` -->\n", "<!-- end of what was measured -->\n"
_MILLION = 10**6  # the best shape of a class is looked for above
_LIMIT = 3.0  # how many times as long as it an element may take in any shape
_MEBIBYTE = 2.0**20

Results = dict[str, Any]


def write(results: Results, docs: Path) -> list[Path]:
    """Replace the measured part of docs/performance.md, which is made where it is not there, and the plots.

    Parameters
    ----------
    results : dict
        What each section measured; sections may be missing.
    docs : Path
        The directory of performance.md and images/.

    Returns
    -------
    list of Path
        The files that were written.
    """
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    written = []
    for section, figures in (("scaling", _scaling_figures), ("shapes", _shape_figures)):
        if section in results:
            for name, figure in figures(results[section]["found"]):
                plots.save(figure, images / name)
                written.append(images / name)
    page = docs / "performance.md"
    text = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}{END}"
    if BEGIN not in text:
        text += f"\n{BEGIN}{END}"
    before, rest = text.split(BEGIN)
    measured = "\n".join(_lines(results))
    page.write_text(f"{before}{BEGIN}\n{measured}\n{END}{rest.split(END)[1]}")
    return [page, *written]


def _lines(results: Results) -> Iterator[str]:
    for section, told in (
        ("ratios", _ratios),
        ("memory", _memory),
        ("shapes", _shapes),
        ("isa", _isa),
        ("scaling", _scaling),
    ):
        if section in results:
            yield from told(results[section]["found"])
            yield from _quick(results[section])
            yield ""
    yield "## Machine"
    yield ""
    machines = {section: tuple(found["machine"].items()) for section, found in results.items()}
    for machine in dict.fromkeys(machines.values()):
        sections = [section for section, its in machines.items() if its == machine]
        yield f"Sections {', '.join(sections)}:"
        yield ""
        yield from _table(("", ""), machine)
        yield ""


def _quick(section: Results) -> Iterator[str]:
    if section["shrink"] > 1:
        yield ""
        yield f"A quick run, with lines {section['shrink']} times shorter than named: the figures mean nothing."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def _against(ratio: float) -> str:
    """1/x below a half, as the bars are told."""
    return f"1/{1 / ratio:.3g}" if 0 < ratio <= 0.5 else f"{ratio:.3g}"


def _verdict(ratio: float, bar: float, aim: float, copies: float = 0.0) -> str:
    if ratio <= bar:
        return "aim reached" if ratio <= aim else "bar reached"
    return "**missed**, as by copies" if copies > bar else "**missed**"


def _ratios(found: dict[str, Results]) -> Iterator[str]:
    yield "## Ratios"
    yield ""
    yield "Time of ours over time of theirs, measured in turn in one session with the same threads: medians of the rounds, and"
    yield "the quartiles of the ratio. Smaller is better. Both answers were checked before. In the column of copies, torch's"
    yield "copy of the values to each result stands for ours, called just after it: what would remain if sums cost nothing."
    yield ""
    rows = []
    for row in ratios.ROWS:
        if row.name not in found:
            continue
        result, limits = found[row.name], (_against(row.bar), _against(row.aim))
        if "skipped" in result:
            rows.append((row.work, row.against, "", "", f"not measured: {result['skipped']}", "", *limits, ""))
            continue
        low, high = (_against(q) for q in result["quartiles"])
        cells = (
            _duration(result["ours"]),
            _duration(result["theirs"]),
            f"{_against(result['ratio'])} ({low} to {high})",
        )
        copies = result.get("copies", 0.0)
        verdict = _verdict(result["ratio"], row.bar, row.aim, copies)
        rows.append((row.work, row.against, *cells, _against(copies) if copies else "", *limits, verdict))
    yield from _table(("work", "against", "ours", "theirs", "ratio (quartiles)", "copies", "bar", "aim", ""), rows)
    versions = sorted({r["torch"] for r in found.values() if "torch" in r})
    if len(versions) > 1:
        yield ""
        other = {v: [name for name, r in found.items() if r.get("torch") == v] for v in versions}
        rare = min(versions, key=lambda v: len(other[v]))
        yield f"Measured in an environment of its own, with torch {rare}: {'; '.join(other[rare])}."


def _memory(found: Results) -> Iterator[str]:
    yield "## Memory"
    yield ""
    name = problems.MEMORY.name
    if "skipped" in found:
        yield f"{name}: not measured: {found['skipped']}"
        return
    ratio = found["ratio"]
    yield f"Peak beyond input and output, {name} with a guide of {problems.GUIDE_CHANNELS} channels:"
    yield f"{found['ours'] / _MEBIBYTE:.0f} MiB, {ratio:.3g} of the input (bar 0.25, aim 0.1: {_verdict(ratio, 0.25, 0.1)})."
    yield "The kernel's VmHWM of a fresh process, set back just before the call, less what was resident then."


def _best(found: Sequence[Results]) -> dict[str, float]:
    """The least time for an element of each class."""
    large = [r for r in found if "ns" in r and r["elements"] > _MILLION]
    return {r["kind"]: min(other["ns"] for other in large if other["kind"] == r["kind"]) for r in large}


def _shapes(found: Sequence[Results]) -> Iterator[str]:
    yield "## Shapes"
    yield ""
    yield "One block with weights and normaliser, float32, into an array that is there; values of up to 4 channels guide"
    yield "themselves, others have a guide of 4. `copy_` is torch's, of the same array, in the same session. The last column"
    yield f"compares with the class's best shape above 10^6 elements, and is set off above {_LIMIT:g}."
    best = _best(found)
    for kind in dict.fromkeys(r["kind"] for r in found):
        yield ""
        yield f"### {kind[0].upper()}{kind[1:]}"
        yield ""
        rows = []
        for r in (r for r in found if r["kind"] == kind):
            if "skipped" in r:
                rows.append((r["name"], str(r["batch"]), r["skipped"], "", "", ""))
                continue
            ratio = f"{r['ns'] / best[kind]:.2f}" if kind in best else ""
            slow = kind in best and r["ns"] > _LIMIT * best[kind]
            total = _duration(r["ns"] * r["elements"] / 1e9)
            share = f"{100 * r['copy_ns'] / r['ns']:.0f} %"
            rows.append((r["name"], str(r["batch"]), total, f"{r['ns']:.3g}", share, f"**{ratio}**" if slow else ratio))
        yield from _table(("shape", "batch", "time", "ns per element", "share of copy_", "of the best"), rows)
    yield ""
    left_out = ", ".join(f"{p.batch} x {p.name}" for p in problems.TOO_LARGE)
    yield f"Left out, because x has more than {problems.LARGEST / 2**30:g} GiB: {left_out}."


def _shape_figures(found: Sequence[Results]) -> Iterator[tuple[str, Figure]]:
    measured = [r for r in found if "ns" in r]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.add_subplot()
    for kind in dict.fromkeys(r["kind"] for r in measured):
        of_kind = [r for r in measured if r["kind"] == kind]
        axis.loglog([r["elements"] for r in of_kind], [r["ns"] for r in of_kind], "o", label=kind, alpha=0.7)
    axis.loglog([r["elements"] for r in measured], [r["copy_ns"] for r in measured], "k.", markersize=3, label="copy_")
    axis.set(xlabel="elements", ylabel="ns per element", title="Every shape, beside a copy of the same array")
    axis.grid(alpha=0.3)
    axis.legend()
    yield "performance-shapes.png", figure


def _isa(found: Sequence[Results]) -> Iterator[str]:
    yield "## Instruction sets"
    yield ""
    yield "Nanoseconds per element, measured in turn."
    yield ""
    isas = list(found[0]["ns"])
    rows = [(f"{r['kind']}: {r['name']}", *(f"{r['ns'][isa]:.3g}" for isa in isas)) for r in found]
    yield from _table(("shape", *isas), rows)


_KEYS = {"seconds": ("time", 0.0), "bytes": ("memory", _MEBIBYTE)}  # less than a MiB cannot be told from nothing


def _scaling(found: Results) -> Iterator[str]:
    yield "## Time and memory against the number of positions"
    yield ""
    yield f"Values of {scaling.CHANNELS} channels, guides (queries and keys) of {scaling.GUIDE_CHANNELS}, N = side x side positions."
    yield "Memory is what a call takes beyond its inputs and its output at the peak, in a fresh process for each point. Linear and"
    yield f"brute force give the same answer. Powers are fitted from {scaling.FIT_FROM} x {scaling.FIT_FROM} on, of memory where it is above a MiB."
    yield ""
    rows = []
    for method, result in found.items():
        powers = []
        for key, (_, least) in _KEYS.items():
            power = scaling.exponent(result["points"], key, least)
            powers.append("" if power is None else f"N^{power:.2f}")
        last = result["points"][-1]
        size = f"{last['side']} x {last['side']}"
        reached = (size, _duration(last["seconds"]), f"{last['bytes'] / _MEBIBYTE:.3g} MiB")
        rows.append((method, *powers, *reached, result["stopped"]))
    yield from _table(("method", "time", "memory", "up to", "there: time", "memory", "stopped, because"), rows)
    for key, (name, _) in _KEYS.items():
        yield ""
        yield f"![{name} against N](images/performance-{key}.png)"


def _scaling_figures(found: Results) -> Iterator[tuple[str, Figure]]:
    for key, (name, least) in _KEYS.items():
        figure = Figure(figsize=(7.5, 5.2), layout="constrained")
        axis = figure.add_subplot()
        for number, (method, result) in enumerate(found.items()):
            points = [p for p in result["points"] if p[key] > least]
            power = scaling.exponent(points, key)
            label = method if power is None else f"{method}: $N^{{{power:.2f}}}$"
            n, values = [p["side"] ** 2 for p in points], [p[key] for p in points]
            axis.loglog(n, values, "o-", color=f"C{number}", label=label)
        sides = sorted({p["side"] for result in found.values() for p in result["points"]})
        axis.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
        axis.minorticks_off()
        axis.set(xlabel="positions N", ylabel="seconds" if key == "seconds" else "bytes beyond input and output")
        axis.set_title(f"{name.capitalize()} against the number of positions (fitted powers of N)")
        axis.grid(alpha=0.3)
        axis.legend()
        yield f"performance-{key}.png", figure
