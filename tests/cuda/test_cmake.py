"""CMake's way to build with nvcc, as far as it differs from what the other tests do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest
import resources


@pytest.mark.skipif(resources.nvcc() is None, reason="no nvcc")
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="no cmake or no ninja")
def test_several_architectures(tmp_path: Path) -> None:
    """They reach the compiler, and what `sgs info` says of them."""
    options = {
        "SGS_CUDA": "ON",
        "SGS_WERROR": "ON",
        "CMAKE_CUDA_ARCHITECTURES": "80;90",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    configure = ["cmake", "-S", str(resources.ROOT), "-B", str(tmp_path), "-G", "Ninja"]
    subprocess.run([*configure, *(f"-D{k}={v}" for k, v in options.items())], check=True, capture_output=True)
    made = tmp_path / "CMakeFiles/sgs_cuda.dir/cuda/runtime.cu.o"
    subprocess.run(["ninja", "-C", str(tmp_path), str(made.relative_to(tmp_path))], check=True, capture_output=True)
    assert b"80,90\0" in made.read_bytes()
