"""The package as a whole: import, version, wheel."""

import compileall
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import genreg

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "genreg": ROOT / "genreg",
    "genreg.operators": ROOT / "operators",
    "genreg.solvers": ROOT / "solvers",
}


def fresh(code, **options):
    """What a program of its own prints, as JSON; it warns of nothing."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout.splitlines()[-1])


IMPORT = """
import json, sys, time
import numpy as np
before = np.get_printoptions()
import odl, torch
loaded = set(sys.modules)
began = time.process_time()
import genreg
seconds = time.process_time() - began
after = np.get_printoptions()
added = sorted({name.split(".")[0] for name in set(sys.modules) - loaded})
model, card = genreg.weights.load("shapes-vae")
files = [genreg.__file__, genreg.operators.__file__, genreg.solvers.__file__]
print(json.dumps([files, card["name"], seconds, added, {k: [repr(before[k]), repr(after[k])] for k in before}]))
"""


def test_version():
    assert genreg.__version__ == importlib.metadata.version("genreg")
    assert f"[{genreg.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


IN_A_CHECKOUT = """
import json, sys
import genreg.solvers
from genreg import operators
import genreg
paths = [m.__file__ for m in (genreg, operators, genreg.solvers, sys.modules["genreg.operators.bridge.translation"])]
print(json.dumps([paths, "operators" in sys.modules, type(genreg.to_torch(genreg.TotalVariation(X))).__name__]))
"""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["not installed", "another one installed"])
def test_import_in_a_checkout(tmp_path, elsewhere):
    """There, its own three folders are imported, once, even if another genreg is installed."""
    found = [p for p in sys.path if p and Path(p).resolve() != ROOT and Path(p).is_dir()]
    if elsewhere:
        (tmp_path / "genreg" / "operators").mkdir(parents=True)
        (tmp_path / "genreg" / "__init__.py").write_text("raise ImportError('the wrong one')")
        found.insert(0, str(tmp_path))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
    code = "import odl; X = odl.uniform_discr([0, 0], [1, 1], (4, 5))" + IN_A_CHECKOUT
    run = [sys.executable, "-S", "-c", code]  # -S: what an editable installation has left is not read
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    paths, doubled, kind = json.loads(done.stdout)
    expected = [
        "genreg/__init__.py",
        "operators/__init__.py",
        "solvers/__init__.py",
        "operators/bridge/translation.py",
    ]
    assert [Path(p) for p in paths] == [ROOT / p for p in expected]
    assert not doubled and kind == "TorchFunctional"


def copied(source, target):
    """Copy a file; of all weights but one the name alone, since packing and unpacking them takes seconds."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.stem != "shapes-vae":
        return Path(target).touch()
    return shutil.copy(source, target)


def test_wheel(tmp_path):
    """A wheel built from the sources holds every module and all weights, works on its own, and imports cheaply.

    That is at most 0.15 s over odl and torch, in time of the processor, which other load on the machine spares.
    """
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.checkpoint")
    for name in ("genreg", "operators", "solvers"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored, copy_function=copied)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # what pip calls, without pip
    backend = tomllib.loads((source / "pyproject.toml").read_text())["build-system"]["build-backend"]
    code = f"import {backend} as backend; backend.build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("genreg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for package, folder in FOLDERS.items():
        expected = {
            f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
            for pattern in ("*.py", "*.pyi", "*.safetensors", "*.json", "py.typed")
            for path in folder.rglob(pattern)
        }
        assert expected <= names, expected - names
    assert not [name for name in names if name.startswith(("operators/", "solvers/", "tests/"))]

    compileall.compile_dir(tmp_path / "installed", quiet=1)  # as pip does
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONDONTWRITEBYTECODE": ""}
    for _ in range(3):  # odl and torch may have to be read from the disk in the first run
        files, name, seconds, added, options = fresh(IMPORT, env=env, cwd=tmp_path)
        if seconds < 0.15:
            break
    assert all(Path(file).is_relative_to(tmp_path / "installed") for file in files) and name == "shapes-vae"
    assert seconds < 0.15
    assert not {"matplotlib", "astra", "h5py", "pooch", "skimage"} & set(added), added
    changed = {name: pair for name, pair in options.items() if pair[0] != pair[1]}
    assert not changed, f"numpy's print options: {changed}"
