"""What the benchmarks share: the command line, timing, tables, kept results; and that they import public names only."""

import argparse
import ast
import importlib
import inspect
import json
import sys
from pathlib import Path

import _study as study
import pytest
import torch

import genreg

ROOT = Path(__file__).parents[2]

# What a script may import although no package offers it, and why.
ALLOWED = {
    "genreg.operators.measurements.forward.GaussianMeasurements": "the operator of a matrix that is not drawn",
    "genreg.operators.mri.kspace_masks.central": "the part of k-space that `calibration_region` gives the size of",
    "genreg.recipes.brain": "the images that the models of brains are trained, validated and tested with",
    "genreg.sampling.random_numbers.RandomNumbers": "`starts` and the kernels take one",
    "genreg.sampling.adaptation.window_ends": "to count the evaluations of a warm-up before it is run",
    "genreg.solvers.generative.profiled.codes": "the encoder's proposal, for another update of z",
    "genreg.solvers.generative.profiled.maximise": "the loop of `jpmap`, for another update of z",
    "genreg.solvers.generative.profiled.maximise_profile": "the steps of `JointPrior`, with another tolerance",
    "genreg.solvers.generative.structured.StructuredProblem": "to set its tolerance",
}


def imported(tree):
    """Full names of what a script imports of the package, or takes as an attribute of what it imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "genreg":
                    yield alias.name
                    names[alias.asname or "genreg"] = alias.name if alias.asname else "genreg"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genreg":
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        attributes = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if attributes and isinstance(node, ast.Name) and node.id in names:
            yield ".".join((names[node.id], *attributes))


def under(name, places):
    """Whether a name is one of some, or below one of them."""
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def public(name):
    """Whether a name is offered: by ``__all__`` of folders and of the modules that these offer."""
    place, thing = "genreg", genreg
    for part in name.split(".")[1:]:
        if not inspect.ismodule(thing):
            return True  # what a class has is not an import
        place, package = f"{place}.{part}", hasattr(thing, "__path__")
        if part in thing.__all__:
            thing = getattr(thing, part)
        else:
            thing = importlib.import_module(place) if package else None
            if not hasattr(thing, "__path__"):
                return False
    return True


SCRIPTS = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}-{script.stem}")
def test_scripts_import_public_names(script):
    hidden = {
        name
        for name in imported(ast.parse(script.read_text()))
        if not under(name, ALLOWED) and not public(name)
    }
    assert not hidden, f"{script.name} uses {hidden}, which no package offers"


def test_every_exception_is_needed():
    used = {name for script in SCRIPTS for name in imported(ast.parse(script.read_text()))}
    assert all(any(under(other, [name]) for other in used) for name in ALLOWED)
    assert not any(public(name) for name in ALLOWED)


WITH_DATA = ("htc2022", "measured_multicoil", "mri_calibration", "mri_spokes", "pixel_optimisation")


@pytest.mark.parametrize("name", WITH_DATA)
def test_benchmarks_without_data_say_so(monkeypatch, capsys, name):
    monkeypatch.delenv("GENREG_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--threads", "1"])
    importlib.import_module(name).main()
    assert capsys.readouterr().out.startswith("skipped: ")


def test_a_missing_file_is_no_missing_data_set(tmp_path):
    with pytest.raises(FileNotFoundError):
        study.skipped_without_data(lambda: open(tmp_path / "nothing"))()


def test_arguments_and_folder(monkeypatch):
    def read(*given):
        monkeypatch.setattr(sys, "argv", ["script", "--threads", "1", *given])
        return study.arguments("What it does.", {"--count": {"type": int, "default": 3}}, output=True)

    assert (read().count, read("--count", "5").count) == (3, 5)
    for given, place in (((), "docs"), (("--quick",), "build"), (("--output", "x", "--quick"), "x")):
        assert study.folder(read(*given)) == Path(place)
    assert study.folder(read(), whole=False) == Path("build")


def test_times_are_medians_after_a_warm_up():
    ticks = iter([0, 2, 10, 13, 20, 21, 30, 31, 40, 50, 60, 66])
    calls = {"a": [], "b": []}
    functions = {name: lambda name=name: calls[name].append(0) for name in calls}
    found = study.interleaved(functions, 3, inner=2, clock=lambda: next(ticks))
    assert found == {"a": 1.0, "b": 1.5}
    assert [len(made) for made in calls.values()] == [7, 7]


def test_tables():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert study.plus_minus(values) == "3.00 ± 1.08"
    assert study.plus_minus(values, 1, spread=True, sign="+") == "+3.0 ± 2.2"
    text = study.markdown(("", "error"), [("TV", study.plus_minus(values))], "**title**")
    assert text == "**title**\n\n|  | error |\n|---|---|\n| TV | 3.00 ± 1.08 |"


def test_results_are_kept_for_their_settings(tmp_path):
    file = tmp_path / "deep" / "result.pt"
    found = study.kept(file, {"steps": 3}, lambda: {"x": torch.ones(2), "note": "a"})
    again = study.kept(file, {"steps": 3}, dict)
    assert torch.equal(again["x"], found["x"]) and again["note"] == "a" and "settings" not in again
    assert study.kept(file, {"steps": 4}, lambda: {"x": 1}) == {"x": 1}
    assert study.kept(file, {"steps": 4}, lambda: {"x": 2}, fresh=True) == {"x": 2}
    with pytest.raises(ZeroDivisionError), study.atomically(file) as target:
        target.write_text("half")
        raise ZeroDivisionError
    assert study.kept(file, {"steps": 4}, dict) == {"x": 2}


def test_rows_of_a_report_go_on_where_they_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []

    def compute(part, rows):
        for number in (1, 2):
            if (part, number) not in rows:
                made.append((part, number))
                rows.add({"part": part, "number": number, "value": [number / 3]})

    def run(**wanted):
        options = argparse.Namespace(quick=False, output=None)
        study.report("study", ("a", "b"), ("part", "number"), compute, str, draw, options, **wanted)

    def draw(rows, path):
        path.touch()

    run(only="a")
    assert not (tmp_path / "docs").exists() and made == [("a", 1), ("a", 2)]
    run()
    assert made[2:] == [("b", 1), ("b", 2)]
    assert {path.suffix for path in (tmp_path / "docs").iterdir()} == {".md", ".json", ".png"}
    rows = json.loads((tmp_path / "docs" / "study.json").read_text())
    assert rows[3] == {"part": "b", "number": 2, "value": [0.6667]}
