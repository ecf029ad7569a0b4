"""Priors, fidelities, posteriors and results go through pickle, torch.save and copies, and to other processes."""

import functools
import multiprocessing

import odl
import pytest
import torch

import genreg
from genreg import (
    AutoencoderResidual,
    EncoderNorm,
    FunctionalFidelity,
    GaussianFidelity,
    HardConstraint,
    JointPrior,
    LearnedRegulariser,
    PlugAndPlay,
    PoissonFidelity,
    RegularisationByDenoising,
    RelaxedConstraint,
    SparseDeviation,
    Tikhonov,
    TotalVariation,
    latent,
    networks,
    recipes,
    sampling,
    solvers,
    to_torch,
)
from genreg.operators import GaussianPosterior, IsotropicPrecision, condition, gaussian_measurements
from genreg.regularisers.functional import OfFunctional
from genreg.solvers.generative.joint_map import codes
from genreg.solvers.updates.propose import Proposal, Propose

from ..operators.bridge.test_pickles import WAYS, points, same


def critic():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 1)).double()


def denoiser():
    return networks.DenoiserConfig(image_shape=(4, 5), channels=(4,), blocks=1).build()


REGULARISERS = {
    "hard": lambda G: HardConstraint(G),
    "sphere": lambda G: HardConstraint(G, latent.Sphere(G.domain)),
    "images of z": lambda G: HardConstraint(G, latent.ImageVariation(G, 0.1) + latent.Power(G.domain, 1.5)),
    "relaxed": lambda G: RelaxedConstraint(G, 0.1),
    "sparse": lambda G: SparseDeviation(G, torch.tensor([0.1, 0.2], dtype=torch.float64)),
    "sparse gradient": lambda G: SparseDeviation(G, 0.1, sparsity="tv"),
    "joint": lambda G: JointPrior(G, 5.0),
    "joint with a precision": lambda G: JointPrior(G, IsotropicPrecision(G.range, 3.0)),
    "residual": lambda G: AutoencoderResidual(G),
    "encoder": lambda G: EncoderNorm(G),
    "Tikhonov": lambda G: Tikhonov(G.range, odl.Gradient(G.range)),
    "total variation": lambda G: TotalVariation(G.range, lower=0.0),
    "network": lambda G: LearnedRegulariser(critic(), G.range, scale=2.0),
    "by denoising": lambda G: RegularisationByDenoising(denoiser(), G.range, noise_std=0.1),
    "ODL's": lambda G: OfFunctional(odl.functionals.L1Norm(G.range)),
}


@pytest.mark.parametrize("name", REGULARISERS)
def test_regularisers_and_their_problems(name, A, G, y):
    R, t = REGULARISERS[name](G), points(REGULARISERS[name](G).domain)
    fidelity, lam = GaussianFidelity(A, y[:2], 0.3), torch.tensor([0.5, 1.0], dtype=torch.float64)
    problem, v = R.problem(fidelity, lam), R.named(t)
    for way in WAYS.values():
        back = way(R)
        assert same(to_torch(back)(t), to_torch(R)(t)) and same(way(to_torch(R))(t), to_torch(R)(t))
        assert back.solver.__repr__().split(" at 0x")[0] == R.solver.__repr__().split(" at 0x")[0]
        other = way(problem)
        if isinstance(problem, solvers.Objective):
            assert same(other(v), problem(v))
            assert same(
                way(problem.take(torch.tensor([1])))({k: b[1:] for k, b in v.items()}), problem(v)[1:]
            )
        else:
            assert same(other.g[0].prox(fidelity.data, 0.1), problem.g[0].prox(fidelity.data, 0.1))
    if name in ("hard", "relaxed", "sparse gradient", "joint"):
        x = points(G.range, 1)
        assert same(to_torch(WAYS["pickle"](R.marginal))(x), to_torch(R.marginal)(x))


def test_problems_with_denoisers(A, G, y):
    lam = torch.tensor([0.5, 1.0], dtype=torch.float64)
    problem = PlugAndPlay(denoiser(), G.range, noise_std=0.1).problem(GaussianFidelity(A, y[:2], 0.3), lam)
    x = points(G.range)
    for way in WAYS.values():
        back = way(problem)
        assert same(back.denoise(x), problem.denoise(x)) and same(back({"x": x}), problem({"x": x}))
        assert same(back.data_step(x, back.strength, x), problem.data_step(x, problem.strength, x))


def test_generators_and_fidelities(A, G, y):
    z, x, huber = points(G.domain), points(G.range), odl.functionals.Huber(A.range, 0.1)
    fidelities = [GaussianFidelity(A, y[:2], 0.3), FunctionalFidelity(A, huber, y[:2])]
    fidelities.append(PoissonFidelity(A, y[:2].abs(), background=torch.tensor([4.0, 5.0])))
    for way in WAYS.values():
        back = way(G)
        assert same(back.decode(z).mean, G.decode(z).mean) and same(back.encode(x), G.encode(x))
        assert same(way(G.decode(z)).mean, G.decode(z).mean) and way(G.decode(z)).precision.domain == G.range
        for fidelity in fidelities:
            for thing in (fidelity, fidelity.take(torch.tensor([1, 0]))):
                assert same(to_torch(way(thing))(x), to_torch(thing)(x))
                assert same(way(thing.on_data())(y[:2]), thing.on_data()(y[:2]))


def test_posteriors_samples_and_results(A, G, y):
    fidelity, z = GaussianFidelity(A, y[:2], 0.3), points(G.domain)
    posterior = sampling.LatentPosterior(fidelity, G)
    samples = sampling.sample(posterior, chains=2, steps=20, burn_in=10, seed=0, progress=False)
    rec = genreg.reconstruct(A, y, RelaxedConstraint(G, 0.1), noise_std=0.3, lam=1.0, progress=False)
    rows = genreg.sweep(A, y, HardConstraint(G), noise_std=0.3, lam=[0.1, 1.0], progress=False)
    precision = IsotropicPrecision(G.range, 2.0)
    gaussian = GaussianPosterior(A, y[:2], points(G.range), precision, 4.0)
    some = condition(precision, points(G.range), torch.eye(4, 5, dtype=torch.bool), points(G.range))
    for way in WAYS.values():
        assert same(way(posterior).energy(z), posterior.energy(z))
        assert same(way(posterior.take(torch.tensor([1]))).energy(z[1:]), posterior.energy(z)[1:])
        back = way(samples)
        assert same(back.z, samples.z) and same(back.mean, samples.mean)
        more = sampling.resume(posterior, back, steps=30, progress=False)
        assert same(more.z, sampling.resume(posterior, samples, steps=30, progress=False).z)
        assert same(way(rec).image, rec.image) and way(rec).history.keys() == rec.history.keys()
        assert same(way(rows).lam, rows.lam)
        assert same(way(gaussian).mean, gaussian.mean)
        assert same(way(some).sample(2, 0), some.sample(2, 0))


def test_updates(A, G, y):
    problem = JointPrior(G, 5.0).problem(GaussianFidelity(A, y, 0.3), torch.ones(3, dtype=torch.float64))
    jump = Propose([Proposal(codes(problem, G.encode), 5)], solvers.LevenbergMarquardt())
    kinds = (solvers.Adam(), solvers.Inertial(), solvers.ProxGradient(), solvers.QuasiNewton())
    for update in (jump, solvers.LevenbergMarquardt(), *kinds):
        solve = functools.partial(solvers.palm, max_iter=2, progress=False)
        found = []
        for step in (update, WAYS["pickle"](update)):
            start = {"z": torch.zeros(3, 3, dtype=torch.float64)}
            found.append(solve(problem.profile(), start, updates={"z": step}).blocks["z"])
        assert all(torch.allclose(z, found[0], rtol=1e-12, atol=1e-12) for z in found)


def test_recipes():
    for name in ("shapes-vae", "mnist-supn", "disc-vae"):
        assert WAYS["pickle"](recipes.RECIPES[name]).settings == recipes.RECIPES[name].settings


def test_slices_with_their_prior_in_spawned_processes():
    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = gaussian_measurements(X, 20, seed=0)
    G = genreg.load_generator("shapes-vae", range=X)
    y = to_torch(A)(G.sample(2, seed=0))
    prior = HardConstraint(G)
    here = functools.partial(
        genreg.reconstruct, A, regulariser=prior, noise_std=0.1, lam=1.0, max_iter=3, progress=False
    )
    # in double precision by default, from before the import on
    double = (torch.set_default_dtype, (torch.float64,))
    with multiprocessing.get_context("spawn").Pool(1, *double) as pool:
        there = pool.map(here, list(y))
    for slice_, rec in zip(y, there, strict=True):
        assert rec.image.dtype == torch.float32 and torch.allclose(rec.image, here(slice_).image, atol=1e-4)
