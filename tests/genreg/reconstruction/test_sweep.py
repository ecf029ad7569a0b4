"""Parameter sweeps: closed forms of every problem, chunks, choices by brute force, tables, figures, wrong arguments."""

import csv

import numpy as np
import odl
import pytest
import torch

from genreg import (
    HardConstraint,
    RelaxedConstraint,
    Sweep,
    Tikhonov,
    TotalVariation,
    reconstruct,
    sweep,
    to_torch,
)
from genreg.evaluation import psnr
from genreg.operators.fidelity import FunctionalFidelity
from genreg.reconstruction.batch import BatchedSolve
from genreg.solvers import Solution, Status

SIGMA = 0.3
QUIET = {"noise_std": SIGMA, "progress": False}
LAMS = [0.1, 1.0, 10.0, 100.0]


@pytest.fixture(name="truth")
def images(G):
    return G.module(torch.randn(3, 3, dtype=torch.float64))


@pytest.fixture(name="noisy")
def noisy_data(A, truth):
    clean = to_torch(A)(truth)
    return clean + SIGMA * torch.randn_like(clean)


@pytest.fixture
def relaxed(A, G):
    """x, z that minimise ‖Ax - y‖²/(2σ²) + λ ‖Wz + b - x‖²_X + w ‖z‖², from the normal equations."""
    eye = torch.eye(20, dtype=torch.float64)
    K = to_torch(A)(eye.view(20, 4, 5)).T
    b = G.module(torch.zeros(1, 3, dtype=torch.float64))[0].flatten()
    W = (G.module(torch.eye(3, dtype=torch.float64)).flatten(1) - b).T
    cell = A.domain.cell_volume

    def solve(y, lam, w):
        top = torch.cat((K.T @ K / SIGMA**2 + 2 * lam * cell * eye, -2 * lam * cell * W), 1)
        low = (-2 * lam * cell * W.T, 2 * lam * cell * W.T @ W + 2 * w * torch.eye(3, dtype=torch.float64))
        right = torch.cat((K.T @ y / SIGMA**2 + 2 * lam * cell * b, -2 * lam * cell * W.T @ b))
        v = torch.linalg.solve(torch.cat((top, torch.cat(low, 1))), right)
        return v[:20].view(4, 5), v[20:]

    return solve


def exact(problem, init, **options):
    """Minimise a quadratic objective by its normal equations, its gradient at every unit vector."""
    sizes = [v[0].numel() for v in init.values()]
    count = len(next(iter(init.values())))

    def gradient(point):
        parts = dict(zip(init, point.expand(count, -1).split(sizes, 1), strict=True))
        blocks = {name: parts[name].reshape(v.shape) for name, v in init.items()}
        _, gradients = problem.value_and_gradient(blocks)
        return torch.cat([g.flatten(1) for g in gradients.values()], 1)

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    offset = gradient(zero)
    hessian = torch.stack([gradient(e) - offset for e in torch.eye(len(zero), dtype=torch.float64)], 2)
    minimiser = torch.linalg.solve(hessian, -offset)
    blocks = {
        name: part.reshape(v.shape)
        for (name, v), part in zip(init.items(), minimiser.split(sizes, 1), strict=True)
    }
    one = torch.full((count,), Status.CONVERGED, dtype=torch.int64)
    return Solution(blocks, problem(blocks), one, one, one, 0.0)


EXACT = {"solver": exact, "init": "zero"}


def made(residual, *, psnr=None, level=None, lam=None, principle=None, status=None, factor=1.0):
    """A sweep of given numbers, ``(B, M, L)``."""
    residual = torch.as_tensor(residual, dtype=torch.float64)
    B, M, L = residual.shape
    lam = torch.logspace(0, L - 1, L, dtype=torch.float64) if lam is None else lam
    return Sweep(
        lam=lam.expand(B, M, L),
        mu=torch.arange(1.0, M + 1),
        tied=True,
        principle=principle,
        residual=residual,
        level=torch.ones(B, dtype=torch.float64) if level is None else level,
        factor=factor,
        value=residual,
        penalty=residual,
        status=torch.full_like(residual, Status.CONVERGED, dtype=torch.int64) if status is None else status,
        iterations=torch.ones_like(residual, dtype=torch.int64),
        time=0.0,
        psnr=psnr,
    )


def test_every_problem_of_a_grid_has_its_closed_form(A, G, y, truth, closed_form):
    s = sweep(A, y, HardConstraint(G), lam=LAMS, tol=1e-10, reference=truth, data_range=2.0, **QUIET)
    assert s.residual.shape == s.value.shape == s.psnr.shape == (3, 1, 4) and s.mu is None
    assert s.images.shape == (3, 1, 4, 4, 5) and (s.status == Status.CONVERGED).all()
    for k, lam in enumerate(LAMS):
        z = closed_form(y, SIGMA, lam)
        x = G.module(z)
        residual = (to_torch(A)(x) - y).square().sum(1)
        assert torch.allclose(s.images[:, 0, k], x, atol=1e-6)
        assert torch.allclose(s.residual[:, 0, k], residual)
        assert torch.allclose(s.penalty[:, 0, k], z.square().sum(1), atol=1e-6)
        assert torch.allclose(s.value[:, 0, k], residual / (2 * SIGMA**2) + lam * z.square().sum(1))
        assert torch.allclose(s.psnr[:, 0, k], psnr(x, truth, data_range=2.0), atol=1e-5)
    assert torch.equal(s.lam[1, 0], torch.tensor(LAMS, dtype=torch.float64))
    assert torch.allclose(s.level, torch.full_like(s.level, 12 * SIGMA**2))


@pytest.mark.parametrize("tied", [True, False])
def test_mu_tied_to_lam_or_not(A, G, noisy, relaxed, tied):
    lams, mus = [0.1, 1.0, 10.0], [0.05, 0.5]
    s = sweep(A, noisy, RelaxedConstraint(G, 3.0), lam=lams, mu=mus, tied=tied, **EXACT, **QUIET)
    assert s.mu.tolist() == mus and s.images.shape == (3, 2, 3, 4, 5)
    for b in range(3):
        for m, mu in enumerate(mus):
            for k, lam in enumerate(lams):
                weight = lam * mu if tied else mu
                x, z = relaxed(noisy[b], lam, weight)
                assert torch.allclose(s.images[b, m, k], x, atol=1e-8)
                misfit = (to_torch(A)(x) - noisy[b]).square().sum() / (2 * SIGMA**2)
                deviation = A.domain.cell_volume * (G.module(z[None])[0] - x).square().sum()
                total = misfit + lam * deviation + weight * z.square().sum()
                assert torch.allclose(s.value[b, m, k], total)
                penalty = deviation + mu * z.square().sum() if tied else deviation
                assert torch.allclose(s.penalty[b, m, k], penalty)


def test_own_mu_of_the_regulariser(A, G, noisy):
    options = {"lam": [1.0, 2.0], "max_iter": 8, "init": "zero", **QUIET}
    own = sweep(A, noisy, RelaxedConstraint(G, 0.3), **options)
    given = sweep(A, noisy, RelaxedConstraint(G, 1.0), mu=[0.3], **options)
    assert own.mu.tolist() == given.mu.tolist() == [0.3] and torch.equal(own.images, given.images)
    several = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    each = sweep(A, noisy, RelaxedConstraint(G, several), batch_size=2, **options)
    assert each.mu is None and each.best("discrepancy").mu is None
    assert torch.allclose(each.images[1], own.images[1], atol=1e-9)


@pytest.mark.parametrize(("lam", "batch_size"), [(LAMS, 2), (LAMS, 17), ("morozov", 10), ("l-curve", 23)])
def test_chunks_change_nothing(A, G, noisy, lam, batch_size):
    options = {"lam": lam, "restarts": 2, "seed": 5, "tol": 1e-9, "factor": 1.5, **QUIET}
    sizes = []

    def solver(problem, init, **rest):
        sizes.append(len(init["z"]))
        return HardConstraint(G).solver(problem, init, **rest)

    whole = sweep(A, noisy, HardConstraint(G), **options)
    parts = sweep(A, noisy, HardConstraint(G), batch_size=batch_size, solver=solver, **options)
    assert max(sizes) <= batch_size
    for name in ("lam", "residual", "value", "penalty", "images"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5), name
    assert torch.equal(whole.status, parts.status)


class KilledError(Exception):
    """The process ends."""


@pytest.mark.parametrize("lam", [LAMS, "morozov"])
def test_resumed_is_uninterrupted(A, G, noisy, truth, lam, tmp_path, monkeypatch):
    """Killed in the third batch; those before are not solved again."""
    file, solves = tmp_path / "sweep", []
    options = {
        "lam": lam,
        "mu": [0.1, 1.0],
        "batch_size": 5,
        "max_iter": 2,
        "tol": 1e-9,
        "factor": 1.5,
        **QUIET,
    }
    options |= {"reference": truth, "data_range": 2.0, "seed": 1}
    R = RelaxedConstraint(G, 1.0)
    whole = sweep(A, noisy, R, **options)
    batched = BatchedSolve.__init__

    def counted(self, *args, **kwargs):
        solves.append(len(solves))
        if len(solves) == 3:
            raise KilledError
        batched(self, *args, **kwargs)

    monkeypatch.setattr(BatchedSolve, "__init__", counted)
    monkeypatch.setattr("genreg.solvers.checkpoints.resumable._SECONDS", 0.0)
    with pytest.raises(KilledError):
        sweep(A, noisy, R, checkpoint=file, **options)
    monkeypatch.setattr("genreg.solvers.checkpoints.resumable._SECONDS", 60.0)
    for count in (7, 7):  # all six batches, of which two are done; then none
        found = sweep(A, noisy, R, checkpoint=file, resume=True, **options)
        assert len(solves) == count
        for name in ("lam", "residual", "value", "penalty", "status", "iterations", "psnr", "images"):
            assert torch.equal(getattr(found, name), getattr(whole, name)), name
    with pytest.raises(FileExistsError, match=r"checkpoint .* is there already"):
        sweep(A, noisy, R, checkpoint=file, **options)
    for words, y, prior, changed in (
        ("data differ", noisy + 1e-9, R, {}),
        ("noise differ", noisy, R, {"noise_std": 0.31}),
        ("parameters of the regulariser differ", noisy, RelaxedConstraint(G, 1.1), {}),
        ("regulariser was RelaxedConstraint and is HardConstraint", noisy, HardConstraint(G), {"mu": None}),
        ("max_iter was 2 and is 9", noisy, R, {"max_iter": 9}),
        ("reference differ", noisy, R, {"reference": truth + 1}),
    ):
        with pytest.raises(ValueError, match=rf"checkpoint .*sweep belongs to another run: .*{words}"):
            sweep(A, y, prior, checkpoint=file, resume=True, **options | changed)


@pytest.mark.parametrize("principle", ["morozov", "l-curve"])
def test_principle_is_that_of_reconstruct(A, G, X, noisy, principle):
    for R in (HardConstraint(G), Tikhonov(X)):
        rec = reconstruct(A, noisy, R, lam=principle, factor=1.4, **QUIET)
        s = sweep(A, noisy, R, lam=principle, factor=1.4, **QUIET)
        assert s.principle == principle and s.lam.shape == (3, 1, 1)
        assert torch.allclose(s.lam[:, 0, 0], rec.lam) and torch.equal(s.status[:, 0, 0], rec.status)
        chosen = s.choose(principle)
        assert torch.allclose(chosen.images, rec.image) and torch.allclose(chosen.residual, rec.residual)
        assert torch.equal(chosen.status, rec.status)


@pytest.mark.parametrize("tied", [True, False])
def test_morozov_for_every_mu(A, G, truth, relaxed, tied):
    """With data off the range of the generator, so that large λ miss the level."""
    clean = to_torch(A)(truth + 0.3 * torch.randn_like(truth))
    noisy = clean + SIGMA * torch.randn_like(clean)
    mus, factor = [0.01, 0.1, 1.0], 1.5
    s = sweep(
        A, noisy, RelaxedConstraint(G, 1.0), lam="morozov", mu=mus, tied=tied, factor=factor, **EXACT, **QUIET
    )
    assert s.lam.shape == s.residual.shape == (3, 3, 1)
    met = s.status == Status.CONVERGED
    assert met.any()
    ratio = (s.discrepancy / factor)[met]
    assert (ratio <= 1).all() and (ratio >= 0.97).all()
    for b, m, _ in met.nonzero().tolist():
        lam = float(s.lam[b, m, 0])
        x, _ = relaxed(noisy[b], lam, mus[m] * (lam if tied else 1.0))
        assert torch.allclose(s.images[b, m, 0], x, atol=1e-8)
    if tied:
        alone = reconstruct(
            A, noisy, RelaxedConstraint(G, mus[1]), lam="morozov", factor=factor, **EXACT, **QUIET
        )
        assert torch.allclose(s.lam[:, 1, 0], alone.lam) and torch.allclose(
            s.images[:, 1, 0], alone.image, atol=1e-6
        )


def test_corner_on_a_grid_is_that_of_the_refined_curve(A, G, noisy):
    grid = torch.logspace(-4, 4, 33, dtype=torch.float64)
    s = sweep(A, noisy, HardConstraint(G), lam=grid, tol=1e-8, **QUIET)
    chosen = s.choose("l-curve")
    rec = reconstruct(A, noisy, HardConstraint(G), lam="l-curve", tol=1e-8, **QUIET)
    found = (rec.status != Status.NO_CORNER) & (chosen.status != Status.NO_CORNER)
    assert found.any()
    assert ((chosen.lam / rec.lam)[found].log10().abs() <= 0.5).all()
    assert all(float(lam) in grid for lam in chosen.lam)


def test_level_out_of_reach_is_said(A, G):
    y = torch.full((2, 12), 50.0, dtype=torch.float64)
    s = sweep(A, y, HardConstraint(G), lam="morozov", **QUIET)
    assert {row["status"] for row in s.table()} == {"LEVEL_NOT_REACHED"}
    assert "2 LEVEL_NOT_REACHED" in str(s) and "0 of 2" in str(s)
    grid = sweep(A, y, HardConstraint(G), lam=[1e-3, 1.0], **QUIET)
    chosen = grid.choose("morozov")
    assert (chosen.status == Status.LEVEL_NOT_REACHED).all() and "LEVEL_NOT_REACHED" in str(chosen)
    assert torch.equal(chosen.residual, grid.residual.flatten(1).amin(1))


def brute_morozov(residual, level):
    """The order of the paper's code: the largest μ first, for each the largest λ first."""
    M, L = residual.shape
    for m in reversed(range(M)):
        for k in reversed(range(L)):
            if residual[m, k] <= level:
                return m, k, Status.LEVEL_NOT_EXCEEDED if k == L - 1 else Status.CONVERGED
    m, k = divmod(int(residual.argmin()), L)
    return m, k, Status.LEVEL_NOT_REACHED


@pytest.mark.parametrize("factor", [0.02, 0.5, 1.0, 1.9])
def test_choice_by_morozov_against_brute_force(factor):
    residual = 2 * torch.rand(30, 3, 4, dtype=torch.float64)
    level = 0.5 + torch.rand(30, dtype=torch.float64)
    s = made(residual, level=level, factor=factor)
    chosen = s.choose("morozov")
    for b in range(30):
        m, k, status = brute_morozov(residual[b], factor * level[b])
        assert (chosen.mu[b], chosen.lam[b]) == (s.mu[m], s.lam[b, m, k])
        assert chosen.status[b] == status and chosen.residual[b] == residual[b, m, k]
    for m in range(3):
        only = s.choose("morozov", mu=float(s.mu[m]))
        for b in range(30):
            _, k, status = brute_morozov(residual[b, m : m + 1], factor * level[b])
            assert only.lam[b] == s.lam[b, m, k] and only.status[b] == status and only.mu[b] == s.mu[m]


def test_mu_decreases_only_where_no_lam_meets_the_level():
    residual = [[[0.5], [0.9], [0.8]], [[0.5], [0.9], [1.1]], [[1.5], [1.3], [1.4]]]
    ends = [[[1], [1], [7]], [[1], [1], [6]], [[6], [6], [6]]]
    s = made(residual, principle="morozov", status=torch.tensor(ends), lam=torch.rand(3, 3, 1))
    chosen = s.choose("morozov")
    assert chosen.mu.tolist() == [3, 2, 2]
    assert chosen.status.tolist() == [
        Status.LEVEL_NOT_EXCEEDED,
        Status.CONVERGED,
        Status.LEVEL_NOT_REACHED,
    ]


def test_non_finite_problems_are_never_chosen():
    residual = torch.tensor([[[0.5, 0.7, torch.nan]]])
    s = made(residual, psnr=torch.tensor([[[1.0, 2.0, torch.nan]]]))
    assert s.choose("morozov").lam == s.choose("psnr").lam == s.best("psnr").lam == 10.0
    assert made(residual).best("discrepancy").lam == 10.0


def test_best_against_brute_force():
    scores = torch.rand(5, 3, 4, dtype=torch.float64)
    s = made(0.5 + torch.rand(5, 3, 4), psnr=scores, factor=0.9)
    mean = scores.numpy().mean(0)
    m, k = np.unravel_index(mean.argmax(), mean.shape)
    best = s.best("psnr")
    assert (best.mu, best.lam) == (m + 1, 10.0**k)
    assert np.isclose(best.mean, mean.max()) and np.isclose(best.std, scores.numpy()[:, m, k].std())
    near = np.abs(np.log(s.discrepancy.numpy().mean(0) / 0.9))
    m, k = np.unravel_index(near.argmin(), near.shape)
    assert (s.best("discrepancy").mu, s.best("discrepancy").lam) == (m + 1, 10.0**k)
    chosen = s.choose("psnr")
    assert torch.equal(chosen.psnr, scores.flatten(1).amax(1))
    free = made(torch.rand(5, 3, 1), psnr=scores[..., :1], principle="morozov", lam=torch.rand(5, 3, 1))
    assert torch.equal(free.best("psnr").lam, free.lam[:, int(scores[..., 0].mean(0).argmax()), 0])


def test_elements_and_single_tensors_are_a_batch_of_one(A, G, y, truth):
    x = A.domain.element(truth[0].numpy())
    element = A.range.element(y[0].numpy())
    s = sweep(A, element, HardConstraint(G), lam=LAMS, reference=x, data_range=1.0, **QUIET)
    t = sweep(A, y[0], HardConstraint(G), lam=np.array(LAMS), reference=truth[0], data_range=1.0, **QUIET)
    assert s.images.shape == (1, 1, 4, 4, 5) and torch.allclose(s.images, t.images)
    assert torch.allclose(s.psnr, t.psnr)
    one = sweep(A, y, HardConstraint(G), lam=(1, 2), reference=truth[:1], data_range=1.0, **QUIET)
    assert one.psnr.shape == (3, 1, 2) and one.reference.shape == (3, 4, 5)


def test_total_variation_on_a_grid(A, X, noisy):
    s = sweep(A, noisy, TotalVariation(X), lam=[1.0, 10.0], keep_images=False, max_iter=100, **QUIET)
    rec = reconstruct(A, noisy, TotalVariation(X), lam=10.0, max_iter=100, **QUIET)
    assert s.images is None and torch.allclose(s.residual[:, 0, 1], rec.residual)
    assert s.choose("morozov").images is None


def test_table_csv_and_text(A, G, y, truth, tmp_path):
    R = RelaxedConstraint(G, 1.0)
    s = sweep(A, y, R, lam=[1.0, 2.0], mu=[0.1, 0.2], max_iter=3, reference=truth, data_range=1.0, **QUIET)
    rows = s.table()
    assert len(rows) == 12
    row = rows[1 * 4 + 1 * 2 + 0]
    assert (row["image"], row["mu"], row["lam"], row["status"]) == (1, 0.2, 1.0, "MAX_ITER")
    assert row["residual"] == float(s.residual[1, 1, 0]) and row["psnr"] == float(s.psnr[1, 1, 0])
    s.to_csv(tmp_path / "sweep.csv")
    with open(tmp_path / "sweep.csv", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(r["value"]) for r in read] == [r["value"] for r in rows]
    lines = str(s).splitlines()
    assert len(lines) == 2 + 4 and len({len(line) for line in lines}) == 1
    assert "3 MAX_ITER" in lines[2] and repr(s) == "Sweep(3 images, 2 mu, 2 lam)"
    assert len(str(s.choose("psnr")).splitlines()) == 2 + 3


@pytest.mark.parametrize(("scored", "kept"), [(True, True), (False, True), (True, False)])
def test_figure_of_a_grid(A, G, y, truth, scored, kept):
    extra = {"reference": truth, "data_range": 1.0} if scored else {}
    R = RelaxedConstraint(G, 1.0)
    s = sweep(A, y, R, lam=LAMS, mu=[0.0, 0.2], max_iter=2, keep_images=kept, **extra, **QUIET)
    figure = s.show(image=1, columns=3)
    assert len(figure.axes) == (3 if scored else 1) + (2 * 3 if kept else 0)
    assert len(figure.axes[0].lines) == 2 + 1
    with pytest.raises(ValueError, match="image must be from 0 to 2"):
        s.show(image=3)


def test_fidelity_without_a_level(A, G, y):
    fidelity = FunctionalFidelity(A, 2.0 * odl.functionals.L2NormSquared(A.range), y)
    R = HardConstraint(G)
    s = sweep(A, y, R, fidelity=fidelity, lam=LAMS, progress=False)
    assert len(s.show().axes) == 1 + 4 and s.show().axes[0].get_ylabel() == "discrepancy"
    for call in (lambda: s.choose("morozov"), lambda: s.best("discrepancy")):
        with pytest.raises(ValueError, match="need a level of the noise"):
            call()
    assert s.choose("l-curve").lam.shape == (3,)


def test_figure_of_chosen_lam(A, G, noisy):
    chosen = sweep(A, noisy, HardConstraint(G), lam="morozov", **QUIET)
    assert len(chosen.show().axes) == 1 + 1
    R = RelaxedConstraint(G, 1.0)
    along = sweep(A, noisy, R, lam="morozov", mu=[0.0, 0.1, 1.0], max_iter=3, **QUIET).show()
    assert len(along.axes) == 1 + 3 and along.axes[0].get_xscale() == "symlog"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lam": []}, ValueError, "lam must be a sequence of at least one number"),
        ({"lam": 1.0}, ValueError, "lam must be a sequence of at least one number"),
        ({"lam": [[1.0]]}, ValueError, r"lam must .* shape \(1, 1\)"),
        ({"lam": [2.0, 1.0]}, ValueError, "lam must be strictly increasing"),
        ({"lam": [1.0, 1.0]}, ValueError, "lam must be strictly increasing"),
        ({"lam": [-1.0, 1.0]}, ValueError, "lam must be non-negative"),
        ({"lam": [1.0, float("nan")]}, ValueError, "lam must be non-negative and finite"),
        ({"lam": [0.0, 1.0]}, ValueError, "lam must be positive"),
        ({"lam": [True]}, TypeError, "lam must be a sequence of numbers"),
        ({"lam": ["a"]}, TypeError, "lam must be a sequence of numbers"),
        ({"lam": None}, TypeError, "lam must be a sequence of numbers"),
        ({"lam": "best"}, ValueError, "lam must be a sequence of numbers or one of"),
        ({"mu": []}, ValueError, "mu must be a sequence of at least one"),
        ({"mu": [0.2, 0.1]}, ValueError, "mu must be strictly increasing"),
        ({"mu": [-0.2, 0.1]}, ValueError, "mu must be non-negative"),
        ({"mu": [0.1], "regulariser": "hard"}, ValueError, "mu must be None for HardConstraint"),
        ({"tied": False, "regulariser": "hard"}, ValueError, "tied must be True for HardConstraint"),
        (
            {"reference": torch.zeros(3, 5, 5), "data_range": 1.0},
            ValueError,
            r"reference must .* \(3, 5, 5\)",
        ),
        (
            {"reference": torch.zeros(2, 4, 5), "data_range": 1.0},
            ValueError,
            r"reference must .* \(2, 4, 5\)",
        ),
        ({"reference": torch.zeros(4, 5)}, ValueError, "reference and data_range must be given together"),
        ({"data_range": 1.0}, ValueError, "reference and data_range must be given together"),
        ({"reference": torch.zeros(4, 5), "data_range": 0.0}, ValueError, "data_range must be positive"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer"),
        ({"batch_size": 3, "restarts": 4}, ValueError, "batch_size .* restarts, 4, got 3"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"factor": 0.0}, ValueError, "factor"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"noise_std": -1.0}, ValueError, "noise_std"),
    ],
)
def test_bad_arguments(A, G, y, change, error, message):
    R = {"hard": HardConstraint(G), "relaxed": RelaxedConstraint(G, 1.0)}[
        change.get("regulariser", "relaxed")
    ]
    arguments = {"lam": [1.0], "max_iter": 1, **QUIET, **change}
    arguments.pop("regulariser", None)
    with pytest.raises(error, match=message):
        sweep(A, y, R, **arguments)


def test_bad_choices(A, G, y):
    s = made(torch.rand(2, 2, 4))
    for call, message in (
        (lambda: s.choose("best"), "kind must be"),
        (lambda: s.best("ssim"), "by must be"),
        (lambda: s.choose("psnr"), "psnr needs a reference"),
        (lambda: s.best("psnr"), "psnr needs a reference"),
        (lambda: s.choose("l-curve"), "for one mu"),
        (lambda: s.choose("morozov", mu=7.0), r"mu must be one of the sweep, \[1.0, 2.0\], got 7.0"),
        (lambda: made(torch.rand(2, 1, 2)).choose("l-curve"), "at least 3"),
        (lambda: sweep(A, y, HardConstraint(G), lam=[1.0], **QUIET).choose("morozov", mu=1.0), "none"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
