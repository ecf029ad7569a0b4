"""The comparison of a prior with TV: the same data for both, the best weight for TV."""

import odl
import pytest
import torch

from genreg import Generator, HardConstraint, JointPrior, TotalVariation, reconstruct, sweep, to_torch
from genreg.datasets import MixedImages
from genreg.evaluation import psnr
from genreg.networks import FullyConvolutionalConfig
from genreg.own_images import comparison
from genreg.own_images.comparison import central_parts, compare
from genreg.solvers import Status


def squares(*sizes):
    found = []
    for rows, columns in sizes:
        x = torch.zeros(rows, columns)
        x[rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3] = 1.0
        found.append(x)
    names = tuple(map(str, range(len(found))))
    return MixedImages(tuple(found), names, names)


def model():
    torch.manual_seed(0)
    found = FullyConvolutionalConfig(image_shape=(16, 16), channels=(3,), latent_channels=2).build()
    found.log_gamma.data.fill_(-1.0)
    return found.eval()


def test_central_parts_have_one_size():
    images = squares((18, 30), (25, 19), (40, 40), (21, 22), (20, 20), (99, 30))
    parts = central_parts(images)
    assert parts.shape == (4, 18, 18)
    assert torch.equal(parts[0], images.images[0][:, 6:24]) and torch.equal(
        parts[2], images.images[3][1:19, 2:20]
    )
    assert central_parts(images, 8).shape == (4, 8, 8)


def test_both_have_the_same_data_and_tv_its_best_weight(monkeypatch):
    monkeypatch.setattr(comparison, "_problems", lambda X: [("denoising", odl.IdentityOperator(X))])
    images = squares((16, 16), (16, 16))
    found = compare(model(), images, seed=5)
    entry = found["denoising"]
    assert (found["images"], found["side"], entry["noise_std"]) == (2, 16, pytest.approx(0.1))
    truth = torch.stack(images.images)
    X = odl.uniform_discr([0, 0], [16, 16], (16, 16), dtype="float32")
    y = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    A, options = odl.IdentityOperator(X), {"noise_std": 0.1, "progress": False}
    G, own = Generator(model(), X), entry["estimates"]
    for name, prior, lam in (
        ("JointPrior", JointPrior(G, estimate="marginal"), 1.0),
        ("HardConstraint", HardConstraint(G), 0.5),
    ):
        found = reconstruct(A, y, prior, lam=lam, max_iter=200, **options)
        assert own[name]["psnr"] == pytest.approx(
            float(psnr(found.image, truth, data_range=1.0).mean()), abs=1e-3
        )
        assert own[name]["unfinished"] == int((found.status != Status.CONVERGED).sum())
        assert own[name]["warnings"] == []
    assert entry["prior"] == max(one["psnr"] for one in own.values()) == own[entry["best"]]["psnr"]
    lams = [entry["lam"] * 2.0**k for k in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)]
    study = sweep(
        A,
        y,
        TotalVariation(X, lower=0.0, upper=1.0),
        lam=lams,
        reference=truth,
        data_range=1.0,
        max_iter=500,
        **options,
    )
    best = study.best("psnr")
    assert best.lam == pytest.approx(entry["lam"]) and best.mean == pytest.approx(entry["tv"], abs=1e-3)


def test_rays_see_the_corners_of_the_image_from_all_around():
    X = odl.uniform_discr([0, 0], [20, 20], (20, 20), dtype="float32")
    pytest.importorskip("astra")
    (_, identity), (name, A) = comparison._problems(X)
    assert name == "tomography" and isinstance(identity, odl.IdentityOperator)
    corners = torch.zeros(4, 20, 20)
    for k, (i, j) in enumerate([(0, 0), (0, 18), (18, 0), (18, 18)]):
        corners[k, i : i + 2, j : j + 2] = 1.0
    y = to_torch(A)(corners)
    assert y.shape[1] == 60 and (y.sum(2) > 0).all()  # in every view


def test_quick_comparison(monkeypatch):
    found = compare(model(), squares((40, 40), (40, 40)), quick=True)
    assert (found["images"], found["side"]) == (1, 16)
    assert all(entry["tv"] > 0 for name, entry in found.items() if isinstance(entry, dict))
