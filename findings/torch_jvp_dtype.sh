#!/usr/bin/env bash
# torch 2.13.0: forward derivatives of float32 numbers times a Python float are float64.
#
# Expected: torch.func.jvp of a float32 function has a float32 tangent: 0.3 * t is float32, and so is its derivative.
# Seen: for tensors without dimensions the tangents of 0.3 * t, 0.3 + t and t / 2.0 are float64, of float32 values;
# those of 2 * t and sin(t) are float32, and so are all where t has a dimension. Inside vmap over a vector t counts as
# without dimensions, and in jacfwd a sum is: results with dimensions are float64 then.
# genreg: nothing; it differentiates functions of batches, and those have dimensions.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch

FUNCTIONS = {
    "0.3 * t": lambda t: 0.3 * t,
    "t * 0.3": lambda t: t * 0.3,
    "0.3 + t": lambda t: 0.3 + t,
    "2 * t": lambda t: 2 * t,
    "t / 2.0": lambda t: t / 2.0,
    "sin(t)": torch.sin,
}
seen = {}
print("torch", torch.__version__)
for shape in ((), (1,)):
    t = torch.ones(shape)
    for name, function in FUNCTIONS.items():
        value, tangent = torch.func.jvp(function, (t,), (torch.ones(shape),))
        seen[shape, name] = tangent.dtype
        print(f"shape {shape!s:4s}  {name:8s} value {value.dtype}, tangent {tangent.dtype}")
        assert value.dtype == torch.float32

t = torch.ones(5)
each = torch.func.vmap(lambda a: torch.func.jvp(lambda t: 0.3 * t, (a,), (torch.ones(()),))[1])(t)
jacobian = torch.func.jacfwd(lambda t: 0.3 * t.sum())(t)
print("vmap of that of 0.3 * t over 5 numbers:", tuple(each.shape), each.dtype)
print("jacfwd of 0.3 * t.sum() for 5 numbers: ", tuple(jacobian.shape), jacobian.dtype)

assert torch.__version__.split("+")[0] == "2.13.0"
assert each.dtype == jacobian.dtype == torch.float64 and each.shape == jacobian.shape == (5,)
wide = {key for key, dtype in seen.items() if dtype == torch.float64}
assert wide == {((), "0.3 * t"), ((), "t * 0.3"), ((), "0.3 + t"), ((), "t / 2.0")}
print("as stated")
PYTHON
