"""The evaluation of generative models: closed forms for linear models, tests that hold their level, the report."""

import base64
import builtins
import html.parser
import json
import math

import numpy as np
import odl
import pytest
import torch
from scipy import stats
from torch import nn

from genreg import Generator
from genreg.datasets import shapes
from genreg.evaluation import (
    EarthMover,
    calibration,
    deciles,
    earth_mover,
    earth_mover_figure,
    emd,
    encodings,
    evaluate,
    far_from_prior,
    fit_range,
    held_out,
    interpolate,
    jacobian,
    l1_error,
    mmd,
    nearest_distance,
    nrmse,
    prior_fit,
    smoothness,
)
from genreg.evaluation.result import lines, quantiles

SHAPE = (12, 13)


class Linear(nn.Module):
    """x = W z + b + γ ε; with `encoder` the posterior N(mean, std²), for W with orthogonal columns.

    The posterior covariance is (I + W'W / γ²)⁻¹, which is diagonal then. `confidence` divides the std.
    """

    log_gamma = torch.tensor(math.log(0.5), dtype=torch.float64)

    def __init__(self, latent_dim=3, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        size = SHAPE[0] * SHAPE[1]
        W = torch.linalg.qr(torch.randn(size, latent_dim, generator=random, dtype=torch.float64)).Q
        self.W = nn.Parameter(W * torch.linspace(1, 2, latent_dim, dtype=torch.float64))
        self.b = nn.Parameter(torch.rand(size, generator=random, dtype=torch.float64))
        self.latent_dim = latent_dim

    def decode(self, z):
        return (z @ self.W.T + self.b).unflatten(1, SHAPE)


class LinearVAE(Linear):
    variational = True
    confidence = 1.0

    def encode_distribution(self, x):
        variance = 1 / (1 + self.W.square().sum(0) / torch.exp(2 * self.log_gamma))
        mean = variance * ((x.flatten(1) - self.b) @ self.W) / torch.exp(2 * self.log_gamma)
        return mean, variance.sqrt().expand_as(mean) / self.confidence

    def encode(self, x):
        return self.encode_distribution(x)[0]


class Decoder(nn.Module):
    """A plain decoder without encoder, card and name: what a GAN offers."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, SHAPE[0] * SHAPE[1])

    def forward(self, z):
        return torch.sigmoid(self.layer(z)).unflatten(1, (1, *SHAPE))


X = odl.uniform_discr([0, 0], [1, 1], SHAPE, dtype="float64")


@pytest.fixture(name="vae")
def linear_vae():
    return Generator(LinearVAE(), X)


@pytest.fixture(name="gan")
def decoder():
    torch.manual_seed(1)
    return Generator(Decoder(), X)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# errors of single images


@pytest.mark.parametrize("batch", [(), (1,), (7,)])
def test_nrmse_and_l1_are_their_formulas(batch):
    true, image = torch.rand(2, *batch, 9, 12, dtype=torch.float64)
    difference = (image - true).reshape(-1, 108)
    assert torch.allclose(nrmse(image, true), difference.norm(dim=1) / true.reshape(-1, 108).norm(dim=1))
    assert torch.allclose(l1_error(image, true), difference.abs().mean(1))


def test_nrmse_of_a_black_image_is_one():
    true = torch.rand(2, 5, 5)
    assert nrmse(torch.zeros_like(true), true).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="no image that is zero everywhere"):
        nrmse(true, true * torch.tensor([1.0, 0.0])[:, None, None])


def test_deciles():
    errors = torch.randperm(101, generator=torch.Generator().manual_seed(0)).double()
    assert errors[deciles(errors)].tolist() == [10.0 * k for k in range(11)]
    few = torch.tensor([3.0, 1.0, 2.0])
    assert few[deciles(few)].tolist() == [1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]


# range


@pytest.mark.parametrize("restarts", [0, 2])
def test_linear_range_is_projected_onto(vae, restarts):
    """The nearest image is the orthogonal projection, whatever the start."""
    x = torch.rand(7, *SHAPE, dtype=torch.float64)
    fit = fit_range(vae, x, restarts=restarts, seed=1, tol=1e-10, batch_size=5, progress=False)
    W, b = vae.model.W, vae.model.b
    z = (x.flatten(1) - b) @ W / W.square().sum(0)
    assert torch.allclose(fit.z, z, atol=1e-6) and fit.starts == 1 + restarts
    assert torch.allclose(fit.images, vae.model.decode(z), atol=1e-6) and fit.converged.all()
    assert torch.allclose(fit.nrmse, nrmse(vae.model.decode(z), x), atol=1e-6)
    coded = vae.model.decode(vae.model.encode(x))
    assert torch.allclose(fit.encoder_nrmse, nrmse(coded, x)) and (fit.encoder_nrmse > fit.nrmse).all()


def test_images_of_the_model_are_found(gan):
    """Without an encoder; a batch equals its images one at a time; the best of several starts counts."""
    x = gan.sample(6, seed=3)
    fit = fit_range(gan, x, restarts=3, seed=0, progress=False)
    assert (fit.nrmse < 1e-3).all() and fit.encoder_nrmse is None and not fit.by_encoder.any()
    again = fit_range(gan, x, restarts=3, seed=0, batch_size=3, progress=False)
    assert torch.allclose(again.z, fit.z, atol=1e-8)


def test_wrong_restarts(gan, vae):
    x = torch.rand(2, *SHAPE)
    with pytest.raises(ValueError, match="restarts must be a positive integer, got 0"):
        fit_range(gan, x, restarts=0, progress=False)
    with pytest.raises(ValueError, match="restarts must be a non-negative integer, got -1"):
        fit_range(vae, x, restarts=-1, progress=False)


# distribution


def test_emd_of_translated_points():
    """All mass moves by the same vector: its squared length, by Jensen's inequality the least possible."""
    a, shift = normal(30, 3, 4), normal(3, 4, seed=1)
    assert emd(a, a[torch.randperm(30)]) == pytest.approx(0, abs=1e-10)
    assert emd(a, a + shift) == pytest.approx(float(shift.square().sum()))


def test_emd_of_unequal_masses():
    """One point against two: half of the mass to each."""
    a, b = torch.zeros(1, 1, 1), torch.tensor([1.0, 3.0]).view(2, 1, 1)
    assert emd(a, b) == pytest.approx((1 + 9) / 2)


def test_earth_mover_and_its_scale():
    test = normal(8, 2, 2)
    item = earth_mover(test + 2, test, test[:6] - 1)
    assert item.images == 6 and item.raw == pytest.approx(16) and item.per_pixel == pytest.approx(4)
    assert item.reference == pytest.approx(4) and item.relative == pytest.approx(4)
    alone = earth_mover(test + 2, test)
    assert alone.images == 8 and alone.reference is None and alone.relative is None


def test_emd_needs_pot(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "ot":
            raise ImportError("no ot")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs POT: pip install genreg\[evaluation\]"):
        emd(normal(2, 3, 3), normal(2, 3, 3))
    with pytest.raises(ImportError, match="needs POT"):
        evaluate("shapes-vae")


def test_mmd_is_its_formula():
    a, b = normal(5, 3, 3), normal(7, 3, 3, seed=1) + 0.5
    item = mmd(a, b, factors=(0.5, 2.0), permutations=3)
    joint = torch.cat([a, b]).flatten(1)
    assert item.bandwidths[1] == pytest.approx(2 * float(torch.pdist(joint).median()))
    for sigma, value in zip(item.bandwidths, item.values, strict=True):
        k = torch.exp(-torch.cdist(joint, joint).square() / (2 * sigma**2))
        k.fill_diagonal_(0)
        expected = k[:5, :5].sum() / 20 + k[5:, 5:].sum() / 42 - 2 * k[:5, 5:].mean()
        assert value == pytest.approx(float(expected), rel=1e-8)
    assert item.value == pytest.approx(sum(item.values) / 2) and item.null.shape == (3,)


def test_mmd_holds_its_level():
    """p-values of equal distributions are uniform, and the estimate has mean zero."""
    items = [
        mmd(normal(20, 2, 2, seed=2 * k), normal(25, 2, 2, seed=2 * k + 1), permutations=99, seed=k)
        for k in range(100)
    ]
    assert stats.kstest([item.p_value for item in items], "uniform").pvalue > 0.01
    values = np.array([item.value for item in items])
    assert abs(values.mean()) < 3 * values.std() / 10


def test_mmd_sees_differences():
    a = normal(60, 2, 2)
    for b in (normal(60, 2, 2, seed=1) + 1, 3 * normal(60, 2, 2, seed=1)):
        item = mmd(a, b, permutations=200)
        assert item.value > 0.05 and item.p_value == pytest.approx(1 / 201)


def test_wrong_sets():
    a = normal(4, 2, 2)
    with pytest.raises(ValueError, match=r"images of one shape, got \(2, 2\) and \(2, 3\)"):
        emd(a, normal(4, 2, 3))
    with pytest.raises(ValueError, match="at least two images each, got 4 and 1"):
        mmd(a, a[:1])
    with pytest.raises(ValueError, match="permutations must be a positive integer, got 0"):
        mmd(a, a, permutations=0)
    with pytest.raises(ValueError, match="median distance between their images is zero"):
        mmd(torch.ones(3, 2, 2), torch.ones(3, 2, 2))


def test_nearest_distance():
    among = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 3.0)])
    assert nearest_distance(torch.ones(1, 2, 2), among).tolist() == pytest.approx([2])


# latent space


def test_codes_from_the_prior_pass():
    fit = prior_fit(normal(2000, 6))
    assert fit.radius_p > 0.01 and (fit.ks_p > 0.001).all() and (fit.shape_p > 0.001).all()
    assert 0 <= fit.divergence < 0.02
    assert torch.allclose(fit.mahalanobis.square(), fit.codes.square().sum(1))
    assert torch.allclose(fit.covariance, torch.eye(6, dtype=torch.float64), atol=0.1)
    identity = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    assert torch.allclose(fit.projections.mT @ fit.projections, identity, atol=1e-12)
    assert fit.projected.shape == (4, 2000, 2)


def test_codes_off_the_prior_fail():
    """Scaled codes are normal in shape, but not standard normal; the divergence has a closed form."""
    fit = prior_fit(0.5 * normal(2000, 6))
    assert fit.radius_p < 1e-10 and (fit.ks_p < 1e-10).all() and (fit.shape_p > 0.001).all()
    assert fit.divergence == pytest.approx(3 * (0.25 - 1 - math.log(0.25)), rel=0.02)
    skewed = prior_fit(normal(2000, 2).square())
    assert (skewed.shape_p < 1e-10).all()
    assert prior_fit(normal(20, 30)).divergence == math.inf


def test_projections_are_shared_by_models():
    first, second = prior_fit(normal(30, 5), seed=2), prior_fit(normal(40, 5, seed=1), seed=2)
    assert torch.equal(first.projections, second.projections)
    assert not torch.equal(first.projections, prior_fit(normal(30, 5), seed=3).projections)


@pytest.mark.parametrize("shape", [(19, 3), (30, 1), (30,)])
def test_too_few_codes(shape):
    with pytest.raises(ValueError, match="at least 20 of at least two dimensions"):
        prior_fit(normal(*shape))


def test_encodings_of_a_variational_model_are_draws(vae, gan):
    """Over images of the model the mixture of exact posteriors is the prior, their means spread less."""
    images = vae.sample(3000, seed=0) + 0.5 * normal(3000, *SHAPE, seed=1)
    means = 1 - 1 / (1 + vae.model.W.square().sum(0) / 0.25)  # variances: prior's minus posterior's
    codes, source = encodings(vae, images, seed=2)
    assert "draws from q(z | x)" in source and torch.equal(codes, encodings(vae, images, seed=2)[0])
    fit = prior_fit(codes)
    assert (fit.ks_p > 0.001).all() and fit.divergence < 0.02
    assert torch.allclose(prior_fit(vae.encode(images)).covariance.diagonal(), means, atol=0.05)
    assert prior_fit(vae.encode(images)).radius_p < 1e-3
    with pytest.raises(NotImplementedError, match="has no encoder"):
        encodings(gan, images)


def test_far_images_lie_on_rays(vae):
    images = far_from_prior(vae, scales=(1, 10), count=3, seed=4)
    assert images.shape == (2, 3, *SHAPE)
    centre = vae.model.b.view(SHAPE)
    assert torch.allclose(images[1] - centre, 10 * (images[0] - centre))
    assert torch.allclose(images[0], vae.sample(3, seed=4))


def test_interpolation_is_bilinear(vae):
    corners = normal(4, 3)
    images = interpolate(vae, corners, steps=3)
    ends = vae.decode(corners).mean
    for (i, j), k in zip([(0, 0), (0, 2), (2, 0), (2, 2)], range(4), strict=True):
        assert torch.allclose(images[i, j], ends[k])
    assert torch.allclose(images[1, 1], ends.mean(0))
    assert torch.allclose(images[0, 1], ends[:2].mean(0)) and torch.allclose(images[1, 0], ends[::2].mean(0))
    with pytest.raises(ValueError, match=r"shape \(4, latent_dim\), got \(3, 3\)"):
        interpolate(vae, corners[:3])
    with pytest.raises(ValueError, match="steps must be an integer of at least 2, got 1"):
        interpolate(vae, corners, steps=1)


# calibration and smoothness


def test_exact_posterior_is_calibrated(vae):
    item = calibration(vae, draws=2000, seed=0)
    assert item.p_value > 0.01 and item.pit.shape == (2000, 3)
    assert torch.allclose(item.coverage, torch.tensor(item.levels).double()[:, None].expand(4, 3), atol=0.03)
    assert item.bias.abs().max() < 0.1 and torch.allclose(item.spread, torch.ones(3).double(), atol=0.06)


def test_overconfident_posterior_is_not():
    """With half of the standard deviation the scores spread twice as much, and coverage falls as it must."""
    model = LinearVAE()
    model.confidence = 2.0
    item = calibration(Generator(model, X), draws=2000, seed=0)
    assert item.p_value < 1e-6 and torch.allclose(item.spread, torch.full((3,), 2.0).double(), atol=0.12)
    expected = 2 * stats.norm.cdf(stats.norm.ppf((1 + np.array(item.levels)) / 2) / 2) - 1
    assert item.coverage.mean(1).numpy() == pytest.approx(expected, abs=0.02)


def test_without_noise_the_posterior_is_too_wide(vae):
    """The scores are those of the shrunken z: (v - 1) z / sqrt(v) with the posterior variance v."""
    item = calibration(vae, draws=1000, noise=0.0)
    variance = 1 / (1 + vae.model.W.square().sum(0) / 0.25)
    assert torch.allclose(item.spread, variance.sqrt(), atol=0.05)


def test_an_encoder_that_is_not_finite_is_not_calibrated():
    model = LinearVAE()
    model.confidence = math.nan
    assert math.isnan(calibration(Generator(model, X), draws=20).p_value)


def test_calibration_needs_a_distribution(gan, vae):
    with pytest.raises(TypeError, match="must be a variational model"):
        calibration(gan)
    with pytest.raises(ValueError, match="draws must be an integer of at least 2, got 1"):
        calibration(vae, draws=1)


def test_jacobian_and_slopes(vae, gan):
    """Of a linear model the Jacobian is W; of another it is autograd's."""
    z = normal(5, 3)
    assert torch.allclose(jacobian(vae, z), vae.model.W.expand(5, -1, -1))
    item = smoothness(vae, points=6)
    assert torch.allclose(item.singular_values, torch.tensor([2.0, 1.5, 1.0]).double().expand(6, 3))
    assert item.lipschitz == pytest.approx(2) and (item.secants <= 2).all() and (item.secants >= 1).all()

    z = normal(3, 4)
    expected = torch.stack([torch.func.jacrev(lambda t: gan.module(t[None]).flatten())(t) for t in z])
    assert torch.allclose(jacobian(gan, z), expected)


# the whole


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(name="evaluated", scope="module")
def evaluated_fixture():
    """Of the model with an encoder and of the one without."""
    vae = Generator(LinearVAE(), X)
    vae.card = {"name": "linear <vae>", "data": "none", "training": {"kl_weight": 20.0}}
    torch.manual_seed(1)
    gan = Generator(Decoder(), X)
    noise = 0.5 * normal(60, *SHAPE, seed=9)
    images = vae.sample(60, seed=1) + noise
    with_encoder = evaluate(vae, images[:30], reference=images[30:], quick=True, seed=3, progress=False)
    return with_encoder, evaluate(gan, gan.sample(30, seed=2), quick=True, progress=False)


def test_everything_is_in_the_dictionary(evaluated):
    for e in evaluated:
        numbers = json.loads(json.dumps(e.to_dict(), allow_nan=False))
        assert set(numbers) == {
            "model",
            "settings",
            "seconds",
            "reconstruction",
            "earth mover's distance",
            "mmd",
            "mmd of reference images",
            "latent space",
            "far from the prior",
            "calibration",
            "calibration without noise",
            "smoothness",
        }
        summary = numbers["reconstruction"]["summary"]["NRMSE"]
        assert summary["median"] == pytest.approx(float(e.reconstruction.nrmse.median()), rel=0.2)
        assert numbers["earth mover's distance"]["raw"] == e.earth_mover.raw
        assert numbers["settings"]["test images"] == 30
        assert len(lines(e)) == (6 if e.calibration else 5)
    first, second = evaluated
    assert first.calibration.p_value > 0.01 and first.settings["seed"] == 3
    assert first.to_dict()["far from the prior"].keys() == {"1", "2", "5", "10", "50"}
    assert second.calibration is None and second.to_dict()["calibration"] is None
    assert "descent" in second.codes and second.earth_mover.relative is None and second.mmd_reference is None
    assert (second.reconstruction.nrmse < 0.01).all()


SECTIONS = "Range Distribution Latent Far Interpolation Smoothness Calibration Settings".split()


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return " ".join(reader.text), reader.sources


def test_report_is_one_file_with_all_sections(evaluated, tmp_path):
    e = evaluated[0]
    text, sources = read(e.report(tmp_path / "report.html"))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert all(f"{k}. {title}" in text for k, title in enumerate(SECTIONS, 1))
    assert "Evaluation of linear <vae>" in text and "2107.11191" in text and "weight 20" in text
    assert len(sources) == 9 and len(set(sources)) == 9
    prefix = "data:image/png;base64,"
    assert all(base64.b64decode(s.removeprefix(prefix)).startswith(b"\x89PNG") for s in sources)


def test_report_without_encoder_and_reference(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr("genreg.evaluation.report._embedded", lambda name, figure: f"<img src='data:{name}'>")
    text, sources = read(evaluated[1].report(tmp_path / "report.html"))
    assert all(f"{k}. {title}" in text for k, title in enumerate(SECTIONS, 1))
    assert "Not done" in text and "EMD(reference, test)" not in text and len(sources) == 8
    with pytest.raises(ValueError, match=r"must end in \.html, got 'report\.pdf'"):
        evaluated[1].report(tmp_path / "report.pdf")


def test_report_is_written_whole_or_not_at_all(evaluated, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self, *rest, **options):
        raise OSError("disk full")

    monkeypatch.setattr("genreg.evaluation.report.draw", lambda e: {})
    monkeypatch.setattr("genreg.evaluation.report._page", lambda e, image: "new")
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="disk full"):
        evaluated[0].report(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_same_seed_same_numbers(vae):
    images = vae.sample(25, seed=1)
    first, second = (evaluate(vae, images, quick=True, progress=False).to_dict() for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_bars_of_several_models():
    models = {"a": EarthMover(3.0, 0.1, 2.0, 1.5, 10), "b": EarthMover(1.0, 0.1, None, None, 10)}
    (ax,) = earth_mover_figure(models).axes
    assert [bar.get_height() for bar in ax.patches] == [3, 1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert [line.get_ydata()[0] for line in ax.lines] == [2]


def test_quantiles():
    numbers = quantiles(torch.arange(101.0))
    assert numbers == pytest.approx(
        {"mean": 50, "std": math.sqrt(858.5), "5 %": 5, "median": 50, "95 %": 95}, rel=1e-4
    )


def test_held_out_images():
    test, reference = held_out("shapes-other", 30, seed=1)
    assert test.shape == reference.shape == (30, 56, 56)
    assert torch.equal(held_out("shapes-vae", 30, seed=1)[0], test)
    assert not torch.equal(held_out("shapes-vae", 30, seed=2)[0], test)
    known = shapes(1000, seed=2**40 + 1)
    assert all((known == image).all((1, 2)).any() for image in test[:3])
    with pytest.raises(ValueError, match="images must be given for a model that is no recipe"):
        held_out("mine", 30)
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        held_out("shapes-vae", 0)


def test_wrong_arguments(vae):
    with pytest.raises(ValueError, match=r"images must have the shape \(N, 12, 13\), got \(30, 12, 12\)"):
        evaluate(vae, torch.rand(30, 12, 12), progress=False)
    with pytest.raises(ValueError, match="reference must be real and finite, got NaN or infinite values"):
        evaluate(vae, torch.rand(30, *SHAPE), reference=np.full((30, *SHAPE), np.nan), progress=False)
    with pytest.raises(ValueError, match="images and count must be at least 20, got 5"):
        evaluate(vae, torch.rand(30, *SHAPE), count=5, progress=False)
    with pytest.raises(ValueError, match="at least two latent dimensions"):
        evaluate(Generator(Linear(1), X), torch.rand(30, *SHAPE), progress=False)
    with pytest.raises(FileNotFoundError, match="must name shipped weights"):
        evaluate("nothing", progress=False)
