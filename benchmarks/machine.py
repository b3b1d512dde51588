"""What the figures were measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path

import sgs
from sgs import _core

_PACKAGES = ("numpy", "torch", "numba", "opencv-contrib-python-headless", "philtorch")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _caches() -> str:
    """Those that the first core sees."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, str]:
    """The machine and the versions, for people to read."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "caches": _caches(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "sgs": f"{sgs.__version__}, {_core.build_info()['compiler']}",
        "instruction set": f"{sgs.get_isa()} (of {', '.join(_core.available_isas())})",
        "threads": str(sgs.get_num_threads()),
        **{package: _version(package) for package in _PACKAGES},
    }
