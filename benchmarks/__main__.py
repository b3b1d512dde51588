"""Measure and write docs/performance.md: python -m benchmarks [--only ratios,shapes] [--quick].

Results are kept beside the page, so that sections, and rows of the table, can be measured one by one: what is not measured
anew stays. Measure on a machine that does nothing else.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import sgs
from benchmarks import machine, memory, peers, problems, ratios, report, scaling, shapes

Advance = Callable[[str], None]  # called before each step with what it is about
_QUICK = 16  # how many times shorter lines are


def _ratios(options: argparse.Namespace, shrink: int, advance: Advance, before: dict[str, Any]) -> dict[str, Any]:
    """Rows whose name has the words of --rows; a row that cannot be measured here keeps what was found before."""
    found = dict(before)
    for row in ratios.ROWS:
        advance(row.name)
        if options.rows in row.name:
            result = ratios.measure(row, options.seconds, shrink)
            if "skipped" not in result or "ratio" not in before.get(row.name, {}):
                found[row.name] = result
    return found


def _steps(section: str, sides: list[int]) -> int:
    counts = {
        "ratios": len(ratios.ROWS),
        "memory": 1,
        "shapes": len(problems.SHAPES),
        "isa": len(shapes.BY_ISA),
        "scaling": len(sides) * len(scaling.METHODS),
    }
    return counts[section]


SECTIONS = ("ratios", "memory", "shapes", "isa", "scaling")


def _measure(section: str, options: argparse.Namespace, sides: list[int], advance: Advance, before: Any) -> Any:
    shrink = _QUICK if options.quick else 1
    if section == "ratios":
        return _ratios(options, shrink, advance, before or {})
    if section == "memory":
        advance(problems.MEMORY.name)
        return memory.measure(shrink)
    if section == "shapes":
        return shapes.measure_all(problems.SHAPES, options.seconds / 4, shrink, advance)
    if section == "isa":
        return shapes.by_isa(options.seconds, shrink, advance)
    return scaling.measure_all(sides, options.threads, advance)


def main(arguments: list[str] | None = None) -> None:
    """Measure the sections asked for, keep what was found, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between (all: %(default)s)")
    parser.add_argument("--rows", default="", help="of ratios, only rows whose name has these words")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where performance.md is written (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="for all (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each ratio; shapes get a quarter (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="short lines: shows that everything runs, measures nothing"
    )
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"--only: expected some of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    sgs.set_num_threads(options.threads)
    peers.set_threads(options.threads)
    sides = [side for side in scaling.SIDES if not options.quick or side <= 128]

    kept = options.out / "performance.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for section in chosen:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(section, total=_steps(section, sides))

            def advance(what: str, section: str = section, progress: Progress = progress, task: Any = task) -> None:
                progress.update(task, description=f"{section}: {what}", advance=1)

            found = _measure(section, options, sides, advance, results.get(section, {}).get("found"))
            progress.update(task, description=section)
        shrink = _QUICK if options.quick else 1
        # Single rows may come from another environment; each says its version of torch.
        kept_machine = results.get(section, {}).get("machine") if section == "ratios" and options.rows else None
        results[section] = {"machine": kept_machine or machine.describe(), "shrink": shrink, "found": found}
        kept.write_text(json.dumps(results, indent=1) + "\n")
    for path in report.write({section: results[section] for section in SECTIONS if section in results}, options.out):
        console.print(path, highlight=False)


if __name__ == "__main__":
    main()
