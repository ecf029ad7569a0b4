"""Tensors whose memory is not their values, lazily conjugated or negated, that require gradients; other byte orders.

Every function that hands tensors to NumPy gives what it gives for plain ones.
"""

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo

import genreg
from genreg import operators as op
from genreg.operators import to_torch

for package in ("astra", "finufft", "sigpy"):
    pytest.importorskip(package)

N = 12
SPACE = odl.uniform_discr([-1, -1], [1, 1], (N, N))
COMPLEX = odl.uniform_discr([-1, -1], [1, 1], (N, N), dtype="complex128")
RADIAL = op.radial_trajectory(5, 16)


def draw(*shape, complex_=False):
    random = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.complex128 if complex_ else torch.float64, generator=random)


def smooth_coils(kspace):
    window = torch.hann_window(len(kspace[0]), dtype=torch.float64)
    return kspace * torch.outer(window, window) ** 8


def lazily(t):
    """A view with the bit of conjugation or negation that equals `t`, and requires a gradient."""
    if t.is_complex():
        view = t.conj().resolve_conj().conj()
        assert view.is_conj()
    else:
        view = torch.complex(t, -t).conj().imag
        assert view.is_neg()
    assert torch.equal(view, t)
    return view.requires_grad_()


def swapped(t):
    """An array of the other byte order."""
    array = t.numpy()
    return array.astype(array.dtype.newbyteorder("S"))


def precision(weights, log_diag):
    return op.SparseCholeskyPrecision(SPACE, log_diag, weights, distance=1)


def rays(space, **options):
    return to_torch(op.ray_transform(space, tomo.parallel_beam_geometry(space, 5), cache=False, **options))


MASK = op.radial_mask((N, N), 5)
REAL, COILS = draw(N, N), draw(3, N, N, complex_=True)
KSPACE, SAMPLES, LINES = draw(4, 24, 24, complex_=True), draw(5, 16, complex_=True), draw(7, 2) / 10
ARRAYS = {
    "coil_maps": (lambda k: op.coil_maps(smooth_coils(k)), KSPACE),
    "espirit": (lambda k: op.coil_maps(k, method="espirit", calibration=8), smooth_coils(KSPACE)),
    "samples": (lambda k: op.fourier_sampling(COMPLEX, MASK).samples(k), COILS),
    "coils": (lambda c: to_torch(op.fourier_sampling(SPACE, MASK, coils=c))(REAL), COILS),
    "coils of nufft": (lambda c: to_torch(op.nufft(SPACE, RADIAL, coils=c))(REAL), COILS),
    "trajectory": (lambda t: to_torch(op.nufft(COMPLEX, t))(COILS), LINES),
    "density": (
        lambda d: to_torch(op.nufft(COMPLEX, RADIAL, density=d).adjoint)(SAMPLES),
        SAMPLES.abs() + 0.1,
    ),
    "density_compensation": (lambda t: op.density_compensation(t, (N, N), iterations=3), LINES),
    "blur": (lambda k: to_torch(op.blur(SPACE, k, boundary="periodic"))(REAL), draw(3, 3).abs()),
}
TENSORS = {
    "rays": (rays(SPACE), REAL),
    "complex rays": (rays(COMPLEX), COILS),
    "direct rays": (rays(SPACE, method="astra"), REAL),
    "complex direct rays": (rays(COMPLEX, method="astra"), COILS),
    "nufft": (to_torch(op.nufft(COMPLEX, RADIAL)), COILS),
    "matrix": (to_torch(odl.MatrixOperator(draw(4, N).numpy())), REAL),
    "fallback": (to_torch(odl.core.operator.PowerOperator(SPACE, 2)), REAL),
    "precision": (lambda w: precision(w, REAL[None] / 4).solve(REAL[None]), draw(1, 4, N, N) / 10),
    "factor": (lambda w: precision(w, REAL / 4).factor_to_scipy().toarray(), draw(4, N, N) / 10),
    "complex element": (lambda t: op.to_element(COMPLEX, t).data, COILS[0]),
    "real element": (lambda t: op.to_element(SPACE, t).data, REAL),
}


def values(result):
    return (
        result.detach().resolve_conj().resolve_neg().numpy() if isinstance(result, torch.Tensor) else result
    )


@pytest.mark.filterwarnings("ignore:.*no native lowering:UserWarning")
@pytest.mark.parametrize("name", [*ARRAYS, *TENSORS])
def test_lazy_views_and_gradients(name):
    function, given = (ARRAYS | TENSORS)[name]
    np.testing.assert_allclose(
        values(function(lazily(given))), values(function(given)), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("name", ARRAYS)
def test_other_byte_orders(name):
    function, given = ARRAYS[name]
    if name == "coil_maps":
        function, given = op.coil_maps, smooth_coils(given)
    np.testing.assert_allclose(
        values(function(swapped(given))), values(function(given.numpy())), rtol=1e-6, atol=1e-12
    )


def test_images_of_measures():
    from genreg import evaluation

    a, b = draw(3, N, N).abs(), draw(3, N, N).abs()
    for measure in (evaluation.psnr, evaluation.ssim):
        expected = measure(a, b, data_range=1.0)
        np.testing.assert_allclose(values(measure(lazily(a), lazily(b), data_range=1.0)), values(expected))


def test_no_numbers():
    wrong = (("maps", TypeError), ([[1], [2, 3]], ValueError), (None, TypeError), (object(), TypeError))
    for bad, error in wrong:
        with pytest.raises(
            error, match="`kspace` must be an ODL element, a tensor or an array of numbers, got"
        ):
            op.coil_maps(bad)
    assert genreg.operators.coil_maps is op.coil_maps
