"""The device that all tests of this folder run on, in three thread orders where it is emulated."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `harness` and `build`, whatever pytest's import mode is

import harness

import build


@pytest.fixture(scope="session")
def opened() -> harness.Device:
    given = os.environ.get("SGS_CUDA_MODULE")
    if given == "gpu":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device: torch.cuda.is_available() is false")
    elif given is None:
        if shutil.which(build.compiler()[0]) is None:
            pytest.skip(f"no C++ compiler: {build.compiler()[0]}")
        given = str(build.build(build.folder("fibers")))
    return harness.open_device(given)


@pytest.fixture(params=(0, 1, 2), ids=("ascending", "descending", "random"))
def device(opened: harness.Device, request: pytest.FixtureRequest) -> Iterator[harness.Device]:
    """Blocks and threads in ascending, descending and random order; elsewhere than on an emulated device, once."""
    if not hasattr(opened.module, "set_order"):
        if request.param != 0:
            pytest.skip("the device has an order of its own")
        yield opened
        return
    if os.environ.get("SGS_CUDA_ORDER", str(request.param)) != str(request.param):
        pytest.skip("another order is asked for")
    opened.module.set_order(request.param)
    yield opened
    opened.module.set_order(0)
    opened.module.set_shared_limit(99 * 1024)
