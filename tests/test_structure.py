"""The folders: imports run one way, no circles, names that hide nothing, and the names modules had before."""

import ast
import functools
import graphlib
import importlib
import inspect
import sys
import warnings
from pathlib import Path

import pytest

import genreg
from genreg import _former_names as former

ROOT = Path(__file__).parents[1]

# A folder or module may import what stands in a line above its own, and those of its own line before it.
ORDER = """
operators.bridge operators.linear operators.testing
operators.lowering operators.tomography operators.measurements operators.precision operators.mri
operators.proximal operators.fidelity operators
solvers.checkpoints solvers.problem solvers.updates solvers.driver
solvers.algorithms solvers.parameter_choice solvers.generative solvers
plotting networks datasets weights generator latent regularisers
sampling adaptive training recipes empirical_bayes evaluation reconstruction own_images cli
"""
RANK = {name: place for place, name in enumerate(ORDER.split())}


def modules():
    """The path of every module of the package by its name."""
    found = {}
    for folder in ("genreg", "operators", "solvers"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "genreg" else ("genreg", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


@functools.cache
def imported(name):
    """The modules of the package that a module imports, inside of functions too."""
    return set(_imported(name))


def _imported(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("genreg."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {name}, line {node.lineno}"
            if node.module.split(".")[0] == "genreg":
                submodules = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (m if m in MODULES else node.module for m in submodules)


def folder(name):
    """The entry of `ORDER` that a module belongs to."""
    parts = name.split(".")[1:]
    return ".".join(parts[:2] if parts[0] in ("operators", "solvers") else parts[:1])


@pytest.mark.parametrize("own", RANK)
def test_imports_run_one_way(own):
    members = [name for name in MODULES if name != "genreg" and "._" not in name and folder(name) == own]
    assert members
    for name in members:
        for other in imported(name):
            assert other in MODULES, f"{name} imports {other}, which does not exist"
            assert RANK[folder(other)] <= RANK[own], f"{name} imports {other}, of a later folder"
            private = other.rpartition(".")[2].startswith("_")
            assert not private or folder(other) == own, f"{name} imports {other}, of another folder"


def test_every_module_is_in_a_folder_of_the_order():
    assert {folder(name) for name in MODULES if name != "genreg" and "._" not in name} == set(RANK)


def test_no_circle():
    graph = {name: {m for m in imported(name) if m != name} for name in MODULES}
    for name, others in graph.items():  # the package that a module is part of imports it
        others -= {name.rpartition(".")[0]} if "." in name else set()
    graphlib.TopologicalSorter(graph).prepare()


PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_name_hides_a_module(name):
    """``import a.b`` gives the module b, not a function of its name."""
    package = importlib.import_module(name)
    children = [m for m in MODULES if m.rpartition(".")[0] == name]
    for child in children:
        attribute = getattr(package, child.rpartition(".")[2], None)
        assert attribute is None or inspect.ismodule(attribute), child


@pytest.mark.parametrize("name", former.MODULES)
def test_former_names(name, monkeypatch):
    present = importlib.import_module(f"genreg.{former.MODULES[name]}")
    parent, _, own = f"genreg.{name}".rpartition(".")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        package = importlib.import_module(parent)  # which may have moved itself
    standing = getattr(package, own, None)
    if standing is not None:
        monkeypatch.setattr(package, own, standing)  # as it is afterwards
    monkeypatch.delitem(sys.modules, f"genreg.{name}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"genreg.{name} is genreg.{former.MODULES[name]} now"):
        module = importlib.import_module(f"genreg.{name}")
    if standing is None:
        monkeypatch.delattr(package, own)
    renamed = former.FUNCTIONS.get(name, {})
    for old in [*(name for name in vars(present) if not name.startswith("_")), *renamed]:
        assert getattr(module, old) is getattr(present, renamed.get(old, old))
    if callable(standing):
        assert module._hidden is standing


def test_a_function_can_be_called_where_its_former_module_has_been_imported(monkeypatch):
    monkeypatch.setattr(genreg, "sweep", genreg.sweep)  # as it is afterwards
    monkeypatch.delitem(sys.modules, "genreg.sweep", raising=False)
    with pytest.warns(DeprecationWarning):
        importlib.import_module("genreg.sweep")
    with pytest.raises(TypeError, match=r"sweep\(\) missing"):
        genreg.sweep(1, 2, 3)
