r"""The step :math:`\mathrm{argmin}_x\ \mathcal{D}(A x; y) + \frac{\beta}{2} \|x - p\|^2` for Gaussian noise of any σ.

Where σ differs between the data of a sample, the data prox is that of A followed by a multiplication with 1 / σ, in
units of the largest 1 / σ².
"""

from __future__ import annotations

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.lowered import append_axes
from genreg.operators.proximal.base import DataProx
from genreg.operators.proximal.closed_forms import data_prox
from genreg.operators.proximal.iterative import ConjugateGradientProx


def noisy_data_prox(A: odl.Operator, inverse_variance: Tensor) -> DataProx:
    """Return the data prox of a linear operator for noise with 1 / σ² as `GaussianFidelity` has it.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        If A is not a linear operator with an adjoint.
    """
    return data_prox(A) if inverse_variance.ndim == 1 else ConjugateGradientProx(A)


def in_units_of_noise(
    step: DataProx, inverse_variance: Tensor, beta: Tensor
) -> tuple[DataProx, float | Tensor, Tensor]:
    """Return the data prox, what the data are multiplied with, and the shift: in units of the largest 1 / σ².

    Parameters
    ----------
    step : DataProx
        Made by `noisy_data_prox`.
    inverse_variance : Tensor
        1 / σ², ``(B,)``, or one for every datum, which broadcasts to the data.
    beta : Tensor
        β, ``(B,)``.
    """
    unit = largest(inverse_variance)
    if inverse_variance.ndim == 1:
        return step, 1.0, beta / unit
    assert isinstance(step, ConjugateGradientProx)  # by `noisy_data_prox`
    root = (inverse_variance / append_axes(unit, inverse_variance.ndim - 1)).sqrt()
    return step.whitened(root), root, beta / unit


def largest(inverse_variance: Tensor) -> Tensor:
    """The largest 1 / σ² of every sample, ``(B,)``; 1 where nothing was measured."""
    found = inverse_variance.flatten(1).amax(1) if inverse_variance.ndim > 1 else inverse_variance
    return torch.where(found > 0, found, 1.0)
