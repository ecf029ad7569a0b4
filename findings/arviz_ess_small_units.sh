#!/usr/bin/env bash
# arviz-stats 0.8.0: effective sample sizes and standard errors depend on the unit of the draws.
#
# Expected: the effective sample size does not change if all draws are multiplied by a number, and the Monte Carlo
# standard error is multiplied by it.
# Seen: values whose range is below 1e-15 in absolute terms count as constant, and constant draws as all independent.
# ess(method="sd") looks at squares, so it returns the number of draws, 4000 instead of about 170, for a strongly
# correlated chain of lengths of nanometres in metres; method="mean" does so for a permeability of 1e-17 square metres,
# and mcse is then 6 times too small. No warning; "bulk" and "tail" work on ranks and are right.
# genreg: passes draws in the unit of their range (genreg.sampling.convergence).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    arviz-stats==0.8.0 numpy==2.4.6 scipy==1.17.1

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import numpy as np
from arviz_stats.base import array_stats

CHAINS, DRAWS, RHO = 4, 1000, 0.95
rng = np.random.default_rng(0)
noise = rng.standard_normal((CHAINS, DRAWS))
x = np.empty((CHAINS, DRAWS))
x[:, 0] = noise[:, 0] / np.sqrt(1 - RHO**2)
for t in range(1, DRAWS):
    x[:, t] = RHO * x[:, t - 1] + noise[:, t]

METHODS = ("bulk", "mean", "sd")
print("arviz-stats", importlib.metadata.version("arviz-stats"), f" {CHAINS * DRAWS} draws")
print(f"in theory {CHAINS * DRAWS * (1 - RHO) / (1 + RHO):.0f} count for the mean")
seen = {}
for unit in (1.0, 1e-6, 1e-9, 1e-17):
    for method in METHODS:
        seen[unit, method] = float(array_stats.ess(x * unit, method=method))
    seen[unit, "mcse"] = float(array_stats.mcse(x * unit)) / unit
    sizes = ", ".join(f"{method} {seen[unit, method]:.1f}" for method in METHODS)
    print(f"draws times {unit:5g}: ess {sizes}; mcse / unit {seen[unit, 'mcse']:.3f}")

assert importlib.metadata.version("arviz-stats") == "0.8.0"
wrong = {(1e-9, "sd"): 4000, (1e-17, "sd"): 4000, (1e-17, "mean"): 4000}
for (unit, name), value in seen.items():
    if (unit, name) in wrong:
        assert value == wrong[unit, name] and seen[1.0, name] < 400
    elif (unit, name) == (1e-17, "mcse"):
        assert value < seen[1.0, "mcse"] / 5
    else:
        assert np.isclose(value, seen[1.0, name], rtol=1e-6)
print("as stated")
PYTHON
