"""Inference mode, autocast and the default data type of the caller change no result."""

import functools

import numpy as np
import odl
import pytest
import torch

import genreg
from genreg import (
    GaussianFidelity,
    HardConstraint,
    JointPrior,
    PlugAndPlay,
    RegularisationByDenoising,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
    reconstruct,
    sampling,
    solvers,
    to_torch,
    training,
)
from genreg.datasets import intensity_ramps, shapes, shapes_plus
from genreg.networks import DenoiserConfig, DenseConfig
from genreg.operators import GaussianPosterior, IsotropicPrecision, data_prox, gaussian_measurements

X = odl.uniform_discr([0, 0], [1, 1], (6, 5), dtype="float32")
A = gaussian_measurements(X, 12, seed=0)
CONFIG = DenseConfig(image_shape=(6, 5), latent_dim=3, encoder=(8,), decoder=(8,))
QUIET = {"progress": False}


def drawn(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def built():
    torch.manual_seed(0)
    return CONFIG.build()


G = genreg.Generator(built(), X)
DENOISER = DenoiserConfig(image_shape=(6, 5), channels=(4,), blocks=1).build()
Y = drawn(2, 12)
Z = drawn(2, 3)


def solved(R, **options):
    return lambda: reconstruct(A, Y, R(), noise_std=0.1, max_iter=5, **{"lam": 1.0, **QUIET, **options}).image


def sampled(kernel):
    posterior = sampling.LatentPosterior(GaussianFidelity(A, Y, 0.1), G)
    return sampling.sample(posterior, kernel=kernel, chains=2, steps=8, burn_in=4, seed=0, **QUIET).z


def trained():
    images, model = drawn(40, 6, 5), PRISTINE()
    training.fit(model, images, steps=3, batch_size=8, **QUIET)
    return next(model.parameters()).detach()


MODELS = [built() for _ in range(8)]  # made outside of the modes
PRISTINE = lambda: MODELS.pop()  # noqa: E731

ENTRIES = {
    "hard": solved(lambda: HardConstraint(G), restarts=2),
    "gauss_newton": solved(lambda: HardConstraint(G), solver=solvers.gauss_newton),
    "gradient_descent": solved(lambda: HardConstraint(G), solver=solvers.gradient_descent),
    "adam": solved(
        lambda: HardConstraint(G),
        solver=functools.partial(solvers.gradient_descent, updates={"z": solvers.Adam()}),
    ),
    "proximal latent term": solved(lambda: HardConstraint(G, genreg.latent.Power(G.domain, 0.5))),
    "plug-and-play": solved(lambda: PlugAndPlay(DENOISER, X, noise_std=0.1)),
    "by denoising": solved(lambda: RegularisationByDenoising(DENOISER, X, noise_std=0.1)),
    "relaxed": solved(lambda: RelaxedConstraint(G, 0.1)),
    "alternating": solved(
        lambda: RelaxedConstraint(G, torch.tensor([0.1, 0.2])), solver=solvers.alternating_gradient_descent
    ),
    "sparse": solved(lambda: SparseDeviation(G, 0.1)),
    "sparse gradient": solved(lambda: SparseDeviation(G, 0.1, sparsity="tv")),
    "joint": solved(lambda: JointPrior(G, 5.0)),
    "structured": solved(lambda: JointPrior(G, IsotropicPrecision(X, 5.0))),
    "Tikhonov": solved(lambda: Tikhonov(X, odl.Gradient(X)), lam="l-curve"),
    "total variation": solved(lambda: TotalVariation(X, lower=0.0), lam="morozov"),
    "an ODL functional": solved(lambda: odl.functionals.L1Norm(X)),
    "sweep": lambda: genreg.sweep(A, Y, HardConstraint(G), noise_std=0.1, lam=[0.1, 1.0], **QUIET).lam,
    "initial": lambda: RelaxedConstraint(G, 0.1).initial(Y, A)["x"],
    "jpmap": lambda: solvers.jpmap(A, Y, G, noise_std=0.1, beta=5.0, max_iter=3, **QUIET).image,
    "continuation": lambda: (
        solvers.jpmap_continuation(A, Y, G, noise_std=0.1, beta=5.0, epsilon=0.1, max_iter=3, **QUIET).image
    ),
    "splitting": lambda: solvers.map_z_splitting(A, Y, G, noise_std=0.1, max_iter=3, **QUIET).image,
    "levenberg_marquardt": lambda: (
        solvers.levenberg_marquardt(A, Y, G, noise_std=0.1, max_iter=3, **QUIET).image
    ),
    "projected_gradient": lambda: (
        solvers.projected_gradient(A, Y, G, noise_std=0.1, max_iter=3, **QUIET).image
    ),
    "element": lambda: (
        reconstruct(
            A, A.range.element(Y[0].numpy()), HardConstraint(G), noise_std=0.1, lam=1.0, max_iter=3, **QUIET
        ).image.data
    ),
    **{k.__name__: functools.partial(sampled, k()) for k in (sampling.MALA, sampling.HMC, sampling.SKROCK)},
    "training": trained,
    "marginal": lambda: to_torch(RelaxedConstraint(G, 0.1).marginal)(drawn(2, 6, 5)),
    "gradient of a marginal": lambda: RelaxedConstraint(G, 0.1).marginal.gradient(X.one()).data,
    "gradient of a fidelity": lambda: (
        (GaussianFidelity(A, A.range.one(), 0.1) * G).gradient(G.domain.one()).data
    ),
    "decode": lambda: G.decode(Z).mean,
    "encode": lambda: G.encode(drawn(2, 6, 5)),
    "element of Z": lambda: G(G.domain.one()).data,
    "lowered": lambda: to_torch(A)(drawn(2, 6, 5)),
    "matrix": lambda: to_torch(odl.MatrixOperator(np.ones((3, 12), "float32"))).adjoint(drawn(2, 3)),
    "measured": lambda: A(X.one()).data,
    "data_prox": lambda: data_prox(A)(drawn(2, 6, 5), Y, 0.1),
    "gaussian": lambda: GaussianPosterior(A, Y, drawn(2, 6, 5), IsotropicPrecision(X, 2.0), 4.0).mean,
    "shapes": lambda: shapes(2, seed=1),
    "shapes_plus": lambda: shapes_plus(2, seed=1),
    "ramps": lambda: intensity_ramps((4, 5)),
}
MODES = {
    "inference": lambda: torch.inference_mode(),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


class DoubleByDefault:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)


MODES["double"] = DoubleByDefault


@pytest.mark.parametrize("name", ENTRIES)
def test_no_mode_changes_a_result(name):
    expected = torch.as_tensor(ENTRIES[name]())
    for mode, context in MODES.items():
        with context():
            found = torch.as_tensor(ENTRIES[name]())
        assert found.dtype == expected.dtype, mode
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), mode
    assert not expected.is_inference()


def test_data_and_starts_from_inside_inference_mode():
    with torch.inference_mode():
        y, start, sigma = Y.clone(), {"z": Z.clone()}, torch.full((2,), 0.1)
        rec = reconstruct(A, y, HardConstraint(G), noise_std=sigma, lam=1.0, init=start, max_iter=3, **QUIET)
    assert not rec.image.is_inference()
    assert torch.equal(
        rec.image,
        reconstruct(
            A, Y, HardConstraint(G), noise_std=0.1, lam=1.0, init={"z": Z}, max_iter=3, **QUIET
        ).image,
    )


def test_a_model_from_inside_inference_mode_is_refused_in_one_sentence():
    with torch.inference_mode():
        model = built()
    with pytest.raises(RuntimeError, match=r"fit must differentiate.* torch.inference_mode: make models"):
        training.fit(model, drawn(40, 6, 5), steps=1, batch_size=8, **QUIET)


def test_gradients_flow_through_lowered_operators_under_autocast():
    x = drawn(2, 6, 5).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = to_torch(A)(x).square().sum()
    half = to_torch(A)(x.detach().bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # what a network before it has made
        assert torch.equal(to_torch(A)(x.detach().bfloat16()), half)
    (g,) = torch.autograd.grad(value, x)
    matrix = A.matrix.double()
    expected = 2 * (x.detach().double().flatten(1) @ matrix.T @ matrix).view_as(x)
    assert g.dtype == torch.float32 and torch.allclose(g.double(), expected, rtol=1e-5)
