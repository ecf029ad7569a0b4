"""Numbers, arrays and lists from NumPy and torch give what Python's numbers and tensors give, in the caller's kind."""

import numpy as np
import odl
import pytest
import torch

from genreg import (
    GaussianFidelity,
    HardConstraint,
    JointPrior,
    PoissonFidelity,
    RelaxedConstraint,
    TotalVariation,
    reconstruct,
    solvers,
    sweep,
)
from genreg.adaptive import Candidates, Random, adaptive_measurements
from genreg.operators import mask
from genreg.sampling import LatentPosterior, gibbs, sample
from genreg.solvers import Status

QUIET = {"noise_std": 0.3, "progress": False}


def numpy(x):
    return x.numpy() if isinstance(x, torch.Tensor) else x.data if hasattr(x, "space") else x


KINDS = {
    "array": lambda y: y.numpy(),
    "big-endian": lambda y: y.numpy().astype(">f8"),
    "read-only": lambda y: np.broadcast_to(y.numpy(), y.shape),
    "list": lambda y: y.tolist(),
    "list of arrays": lambda y: list(y.numpy()),
    "list of tensors": list,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [False, True])
def test_arrays_and_lists_of_data(A, G, y, kind, batched):
    y = y if batched else y[0]
    R = HardConstraint(G)
    expected = reconstruct(A, y, R, lam=0.5, **QUIET)
    rec = reconstruct(A, KINDS[kind](y), R, lam=0.5, **QUIET)
    assert type(rec.image) is type(rec.blocks["z"]) is type(rec.data) is np.ndarray
    np.testing.assert_array_equal(rec.image, expected.image)
    np.testing.assert_array_equal(rec.blocks["z"], expected.blocks["z"])
    np.testing.assert_array_equal(rec.data, y)
    assert torch.equal(rec.lam, expected.lam) and rec.status.shape == ((3,) if batched else ())
    start = {"z": rec.blocks["z"].tolist()}
    assert type(reconstruct(A, y, R, lam=0.5, init=start, max_iter=1, **QUIET).image) is torch.Tensor


def test_integers_are_data(A, X):
    counts = np.arange(20, dtype=np.uint16).reshape(4, 5)
    identity = odl.IdentityOperator(X)
    given = counts, counts.tolist(), torch.from_numpy(counts.astype(np.int64)), X.element(counts)
    for y in given:
        assert PoissonFidelity(identity, y).data.equal(torch.arange(20.0).double().view(1, 4, 5))
    single = odl.IdentityOperator(odl.rn((4, 5), dtype="float32"))
    assert GaussianFidelity(single, counts.astype(float), 1.0).data.dtype == torch.float32


@pytest.mark.parametrize("solver", ["jpmap", "levenberg_marquardt", "map_z_splitting", "projected_gradient"])
def test_solvers_give_the_kind_back(A, G, y, solver):
    solve = getattr(solvers, solver)
    expected = solve(A, y[0], G, max_iter=1, **QUIET)
    for kind, given in (("element", A.range.element(y[0].numpy())), ("array", y[0].numpy())):
        found = solve(A, given, G, init=numpy(expected.blocks["z"]), max_iter=1, **QUIET)
        assert isinstance(found.image, np.ndarray) == (kind == "array")
        found = solve(A, given, G, max_iter=1, **QUIET)
        np.testing.assert_array_equal(numpy(found.image), numpy(expected.image))
    descended = solvers.gradient_descent(GaussianFidelity(A, y[0], 1.0), np.zeros((4, 5)), progress=False)
    assert type(descended.blocks["v"]) is np.ndarray


def kinds_of(A, y):
    return A.range.element(y.numpy()), y, y.numpy()


def test_what_reconstruct_returns_for_one_sample_goes_everywhere(A, G, y):
    prior, results = JointPrior(G), []
    for data in kinds_of(A, y[0]):
        rec = reconstruct(A, data, prior, lam=1.0, **QUIET)
        z = rec.blocks["z"]
        fidelity = GaussianFidelity(A, data, 0.3)
        posterior = prior.posterior(fidelity, z)
        torch.testing.assert_close(posterior.mean[0].numpy(), numpy(rec.image), atol=1e-3, rtol=1e-3)
        drawn = gibbs(prior, fidelity, z, draws=2, burn_in=0, seed=0, progress=False)
        chains = sample(
            LatentPosterior(fidelity, G), init=z, chains=1, steps=4, seed=0, max_seconds=9, progress=False
        )
        assert type(chains.mean) is type(rec.image)
        again = reconstruct(A, data, HardConstraint(G), lam=0.5, init=z, max_iter=1, **QUIET)
        other = solvers.levenberg_marquardt(A, data, G, init=z, max_iter=1, **QUIET)
        assert type(again.image) is type(other.image) is type(rec.image)
        scored = sweep(
            A, data, HardConstraint(G), lam=[0.5], reference=rec.image, data_range=1, max_iter=1, **QUIET
        )
        start = HardConstraint(G).initial(data, A)["z"]
        assert type(start) is type(z)
        results.append([drawn.z.numpy(), numpy(again.image), numpy(other.image), scored.psnr.numpy()])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_adaptive_measurements_of_arrays(A, G, y):
    options = {"G": G, "chains": 1, "steps": 4, "draws": 2, "seed": 0, "progress": False}
    tensors = adaptive_measurements(Candidates(A, y[0], 0.3), Random(), 1, 2, **options)
    arrays = adaptive_measurements(Candidates(A, y[0].tolist(), 0.3), Random(), 1, 2, **options)
    assert type(arrays.mean) is np.ndarray
    np.testing.assert_array_equal(arrays.mean, tensors.mean)
    np.testing.assert_array_equal(arrays.error(np.zeros((4, 5))), tensors.error(torch.zeros(4, 5).double()))


SCALARS = [
    (np.float32, np.int64),
    (np.float16, np.uint8),
    (np.array, np.array),
    (lambda v: torch.tensor(v, dtype=torch.float64), torch.tensor),
]


@pytest.mark.parametrize(("number", "integer"), SCALARS, ids=["float32", "float16", "arrays", "tensors"])
def test_scalars_of_numpy_and_torch(A, G, X, number, integer):
    y = torch.randn(2, 12, dtype=torch.float64)
    plain = {
        "noise_std": 0.5,
        "lam": 0.25,
        "restarts": 2,
        "seed": 3,
        "max_iter": 5,
        "tol": 0.0,
        "factor": 1.0,
    }
    given = {k: (integer if isinstance(v, int) else number)(v) for k, v in plain.items()}
    a, b = (reconstruct(A, y, HardConstraint(G), progress=False, **o) for o in (plain, given))
    torch.testing.assert_close(a.image, b.image, rtol=0, atol=0)
    of_samples = [number(0.5), number(0.5)]
    c = reconstruct(A, y, HardConstraint(G), progress=False, **given | {"noise_std": of_samples})
    torch.testing.assert_close(a.image, c.image, rtol=0, atol=0)
    expected = RelaxedConstraint(G, 0.5).problem(GaussianFidelity(A, y, 1.0), torch.ones(2).double())
    found = RelaxedConstraint(G, number(0.5)).problem(GaussianFidelity(A, y, 1.0), torch.ones(2).double())
    assert torch.equal(found.per_sample["mu"], expected.per_sample["mu"])
    tv = TotalVariation(X, lower=integer(0), upper=number(1.0))
    assert tv.bounds == (0.0, 1.0) and all(type(bound) is float for bound in tv.bounds)
    jpmap = solvers.jpmap(
        A,
        y,
        G,
        noise_std=0.5,
        beta=number(2.0),
        n1=integer(1),
        n2=integer(2),
        restarts=integer(2),
        progress=False,
    )
    assert jpmap.image.shape == (2, 4, 5)


def test_a_masked_standard_deviation_is_a_datum_not_measured(X):
    A = odl.IdentityOperator(X)
    y, hidden = np.ones((4, 5)), np.eye(4, 5, dtype=bool)
    masked = GaussianFidelity(A, y, np.ma.array(np.full((4, 5), 0.5), mask=hidden))
    infinite = GaussianFidelity(A, y, np.where(hidden, np.inf, 0.5))
    assert torch.equal(masked.noise_std, infinite.noise_std) and float(masked.level) == 16
    measured = GaussianFidelity(mask(X, ~hidden), y[~hidden], 0.5)
    x = X.element(np.arange(20.0).reshape(4, 5))
    assert masked(x) == pytest.approx(measured(x))


def test_a_fidelity_belongs_to_the_data(A, G, y):
    fidelity, R = GaussianFidelity(A, y[0], 0.3), HardConstraint(G)
    expected = reconstruct(A, None, R, fidelity=fidelity, lam=0.5, progress=False)
    for data in kinds_of(A, y[0]):
        rec = reconstruct(A, data, R, fidelity=fidelity, lam=0.5, progress=False)
        assert type(rec.image) is (type(data) if not hasattr(data, "space") else type(A.domain.zero()))
        np.testing.assert_array_equal(numpy(rec.image), numpy(expected.image))
    with pytest.raises(ValueError, match="y must be the data of the fidelity"):
        reconstruct(A, y[1], R, fidelity=fidelity, lam=0.5, progress=False)


@pytest.mark.parametrize("lam", [0.5, "morozov"])
@pytest.mark.parametrize("R", [HardConstraint, lambda G: RelaxedConstraint(G, 0.1), JointPrior])
def test_one_bad_image_ends_alone(A, G, y, R, lam):
    y = torch.cat([y[:2], 1e170 * y[:1], y[2:]])  # its squares overflow
    good = torch.tensor([0, 1, 3])
    options = QUIET | {"max_iter": 12}
    rec = reconstruct(A, y, R(G), lam=lam, **options)
    expected = reconstruct(A, y[good], R(G), lam=lam, **options)
    torch.testing.assert_close(rec.image[good], expected.image, rtol=1e-6, atol=1e-6)
    assert torch.equal(rec.status[good], expected.status)
    assert rec.status[2] in (Status.NON_FINITE, Status.LEVEL_NOT_REACHED)
    if lam == 0.5:
        assert rec.status[2] == Status.NON_FINITE
        grid = sweep(A, y, R(G), lam=[0.5, 1.0], **options)
        alone = sweep(A, y[good], R(G), lam=[0.5, 1.0], **options)
        torch.testing.assert_close(grid.value[good], alone.value)
        assert (grid.status[2] == Status.NON_FINITE).all()


@pytest.mark.parametrize(
    "solver", ["jpmap", "jpmap_continuation", "levenberg_marquardt", "map_z_splitting", "projected_gradient"]
)
def test_one_bad_image_ends_alone_in_the_solvers(A, G, y, solver):
    y = torch.cat([y[:2], 1e170 * y[:1], y[2:]])
    good = torch.tensor([0, 1, 3])
    options = QUIET | ({"epsilon": 1e-2} if solver == "jpmap_continuation" else {})
    found = getattr(solvers, solver)(A, y, G, **options)
    expected = getattr(solvers, solver)(A, y[good], G, **options)
    torch.testing.assert_close(found.image[good], expected.image, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.status[good], expected.status)
    assert found.status[2] == Status.NON_FINITE
