"""Builds cuda/ and its binding with a C++ compiler against the emulation beside this file, and runs the tests on what it built."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAME = "sgs_cuda_emulated"
FLAGS = {
    "fibers": ["-O1"],
    "address": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "threads": ["-O1", "-g1", "-fsanitize=thread", "-DSGS_EMULATION_THREADS"],
}
RUNTIMES = {"address": "libasan.so", "threads": "libtsan.so"}


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def has_runtime(kind: str) -> bool:
    """Whether the compiler knows the sanitizer's library; it answers with the bare name if not."""
    return Path(_output([*compiler(), f"-print-file-name={RUNTIMES[kind]}"])).is_absolute()


def folder(kind: str) -> Path:
    return ROOT / "build/emulated" / kind


def build(target: Path, kind: str = "fibers", cuda: Path = ROOT / "cuda", reuse: Path | None = None) -> Path:
    """The module of that kind in folder `target`, from the sources in `cuda`.

    Objects in `target` that are newer than all they depend on stay. Where `cuda` is a changed copy, objects in folder `reuse`
    stand for files that include nothing that changed.
    """
    import pybind11

    target.mkdir(parents=True, exist_ok=True)
    folders = (cuda, HERE, ROOT / "cpp", ROOT / "python")
    includes = [*folders, pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = [
        "-std=c++20",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-DSGS_MODULE={NAME}",
        *FLAGS[kind],
    ]
    flags += ["-Wno-error"] if reuse is not None else []  # a fault may leave something unused
    flags += [f"-I{i}" for i in includes]
    sources = [
        *sorted(cuda.glob("*.cu")),
        ROOT / "python/cuda_module.cpp",
        HERE / "module.cpp",
        HERE / "cuda_emulation.cpp",
    ]

    def changed(file: Path) -> bool:
        return file.parent == cuda and (ROOT / "cuda" / file.name).read_bytes() != file.read_bytes()

    def compile_one(source: Path) -> Path:
        made = target / f"{source.stem}.o"
        files = _with_included(source, folders)
        if reuse is not None:
            if not any(changed(f) for f in files):
                return reuse / made.name
        elif made.exists() and made.stat().st_mtime > max(f.stat().st_mtime for f in files):
            return made
        _run([*compiler(), *flags, "-x", "c++", "-c", str(source), "-o", str(made)])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    module = target / f"{NAME}.so"
    _run([*compiler(), "-shared", *FLAGS[kind], *map(str, objects), "-o", str(module), "-pthread"])
    return module


def run_tests(
    module: Path, kind: str, subset: str = "", order: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """The tests of the kernels on a built module, in a process of their own, up to the first failure."""
    environment = dict(os.environ, SGS_CUDA_MODULE=str(module))
    if order is not None:
        environment["SGS_CUDA_ORDER"] = str(order)
    if kind in RUNTIMES:
        # The sanitizer has to be there before Python is; beside it libstdc++, whose exceptions it watches.
        libraries = [_output([*compiler(), f"-print-file-name={name}"]) for name in (RUNTIMES[kind], "libstdc++.so")]
        environment |= {"LD_PRELOAD": " ".join(libraries), "SGS_CUDA_CHECK": "0"}
        environment |= {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66:halt_on_error=1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-s",
        "-c",
        os.devnull,
        "--rootdir",
        str(HERE),
        f"--confcutdir={HERE}",
    ]
    command += ["-p", "no:cacheprovider", *(["-k", subset] if subset else []), "test_forward.py", "test_backward.py"]
    return subprocess.run(
        command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _with_included(source: Path, folders: Sequence[Path]) -> set[Path]:
    """The file and all that it includes from these folders, however far."""
    found, left = set(), [source]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.M):
            left += [f / name for f in (file.parent, *folders) if (f / name).exists()][:1]
    return found


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr}")
