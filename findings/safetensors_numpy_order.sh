#!/usr/bin/env bash
# safetensors 0.8.0: numpy arrays that are not in C order are saved with their entries in other places.
#
# Expected: safetensors.numpy.save_file either copies a transposed array into C order (numpy.save keeps it right) or
# refuses it, as safetensors.torch.save_file does.
# Seen: the memory is written as it lies beside the shape of the array: transposes, arrays in Fortran order and steps
# such as a[::2] come back with other values, without an error. Version 0.7.0 saved such arrays right.
# genreg: saves contiguous copies of tensors (genreg.solvers.checkpoints.state_files).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    numpy==2.4.6 safetensors==0.8.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

a = np.arange(6.0).reshape(2, 3)
arrays = {"C order": a, "transpose": a.T, "Fortran order": np.asfortranarray(a), "every second": np.arange(6.0)[::2]}
loaded = {}
print("safetensors", safetensors.__version__, " numpy", np.__version__)
for name, array in arrays.items():
    save_file({"a": array}, "a.safetensors")
    loaded[name] = load_file("a.safetensors")["a"]
    print(f"{name + ':':15s} saved {array.tolist()}, loaded {loaded[name].tolist()}")

assert safetensors.__version__ == "0.8.0"
assert np.array_equal(loaded["C order"], a)
assert loaded["transpose"].tolist() == [[0, 1], [2, 3], [4, 5]]  # saved: [[0, 3], [1, 4], [2, 5]]
assert loaded["Fortran order"].tolist() == [[0, 3, 1], [4, 2, 5]]  # saved: [[0, 1, 2], [3, 4, 5]]
assert loaded["every second"].tolist() == [0, 1, 2]  # saved: [0, 2, 4]
print("as stated")
PYTHON
