r"""Sampling of the Fourier transform at any frequencies, for magnetic resonance imaging off the Cartesian grid.

.. math:: (A x)_{c, j} = \frac{1}{\sqrt{nm}} \sum_p S_c(p)\, x(p)\, e^{-2\pi i\, \kappa_j \cdot p},

where pixels :math:`p` count from index ``[n // 2, m // 2]`` and :math:`\kappa_j` is in cycles per pixel. At the
frequencies of the Cartesian grid this is `fourier_sampling`. The sums are computed by FINUFFT, all images and coils of
a batch in one call.

References
----------
A. H. Barnett, J. F. Magland, L. af Klinteberg (2019). A parallel non-uniform fast Fourier transform library based on an
"exponential of semicircle" kernel. SIAM Journal on Scientific Computing 41(5), C479-C504. doi:10.1137/18M120885X
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import odl
import torch
from numpy.typing import ArrayLike
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arguments import number
from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.autograd import linear_map
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator
from genreg.operators.bridge.weights import weight
from genreg.operators.mri.coil_images import CoilImages
from genreg.operators.mri.nufft_plans import Plans, import_finufft
from genreg.operators.mri.trajectories import check_trajectory


class Nufft(TensorOperator):
    """A non-uniform Fourier transform made by `nufft`; use that function.

    Parameters
    ----------
    space : TensorSpace
        Domain.
    points : Tensor
        Frequencies in cycles per pixel, ``(*samples, 2)``.
    images : CoilImages
        The map to the images of the coils.
    density : ndarray or None
        Weights of the range.
    eps : float
        Relative accuracy.
    """

    def __init__(
        self, space: TensorSpace, points: Tensor, images: CoilImages, density: np.ndarray | None, eps: float
    ) -> None:
        dtype = torch_dtype(space).to_complex()
        samples = tuple(points.shape[:-1])
        shape = (*images.leading, *samples)
        weighting = {}
        if density is not None:
            weights = np.array(
                np.broadcast_to(density, shape), dtype=str(dtype.to_real()).removeprefix("torch.")
            )
            on_torch = space.impl == "pytorch"
            weighting["weighting"] = torch.from_numpy(weights).to(space.device) if on_torch else weights
        name = str(dtype).removeprefix("torch.")
        super().__init__(
            space, odl.tensor_space(shape, dtype=name, impl=space.impl, device=space.device, **weighting)
        )
        self._points, self._images, self._samples, self._dtype = points, images, samples, dtype
        self._plans = Plans(images.shape, points.reshape(-1, 2), eps)
        self._scale = 1 / math.sqrt(math.prod(images.shape))

    @property
    def trajectory(self) -> Tensor:
        """The frequencies in cycles per pixel, ``(*samples, 2)``."""
        return self._points

    @property
    def images(self) -> CoilImages:
        """The map from images of the space to the images of the coils."""
        return self._images

    def forward(self, t: Tensor) -> Tensor:
        """Sample k-space: ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``."""
        u = self._images.expand(t)
        sums = linear_map(self._plans.sums, self._plans.adjoint)(
            u if u.is_complex() else torch.complex(u, 0 * u)
        )
        return (self._scale * sums).unflatten(-1, self._samples)

    def transpose(self, s: Tensor) -> Tensor:
        """Apply the (conjugate) transpose: ``(*batch, *range.shape)`` to ``(*batch, *domain.shape)``."""
        adjoint = linear_map(self._plans.adjoint, self._plans.sums)
        return self._images.combine(self._scale * adjoint(s.flatten(-len(self._samples))))

    def gridded(self, y: Any) -> Any:
        """Return the adjoint at samples `y` without the weight of the space of images, for display.

        With the density of the samples, this is an approximate inverse; with coils, summed as by the adjoint.

        Parameters
        ----------
        y : element of the range
            Samples.

        Returns
        -------
        element of the domain
            The image.
        """
        return self._image_of(y, weight(self.range))


@undisturbed
def nufft(
    space: TensorSpace,
    trajectory: ArrayLike | Tensor,
    *,
    coils: ArrayLike | Tensor | None = None,
    density: ArrayLike | Tensor | None = None,
    eps: float = 1e-6,
) -> Nufft:
    r"""Return the operator that samples the Fourier transform at the frequencies of a trajectory.

    Parameters
    ----------
    space : TensorSpace
        Images: real ``(n, m)`` (magnitudes), complex ``(n, m)``, or real ``(2, n, m)``, the real and the imaginary
        part.
    trajectory : array or Tensor
        Frequencies **in cycles per pixel**, ``(*samples, 2)``, within :math:`[-\frac12, \frac12]`, the first for rows;
        from `radial_trajectory` or `golden_angle_trajectory`, for example.
    coils : array or Tensor, optional
        Complex sensitivity maps, ``(C, n, m)``; by default one coil of sensitivity one.
    density : array or Tensor, optional
        Positive weights :math:`d` of the samples, ``(*samples,)``, in the inner product of the range, for example from
        `density_compensation`: then the adjoint is the density-compensated one, and least squares in the norm of the
        range converge faster. It does not enter plain sums over the data, such as
        `genreg.GaussianFidelity`.
    eps : float
        Relative accuracy of the sums; the adjoint is that of the approximate sums.

    Returns
    -------
    Nufft
        Operator from `space` to the complex space of the shape ``(*samples,)``, with coils ``(C, *samples)``, of the
        same precision, backend and device. Tensors on CUDA need cufinufft (**not run on a device yet**).

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, `coils` is not complex, or `trajectory` or `density` are
        not real.
    ValueError
        If the space, the trajectory, the coils or the density have another shape, are not finite, the trajectory lies
        outside of k-space, the density is not positive, or `eps` is not between the rounding of the space and 0.1.
    ImportError
        If finufft is not installed: it comes with ``genreg[mri]``.

    Examples
    --------
    >>> import odl
    >>> from genreg.operators import golden_angle_trajectory
    >>> A = nufft(odl.cn((64, 64), dtype="complex64"), golden_angle_trajectory(20, 128))
    >>> A.range.shape
    (20, 128)
    """
    images = CoilImages(space, coils)
    points = check_trajectory(trajectory)
    least = 2 * torch.finfo(torch_dtype(space).to_real()).eps
    eps = number(eps, "`eps`", minimum=least, maximum=0.1)
    import_finufft(torch_device(space))
    return Nufft(space, points, images, _checked_density(density, tuple(points.shape[:-1])), eps)


def _checked_density(density: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if density is None:
        return None
    d = array(density, "`density`", complex=False).numpy(force=True)
    if d.shape != shape:
        raise ValueError(f"`density` must have the shape {shape} of the samples, got {d.shape}")
    if not (np.isfinite(d).all() and (d > 0).all()):
        raise ValueError(f"`density` must be positive and finite, got values from {d.min()} to {d.max()}")
    return d
