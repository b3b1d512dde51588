"""The kernels under Address- and UndefinedBehaviorSanitizer (fibers) and under ThreadSanitizer (a thread for every CUDA thread)."""

import os
import shutil

import pytest

import build

# Few enough for a thread per CUDA thread: every kernel, one chunk and several, whole planes and tiles.
FOR_THREADS = (
    "(test_lines and float32 and (shape4 or shape7 or shape10 or shape0-1)) or (test_axes and axes0 and 2) or refus"
    " or (edge_weights and float32 and euclidean and shape0)"
    " or (test_semi_global_filter and float32 and confidence and (shape0 or shape2-axes2))"
    " or (test_axes and shape3 and float32 and none)"
    " or (test_line_in_planes and float32 and sides1)"
    " or (test_planes and float32 and (confidence or line) and (shape0 or shape3 or shape8))"
)
# All, but for what differs from another test in its type or its normalization alone.
FOR_ADDRESSES = "not (test_planes and (float64 or none))"


@pytest.mark.parametrize("kind", ("address", "threads"))
def test_sanitizer(kind: str) -> None:
    if "SGS_CUDA_MODULE" in os.environ:
        pytest.skip("for the emulated device")
    if shutil.which(build.compiler()[0]) is None:
        pytest.skip(f"no C++ compiler: {build.compiler()[0]}")
    if not build.has_runtime(kind):
        pytest.skip(f"the compiler has no {build.RUNTIMES[kind]}")
    module = build.build(build.folder(kind), kind)
    subset, order = (FOR_THREADS, 0) if kind == "threads" else (FOR_ADDRESSES, 2)
    result = build.run_tests(module, kind, subset, order)
    assert result.returncode == 0, result.stdout[-8000:]
    assert "passed" in result.stdout


def test_fault_is_seen() -> None:
    """That the tests can fail: one planted fault here, all of them by `python tests/cuda/faults.py`."""
    if "SGS_CUDA_MODULE" in os.environ or shutil.which(build.compiler()[0]) is None:
        pytest.skip("for the emulated device")
    import faults

    planted = [f for f in faults.barriers() if f.name == "sum_elements: barrier 1 removed"]
    assert all(faults.caught(f, "fibers", build.folder("fibers")) for f in planted) and len(planted) == 1


def test_faults_can_be_planted() -> None:
    """The texts that `faults.py` replaces are still there."""
    import faults

    for fault in faults.PLANTED:
        assert faults.places(fault, (build.ROOT / "cuda" / fault.file).read_text()), fault.name
