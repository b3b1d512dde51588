"""Writes the capability table of docs/torch.md from a run of the tests: python tools/torch_table.py [--junit FILE]

Without a file of results (pytest --junit-xml), runs tests/test_torch_transforms.py first."""

import argparse
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "torch.md"
BEGIN, END = "<!-- table: made by tools/torch_table.py -->", "<!-- end of table -->"


def outcomes(junit: Path) -> dict[str, dict[str, str]]:
    """Transform -> operator -> what the test said."""
    table: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        name = case.get("name", "")
        if not name.startswith("test_transform["):
            continue
        operator, transform = name[len("test_transform[") : -1].split("-", 1)
        children = {child.tag for child in case}
        outcome = "FAILS" if children & {"failure", "error"} else "skipped" if "skipped" in children else "yes"
        table.setdefault(transform, {})[operator] = outcome
    return table


def markdown(table: dict[str, dict[str, str]]) -> str:
    operators = list(dict.fromkeys(o for row in table.values() for o in row))
    lines = [
        f"torch {torch.__version__}, Python {platform.python_version()}, CPU.",
        "",
        "| transform | " + " | ".join(operators) + " |",
        "|---|" + "---|" * len(operators),
    ]
    for transform, row in table.items():
        lines.append(f"| {transform} | " + " | ".join(row.get(o, "") for o in operators) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--junit", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        junit = options.junit or Path(folder) / "results.xml"
        if options.junit is None:
            tests = ROOT / "tests" / "test_torch_transforms.py"
            # In one process: rows come in the order in which tests finish.
            command = [sys.executable, "-m", "pytest", "-q", "-n", "0", tests, f"--junit-xml={junit}"]
            subprocess.run(command, cwd=ROOT, check=False)
        table = markdown(outcomes(junit))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
