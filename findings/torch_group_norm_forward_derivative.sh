#!/usr/bin/env bash
# torch 2.13.0: nn.GroupNorm has no forward derivative where the images lie in memory with the channels last.
#
# Expected: torch.func.jvp of a layer works for images in any memory format, as the layer itself and its reverse
# derivative do, and as BatchNorm2d, LayerNorm and InstanceNorm2d have it.
# Seen: RuntimeError "view size is not compatible with input tensor's size and stride". Nobody need have asked for the
# format: an attention block that goes from (B, C, n, m) to (B, n m, C) and back leaves its sum with the input in it, so
# that the decoders of latent diffusion (AutoencoderKL of MONAI 1.6.1 and diffusers 0.42.1) fail at the next norm.
# genreg: makes such products by two reverse differentiations, where the forward one fails.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
x, t = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
last = torch.channels_last
norm = nn.GroupNorm(2, 4)
right = torch.func.jvp(norm, (x,), (t,))[1]
print("torch", torch.__version__)


def forward(f, x, t):
    try:
        return torch.func.jvp(f, (x,), (t,))[1]
    except RuntimeError as error:
        return str(error)


seen = {}
for layer in (norm, nn.BatchNorm2d(4).eval(), nn.LayerNorm(5), nn.InstanceNorm2d(4)):
    seen[type(layer).__name__] = forward(layer, x.to(memory_format=last), t.to(memory_format=last))
    answer = seen[type(layer).__name__]
    print(f"{type(layer).__name__:15s}", answer if isinstance(answer, str) else "works")

copied = forward(lambda x: norm(x.contiguous()), x.to(memory_format=last), t.to(memory_format=last))
print("GroupNorm of x.contiguous():", "works" if torch.allclose(copied, right, atol=1e-6) else copied)

leaf = x.to(memory_format=last).requires_grad_()
(pulled,) = torch.autograd.grad(norm(leaf), leaf, t)
print("its reverse derivative:      works", pulled.is_contiguous(memory_format=last))

mix = nn.Linear(4, 4)


def attention_like(x):
    """What attention over the pixels does to the memory format, and the next norm."""
    y = mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape) + x
    return y, norm(y)


y = attention_like(x)[0]
inside = forward(lambda x: attention_like(x)[1], x, t)
print("after an attention block: strides", y.stride(), "-", inside)

assert torch.__version__.split("+")[0] == "2.13.0"
assert isinstance(seen.pop("GroupNorm"), str) and not any(isinstance(v, str) for v in seen.values())
assert "view size is not compatible" in inside and x.is_contiguous() and not y.is_contiguous()
assert torch.allclose(copied, right, atol=1e-6)
print("as stated")
PYTHON
