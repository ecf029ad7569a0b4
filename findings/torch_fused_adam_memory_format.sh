#!/usr/bin/env bash
# torch 2.13.0: fused optimisers pair entries as they lie in memory, not by index.
#
# Expected: Adam(fused=True) takes the same step as Adam(fused=False). load_state_dict of averages with the right shapes
# and values gives the run that was interrupted; a gradient with the right shape and values gives its step.
# Seen: if a parameter is channels_last and the loaded averages are contiguous (as they are out of a file which keeps
# no strides), the next step is silently wrong by more than the learning rate. So it is if the gradient that was
# assigned to .grad is contiguous, for SGD(fused=True) as well. Nothing is raised; fused=False is right in all cases.
# genreg: copies loaded averages into the memory format of their parameters (genreg.training.optimisers).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import copy

import torch

RATE = 0.1
torch.manual_seed(0)
weight, *gradients = (torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last) for _ in range(3))


def resumed(kind, fused, layout):
    p = torch.nn.Parameter(weight.clone())
    optimiser = kind([p], lr=RATE, fused=fused)
    p.grad = gradients[0].clone()
    optimiser.step()
    state = copy.deepcopy(optimiser.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        state["state"][0][name] = state["state"][0][name].clone(memory_format=layout)
    optimiser = kind([p], lr=RATE, fused=fused)
    optimiser.load_state_dict(state)
    p.grad = gradients[1].clone()
    optimiser.step()
    return p.detach()


def stepped(kind, fused, layout):
    p = torch.nn.Parameter(weight.clone())
    p.grad = gradients[0].clone(memory_format=layout)
    kind([p], lr=RATE, fused=fused).step()
    return p.detach()


print("torch", torch.__version__)
off = {}
for what, run, kinds in (
    ("loaded averages", resumed, (torch.optim.Adam, torch.optim.AdamW)),
    ("gradient", stepped, (torch.optim.Adam, torch.optim.SGD)),
):
    for kind in kinds:
        for fused in (False, True):
            same = run(kind, fused, torch.channels_last)
            other = run(kind, fused, torch.contiguous_format)
            off[what, kind.__name__, fused] = float((same - other).abs().max())
            print(f"contiguous {what}, {kind.__name__}(fused={fused}): off by {off[what, kind.__name__, fused]:.3f}")

assert torch.__version__.split("+")[0] == "2.13.0"
for (_, _, fused), error in off.items():
    assert error > RATE if fused else error == 0.0
print("as stated")
PYTHON
