#!/usr/bin/env bash
# monai 1.6.1: an AutoencoderKL in evaluation mode gives another reconstruction of the same image in every call.
#
# Expected: after model.eval() the same input has the same output, as for dropout and as for the class of this name in
# diffusers 0.42.1, whose forward takes the mode of the latent distribution unless sample_posterior=True is given.
# Seen: forward draws a latent variable in any mode, without an argument that says otherwise, so that two calls differ
# and a validation loss has a random part. encode, decode and reconstruct are deterministic.
# genreg: uses encode and decode, and takes the mean.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0 monai==1.6.1 einops==0.8.2 diffusers==0.42.1

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata

import diffusers
import torch
from monai.networks.nets import AutoencoderKL

torch.manual_seed(0)
shape = {"in_channels": 1, "out_channels": 1, "latent_channels": 2, "norm_num_groups": 4}
models = {
    "monai": AutoencoderKL(
        spatial_dims=2, channels=(8, 16), num_res_blocks=1, attention_levels=(False, False), **shape
    ),
    "diffusers": diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **shape,
    ),
}
x = torch.rand(1, 1, 16, 16)
differences = {}
for name, model in models.items():
    model.eval()
    with torch.no_grad():
        one, two = (model(x) for _ in range(2))
    one, two = (found[0] if isinstance(found, tuple) else found.sample for found in (one, two))
    differences[name] = float((one - two).norm() / one.norm())
    print(f"{name} {importlib.metadata.version(name)}: two calls of forward differ by {differences[name]:.2g}")
with torch.no_grad():
    monai = models["monai"]
    equal = torch.equal(monai.reconstruct(x), monai.reconstruct(x))
print("monai: two calls of reconstruct are equal:", equal)

assert importlib.metadata.version("monai") == "1.6.1" and importlib.metadata.version("diffusers") == "0.42.1"
assert differences["monai"] > 1e-3 and differences["diffusers"] == 0 and equal
print("as stated")
PYTHON
