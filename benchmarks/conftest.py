"""Threads of all that is timed: pytest benchmarks -n 0."""

import pytest

import sgs
from benchmarks import peers

THREADS = 2


@pytest.fixture(autouse=True, scope="session")
def threads() -> None:
    """The same for ours and theirs."""
    sgs.set_num_threads(THREADS)
    peers.set_threads(THREADS)
