"""nvcc takes every kernel for every architecture without a warning, and no kernel spills registers."""

import os

import pytest
import resources


@pytest.mark.skipif(resources.nvcc() is None, reason="no nvcc")
def test_resources(capsys: pytest.CaptureFixture[str]) -> None:
    # All architectures take minutes: by default the oldest and the newest; "all", or names, from the environment.
    asked = os.environ.get("SGS_CUDA_ARCHITECTURES", "75 120")
    architectures = resources.ARCHITECTURES if asked == "all" else [int(a) for a in asked.split()]
    usages = resources.measure(architectures)
    with capsys.disabled():
        print("\n" + resources.table(usages))
    assert {u.kernel for u in usages} == set(resources.LAUNCHES)
    assert all(u.spills == 0 and u.stack == 0 for u in usages)
    for u in usages:
        assert u.dynamic_shared + u.static_shared <= resources.LIMITS[u.architecture][2] * 1024
