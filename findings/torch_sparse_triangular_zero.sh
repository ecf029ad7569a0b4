#!/usr/bin/env bash
# torch 2.13.0: a zero on the diagonal of a sparse triangular matrix makes the whole solution NaN.
#
# Expected: unknowns that do not depend on a zero pivot are solved for, as they are for a pivot that is NaN; so one
# singular block of a block diagonal matrix (a batch of systems, solved at once) spoils itself alone. Or an error.
# Seen: torch.triangular_solve with a CSR matrix returns NaN for all unknowns, also of independent blocks. A NaN in the
# same place stays in its own block. No error or warning of it.
# genreg: puts NaN in the place of pivots that are zero (genreg.operators.precision.triangular).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch

warnings.filterwarnings("ignore", message=".*(Sparse CSR|triangular_solve).*")
crow, col = torch.tensor([0, 2, 3, 5, 6]), torch.tensor([0, 1, 1, 2, 3, 3])


def solve(pivot):
    """Two independent blocks [[2, 1], [0, pivot]] and [[2, 1], [0, 4]] with ones on the right."""
    values = torch.tensor([2.0, 1.0, pivot, 2.0, 1.0, 4.0])
    matrix = torch.sparse_csr_tensor(crow, col, values, (4, 4), check_invariants=True)
    return torch.triangular_solve(torch.ones(4, 1), matrix, upper=True)[0].ravel()


print("torch", torch.__version__)
solutions = {pivot: solve(pivot) for pivot in (4.0, 1e-30, float("nan"), 0.0)}
for pivot, solution in solutions.items():
    print(f"pivot {pivot:5g}: first block {solution[:2].tolist()}, second block {solution[2:].tolist()}")

assert torch.__version__.split("+")[0] == "2.13.0"
regular, tiny, unknown, zero = solutions.values()
assert regular.tolist() == [0.375, 0.25, 0.375, 0.25]
assert torch.equal(tiny[2:], regular[2:])
assert unknown[:2].isnan().all() and torch.equal(unknown[2:], regular[2:])
assert zero.isnan().all()
print("as stated")
PYTHON
