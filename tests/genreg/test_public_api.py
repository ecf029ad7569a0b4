"""The public names: all there, all documented."""

import enum
import importlib
import inspect
import re

import pytest

import genreg

MODULES = [
    "genreg",
    "genreg.adaptive",
    "genreg.cli",
    "genreg.cli.configuration",
    "genreg.cli.demo",
    "genreg.datasets",
    "genreg.empirical_bayes",
    "genreg.empirical_bayes.encoders",
    "genreg.empirical_bayes.graphs",
    "genreg.evaluation",
    "genreg.latent",
    "genreg.networks",
    "genreg.networks.links",
    "genreg.operators",
    "genreg.operators.bridge",
    "genreg.operators.fidelity",
    "genreg.operators.linear",
    "genreg.operators.measurements",
    "genreg.operators.mri",
    "genreg.operators.precision",
    "genreg.operators.proximal",
    "genreg.operators.tomography",
    "genreg.plotting",
    "genreg.recipes",
    "genreg.reconstruction",
    "genreg.regularisers",
    "genreg.sampling",
    "genreg.sampling.kernels",
    "genreg.solvers",
    "genreg.solvers.algorithms",
    "genreg.solvers.driver",
    "genreg.solvers.generative",
    "genreg.solvers.parameter_choice",
    "genreg.solvers.problem",
    "genreg.solvers.updates",
    "genreg.training",
    "genreg.weights",
]
FIXED = {
    "genreg": (
        "to_torch NetworkOperator NetworkFunctional Generator load_generator GaussianFidelity PoissonFidelity "
        "HardConstraint RelaxedConstraint SparseDeviation AutoencoderResidual EncoderNorm FlowPrior Tikhonov "
        "TotalVariation reconstruct Reconstruction networks training evaluation datasets solvers operators"
    ),
    "genreg.solvers": (
        "gradient_descent alternating_gradient_descent palm ipalm pdhg projected_gradient morozov Solution Status "
        "Objective"
    ),
    "genreg.operators": "to_torch blur gaussian_measurements mask normalised ray_transform dot_test derivative_test",
    "genreg.datasets": "shapes shapes_plus mnist htc2022 discs_with_holes",
}


def exported():
    """Every public object, once, by the first name that it has."""
    seen = set()
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if id(value) not in seen:
                seen.add(id(value))
                yield pytest.param(value, id=f"{module.__name__}.{name}")


FUNCTIONS = [p for p in exported() if inspect.isfunction(p.values[0])]
CLASSES = [p for p in exported() if inspect.isclass(p.values[0])]


def sections(documented):
    return re.findall(r"^([A-Z]\w+(?: \w+)?)\n-+$", inspect.getdoc(documented) or "", re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_names_exist(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [entry for entry in module.__all__ if entry.startswith("_") or not hasattr(module, entry)]


@pytest.mark.parametrize("name", FIXED)
def test_names_that_others_rely_on(name):
    assert set(FIXED[name].split()) <= set(importlib.import_module(name).__all__)


def test_subpackages_are_where_they_belong():
    assert genreg.operators.__name__ == "genreg.operators" and genreg.solvers.__name__ == "genreg.solvers"
    assert genreg.to_torch is genreg.operators.to_torch


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_documented(function):
    """What a function with several arguments takes and returns is listed, or it says whose they are."""
    doc = inspect.getdoc(function) or ""
    assert doc.split("\n\n")[0].rstrip().endswith((".", ")")), "no summary"
    parameters = inspect.signature(function).parameters
    if len(parameters) < 2 or re.search(r"those\s+of `\w+`", doc):
        return
    assert "Parameters" in sections(function)
    missing = [name for name in parameters if not re.search(rf"\b{name}\b", doc)]
    assert not missing, f"not documented: {missing}"
    if function.__annotations__.get("return") not in (None, "None"):
        assert "Returns" in sections(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_annotated(function):
    parameters = inspect.signature(function).parameters.values()
    assert "return" in function.__annotations__
    assert not [p.name for p in parameters if p.annotation is p.empty]


@pytest.mark.parametrize("cls", CLASSES)
def test_classes_are_documented(cls):
    doc = inspect.getdoc(cls) or ""
    assert doc
    if inspect.isabstract(cls) or issubclass(cls, enum.Enum) or getattr(cls, "_is_protocol", False):
        return
    if "__init__" in vars(cls):
        parameters = [name for name in inspect.signature(cls).parameters]
        assert not parameters or {"Parameters", "Attributes"} & set(sections(cls))
        missing = [name for name in parameters if not re.search(rf"\b{name}\b", doc)]
        assert not missing, f"not documented: {missing}"
    methods = {n: f for n, f in vars(cls).items() if inspect.isfunction(f) and not n.startswith("_")}
    assert not [n for n in methods if not inspect.getdoc(getattr(cls, n))]
