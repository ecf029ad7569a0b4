"""Latent terms: values, gradients on weighted spaces, proximal operators against brute force, errors."""

import math

import numpy as np
import odl
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from genreg import Generator, NetworkOperator, to_torch
from genreg.latent import Box, Discriminator, ImageVariation, Power, Sphere, StandardNormal
from genreg.operators import derivative_test, to_tensor
from genreg.solvers import split

from ...draws import gaussian
from ...refusals import refuses

ARRAY = [0.5, 1.0, 2.0, 4.0, 8.0]
SPACES = {
    "plain": odl.rn(5),
    "weighted": odl.rn(5, weighting=3.0),
    "array": odl.rn(5, weighting=ARRAY),
    "torch": odl.rn(5, impl="pytorch", weighting=0.25),
    "matrix": odl.rn((2, 3), weighting=2.0),
}
QS = [0.05, 0.3, 0.5, 0.9, 0.999, 1.0, 1.001, 1.2, 1.5, 1.9, 2.0]


class LinearModel(nn.Module):
    latent_dim = 3

    def __init__(self, shape=(4, 5)):
        super().__init__()
        torch.manual_seed(3)
        self.shape = shape
        self.linear = nn.Linear(3, math.prod(shape), dtype=torch.float64)

    def forward(self, z):
        return self.linear(z).unflatten(1, self.shape)


class Verdict(nn.Module):
    """A discriminator for images of one size, logits ``(B, outputs)``."""

    def __init__(self, shape=(4, 5), outputs=1, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(4)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, outputs)
        )
        self.to(dtype)

    def forward(self, x):
        return self.net(x)


class Probability(Verdict):
    def forward(self, x):
        return self.net(x).sigmoid()[:, 0]


class Critic(Verdict):
    def __init__(self, shape=(4, 5)):
        super().__init__(shape)
        self.image_shape = shape

    def forward(self, x):
        raise AssertionError("the critic is asked by discriminate")

    def discriminate(self, x):
        return 3 * self.net(x)[:, 0]


@pytest.fixture(name="X")
def image_space():
    return odl.uniform_discr([0, 0], [8, 5], (4, 5))  # cells of 2 by 1


@pytest.fixture(name="G")
def generator(X):
    return Generator(LinearModel(), X)


def element(space, seed=0):
    return space.element(gaussian(*space.shape, seed=seed).numpy())


@pytest.fixture(name="terms")
def all_terms(G):
    Z = G.domain
    return [
        StandardNormal(Z),
        Power(Z, 2),
        Power(Z, 1.3),
        Power(Z, 1),
        Power(Z, 0.5),
        Box(Z, 0.9),
        Sphere(Z),
        ImageVariation(G, 0.2),
        Discriminator(G, Verdict()),
    ]


@pytest.mark.parametrize("Z", SPACES.values(), ids=SPACES)
def test_values_are_plain_sums(Z):
    z = element(Z)
    a = np.asarray(to_tensor(z))
    assert StandardNormal(Z)(z) == pytest.approx((a**2).sum(), rel=1e-14)
    for q in QS:
        assert Power(Z, q)(z) == pytest.approx((abs(a) ** q).sum(), rel=1e-14)
    largest, norm = abs(a).max(), np.sqrt((a**2).sum())
    assert Box(Z, largest)(z) == 0 and Box(Z, 0.999 * largest)(z) == math.inf
    assert Sphere(Z, norm)(z) == 0 and Sphere(Z, norm * (1 + 1e-12))(z) == math.inf
    assert Sphere(Z).radius == pytest.approx(math.sqrt(a.size))


def test_terms_on_batches_are_those_of_the_samples(terms):
    t = gaussian(4, 3)
    t[1] = 0.5
    t[2] *= math.sqrt(3) / t[2].norm()
    for term in terms:
        values = to_torch(term)(t)
        one_by_one = torch.tensor(
            [float(term(term.domain.element(z.numpy()))) for z in t], dtype=torch.float64
        )
        assert values.shape == (4,)
        torch.testing.assert_close(values, one_by_one, rtol=1e-12, atol=0)
        torch.testing.assert_close(to_torch(term)(t.view(2, 2, 3)), values.view(2, 2))
        if to_torch(term).has_prox:
            step = torch.tensor([0.1, 1.0, 2.0, 7.0], dtype=torch.float64)
            moved = to_torch(term).prox(t, step)
            for z, s, p in zip(t, step, moved, strict=True):
                single = term.proximal(s.item())(term.domain.element(z.numpy()))
                torch.testing.assert_close(to_tensor(single), p)


@pytest.mark.parametrize("Z", SPACES.values(), ids=SPACES)
def test_gradient_of_the_standard_normal(Z):
    derivative_test(StandardNormal(Z))
    derivative_test(0.5 * Power(Z, 2).translated(element(Z, 1)))


@pytest.mark.parametrize("weighting", [None, 1.0])
def test_gradients_of_terms_of_the_image(weighting):
    X = odl.uniform_discr([0, 0], [8, 5], (4, 5), weighting=weighting)
    weighted = odl.rn(3, weighting=[0.5, 2.0, 3.0])
    for operator in (Generator(LinearModel(), X), NetworkOperator(LinearModel(), weighted, X)):
        derivative_test(ImageVariation(operator, 0.1))
        derivative_test(Discriminator(operator, Verdict()))
        derivative_test(Discriminator(operator, Probability(), logits=False))
        derivative_test(Discriminator(operator, Critic()))


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_prox_of_the_power_against_brute_force(q, dtype):
    Z = odl.rn(41, dtype=dtype, weighting=2.0)
    f = to_torch(Power(Z, q))
    points = torch.linspace(-4, 4, 41, dtype=getattr(torch, dtype))
    steps = torch.tensor([1e-3, 0.05, 0.4, 1.0, 3.0, 20.0], dtype=torch.float64)
    moved = f.prox(points.expand(6, 41), steps)
    assert moved.dtype == points.dtype and bool(moved.isfinite().all())
    rounding = 1e-12 if dtype == "float64" else 2e-6
    for step, row in zip(steps.tolist(), moved.double(), strict=True):
        for t, u in zip(points.double().tolist(), row.tolist(), strict=True):

            def objective(v, t=t, step=step):
                return step * np.abs(v) ** q + (v - t) ** 2  # the weight 2 of the space times a half

            grid = np.append(np.linspace(-4, 4, 801), [0.0, t])
            best = grid[np.argmin(objective(grid))]
            found = minimize_scalar(
                objective, bounds=(best - 0.02, best + 0.02), method="bounded", options={"xatol": 1e-12}
            )
            lowest = min(found.fun, objective(0.0), objective(t), objective(grid).min())
            assert objective(u) <= lowest + rounding * (1 + lowest)
            assert u == 0 or u * t > 0


@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.9, 0.999, 1.001, 1.2, 1.5, 1.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_prox_of_the_power_solves_its_equation_over_many_scales(q, dtype):
    scales = 10 ** torch.linspace(-8, 8, 33, dtype=torch.float64)
    t, step = (a.to(dtype) for a in torch.meshgrid(scales, scales, indexing="ij"))
    u = to_torch(Power(odl.rn(33, dtype=str(dtype)[6:]), q)).prox(t, step[:1].T.contiguous()[:, 0])
    step = step[0][:, None].double()
    t, u = t.double(), u.double()
    residual = (u + q * step * u.pow(q - 1) - t)[u > 0].abs()
    rounding = 20 * torch.finfo(dtype).eps
    assert bool((residual <= rounding * t[u > 0]).all())
    if q < 1:  # Marjanovic and Solo: zero up to the threshold h, at least β beyond it
        beta = (2 * step * (1 - q)) ** (1 / (2 - q))
        h = beta + q * step * beta ** (q - 1)
        assert bool((u[t > 1.001 * h.expand_as(t)] > 0).all()) and bool((u[t < 0.999 * h] == 0).all())
        assert bool((u >= 0.999 * beta)[u > 0].all())


def test_prox_at_zero_and_of_tiny_steps():
    Z = odl.rn(3)
    z = torch.tensor([0.0, -0.0, 1.5], dtype=torch.float64)
    for q in QS:
        f = to_torch(Power(Z, q))
        assert f.prox(z, 0.3)[:2].tolist() == [0.0, 0.0]
        torch.testing.assert_close(f.prox(z, 1e-300), z)
        torch.testing.assert_close(f.prox(z, 0.0), z)


def test_closed_forms_of_the_prox_in_the_norm_of_the_space():
    w = torch.tensor(ARRAY, dtype=torch.float64)
    Z, t, step = SPACES["array"], gaussian(3, 5), torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    s = step[:, None]
    torch.testing.assert_close(to_torch(StandardNormal(Z)).prox(t, step), w * t / (w + 2 * s))
    soft = t.sign() * (t.abs() - s / w).clamp_min(0)
    torch.testing.assert_close(to_torch(Power(Z, 1)).prox(t, step), soft)
    # q = 3/2: u + (3/2) τ sqrt(u) = t is a quadratic equation in sqrt(u)
    root = (-1.5 * s / w + ((1.5 * s / w) ** 2 + 4 * t.abs()).sqrt()) / 2
    torch.testing.assert_close(to_torch(Power(Z, 1.5)).prox(t, step), t.sign() * root**2)
    torch.testing.assert_close(to_torch(Box(Z, 0.4)).prox(t, step), t.clamp(-0.4, 0.4))
    # the conjugate of ||.||_1 is the indicator of a box, in the pairing of the space
    torch.testing.assert_close(
        to_torch(Power(Z, 1)).conj_prox(t, step), torch.minimum(torch.maximum(t, -1 / w), 1 / w)
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (20000,)])
def test_projection_to_the_sphere(shape, dtype):
    Z = odl.rn(shape, dtype=dtype, weighting=3.0)
    f = to_torch(Sphere(Z))
    axes = tuple(range(1, 1 + len(shape)))
    t = gaussian(4, *shape, dtype=getattr(torch, dtype))
    t[1] *= 1e-30 if dtype == "float32" else 1e-200
    t[2] *= 1e30 if dtype == "float32" else 1e200
    p = f.prox(t, 1.0)
    assert f(p).tolist() == [0.0] * 4 and f(1.001 * p).tolist() == [math.inf] * 4
    direction = t[::3] / t[::3].square().sum(axes, keepdim=True).sqrt()
    torch.testing.assert_close(p[::3], math.sqrt(Z.size) * direction)
    torch.testing.assert_close(f.prox(p, 1.0), p)
    # nearest of many points of the sphere
    others = f.prox(gaussian(200, *shape, seed=1, dtype=p.dtype), 1.0) if Z.size < 10 else -p
    distance = (t[0] - p[0]).square().sum()
    assert bool(((t[0] - others).square().sum(axes) >= distance).all())


def test_projection_of_zero_is_on_the_first_axis():
    Z = odl.rn((2, 3))
    assert Sphere(Z, 2.0).proximal(1.0)(Z.zero()).asarray().tolist() == [[2, 0, 0], [0, 0, 0]]
    batch = torch.zeros(2, 2, 3, dtype=torch.float64)
    batch[1, 1, 1] = -5.0
    p = to_torch(Sphere(Z, 2.0)).prox(batch, torch.ones(2))
    assert p[0, 0, 0] == 2 and p[1, 1, 1] == -2 and p.abs().sum() == 4


def test_what_is_no_number_stays_so():
    t = torch.tensor([[0.5, math.nan]], dtype=torch.float64)
    for q in QS:
        p = to_torch(Power(odl.rn(2), q)).prox(t, 0.01)
        assert p.isnan().tolist() == [[False, True]]
    assert bool(to_torch(Sphere(odl.rn(2))).prox(t, 1.0).isnan().all())
    assert to_torch(Sphere(odl.rn(2)))(t).item() == to_torch(Box(odl.rn(2), 1))(t).item() == math.inf


def test_nonconvex_terms_have_no_conjugate():
    for f in (Power(odl.rn(3), 0.5), Sphere(odl.rn(3)), 2 * Sphere(odl.rn(3))):
        with pytest.raises(NotImplementedError, match="not convex"):
            to_torch(f).conj_prox(torch.ones(1, 3), 1.0)
    Z = SPACES["array"]
    assert not to_torch(Sphere(Z)).has_prox
    with pytest.raises(NotImplementedError, match="no proximal operator"):
        _ = Sphere(Z).proximal


def test_image_variation_tends_to_the_total_variation(G, X):
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    exact = odl.functionals.GroupL1Norm(D.range) * D * G
    z = element(G.domain)
    for smoothing in (1.0, 1e-2, 1e-10):
        above = ImageVariation(G, smoothing)(z) - exact(z)
        assert 0 < above < smoothing * 40
    assert ImageVariation(G, 1e-10)(z) == pytest.approx(exact(z), rel=1e-8)
    constant = odl.ConstantOperator(X.one(), G.domain)
    assert ImageVariation(constant, 0.3)(z) == pytest.approx(0.3 * 40)


def test_discriminator_is_the_logarithm_and_stable(G):
    z = element(G.domain)
    logit = Verdict().eval()(to_tensor(G(z))[None]).item()
    expected = math.log(1 - 1 / (1 + math.exp(-logit)))
    assert Discriminator(G, Verdict())(z) == pytest.approx(expected, rel=1e-12)
    assert Discriminator(G, Probability(), logits=False)(z) == pytest.approx(expected, rel=1e-12)
    assert Discriminator(G, Critic())(z) == pytest.approx(-math.log1p(math.exp(3 * logit)), rel=1e-12)

    sure, saturated = Verdict(), Probability()
    for D in (sure, saturated):
        D.net[-1].bias.data.fill_(1e4)
    assert Discriminator(G, sure)(z) == pytest.approx(-1e4, rel=1e-3)
    assert Discriminator(G, saturated, logits=False)(z) == pytest.approx(math.log(2**-53))


def test_discriminator_is_frozen_and_converted_as_a_copy(G, X):
    D = Verdict()
    Discriminator(G, D)
    assert not D.training and not any(p.requires_grad for p in D.parameters())
    single = Verdict(dtype=torch.float32)
    weights = {name: p.clone() for name, p in single.state_dict().items()}
    term = Discriminator(G, single)
    assert single.training and all(p.requires_grad and p.dtype == torch.float32 for p in single.parameters())
    assert all(torch.equal(p, weights[name]) for name, p in single.state_dict().items())
    assert next(term.D.parameters()).dtype == torch.float64


def test_terms_leave_their_arguments_alone(terms):
    t = gaussian(2, 3)
    kept = t.clone()
    for term in terms:
        f = to_torch(term)
        f(t)
        if f.has_prox:
            f.prox(t, 0.5)
        assert torch.equal(t, kept)


def test_sums_lower_and_split(G):
    Z, t = G.domain, gaussian(5, 3)
    variation, judge = ImageVariation(G, 0.1), Discriminator(G, Verdict())
    normal, box = StandardNormal(Z), Box(Z, 3)
    whole = 0.5 * normal + 2 * variation + judge + 0.25 * Power(Z, 0.5)
    expected = 0.5 * to_torch(normal)(t) + 2 * to_torch(variation)(t) + to_torch(judge)(t)
    rough = 0.25 * t.abs().sqrt().sum(1)
    torch.testing.assert_close(to_torch(whole)(t), expected + rough)
    z = element(Z)
    assert float(to_torch(whole)(to_tensor(z))) == pytest.approx(whole(z))

    smooth, proximable = split(whole)
    torch.testing.assert_close(smooth(t), expected)
    torch.testing.assert_close(proximable(t), rough)
    torch.testing.assert_close(proximable.prox(t, 0.8), to_torch(Power(Z, 0.5)).prox(t, 0.2))
    assert split(normal)[1] is None and split(box)[0] is None and split(Power(Z, 1.5))[0] is None
    smooth, proximable = split(0.5 * normal + box)
    torch.testing.assert_close(smooth(t), 0.5 * t.square().sum(1))
    torch.testing.assert_close(proximable.prox(4 * t, 1.0), (4 * t).clamp(-3, 3))
    derivative_test(0.5 * normal + 2 * variation + judge)
    with pytest.raises(NotImplementedError):
        split(box + Sphere(Z))


def test_odl_solves_with_the_terms():
    Z = odl.rn(4, weighting=2.0)
    y = element(Z, 5)
    fidelity = 0.5 * odl.functionals.L2NormSquared(Z).translated(y)
    for term in (Power(Z, 1.5), Box(Z, 0.3)):
        x = Z.zero()
        odl.solvers.proximal_gradient(x, f=term, g=fidelity, gamma=1.0, niter=3)
        torch.testing.assert_close(to_tensor(x), to_torch(term).prox(to_tensor(y), 1.0))


def test_representations(terms):
    shown = [repr(term).split("(")[0] for term in terms]
    assert shown == [type(term).__name__ for term in terms]
    assert repr(Box(odl.rn(2), 3)) == "Box(rn(2), radius=3)"


@refuses(
    (lambda Z, G: Power(Z, 0), ValueError, "q must be a number between 0 and 2, got 0"),
    (lambda Z, G: Power(Z, 2.5), ValueError, r"q must be a number between 0 and 2, got 2.5"),
    (lambda Z, G: Power(Z, "1"), TypeError, "q must be a number"),
    (lambda Z, G: Power(odl.rn(2) ** 2, 1), TypeError, "Z must be an ODL tensor space"),
    (lambda Z, G: StandardNormal(3), TypeError, "Z must be an ODL tensor space"),
    (lambda Z, G: StandardNormal(odl.cn(3)), TypeError, "real"),
    (lambda Z, G: Box(Z, 0), ValueError, "radius must be positive"),
    (lambda Z, G: Box(Z, math.inf), ValueError, "radius must be positive and finite"),
    (lambda Z, G: Box(odl.cn(3), 1), TypeError, "real"),
    (lambda Z, G: Sphere(Z, -1.0), ValueError, "radius must be positive"),
    (lambda Z, G: Sphere(Z, True), TypeError, "radius must be a number"),
    (lambda Z, G: Sphere(Z).proximal(-1.0), ValueError, "sigma must be positive"),
    (lambda Z, G: Power(Z, 1.5).gradient, NotImplementedError, "gradient"),
    (lambda Z, G: ImageVariation(G, 0.0), ValueError, "smoothing must be positive"),
    (lambda Z, G: ImageVariation(odl.IdentityOperator(Z), 1.0), TypeError, "discretised"),
    (lambda Z, G: ImageVariation("G", 1.0), TypeError, "G must be"),
    (lambda Z, G: Discriminator("G", Verdict()), TypeError, "G must be"),
    (lambda Z, G: Discriminator(G, lambda x: x), TypeError, "D must be"),
    (lambda Z, G: Discriminator(G, Verdict((3, 3))), ValueError, r"\(1, 4, 5\); it says.*1x20 and 9x6"),
    (lambda Z, G: Discriminator(G, Critic((8, 8))), ValueError, r"\(4, 5\).*got one for \(8, 8\)"),
    (lambda Z, G: Discriminator(G, Verdict(outputs=2)), ValueError, r"one number.*got \(1, 2\)"),
    (lambda Z, G: Discriminator(G, nn.Identity()), ValueError, r"one number.*got \(1, 4, 5\)"),
    (lambda Z, G: Discriminator(G, Verdict(), logits=False), ValueError, "probabilities"),
)
def test_bad_arguments(G, make):
    make(G.domain, G)
