"""What a state in a file belongs to: data fidelities and regularisers, see `genreg.solvers.checkpoints.identity`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.operators.fidelity import Fidelity
from genreg.operators.fidelity.base import trailing
from genreg.regularisers import PlugAndPlay, Regulariser
from genreg.solvers.checkpoints import digest, noise, of_generator, of_operator, of_setting
from genreg.solvers.problem.objective import Blocks, block_spaces


def of_fidelity(fidelity: Fidelity, x: Tensor | None = None) -> dict[str, Any]:
    """Return data, noise, operator, and the misfit near the data; `x` are images for `of_operator`."""
    per_sample = fidelity.per_sample
    y, given = fidelity.data, {name: value for name, value in per_sample.items() if name != "y"}
    rms = y.abs().square().flatten(1).mean(1).sqrt()
    near = y + trailing(torch.where(rms > 0, rms, 1.0), y) * noise(fidelity.operator.range).abs()
    with torch.no_grad():
        misfit = fidelity.misfit(near.to(y), **per_sample)
    return {
        "fidelity": type(fidelity).__name__,
        "data": digest(y),
        "noise": digest(given),
        "misfit": misfit.nan_to_num(),
        "level of the noise": fidelity.level.nan_to_num(),
        **of_operator("operator", fidelity.operator, x),
    }


def of_regulariser(regulariser: Regulariser, lam: Tensor) -> dict[str, Any]:
    """Return kind, settings, weights, and value and proximal point at seeded noise of a regulariser.

    Parameters
    ----------
    regulariser : Regulariser
        R.
    lam : Tensor
        A number for every sample, ``(B,)``, of the kind of λ.
    """
    parameters = regulariser.parameters_of(lam)
    spaces = block_spaces(regulariser.domain, regulariser.blocks)
    blocks: Blocks = {name: noise(space, len(lam)) for name, space in spaces.items()}
    plain = (bool, int, float, str, Tensor, tuple)
    settings = {
        k: of_setting(v)
        for k, v in vars(regulariser).items()
        if isinstance(v, plain) and not k.startswith("_")
    }
    with torch.no_grad():
        value = torch.as_tensor(regulariser.value_of(blocks, **parameters)).nan_to_num()
        proximable = regulariser.proximable(**parameters).items()
        nearest = {name: g.prox(blocks[name], 1.0) for name, g in proximable if g.has_prox}
    found: dict[str, Any] = {
        "regulariser": type(regulariser).__name__,
        "parameters of the regulariser": digest(parameters),
        "settings of the regulariser": digest(settings),
        "value of the regulariser": value,
        **{f"proximal point of {name}": point for name, point in nearest.items()},
    }
    if isinstance(regulariser, PlugAndPlay):  # which has no value
        found["denoised noise"] = regulariser.denoise(blocks["x"])
    G = getattr(regulariser, "generator", None)
    return found | of_generator(G) if isinstance(G, Generator) else found
