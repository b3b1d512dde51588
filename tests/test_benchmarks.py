"""The benchmark suite on small problems: every peer and every row gives the answer, and a wrong answer is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

pytest.importorskip("numba", reason="the peers need the extra `bench`")

from benchmarks import __main__ as command
from benchmarks import memory, peers, problems, ratios, report, scaling, shapes

SHRINK = 16
LINE_FILTERS = [peers.numba_line_filters, peers.torch_loop, peers.compiled_associative_scan, peers.philtorch_recurrence]


@pytest.mark.parametrize("row", ratios.ROWS, ids=lambda row: row.name)
def test_both_sides_of_a_row_run_and_are_checked(row: ratios.Row) -> None:
    found = ratios.measure(row, 0, SHRINK)
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["ours"] > 0
    assert found["theirs"] > 0
    assert found["quartiles"][0] <= found["ratio"] <= found["quartiles"][1]
    assert found.get("copies", 1.0) > 0


@pytest.mark.parametrize("peer", LINE_FILTERS, ids=lambda peer: peer.__name__)
@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 5, 33), (2, 17, 4), (2, 4, 600)], ids=str)
def test_line_filters_of_peers(peer: object, shape: tuple[int, int, int]) -> None:
    """Lengths that leave a rest of rows, and more columns than a block has."""
    x = problems.random(shape)
    rows = problems.random((shape[1], shape[2] - 1), seed=1)
    columns = problems.random((shape[1] - 1, shape[2]), seed=2)
    try:
        along_rows, along_columns = peer(x, rows, columns)()
    except peers.UnavailableError as error:
        pytest.skip(str(error))
    import sgs

    np.testing.assert_allclose(along_rows, sgs.reference.line_filter(x, rows, -1), rtol=1e-5)
    np.testing.assert_allclose(along_columns, sgs.reference.line_filter(x, columns, -2), rtol=1e-5)


@pytest.mark.parametrize("problem", problems.EVERY, ids=lambda p: f"{p.kind}-{p.batch}x{p.name}")
def test_problems_are_solved(problem: problems.Problem) -> None:
    small = problem.smaller(64)
    if small.nbytes > 2**26:
        pytest.skip("too large for a test even so")
    x, guide, out = small.arrays()
    assert x.shape == small.shape
    small.check(x, guide, small.run(x, guide, out=out))


def test_a_wrong_answer_is_found() -> None:
    x, guide, out = problems.CACHED.smaller(4).arrays()
    y = problems.CACHED.smaller(4).run(x, guide, out=out)
    y[0, 0, 0, 0] += 0.01
    with pytest.raises(AssertionError):
        problems.CACHED.check(x, guide, y)


def test_every_shape_is_named_once_and_fits() -> None:
    names = [(p.kind, p.batch, p.name) for p in problems.EVERY]
    assert len(set(names)) == len(names)
    assert len(problems.SHAPES) + len(problems.TOO_LARGE) == len(names)
    assert {p.kind for p in problems.SHAPES} == {"feature maps", "channels last", "views", "lines", "3-D"}
    assert len({row.name for row in ratios.ROWS}) == len(ratios.ROWS)


def test_peak_of_memory_is_seen() -> None:
    code = """
    import numpy as np
    from benchmarks import memory
    memory.beyond(lambda: None)
    print(memory.beyond(lambda: np.ones(2**23)), memory.beyond(lambda: None))
    """
    try:
        memory.beyond(lambda: None)
    except peers.UnavailableError as error:
        pytest.skip(str(error))
    some, none = map(int, run_python(code).stdout.split())
    assert 60 * 2**20 < some < 70 * 2**20
    assert none < 2**20


def test_exponents() -> None:
    points = [{"side": side, "seconds": 3e-9 * side**3, "bytes": 0.0} for side in (32, 64, 128, 256)]
    assert scaling.exponent(points, "seconds") == pytest.approx(1.5)
    assert scaling.exponent(points, "bytes") is None


def test_bars_below_what_copies_take_are_told_apart(tmp_path: Path) -> None:
    row = next(row for row in ratios.ROWS if row.bar == 1 / 4)
    measured = {"ours": 2.0, "theirs": 5.0, "ratio": 0.4, "quartiles": [0.4, 0.4], "rounds": 3}
    for copies, verdict in ((0.3, "**missed**, as by copies"), (0.2, "**missed**")):
        found = {row.name: {**measured, "copies": copies}}
        report.write({"ratios": {"found": found, "shrink": 1, "machine": {}}}, tmp_path)
        assert f"| 1/{1 / copies:.3g} | 1/4 | 1/8 | {verdict} |" in (tmp_path / "performance.md").read_text()


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is in the page and stays until it is measured again; what others wrote there stays too."""
    monkeypatch.setattr(problems, "SHAPES", [p for p in problems.SHAPES if "64x7x7" in p.name or p.kind == "lines"])
    monkeypatch.setattr(shapes, "BY_ISA", shapes.BY_ISA[-1:])
    monkeypatch.setattr(scaling, "SIDES", (32,))  # each is a process that loads everything
    monkeypatch.setattr(scaling, "METHODS", {name: scaling.METHODS[name] for name in ("linear (sgs)", "Non-local")})
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nWritten by hand.\n")
    brief = ["--quick", "--seconds", "0", "--out", str(tmp_path)]
    command.main([*brief, "--only", "memory,shapes,isa,scaling"])
    command.main([*brief, "--only", "ratios", "--rows", "torch copy_"])
    text = page.read_text()
    results = json.loads((tmp_path / "performance.json").read_text())
    assert set(results) == set(command.SECTIONS)
    assert list(results["ratios"]["found"]) == [ratios.ROWS[0].name]
    assert "Written by hand." in text
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    for title in ("Ratios", "Memory", "Shapes", "Instruction sets", "Time and memory", "Machine"):
        assert text.count(f"\n## {title}") == 1
    for name in (*scaling.METHODS, "64x7x7", "1000x1000"):
        assert f"| {name} |" in text
    for line in text.splitlines():
        if "](images/" in line:
            assert (tmp_path / line.split("](")[1].rstrip(")")).exists()
