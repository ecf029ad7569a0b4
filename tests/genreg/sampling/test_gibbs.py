"""Samples of p(x, z | y): the Gaussian closed form, one nonlinear case by quadrature, bad input."""

import pytest
import torch

from genreg import GaussianFidelity, JointPrior, reconstruct, to_torch
from genreg.sampling import ChainStatus, diagnose, gibbs, resume
from genreg.sampling.joint_posterior import JointPosterior
from genreg.solvers.checkpoints import load_state, save_state

from ...refusals import refuses
from ..regularisers.test_structured_prior import SIGMA, dense, structured


def moments(A, G, y, P):
    """Mean and covariance of (x, z) given y, for a mean W z + b and a precision P that do not depend on z."""
    M, eye = dense(A), torch.eye(3, dtype=torch.float64)
    b = G.module(0 * eye[:1]).flatten(1)[0]
    W = (G.module(eye).flatten(1) - b).T
    top = torch.cat((M.T @ M / SIGMA**2 + P, -P @ W), 1)
    precision = torch.cat((top, torch.cat((-W.T @ P, W.T @ P @ W + eye), 1)))
    right = torch.cat((M.T @ y / SIGMA**2 + P @ b, -W.T @ P @ b))
    return torch.linalg.solve(precision, right), torch.linalg.inv(precision)


ESTIMATES = pytest.mark.parametrize("estimate", ["joint", "marginal"])


@ESTIMATES
@pytest.mark.parametrize("kind", ["structured", "isotropic"])
def test_the_gaussian_case(A, X, y, kind, estimate):
    G = structured(X)
    prior = JointPrior(G, None if kind == "structured" else 5.0, estimate=estimate)
    fidelity = GaussianFidelity(A, y[:2], SIGMA)
    z = torch.zeros(2, 3, dtype=torch.float64)
    found = gibbs(prior, fidelity, z, draws=5, burn_in=20, thin=2, chains=80, step=0.1, progress=False)
    assert found.x.shape == (5, 80, 2, 4, 5) and found.z.shape == (5, 80, 2, 3)
    for share in found.acceptance.values():
        assert bool(((share.mean(0) > 0.45) & (share.mean(0) < (0.7 if estimate == "joint" else 0.9))).all())
    P = prior.decode(z[:1]).precision.to_dense().reshape(20, 20)
    draws = torch.cat((found.x.flatten(3), found.z), -1)  # (draws, chains, B, 23)
    for k in range(2):
        mean, covariance = moments(A, G, y[k], P)
        std = covariance.diagonal().sqrt()
        error = (draws[:, :, k].mean((0, 1)) - mean) / std
        # the chains are independent: the scatter of their means tells how exact the mean is
        spread = draws[:, :, k].mean(0).std(0) / std / 80**0.5
        assert bool((error.abs() < 4.5 * spread).all()) and float(spread.max()) < 0.2
        scores = (draws[:, :, k] - mean) / std
        squares = scores.square().mean(0)
        assert bool(((squares.mean(0) - 1).abs() < 4.5 * squares.std(0) / 80**0.5).all())
    assert torch.allclose(found.mean, found.x.mean((0, 1)))
    assert torch.allclose(found.std, found.x.flatten(0, 1).std(0))


@ESTIMATES
def test_the_marginal_of_z_by_quadrature(A, X, y, estimate):
    """One latent direction: p(z | y) is the normal density of y with mean A μ(z) and covariance σ² I + A Λ(z)⁻¹ Aᵀ."""
    G = structured(X, slope=0.4)
    with torch.no_grad():
        G.model.linear.weight[:, 1:] = 0
        G.model.directions[1:] = 0  # z_2 and z_3 remain N(0, 1)
    M = dense(A)
    grid = torch.linspace(-4, 4, 401, dtype=torch.float64)
    decoded = G.decode(torch.nn.functional.pad(grid[:, None], (0, 2)))
    covariance = (
        SIGMA**2 * torch.eye(12, dtype=torch.float64)
        + M @ torch.linalg.inv(decoded.precision.to_dense()) @ M.T
    )
    log_p = torch.distributions.MultivariateNormal(decoded.mean.flatten(1) @ M.T, covariance).log_prob(y[0])
    p = torch.softmax(log_p - 0.5 * grid.square(), 0)
    mean = (p * grid).sum()
    variance = (p * (grid - mean).square()).sum()
    fidelity = GaussianFidelity(A, y[:1], SIGMA)
    found = gibbs(
        JointPrior(G, estimate=estimate),
        fidelity,
        torch.zeros(1, 3, dtype=torch.float64),
        draws=5,
        burn_in=20,
        thin=2,
        chains=100,
        step=0.1,
        progress=False,
    )
    z = found.z[:, :, 0, 0]
    assert abs(z.mean() - mean) < 4 * z.mean(0).std() / 100**0.5
    squares = (z - mean).square().mean(0)
    assert abs(squares.mean() - variance) < 4 * squares.std() / 100**0.5
    assert float(found.z[..., 1:].std()) == pytest.approx(1.0, abs=0.2)
    expected = found.log_density[-1, 0]
    x, z = found.x[-1, 0], found.z[-1, 0]
    residual = to_torch(A)(x) - y[:1]
    assert torch.allclose(
        expected, -residual.square().sum(1) / (2 * SIGMA**2) - to_torch(JointPrior(G))((x, z))
    )


def test_seeds_chains_and_kinds_of_steps(A, X, y):
    prior, fidelity = JointPrior(structured(X, slope=0.1)), GaussianFidelity(A, y, SIGMA)
    z = reconstruct(A, y, prior, noise_std=SIGMA, lam=1.0, tol=1e-2, progress=False).blocks["z"]
    settings = {"draws": 3, "burn_in": 2, "chains": 2, "progress": False}
    found = gibbs(prior, fidelity, z, **settings)
    again = gibbs(prior, fidelity, z, **settings)
    other = gibbs(prior, fidelity, z, seed=1, **settings)
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)
    plain = gibbs(prior, fidelity, z, interweave=False, **settings)
    assert set(plain.acceptance) == {"image"} and set(found.acceptance) == {"image", "white"}
    collapsed = gibbs(JointPrior(structured(X, slope=0.1), estimate="marginal"), fidelity, z, **settings)
    assert set(collapsed.acceptance) == {"marginal"}
    several = JointPrior(structured(X), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert bool(torch.isfinite(gibbs(several, fidelity, z, **settings).x).all())


SETTINGS = {"burn_in": 3, "thin": 1, "chains": 2, "step": 0.05, "progress": False}


@pytest.mark.parametrize("factor", [1e4, 1e200])
def test_a_bad_image_leaves_the_others_as_they_are(A, X, y, factor):
    """Those far away, whose chains reach latent vectors with a singular precision, and those out of reach."""
    prior, z = JointPrior(structured(X, slope=0.1)), torch.zeros(3, 3, dtype=torch.float64)
    bad = y.clone()
    bad[1] *= factor
    good, found = (gibbs(prior, GaussianFidelity(A, d, SIGMA), z, draws=3, **SETTINGS) for d in (y, bad))
    for name in ("x", "z", "log_density"):
        assert torch.equal(getattr(found, name)[:, :, [0, 2]], getattr(good, name)[:, :, [0, 2]]), name
    assert torch.equal(found.mean[[0, 2]], good.mean[[0, 2]])
    assert bool((found.status[:, [0, 2]] == ChainStatus.COMPLETED).all())
    if factor > 1e100:
        assert bool((found.status[:, 1] == ChainStatus.NOT_STARTED).all())
        assert bool(found.x[:, :, 1].isnan().all()) and bool(found.mean[1].isnan().all())
        assert "2 x NOT_STARTED" in found.advice()


def test_a_chain_that_is_stopped_counts_no_longer(A, X, y, monkeypatch):
    prior, z = JointPrior(structured(X)), torch.zeros(3, 3, dtype=torch.float64)
    image = JointPosterior.image
    turns = []

    def failing(self, z, seed):
        x = image(self, z, seed)
        turns.append(x)
        if len(turns) > 5:  # after the images at the start, and those of the burn-in and of one draw
            x[4] = torch.inf  # the second chain of the second sample
        return x

    with monkeypatch.context() as patch:
        patch.setattr(JointPosterior, "image", failing)
        found = gibbs(prior, GaussianFidelity(A, y, SIGMA), z, draws=3, **SETTINGS)
    expected = torch.full((2, 3), int(ChainStatus.COMPLETED))
    expected[1, 1] = ChainStatus.DIVERGED
    assert torch.equal(found.status, expected)
    assert found.log_density[:, 1, 1].isnan().tolist() == [False, True, True]
    counting = torch.cat((found.x[:, 0, 1], found.x[:1, 1, 1]))
    assert torch.allclose(found.mean[1], counting.mean(0)) and torch.allclose(found.std[1], counting.std(0))


@ESTIMATES
def test_it_is_a_run_of_the_sampler(A, X, y, tmp_path, estimate):
    """It is interrupted and goes on, in memory and from a file; its draws are diagnosed as those of z are."""
    prior, fidelity = JointPrior(structured(X, slope=0.1), estimate=estimate), GaussianFidelity(A, y, SIGMA)
    z = torch.zeros(3, 3, dtype=torch.float64)
    whole = gibbs(prior, fidelity, z, draws=4, **SETTINGS)
    part = gibbs(prior, fidelity, z, draws=4, max_seconds=1e-9, **SETTINGS)
    assert bool((part.status == ChainStatus.INTERRUPTED).all()) and len(part.x) == 0
    part.save(tmp_path / "run")
    for saved in (part, tmp_path / "run"):
        found = resume(whole.posterior, saved, progress=False)
        for name in ("x", "z", "log_density", "mean", "std", "step"):
            assert torch.equal(getattr(found, name), getattr(whole, name)), name
    residual = to_torch(A)(whole.x[2, 1]) - y
    energy = residual.square().sum(1) / (2 * SIGMA**2) + to_torch(prior)((whole.x[2, 1], whole.z[2, 1]))
    assert torch.allclose(whole.energy[2, 1], energy)
    quality = diagnose(whole)
    assert quality.rhat.shape == (3, 4) and bool(torch.isfinite(quality.ess).all())
    shares = torch.stack([share.mean(0) for share in whole.acceptance.values()]).mean(0)
    assert torch.allclose(quality.acceptance, shares)
    lower, upper = whole.interval(0.5)
    assert torch.equal(whole.images(1), whole.x[:, :, 1].flatten(0, 1)) and bool((lower < upper).all())
    with pytest.raises(ValueError, match="draws must be an integer of at least 2, got 1"):
        gibbs(prior, fidelity, z, draws=2, checkpoint=tmp_path / "own", **SETTINGS)
        gibbs(prior, fidelity, z, draws=1, checkpoint=tmp_path / "own", resume=True, **SETTINGS)


def test_steps_that_are_never_accepted_are_stuck(A, X, y):
    prior, z = JointPrior(structured(X)), torch.zeros(3, 3, dtype=torch.float64)
    settings = SETTINGS | {"burn_in": 0, "step": 1e6}
    found = gibbs(prior, GaussianFidelity(A, y, SIGMA), z, draws=3, **settings)
    assert bool((found.status == ChainStatus.STUCK).all())


class KilledError(Exception):
    pass


@pytest.mark.parametrize("turn", [2, 5])
def test_resumed_is_uninterrupted(A, X, y, tmp_path, monkeypatch, turn):
    """In the burn-in and later, after the state has been written at every turn."""
    prior, fidelity = JointPrior(structured(X, slope=0.1)), GaussianFidelity(A, y, SIGMA)
    z, file = torch.zeros(3, 3, dtype=torch.float64), tmp_path / "run"
    whole = gibbs(prior, fidelity, z, draws=4, **SETTINGS)
    image, turns = JointPosterior.image, []

    def killed(self, z, seed):
        turns.append(z)
        if len(turns) > turn + 1:
            raise KilledError
        return image(self, z, seed)

    with monkeypatch.context() as patch:
        patch.setattr("genreg.solvers.checkpoints.resumable._SECONDS", 0.0)
        patch.setattr(JointPosterior, "image", killed)
        with pytest.raises(KilledError):
            gibbs(prior, fidelity, z, draws=4, checkpoint=file, **SETTINGS)
    options = {"checkpoint": file, "resume": True, **SETTINGS}
    found = gibbs(prior, fidelity, z, draws=4, **options)
    for name in ("x", "z", "log_density", "status", "mean"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert all(torch.equal(found.acceptance[kind], share) for kind, share in whole.acceptance.items())


def test_checkpoints_of_other_runs_and_longer_ones(A, X, y, tmp_path):
    prior, fidelity = JointPrior(structured(X, slope=0.1)), GaussianFidelity(A, y, SIGMA)
    z, file = torch.zeros(3, 3, dtype=torch.float64), tmp_path / "run"
    gibbs(prior, fidelity, z, draws=2, checkpoint=file, **SETTINGS)
    options = {"checkpoint": file, "resume": True, **SETTINGS}
    state = load_state(file, "Gibbs sampling of images")
    state["tensors"]["u"][4, 1] = torch.nan
    save_state(tmp_path / "spoilt", state, "Gibbs sampling of images")
    with pytest.raises(
        ValueError, match=r"checkpoint must hold finite points .*, got NaN or infinite values of u"
    ):
        gibbs(prior, fidelity, z, draws=2, **options | {"checkpoint": tmp_path / "spoilt"})
    longer = gibbs(prior, fidelity, z, draws=3, **options)
    assert torch.equal(longer.x, gibbs(prior, fidelity, z, draws=3, **SETTINGS).x)
    with pytest.raises(FileExistsError, match=r"checkpoint .*run is there already: go on .* by resume=True"):
        gibbs(prior, fidelity, z, draws=3, checkpoint=file, **SETTINGS)
    for words, changed in (
        ("data differ", {"fidelity": GaussianFidelity(A, y + 1e-9, SIGMA)}),
        ("z differ", {"z": z + 1e-9}),
        ("seed was 0 and is 1", {"seed": 1}),
        ("value of the regulariser differ", {"prior": JointPrior(structured(X, slope=0.2))}),
    ):
        given = {"prior": prior, "fidelity": fidelity, "z": z, "draws": 3, **options} | changed
        with pytest.raises(ValueError, match=f"checkpoint .*run belongs to another run: .*{words}"):
            gibbs(**given)


@refuses(
    ({"draws": 0}, ValueError, "draws must be a positive integer, got 0"),
    ({"burn_in": -1}, ValueError, "burn_in must be a non-negative integer, got -1"),
    ({"chains": 1.5}, TypeError, "chains must be an integer, got 1.5"),
    ({"step": 0.0}, ValueError, "step must be positive and finite, got 0.0"),
    (
        {"z": torch.tensor([[0.0] * 3, [torch.nan, 0, 0], [0.0] * 3], dtype=torch.float64)},
        ValueError,
        "z must be finite, got 1 NaN or infinite values in sample 1 of 3",
    ),
    ({"resume": True}, ValueError, "resume needs the file to resume from: give checkpoint"),
    ({"prior": 3}, TypeError, "prior must be a JointPrior, got int"),
    ({"fidelity": 3}, TypeError, "fidelity must be a GaussianFidelity, got int"),
    ({"z": torch.zeros(3, 2)}, ValueError, r"`z` must have shape \(\*batch, \*\(3,\)\), got \(3, 2\)"),
)
def test_bad_input(A, X, y, change):
    given = {
        "prior": JointPrior(structured(X)),
        "fidelity": GaussianFidelity(A, y, SIGMA),
        "z": torch.zeros(3, 3, dtype=torch.float64),
    } | change
    gibbs(**given, progress=False)
