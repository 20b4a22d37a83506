"""What keeps the tree as docs and packaging say it is: what is installed, who imports whom, what the tools think."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wcodec import errors

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"wcodec": "wcodec", "formats": "wcodec/formats", "cli": "wcodec/cli"}
"""The folders of the tree that are installed, and where."""

EXIT_CODES = {
    "WcodecError": 1,
    "UsageError": 2,
    "InputError": 3,
    "CorruptFileError": 3,
    "UnsupportedError": 3,
    "MissingDependencyError": 4,
    "DeviceError": 4,
    "NonFiniteError": 1,
    "CoderError": 1,
    "MismatchError": 1,
    "OutputError": 1,
    "AllocationError": 1,
}

MAY_LEAD_TO = {
    "wcodec.errors": [],
    "wcodec.model": ["wcodec.errors"],
    "wcodec.formats": ["wcodec.errors", "wcodec.model"],
    "wcodec.coders": ["wcodec.errors"],
    "wcodec.tiling": ["wcodec.coders", "wcodec.errors"],
    "wcodec.quantize": [
        *["wcodec.coders", "wcodec.errors", "wcodec.model", "wcodec.tiling"],
        *["wcodec.fitting", "wcodec.scales", "wcodec.workers"],
    ],
}
"""What the modules at the bottom may import, themselves or through others, beside their own package."""


def installed_files() -> dict[str, Path]:
    """Every file of the packages, by its path in an installation."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def modules() -> dict[str, Path]:
    """Every module of the packages, by its name when installed."""
    return {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for name, path in installed_files().items()
        if name.endswith(".py")
    }


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a Python module or script with this interpreter; its output, once it has exited with 0."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What is installed


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # By way of the source distribution, so that it too is known to hold everything.
    run("-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=source)
    [archive] = (source / "dist").iterdir()
    run("-m", "tarfile", "--extract", str(archive), str(tmp_path))
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    run("-c", "from setuptools import build_meta; build_meta.build_wheel('dist')", cwd=unpacked)
    [wheel] = (unpacked / "dist").iterdir()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == set(installed_files())
    assert {"wcodec/py.typed", "wcodec/formats/SPEC.md"} <= held


def test_every_requirement_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {}
    for pin in pins:
        assert pin.url is None
        [version] = pin.specifier
        assert version.operator == "=="
        versions[canonicalize_name(pin.name)] = version.version
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        if requirement.name != "wcodec":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("wanted", ["wcodec", "wcodec.cli", "everything"])
def test_importing_loads_no_heavy_package(wanted: str, tmp_path: Path) -> None:
    names = [name for name in modules() if not name.endswith("__main__")] if wanted == "everything" else [wanted]
    script = (
        "import importlib, json, sys; [*map(importlib.import_module, sys.argv[1:])]; print(json.dumps([*sys.modules]))"
    )
    loaded = set(json.loads(run("-I", "-c", script, *names, cwd=tmp_path)))
    assert set(names) <= loaded
    assert not loaded & {"PIL", "av", "onnx", "pyopencl", "torch"}


@pytest.mark.parametrize("wanted", ["wcodec", "wcodec.infer"])
def test_public_names_exist_and_are_sorted(wanted: str) -> None:
    package = importlib.import_module(wanted)
    names = package.__all__
    assert list(names) == sorted(set(names))
    assert all(hasattr(package, name) for name in names)


# Who imports whom


def imports(module: str) -> set[str]:
    """The modules of the project that a module imports, anywhere in it."""
    known = modules()
    package = known[module].name == "__init__.py"
    found = set()
    for node in ast.walk(ast.parse(known[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {member if member in known else origin for member in members}
    return found & known.keys()


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def reachable(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that a module imports, and what those import, and so on."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_modules_lead_only_to_what_lies_below_them() -> None:
    graph = {module: imports(module) for module in modules()}
    for module in graph:
        for package, allowed in MAY_LEAD_TO.items():
            if within(module, package):
                strays = {other for other in reachable(module, graph) if not within(other, package, *allowed)}
                assert not strays, f"{module} leads to {strays}"


def test_nothing_imports_the_command_line() -> None:
    importers = {module for module in modules() if any(within(other, "wcodec.cli") for other in imports(module))}
    assert {module for module in importers if not within(module, "wcodec.cli", "wcodec.__main__")} == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: imports(module) for module in modules()}).prepare()


# The error tree


def error_classes() -> Iterator[type[errors.WcodecError]]:
    for _, value in inspect.getmembers(errors, inspect.isclass):
        if issubclass(value, errors.WcodecError):
            yield value


def test_every_error_has_its_exit_code() -> None:
    assert {error.__name__: error.exit_code for error in error_classes()} == EXIT_CODES


def test_every_error_is_public() -> None:
    package = importlib.import_module("wcodec")
    assert {error.__name__ for error in error_classes()} <= set(package.__all__)
    assert all(getattr(package, error.__name__) is error for error in error_classes())


def test_the_drawn_error_tree_is_the_real_one() -> None:
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+Error) .*?(\d)", errors.__doc__ or "", flags=re.MULTILINE)
    path: list[str] = []
    for lines, name, code in drawn:
        path[len(lines) // 4 :] = [name]
        assert [base.__name__ for base in getattr(errors, name).__mro__ if base in error_classes()] == path[::-1]
        assert getattr(errors, name).exit_code == int(code)
    assert {name for _, name, _ in drawn} == EXIT_CODES.keys()


# What the tools think


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_tool_is_content(command: str) -> None:
    run("-m", *command.split())


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
