r"""Cartesian sampling of the Fourier transform, the forward operator of magnetic resonance imaging.

.. math:: (A x)_{c, k} = \frac{1}{\sqrt{nm}} \sum_{p} S_c(p)\, x(p)\,
          e^{-2\pi i \left(\frac{k_1 p_1}{n} + \frac{k_2 p_2}{m}\right)}, \qquad k \in K,

where pixels :math:`p` and frequencies :math:`k` count from the centre, index ``[n // 2, m // 2]`` of image and
k-space. Without the sampling, for one coil, this is unitary. Noise in k-space is complex, with the standard
deviation `noise_std` of its real and of its imaginary part.
"""

from __future__ import annotations

from typing import Any

import odl
import torch
from numpy.typing import ArrayLike
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arrays import array, boolean_mask
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import DeviceCopies, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator
from genreg.operators.measurements.forward import Mask
from genreg.operators.mri.coil_images import CoilImages


class FourierSampling(TensorOperator):
    """Sampling of k-space made by `fourier_sampling`; use that function.

    Parameters
    ----------
    space : TensorSpace
        Domain.
    keep : Tensor
        Boolean, ``(n, m)``.
    images : CoilImages
        The map to the images of the coils.
    """

    def __init__(self, space: TensorSpace, keep: Tensor, images: CoilImages) -> None:
        dtype = torch_dtype(space).to_complex()
        shape = (*images.leading, int(keep.sum()))
        super().__init__(
            space, odl.tensor_space(shape, dtype=str(dtype)[6:], impl=space.impl, device=space.device)
        )
        self._keep, self._images, self._dtype = keep, images, dtype
        n, m = images.shape
        k = keep.nonzero() - torch.tensor([n // 2, m // 2])  # (samples, 2), from the centre
        # The transform counts pixels from the corner: a shift of the image is a phase of its transform.
        turns = (k[:, 0] * (n // 2) % n).double() / n + (k[:, 1] * (m // 2) % m).double() / m
        phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
        phase = phase.real.round() if n % 2 == m % 2 == 0 else phase
        index = k[:, 0] % n * m + k[:, 1] % m
        gains = torch.ones(len(index), dtype=torch.float64)
        if images.channels == "real":  # the transform of a real image at -k is the conjugate of that at k
            there = torch.zeros(n * m, dtype=torch.float64).index_fill(0, index, 1.0)
            gains = 0.5 * (gains + there[-k[:, 0] % n * m + -k[:, 1] % m])
        phase = phase.to(dtype if phase.is_complex() else dtype.to_real())
        self._samples = DeviceCopies((index, phase, gains.to(dtype.to_real())))

    @property
    def keep(self) -> Tensor:
        """The mask, True where k-space is measured, with the frequency zero at ``[n // 2, m // 2]``."""
        return self._keep

    @property
    def images(self) -> CoilImages:
        """The map from images of the space to the images of the coils."""
        return self._images

    def gains(self, like: Tensor) -> Tensor:
        r"""Return the factors by which :math:`A^H A` multiplies the measured frequencies.

        This is for one coil of sensitivity one; other frequencies are removed. Factors are 1 for complex images. For
        real ones, :math:`A^T A = \mathrm{Re}\, F^H M F` keeps half of a frequency whose negative is not measured:
        :math:`(M(k) + M(-k)) / 2`.

        Parameters
        ----------
        like : Tensor
            A tensor on the device of the result.

        Returns
        -------
        Tensor
            ``(samples,)``.
        """
        return self._samples(like)[2]

    def forward(self, t: Tensor) -> Tensor:
        """Sample k-space: ``(*batch, *domain.shape)`` to ``(*batch, *range.shape)``."""
        index, phase, _ = self._samples(t)
        k = torch.fft.fft2(self._images.expand(t), norm="ortho").flatten(-2)
        return k.index_select(-1, index) * phase

    def transpose(self, s: Tensor) -> Tensor:
        """Apply the (conjugate) transpose: ``(*batch, *range.shape)`` to ``(*batch, *domain.shape)``."""
        index, phase, _ = self._samples(s)
        n, m = self._images.shape
        k = s.new_zeros(*s.shape[:-1], n * m).index_copy(-1, index, s * phase.conj())
        return self._images.combine(torch.fft.ifft2(k.unflatten(-1, (n, m)), norm="ortho"))

    def samples(self, kspace: ArrayLike | Tensor) -> Tensor:
        """Take the samples from whole k-spaces.

        Parameters
        ----------
        kspace : array or Tensor
            Complex, ``(*batch, n, m)``, with coils ``(*batch, C, n, m)``; the frequency zero at ``[n // 2, m // 2]``.

        Returns
        -------
        Tensor
            ``(*batch, *range.shape)``, the data for `genreg.reconstruct`; ``range.element`` takes it, too.

        Raises
        ------
        TypeError
            If `kspace` is real.
        ValueError
            If it has another shape.
        """
        k = array(kspace, "`kspace`")
        if not k.is_complex():
            raise TypeError(f"`kspace` must be complex, got {k.dtype}")
        expected = (*self._images.leading, *self._images.shape)
        if tuple(k.shape[k.ndim - len(expected) :]) != expected or k.ndim < len(expected):
            raise ValueError(f"`kspace` must have the shape (*batch, *{expected}), got {tuple(k.shape)}")
        return k[..., self._keep.to(k.device)].to(self._dtype)

    @documented_like(Mask.fill)
    def zero_filled(self, y: Any) -> Any:
        """Return the image whose transform has the samples `y`, and zeros elsewhere, for display.

        With coils, it is the sum of the images of the coils times their conjugate sensitivities.
        """
        return self._image_of(y)


def centred_fft2(t: Tensor, *, inverse: bool = False) -> Tensor:
    """Return the centred orthonormal Fourier transform of images ``(*batch, n, m)``, or its inverse, whole.

    Pixels and frequencies count from ``[n // 2, m // 2]``.
    """
    transform = torch.fft.ifft2 if inverse else torch.fft.fft2
    centred = transform(torch.fft.ifftshift(t, dim=(-2, -1)), norm="ortho")
    return torch.fft.fftshift(centred, dim=(-2, -1))


@undisturbed
def fourier_sampling(
    space: TensorSpace, mask: ArrayLike | Tensor, *, coils: ArrayLike | Tensor | None = None
) -> FourierSampling:
    r"""Return the operator that samples the centred orthonormal Fourier transform where `mask` is True.

    Parameters
    ----------
    space : TensorSpace
        Images: real ``(n, m)`` (magnitudes), complex ``(n, m)``, or real ``(2, n, m)``, the real and the imaginary
        part.
    mask : array or Tensor
        Of bools, or zeros and ones, ``(n, m)`` or a shape that broadcasts to it, such as ``(m,)`` for columns, with the
        frequency zero at ``[n // 2, m // 2]``; at least one entry must be True.
    coils : array or Tensor, optional
        Complex sensitivity maps, ``(C, n, m)``; by default one coil of sensitivity one.

    Returns
    -------
    FourierSampling
        Operator from `space` to `odl.cn(k)`, with k samples in C order of the mask, or with coils `odl.cn((C, k))`, of
        the same precision, backend and device. ``samples(kspace)`` takes the data from measured k-spaces, and
        ``zero_filled(y)`` shows data as an image.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, `mask` holds neither bools nor numbers, or `coils` is not
        complex.
    ValueError
        If the space, the mask or the coils have another shape, the mask holds other numbers than 0 and 1 or is False
        throughout, or the coils are not finite or zero throughout.

    References
    ----------
    K. P. Pruessmann, M. Weiger, M. B. Scheidegger, P. Boesiger (1999). SENSE: sensitivity encoding for fast MRI.
    Magnetic Resonance in Medicine 42(5), 952-962.

    Examples
    --------
    >>> import odl
    >>> from genreg.operators import radial_mask
    >>> A = fourier_sampling(odl.cn((64, 64), dtype="complex64"), radial_mask((64, 64), 20))
    """
    images = CoilImages(space, coils)
    return FourierSampling(space, boolean_mask(mask, images.shape, "`mask`"), images)
