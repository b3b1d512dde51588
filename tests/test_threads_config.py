"""Threads, instruction sets and what `sgs` tells about itself."""

import asyncio
import contextvars
import importlib.metadata
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import sgs
from sgs import _config, _core


def python(code: str, **environment: str) -> str:
    """What `code` prints in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SGS_")}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


# ---- threads


def test_default_is_the_usable_cpus() -> None:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert python("import sgs; print(sgs.get_num_threads())", SGS_NUM_THREADS=" ") == f"{usable}\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_default_follows_the_affinity() -> None:
    code = "import os, sgs; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); print(sgs.get_num_threads())"
    assert python(code) == "1\n"


def test_environment() -> None:
    code = "import sgs; print(sgs.get_num_threads()); sgs.set_num_threads(2); print(sgs.get_num_threads())"
    assert python(code, SGS_NUM_THREADS="3") == "3\n2\n"


@pytest.mark.parametrize("value", ["0", "two", "1.5"])
def test_bad_environment_is_told_at_first_use(value: str) -> None:
    code = "import sgs; sgs.scan([1.0], [], num_threads=1); print('so far'); sgs.scan([1.0], [])"
    printed = python(code, SGS_NUM_THREADS=value)
    assert printed.startswith("so far\n")
    assert f"ValueError: SGS_NUM_THREADS: expected an integer >= 1 in the environment, got '{value}'" in printed


def test_set_num_threads() -> None:
    sgs.set_num_threads(5)
    assert sgs.get_num_threads() == 5
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(sgs.get_num_threads).result() == 5


def test_context_nests_and_ends() -> None:
    sgs.set_num_threads(5)
    with sgs.num_threads(2):
        assert sgs.get_num_threads() == 2
        with sgs.num_threads(3):
            assert sgs.get_num_threads() == 3
            sgs.set_num_threads(6)
            assert sgs.get_num_threads() == 3
        assert sgs.get_num_threads() == 2
    assert sgs.get_num_threads() == 6
    with pytest.raises(KeyError), sgs.num_threads(2):
        raise KeyError
    assert sgs.get_num_threads() == 6


def test_context_does_not_disturb_other_threads() -> None:
    sgs.set_num_threads(5)
    inside, seen = threading.Barrier(2, timeout=60), {}

    def work(name: str, n: int) -> None:
        with sgs.num_threads(n):
            inside.wait()
            seen[name] = sgs.get_num_threads()
            inside.wait()

    threads = [threading.Thread(target=work, args=item) for item in (("a", 2), ("b", 3))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == {"a": 2, "b": 3}
    assert sgs.get_num_threads() == 5


def test_context_does_not_disturb_other_tasks() -> None:
    async def work(n: int) -> int:
        with sgs.num_threads(n):
            await asyncio.sleep(0.01)
            return sgs.get_num_threads()

    async def both() -> list[int]:
        return await asyncio.gather(work(2), work(3))

    assert asyncio.run(both()) == [2, 3]


def test_context_is_handed_on_with_the_context() -> None:
    with sgs.num_threads(4):
        copied = contextvars.copy_context()
    assert copied.run(sgs.get_num_threads) == 4


@pytest.mark.parametrize("function", [sgs.set_num_threads, sgs.num_threads])
def test_bad_numbers_of_threads(function: object) -> None:
    before = sgs.get_num_threads()
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"^n: expected an integer >= 1, got {n}"):
            function(n)  # type: ignore[operator]
    for other in (1.0, "1", None, True):
        with pytest.raises(TypeError, match=r"^n: expected an integer"):
            function(other)  # type: ignore[operator]
    assert sgs.get_num_threads() == before


def test_what_reaches_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument before the context before the setting; more than any machine has is cut."""
    asked = []
    monkeypatch.setattr(_core, "scan", lambda *args: asked.append(args[-1]))
    sgs.set_num_threads(5)
    sgs.scan([1.0], [])
    with sgs.num_threads(4):
        sgs.scan([1.0], [])
        sgs.scan([1.0], [], num_threads=np.int64(3))
        sgs.scan([1.0], [], num_threads=10**30)
    assert asked == [5, 4, 3, _config._MOST_THREADS]


def test_very_many_threads() -> None:
    x = np.random.default_rng(0).standard_normal((3, 40, 50))
    assert (sgs.semi_global_filter(x, num_threads=10**9) == sgs.semi_global_filter(x, num_threads=1)).all()


# ---- instruction sets


def test_isa() -> None:
    available = _core.available_isas()
    assert sgs.get_isa() in available
    for name in available:
        sgs.set_isa(name)
        assert sgs.get_isa() == name
        sgs.set_isa(name.rsplit("-", 1)[-1])  # "v3"
        assert sgs.get_isa() == name
        assert python("import sgs; print(sgs.get_isa())", SGS_ISA=name) == f"{name}\n"


def test_bad_isa() -> None:
    before = sgs.get_isa()
    with pytest.raises(ValueError, match="mmx"):
        sgs.set_isa("mmx")
    for other in (None, 3, b"v3"):
        with pytest.raises(TypeError, match=r"^name: expected a string, got"):
            sgs.set_isa(other)  # type: ignore[arg-type]
    assert sgs.get_isa() == before


# ---- what it tells


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    with sgs.num_threads(3):
        assert sgs.show_config() is None
    shown = capsys.readouterr().out
    for wanted in (
        sgs.__version__,
        np.__version__,
        sgs.get_isa(),
        *_core.available_isas(),
        "threads",
        "openmp",
        "CUDA",
    ):
        assert wanted.lower() in shown.lower()
    assert any(line.split() == ["threads", "3"] for line in shown.splitlines())


def test_version_and_include() -> None:
    assert sgs.__version__ == importlib.metadata.version("sgsnet")
    assert (Path(sgs.get_include()) / "sgs.h").is_file() or list(Path(sgs.get_include()).rglob("*.h"))


# ---- the package


def test_importing_sgs_does_not_import_torch() -> None:
    assert python("import sys, sgs; sgs.scan([1.0], []); dir(sgs); print('torch' in sys.modules)") == "False\n"


def test_lazy_modules_are_listed_but_not_star_imported() -> None:
    assert {"torch", "nn"} <= set(dir(sgs))
    assert not {"torch", "nn"} & set(sgs.__all__)
    assert all(hasattr(sgs, name) for name in sgs.__all__)
    with pytest.raises(AttributeError, match="module 'sgs' has no attribute 'tensor'"):
        sgs.tensor  # noqa: B018


PARAMETERS = {
    "semi_global_filter": "x guide=None scale=1.0 * channel_axis=-3 axes=None blocks=1 normalization='cross' "
    "residual=False metric='euclidean' step=0.0 heads=1 confidence=None fill_value=0.0 out=None num_threads=None",
    "attention_map": "guide position scale=1.0 * channel_axis=-3 axes=None blocks=1 normalization='cross' "
    "residual=False metric='euclidean' step=0.0 heads=1 confidence=None num_threads=None",
    "edge_weights": "guide axis scale=1.0 * channel_axis=-3 metric='euclidean' step=0.0 heads=1 num_threads=None",
    "scan": "x w axis=-1 * reverse=False initial=None out=None num_threads=None",
    "line_filter": "x w axis=-1 * initial=None out=None num_threads=None",
    "tree_aggregate": "x w axis=-1 * root=0 out=None num_threads=None",
    "tree_update": "a w axis=-1 * root=0 out=None num_threads=None",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_signatures(name: str) -> None:
    """Names, order, defaults and what is by keyword only; the reference has the same but `out` and `num_threads`."""

    def written(function: object) -> list[str]:
        words = []
        for p in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
            if p.kind is p.KEYWORD_ONLY and "*" not in words:
                words.append("*")
            words.append(p.name if p.default is p.empty else f"{p.name}={p.default!r}")
        return words

    wanted = PARAMETERS[name].split()
    assert written(getattr(sgs, name)) == wanted
    common = [word for word in wanted if word not in ("out=None", "num_threads=None")]
    if common[-1] == "*":
        common.pop()
    assert written(getattr(sgs.reference, name)) == common


@pytest.mark.parametrize("name", PARAMETERS)
def test_docstrings_name_every_parameter(name: str) -> None:
    function = getattr(sgs, name)
    sections = function.__doc__.split("\n    Parameters\n")[1].split("\n    Returns\n")[0]
    named = {word.strip() for line in sections.splitlines() for word in line.split(" : ")[0].split(",")}
    assert set(inspect.signature(function).parameters) <= named
    for section in ("Returns", "Raises", "Examples"):
        assert f"\n    {section}\n" in function.__doc__
