"""`from sgs cimport cython_api`: a user's own Cython module, compiled here, calls the core without the interpreter's lock."""

import importlib.util
import subprocess
import sys
import sysconfig
from types import ModuleType

import numpy as np
import pytest

import sgs

SOURCE = """
# cython: language_level=3
from cython cimport floating
from sgs cimport cython_api


def scan(floating[:, :] x, floating[:, :] w, floating[:, :] y, bint reverse):
    with nogil:
        cython_api.scan(x, w, y, reverse, 2)


def line_filter(floating[:, :] x, floating[:, :] w, floating[:, :] y):
    with nogil:
        cython_api.line_filter(x, w, y, 2)


def tree(floating[:, :] x, floating[:, :] w, floating[:, :] a, floating[:, :] y, Py_ssize_t root):
    with nogil:
        cython_api.tree_aggregate(x, w, a, root, 2)
        cython_api.tree_update(a, w, y, root, 2)


def edge_weights(floating[:, :, :] guide, floating[:, :] w, int axis, double scale, double step):
    with nogil:
        cython_api.edge_weights(guide, w, axis, scale, step, 2)


def semi_global_filter(floating[:, :, :] x, floating[:, :] vertical, floating[:, :] horizontal, floating[:, :, :] y):
    with nogil:
        cython_api.semi_global_filter(x, vertical, horizontal, y, 2)
"""


@pytest.fixture(scope="module")
def user_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("user")
    (folder / "user.pyx").write_text(SOURCE)
    subprocess.run([sys.executable, "-m", "cython", "--cplus", "user.pyx"], cwd=folder, check=True)
    target = folder / ("user" + sysconfig.get_config_var("EXT_SUFFIX"))
    include = sysconfig.get_paths()["include"]
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{include}", "user.cpp", "-o", target],
        cwd=folder,
        check=True,
    )
    spec = importlib.util.spec_from_file_location("user", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_function_equals_the_numpy_one(user_module: ModuleType, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((97, 34)).astype(dtype)[::-1, ::2]
    w = rng.random((97, 16)).astype(dtype)
    y, a = np.full((97, 17), np.nan, dtype), np.full((97, 17), np.nan, dtype)
    user_module.scan(x, w, y, True)
    np.testing.assert_array_equal(y, sgs.scan(x, w, reverse=True))
    user_module.line_filter(x, w[:1], y)
    np.testing.assert_array_equal(y, sgs.line_filter(x, w[:1]))
    user_module.tree(x, w, a, y, 5)
    np.testing.assert_array_equal(a, sgs.tree_aggregate(x, w, root=5))
    np.testing.assert_array_equal(y, sgs.tree_update(a, w, root=5))

    image = rng.random((3, 20, 31)).astype(dtype)
    vertical, horizontal = np.full((19, 31), np.nan, dtype), np.full((20, 30), np.nan, dtype)
    filtered = np.full_like(image, np.nan)
    user_module.edge_weights(image, vertical, 1, 0.5, 0.1)
    user_module.edge_weights(image, horizontal, 2, 0.25, 0.1)
    user_module.semi_global_filter(image, vertical, horizontal, filtered)
    np.testing.assert_array_equal(vertical, sgs.edge_weights(image, 1, 0.5, step=0.1)[0])
    np.testing.assert_array_equal(filtered, sgs.semi_global_filter(image, scale=(0.5, 0.25), step=0.1))


def test_wrong_shapes_are_refused(user_module: ModuleType) -> None:
    x = np.zeros((4, 9))
    with pytest.raises(ValueError, match="w: expected length n - 1"):
        user_module.line_filter(x, np.zeros((4, 9)), x.copy())
    with pytest.raises(ValueError, match="y: expected the shape of x"):
        user_module.line_filter(x, np.zeros((4, 8)), np.zeros((4, 8)))
    with pytest.raises(ValueError, match="root"):
        user_module.tree(x, np.zeros((1, 8)), x.copy(), x.copy(), 9)
    with pytest.raises(ValueError, match="horizontal"):
        user_module.semi_global_filter(np.zeros((1, 4, 5)), np.zeros((3, 5)), np.zeros((4, 5)), np.zeros((1, 4, 5)))
