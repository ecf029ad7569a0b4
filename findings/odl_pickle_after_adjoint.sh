#!/usr/bin/env bash
# odl 1.0.0: whether a RayTransform can be pickled depends on whether its adjoint was read.
#
# Expected: reading a property changes nothing that a user sees; an operator that can be pickled (for a worker process,
# say) can be pickled later as well.
# Seen: pickle.dumps(A) works, and fails with "Can't pickle local object" once A.adjoint was read, as every solver does:
# the adjoint is of a class defined inside the property and is kept in A.
# genreg: makes ODL's operators picklable when it is imported (genreg.operators.bridge.pickles).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    array-api-compat==1.16.0 future==1.0.0 iniconfig==2.3.1 numpy==2.4.6 odl==1.0.0 packaging==26.3 \
    pluggy==1.7.0 Pygments==2.21.0 pytest==9.0.3 scipy==1.17.1 setuptools==84.2.1 astra-toolbox==2.5.0 \
    nvidia-cuda-runtime-cu12==12.9.79 nvidia-cufft-cu12==11.4.1.4 nvidia-nvjitlink-cu12==12.9.86

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import pickle

import numpy as np
import odl
from odl.applications import tomo

X = odl.uniform_discr([-1, -1], [1, 1], (16, 16), dtype="float32")
A = tomo.RayTransform(X, tomo.parallel_beam_geometry(X, 8), impl="astra_cpu")
print("odl", odl.__version__)
copy = pickle.loads(pickle.dumps(A))  # of our own making, so safe to load
same = np.array_equal(copy(X.one()).asarray(), A(X.one()).asarray())
print("before A.adjoint is read: pickled, the copy gives the same data:", same)
A.adjoint
message = ""
try:
    pickle.dumps(A)
except (AttributeError, pickle.PicklingError) as error:
    message = f"{type(error).__name__}: {error}"
print("after A.adjoint was read:", message or "pickled")

assert odl.__version__ == "1.0.0"
assert same and "RayTransform.adjoint.<locals>" in message
print("as stated")
PYTHON
