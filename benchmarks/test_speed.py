"""Each side of every row, and every shape, by itself: pytest benchmarks -n 0 [-k "lines and not 32"].

Answers are checked before. Ratios are not to be taken from here: what is timed minutes apart may have been timed on another
machine. `python -m benchmarks` takes turns.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import memory, problems, ratios
from benchmarks.peers import UnavailableError


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("row", ratios.ROWS, ids=lambda row: row.name)
def test_row(benchmark: BenchmarkFixture, row: ratios.Row, side: str) -> None:
    try:
        pair = row.make(1)
    except UnavailableError as error:
        pytest.skip(str(error))
    benchmark.group = row.name
    benchmark(getattr(pair, side))


@pytest.mark.parametrize("problem", problems.SHAPES, ids=lambda p: f"{p.kind}-{p.batch}x{p.name}")
def test_shape(benchmark: BenchmarkFixture, problem: problems.Problem) -> None:
    try:
        memory.need(3 * problem.nbytes)
    except UnavailableError as error:
        pytest.skip(str(error))
    x, guide, out = problem.arrays()
    problem.check(x, guide, problem.run(x, guide, out=out))
    benchmark.group = problem.kind
    benchmark.extra_info["elements"] = problem.elements
    benchmark(problem.run, x, guide, out=out)
