"""Fixtures of all tests: instruction sets, poisoned memory, and the import path of `helpers`."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sgs
from sgs import _core

sys.path.insert(0, str(Path(__file__).parent))  # `helpers`, whatever pytest's import mode is


def _poison_scratch() -> None:
    """Let glibc fill every block it hands out with 0x7f: about 3e38 as float32 or bfloat16, NaN as float16.

    NumPy never sees the scratch memory of the compiled core; this way a value read from it before it was written shows.
    """
    _core.keep_scratch(0)  # fresh memory for each call
    m_perturb = -6
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(m_perturb, 0x80)


_poison_scratch()


def _poisoned(make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def poisoned(*args: Any, **kwargs: Any) -> np.ndarray:
        fresh = make(*args, **kwargs)
        if fresh.dtype.kind in "fc" or fresh.dtype.name == "bfloat16":
            fresh[...] = np.nan
        return fresh

    return poisoned


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is NaN for everybody who asks NumPy for it, so that an output nobody wrote cannot look right."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like"):
            patch.setattr(np, name, _poisoned(getattr(np, name)))
        yield


@pytest.fixture(autouse=True)
def restored_settings() -> Iterator[None]:
    """No test leaves its instruction set or number of threads to the next."""
    isa, threads = sgs.get_isa(), sgs.get_num_threads()
    yield
    sgs.set_isa(isa)
    sgs.set_num_threads(threads)


@pytest.fixture(params=_core.available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set that this machine has, one after the other."""
    sgs.set_isa(request.param)
    return str(request.param)
