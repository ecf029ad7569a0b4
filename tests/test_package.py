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

import genreg

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "genreg": ROOT / "genreg",
    "genreg.operators": ROOT / "operators",
    "genreg.solvers": ROOT / "solvers",
}


# ODL and torch, whose imports take longest, are imported once; each child works in a folder of its own, with others
# ahead in the path, as a program started there would.
IMPORT = """
import json, os, sys, time
import numpy as np
before = np.get_printoptions()
import odl, torch
X = odl.uniform_discr([0, 0], [1, 1], (4, 5))

def report(folder, ahead):
    os.chdir(folder)
    sys.path[1:1] = ahead
    loaded = set(sys.modules)
    began = time.process_time()
    import genreg
    seconds = time.process_time() - began
    added = sorted({name.split(".")[0] for name in set(sys.modules) - loaded})
    after = np.get_printoptions()
    import genreg.solvers
    from genreg import operators
    modules = genreg, operators, genreg.solvers, sys.modules["genreg.operators.bridge.translation"]
    found = {"files": [m.__file__ for m in modules], "doubled": "operators" in sys.modules}
    found["kind"] = type(genreg.to_torch(genreg.TotalVariation(X))).__name__
    found["weights"] = genreg.weights.load("shapes-vae")[1]["name"]
    found |= {"seconds": seconds, "added": added}
    found["options"] = {name: [repr(before[name]), repr(after[name])] for name in before}
    print(json.dumps(found), flush=True)

assert not {"genreg", "operators", "solvers"} & set(sys.modules)
for case in json.load(sys.stdin):
    child = os.fork()
    if not child:
        report(*case)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def imported(*cases):
    """What programs find that import genreg in a folder, with others ahead in the path; they warn of nothing."""
    path = [p for p in sys.path if p and Path(p).resolve() != ROOT and Path(p).is_dir()]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": ""}
    run = [sys.executable, "-S", "-c", IMPORT]  # -S: what an editable installation has left is not read
    done = subprocess.run(run, input=json.dumps(cases), capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases) and all(one["kind"] == "TorchFunctional" for one in found)
    assert all(one["weights"] == "shapes-vae" and not one["doubled"] for one in found)
    return found


def test_version():
    assert genreg.__version__ == importlib.metadata.version("genreg")
    assert f"[{genreg.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def copied(source, target):
    """Copy a file; of all weights but one the name alone, since packing and unpacking them takes seconds."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.stem != "shapes-vae":
        return Path(target).touch()
    return shutil.copy(source, target)


def test_wheel(tmp_path):
    """A wheel built from the sources holds every module and all weights, works on its own, and imports cheaply.

    That is at most 0.15 s over odl and torch, in time of the processor, which other load on the machine spares. In a
    checkout its own three folders are imported, once, whether or not another genreg is installed.
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
    other = tmp_path / "other" / "genreg"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the wrong one')")
    installed, root = str(tmp_path / "installed"), str(ROOT)
    elsewhere = str(tmp_path), [installed]
    # three times, as what others do on the machine may slow one down
    *wheel, alone, beside = imported(*[elsewhere] * 3, (root, []), (root, [str(other.parent)]))
    expected = [
        "genreg/__init__.py",
        "operators/__init__.py",
        "solvers/__init__.py",
        "operators/bridge/translation.py",
    ]
    for found in (alone, beside):
        assert [Path(p) for p in found["files"]] == [ROOT / p for p in expected]
    for found in wheel:
        assert all(Path(file).is_relative_to(installed) for file in found["files"])
        assert not {"matplotlib", "astra", "h5py", "pooch", "skimage"} & set(found["added"]), found["added"]
        changed = {name: pair for name, pair in found["options"].items() if pair[0] != pair[1]}
        assert not changed, f"numpy's print options: {changed}"
    assert min(found["seconds"] for found in wheel) < 0.15
