"""The code base itself: what imports what, what the kernels' objects export, stubs, names and their documentation."""

import ast
import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_python

import sgs
from sgs import _core

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "cpp").rglob("*.cpp")) + sorted((ROOT / "cpp").rglob("*.h"))
KERNELS = sorted((ROOT / "cpp" / "kernels").glob("*.cpp"))
ISA_FLAGS = {isa: [f"-march=x86-64-{isa}"] for isa in ("v2", "v3", "v4")}
if platform.machine() not in ("x86_64", "AMD64"):
    ISA_FLAGS = {"generic": []}


# ---- Python


def test_importing_sgs_does_not_import_torch() -> None:
    """Nor anything else that is slow to load and that filters do not need."""
    run_python(
        """
        import sys
        import sgs
        sgs.line_filter([1.0, 2.0], [0.5])
        loaded = {"torch", "matplotlib", "scipy", "typer", "rich", "PIL", "skimage", "cv2"} & set(sys.modules)
        assert not loaded, loaded
        """
    )


def test_arrows_between_modules_point_one_way() -> None:
    """filters -> _check, _config, _core; the reference knows NumPy alone; nothing in the package imports the tests."""
    allowed = {
        "reference.py": set(),
        "_check.py": set(),
        "_config.py": {"_check", "_core"},
        "filters.py": {"_check", "_config", "_core"},
    }
    for name, inside in allowed.items():
        for node in ast.walk(ast.parse((ROOT / "src" / "sgs" / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sgs":
                package = node.module.split(".")
                names = {package[1]} if len(package) > 1 else {alias.name for alias in node.names}
                assert names <= inside | {"__version__"}, f"{name} imports {names}"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert (module or "").split(".")[0] not in {"torch", "scipy", "tests"}, f"{name} imports {module}"


SECTIONS = ("Parameters", "Returns", "Raises", "Examples")
FUNCTIONS = [name for name in sgs.__all__ if callable(getattr(sgs, name))]
FILTERS = (
    "attention_map",
    "edge_weights",
    "line_filter",
    "scan",
    "semi_global_filter",
    "tree_aggregate",
    "tree_update",
)


def test_all_names_exist_and_the_promised_ones_are_there() -> None:
    missing = [name for name in sgs.__all__ if not hasattr(sgs, name)]
    assert not missing
    promised = {*FILTERS, "reference", "get_num_threads", "set_num_threads", "num_threads", "get_isa", "set_isa"}
    assert promised | {"show_config", "get_include"} <= set(sgs.__all__)
    assert set(sgs.__all__) <= set(dir(sgs))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_have_numpydoc_sections(name: str) -> None:
    """Every parameter is described by its name, and functions with a result say what it is."""
    function = getattr(sgs, name)
    text = inspect.getdoc(function) or ""
    assert text and text[0].isupper() and "." in text.splitlines()[0]
    parameters = inspect.signature(function).parameters
    if parameters:
        assert re.search(r"^Parameters\n-{10}$", text, re.MULTILINE)
        described = text.split("Parameters\n----------\n")[1]
        described = re.split(r"\n\w+\n-+\n", described)[0]
        lines = [line for line in described.splitlines() if line and not line.startswith(" ")]
        named = {word.strip() for line in lines for word in line.split(":")[0].split(",")}
        assert set(parameters) == named
    if name in FILTERS:
        for section in SECTIONS:
            assert re.search(rf"^{section}\n-+$", text, re.MULTILINE), f"no section {section}"


@pytest.mark.parametrize("name", FILTERS)
def test_the_reference_has_the_same_arguments(name: str) -> None:
    public = inspect.signature(getattr(sgs, name)).parameters
    slow = inspect.signature(getattr(sgs.reference, name)).parameters
    kept = {k: (p.kind, p.default) for k, p in public.items() if k not in ("out", "num_threads")}
    assert kept == {k: (p.kind, p.default) for k, p in slow.items()}


def test_examples_in_docstrings_are_true() -> None:
    import doctest

    import sgs._config
    import sgs.filters

    for module in (sgs.filters, sgs._config, sgs.reference):
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert result.failed == 0
        assert result.attempted > 0 or module is sgs.reference


# ---- stubs


def _stub_functions() -> dict[str, list[str]]:
    tree = ast.parse((ROOT / "src" / "sgs" / "_core.pyi").read_text())
    return {n.name: [a.arg for a in n.args.args] for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_stubs_name_what_the_core_has() -> None:
    tree = ast.parse((ROOT / "src" / "sgs" / "_core.pyi").read_text())
    named = {
        n.target.id: ast.unparse(n.annotation)
        for n in tree.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id != "Array"
    }
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    runtime = {name for name in dir(_core) if not name.startswith("_")}
    assert runtime == set(named) | classes | set(_stub_functions())
    assert all(isinstance(getattr(_core, name), int) for name, kind in named.items() if kind == "int")


@pytest.mark.parametrize("name", list(_stub_functions()))
def test_stubs_count_the_arguments(name: str) -> None:
    """pybind11 writes the signature into the first line of the docstring."""
    head = (getattr(_core, name).__doc__ or "").splitlines()[0]
    inside = head[head.index("(") + 1 : head.rindex(") ->")]
    depth, count = 0, bool(inside.strip())
    for character in inside:
        depth += (character in "[(") - (character in "])")
        count += character == "," and depth == 0
    assert count == len(_stub_functions()[name])


def test_package_says_that_it_is_typed() -> None:
    assert (Path(sgs.__file__).parent / "py.typed").exists()


# ---- the core


def test_core_knows_neither_python_nor_torch() -> None:
    assert len(CORE) > 8
    for file in CORE:
        for include in re.findall(r'#\s*include\s*[<"]([^>"]+)', file.read_text()):
            assert not re.search(r"python|pybind|torch|ATen|c10|numpy", include, re.IGNORECASE), f"{file}: {include}"


def test_no_fast_math_anywhere() -> None:
    """Not as a flag, not as a pragma: it would flush subnormals of the whole process and lose NaN."""
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml", *CORE]
    files += [f for folder in ("python", "cuda") for f in (ROOT / folder).rglob("*") if f.is_file()]
    forbidden = re.compile(
        r"-O"
        r"fast|fast-"
        r"math|funsafe-math|associative-math|finite-math|use_fast_math|"
        r"_MM_SET_FLUSH|_MM_SET_DENORMALS|_mm_setcsr|ffp-model=fast"
    )
    for file in files:
        found = [line for line in file.read_text(errors="replace").splitlines() if forbidden.search(line)]
        assert not found, f"{file}: {found}"


def test_kernels_include_no_standard_containers() -> None:
    """Templates of the standard library would become weak symbols compiled for one instruction set."""
    assert KERNELS
    for file in KERNELS:
        includes = set(re.findall(r"#\s*include\s*<([^>]+)>", file.read_text()))
        assert not includes & {"vector", "string", "map", "functional", "memory", "algorithm", "array"}, file


def _shared_symbols(objects: list[Path]) -> list[str]:
    """Symbols the linker may merge with another instruction set's copy: weak, unique, or global outside of its namespace."""
    bad = []
    for file in objects:
        listing = subprocess.run(["nm", "-C", str(file)], capture_output=True, text=True, check=True).stdout
        assert listing.strip(), f"nothing in {file}"
        for line in listing.splitlines():
            kind, name = line[17:18], line[19:]
            if kind in "WwVvu":
                bad.append(f"{file.name}: {line}")
            if kind in "TDBR" and not any(f"sgs::{isa}::" in name for isa in ISA_FLAGS):
                bad.append(f"{file.name}: {line}")
    return bad


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        if name and shutil.which(name):
            return name
    raise AssertionError("no C++ compiler found: this check is not to be skipped, set CXX")


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF objects")
@pytest.mark.parametrize("isa", ISA_FLAGS)
def test_kernel_objects_carry_no_weak_symbols(isa: str, tmp_path: Path) -> None:
    """Compiled here without optimisation too, where every inline function that is not static would show."""
    compiler = _compiler()
    for level in ("-O0", "-O3"):
        if level == "-O3" and isa != "v4" and "generic" not in ISA_FLAGS:
            continue  # one optimised object is enough, the others differ by a flag
        jobs = []
        for source in KERNELS:
            target = tmp_path / f"{source.stem}{level}.o"
            options = ["-std=c++20", level, "-fPIC", "-I", str(ROOT / "cpp"), f"-DSGS_ISA={isa}", *ISA_FLAGS[isa]]
            command = [compiler, *options, "-c", str(source), "-o", str(target)]
            jobs.append((target, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
        for target, job in jobs:
            _, errors = job.communicate()
            assert job.returncode == 0, f"{target.name}: {errors}"
        assert not _shared_symbols([target for target, _ in jobs])


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF objects")
def test_built_kernel_objects_carry_no_weak_symbols() -> None:
    """The very objects of this installation, where its build folder is still there."""
    objects = sorted((ROOT / "build").glob("**/sgs_kernels_*.dir/**/*.o"))
    if not objects:
        pytest.skip("installed from elsewhere; the sources were compiled and looked at in the test before")
    assert not _shared_symbols(objects)


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_extension_exports_nothing_of_the_core() -> None:
    """Two extensions that link the core, of two versions perhaps, must not be bound to one another's functions."""
    listing = subprocess.run(["nm", "-D", "--defined-only", _core.__file__], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    assert "PyInit__core" in names
    assert not [name for name in names if "3sgs" in name]
