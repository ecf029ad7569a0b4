#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0: the conjugate of a complex tensor is saved without its conjugation.
#
# Expected: save_file({"a": z.conj()}) and load_file give z.conj(), or the lazy view is refused as others are.
# Seen: they give z. torch keeps conj() (and the sign of the imaginary part of a conjugate) as a flag beside the memory
# of z, and only the memory is written. z.conj().resolve_conj() is saved right.
# genreg: resolves both flags before it writes (genreg.solvers.checkpoints.state_files).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0 safetensors==0.8.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import safetensors
import torch
from safetensors.torch import load_file, save_file

z = torch.tensor([1 + 2j, 3 - 1j])


def through_a_file(tensor):
    save_file({"a": tensor}, "a.safetensors")
    return load_file("a.safetensors")["a"]


print("safetensors", safetensors.__version__, " torch", torch.__version__)
print("saved ", z.conj().tolist())
print("loaded", through_a_file(z.conj()).tolist())
negative = torch.zeros(1, dtype=torch.complex64).add(2j).conj().imag  # one entry, so contiguous
print("saved ", negative.tolist(), "(imaginary part of a conjugate)")
print("loaded", through_a_file(negative).tolist())

assert safetensors.__version__ == "0.8.0" and torch.__version__.split("+")[0] == "2.13.0"
assert torch.equal(through_a_file(z.conj()), z) and not torch.equal(z, z.conj())
assert torch.equal(through_a_file(z.conj().resolve_conj()), z.conj())
assert negative.tolist() == [-2.0] and through_a_file(negative).tolist() == [2.0]
print("as stated")
PYTHON
