#!/usr/bin/env bash
# astra-toolbox 2.5.0: CPU projectors refuse wide pixels but take tall ones, with wrong lengths.
#
# Expected: the projectors "linear" and "line" either do pixels that are not square or refuse them.
# Seen: wide pixels are refused ("Pixel height must equal pixel width"). Pixels r times as high as wide are taken, and
# all sums of vertical rays are too small by the factor r, those of horizontal rays too large by r. "strip" refuses the
# same wide pixels but is right for the tall ones.
# genreg: stretches the plane until pixels are square and corrects the lengths (genreg.operators.tomography.ray_matrix).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    numpy==2.4.6 scipy==1.17.1 astra-toolbox==2.5.0 nvidia-cuda-runtime-cu12==12.9.79 \
    nvidia-cufft-cu12==11.4.1.4 nvidia-nvjitlink-cu12==12.9.86

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import astra
import numpy as np


def mass(projector, ratio):
    """Sum of the ray sums of ones at 0 and 90 degrees, over the mass that they should have."""
    volume = astra.create_vol_geom(64, 64, -1, 1, -ratio, ratio)
    rays = astra.create_proj_geom("parallel", 1 / 32, 400, np.array([0.0, np.pi / 2]))
    matrix = astra.matrix.get(astra.projector.matrix(astra.create_projector(projector, rays, volume)))
    return (matrix @ np.ones(64 * 64)).reshape(2, 400).sum(axis=1) / 32 / (4 * ratio)


print("astra-toolbox", importlib.metadata.version("astra-toolbox"), " mass of the data over what it should be")
assert importlib.metadata.version("astra-toolbox") == "2.5.0"
for projector in ("linear", "line", "strip"):
    for ratio in (1.0, 1.25, 2.0):
        vertical, horizontal = mass(projector, ratio)
        print(f"{projector:6s} height / width {ratio:4.2f}: {vertical:.3f} (0 degrees), {horizontal:.3f} (90 degrees)")
        expected = (1, 1) if projector == "strip" else (1 / ratio, ratio)
        assert np.allclose((vertical, horizontal), expected, rtol=1e-4)
    try:
        mass(projector, 0.8)
    except astra.log.AstraError as error:
        print(f"{projector:6s} height / width 0.80: {error}")
    else:
        raise AssertionError("wide pixels are not refused")
print("as stated")
PYTHON
