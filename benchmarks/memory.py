"""Memory that a call takes beyond what lies there before, as the kernel saw it.

The process that is measured is a fresh one (python -m benchmarks.memory SHRINK): its peak, VmHWM, is set back just before the
call, and what is resident just before, VmRSS, is subtracted from it.
"""

import json
import subprocess
import sys
from typing import Any

from benchmarks import problems
from benchmarks.peers import UnavailableError
from sgs._bench import Call


def _kibibytes(path: str, key: str) -> int:
    try:
        with open(path) as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    except OSError as error:
        raise UnavailableError(f"memory is measured on Linux: {error}") from error


def need(nbytes: float) -> None:
    """Raise UnavailableError where less is available."""
    available = 1024 * _kibibytes("/proc/meminfo", "MemAvailable")
    if nbytes > available:
        raise UnavailableError(f"needs {nbytes / 2**30:.1f} GiB of memory, {available / 2**30:.1f} are available")


def beyond(call: Call) -> int:
    """Bytes at the peak of a call beyond those before it.

    Raises
    ------
    UnavailableError
        There is no /proc, or it cannot be written to.
    """
    before = _kibibytes("/proc/self/status", "VmRSS")
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # sets the peak back
    except OSError as error:
        raise UnavailableError(f"the peak cannot be set back: {error}") from error
    call()
    return 1024 * max(0, _kibibytes("/proc/self/status", "VmHWM") - before)


def in_fresh_process(module: str, *arguments: object) -> dict[str, Any]:
    """What a module of the benchmarks prints as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(shrink: int = 1) -> dict[str, Any]:
    """The line of the table that is about memory: bytes beyond input and output, of the input, and their ratio."""
    try:
        need(3 * problems.MEMORY.smaller(shrink).nbytes)
        return in_fresh_process("benchmarks.memory", shrink)
    except UnavailableError as error:
        return {"skipped": str(error)}


def main() -> None:
    """Measure, and print what came of it."""
    problem = problems.MEMORY.smaller(int(sys.argv[1]))
    small = problem.smaller(64)
    small.run(*small.arrays()[:2])  # brings threads and code into memory
    x, guide, out = problem.arrays()
    extra = beyond(lambda: problem.run(x, guide, out=out))
    problem.check(x, guide, out)
    print(json.dumps({"ours": extra, "theirs": x.nbytes, "ratio": extra / x.nbytes}))


if __name__ == "__main__":
    main()
