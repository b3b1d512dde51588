"""Threads, instruction sets, and what was built."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np

from sgs import _check, _core

# What the core is asked for at most: threads beyond any machine's only cost the time to start them, or fail to start.
_MOST_THREADS = 1024

_for_all: int | None = None
_for_context: ContextVar[int | None] = ContextVar("sgs_num_threads", default=None)


@cache
def _default_threads() -> int:
    given = os.environ.get("SGS_NUM_THREADS", "").strip()
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"SGS_NUM_THREADS: expected an integer >= 1 in the environment, got {given!r}")
    return int(given)


def get_num_threads() -> int:
    """The number of threads that a call uses when its `num_threads` is None.

    That of the innermost `num_threads` context around the call, else of `set_num_threads`, else of the environment
    variable SGS_NUM_THREADS when this is first asked for, else the number of CPUs that the process may use. Results
    are the same, bit for bit, for any number.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        SGS_NUM_THREADS is needed and is not a positive integer.

    Examples
    --------
    >>> import sgs
    >>> with sgs.num_threads(3):
    ...     sgs.get_num_threads()
    3
    """
    return _for_context.get() or _for_all or _default_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads for the whole process, outside of `num_threads` contexts.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer, or less than 1.

    Examples
    --------
    >>> import sgs
    >>> before = sgs.get_num_threads()
    >>> sgs.set_num_threads(2)
    >>> sgs.get_num_threads()
    2
    >>> sgs.set_num_threads(before)
    """
    global _for_all
    _for_all = _check.integer("n", n, least=1)


@contextmanager
def _threads_in_context(n: int) -> Iterator[None]:
    token = _for_context.set(n)
    try:
        yield
    finally:
        _for_context.reset(token)


def num_threads(n: int) -> AbstractContextManager[None]:
    """Set the number of threads within a `with` block.

    It holds for the thread or asyncio task that runs the block: others are not disturbed. The functions' argument of
    the same name has priority.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    context manager

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer, or less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> import sgs
    >>> with sgs.num_threads(1):
    ...     sgs.scan(np.ones(3), 0.5 * np.ones(2))
    array([1.  , 1.5 , 1.75])
    """
    return _threads_in_context(_check.integer("n", n, least=1))


def threads_for_call(num_threads: int | None) -> int:
    """What to ask the core for, given the argument `num_threads` of a public function."""
    n = get_num_threads() if num_threads is None else _check.integer("num_threads", num_threads, least=1)
    return min(n, _MOST_THREADS)


def get_isa() -> str:
    """The instruction set that the kernels in use were compiled for.

    The best that the machine has, unless `set_isa` or the environment variable SGS_ISA chose another.

    Returns
    -------
    str
        Such as "x86-64-v3".
    """
    return _core.get_isa()


def set_isa(name: str) -> None:
    """Choose the instruction set for the whole process.

    Results differ between instruction sets within the error bound, for sums are taken in other orders.

    Parameters
    ----------
    name : str
        Such as "x86-64-v3", or "v3" for short. `show_config` prints those that this machine has.

    Raises
    ------
    TypeError
        `name` is no string.
    ValueError
        The instruction set is unknown, or the machine has not got it.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r} ({type(name).__name__})")
    _core.set_isa(name)


def show_config() -> None:
    """Print versions, how the library was built, instruction sets, threads and CUDA."""
    from sgs import __version__

    rows = {
        "sgs": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        **_core.build_info(),
        "instruction set": f"{get_isa()} (of {', '.join(_core.available_isas())})",
        "threads": str(get_num_threads()),
        "CUDA usable": "yes" if _core.cuda_available() else f"no: {_core.cuda.reason()}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")


def get_include() -> str:
    """The directory with the C++ headers and the Cython declarations of the library.

    Returns
    -------
    str
        For a compiler's include path.
    """
    # Beside the compiled core: in an editable installation the Python sources are elsewhere.
    return os.path.join(os.path.dirname(_core.__file__), "include")
