"""The convolutional model with batch normalisation, and images of several channels from training to solution."""

import dataclasses
import json

import matplotlib.figure
import numpy as np
import odl
import pytest
import torch
from torch import nn

import genreg
from genreg import networks, training, weights
from genreg.networks import ConvConfig, DenseConfig, GanConfig, GridConfig, StridedConfig
from genreg.operators import blur, gaussian_measurements, mask
from genreg.operators.testing import derivative_test, dot_test
from genreg.plotting import as_pictures, draw_images
from genreg.training.amortised_encoder import fit_encoder
from genreg.training.autoencoder import AutoencoderTrainer, Options
from genreg.training.batches import Batches
from genreg.training.optimisers import running_statistics
from genreg.training.settings import Optimisation

from ...refusals import refuses

TINY = StridedConfig(image_shape=(3, 16, 16), latent_dim=4, channels=(8, 12))
GREY = StridedConfig(image_shape=(8, 12), latent_dim=3, channels=(4,), kernel=4, variational=False)
ONE = StridedConfig(image_shape=(1, 8, 8), latent_dim=3, channels=(4, 5), kernel=3, activation="silu")
DENSE = DenseConfig(image_shape=(3, 4, 5), latent_dim=2, encoder=(6,), decoder=(6,))
CONV = ConvConfig(image_shape=(3, 8, 12), latent_dim=4, channels=(2, 3), hidden=5)
SMALL = [TINY, GREY, ONE, DENSE, CONV]
names = ["x".join(map(str, (config.name, *config.image_shape))) for config in SMALL]


def discs(n, *, seed):
    """Discs of one colour on black, ``(n, 3, 16, 16)``."""
    random = torch.Generator().manual_seed(seed)
    centre = 4 + 8 * torch.rand(n, 2, 1, 1, generator=random)
    radius = 2 + 2 * torch.rand(n, 1, 1, generator=random)
    colour = torch.rand(n, 3, 1, 1, generator=random)
    i, j = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    distance = ((i - centre[:, 0]).square() + (j - centre[:, 1]).square()).sqrt()
    return torch.sigmoid(2 * (radius - distance))[:, None] * colour


def trained(config=TINY, images=discs, steps=30, **settings):
    torch.manual_seed(2)
    model = config.build()
    settings = {"batch_size": 8, "lr": 3e-3, "schedule": "constant", "progress": False} | settings
    return model, training.fit(model, images, steps=steps, **settings)


def same(one, other):
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


# the architecture


@pytest.mark.parametrize("config", SMALL, ids=names)
@pytest.mark.parametrize("batch", [1, 5])
def test_shapes_of_outputs(config, batch):
    model = config.build().eval()
    x = torch.rand(batch, *config.image_shape)
    z = model.encode(x)
    assert z.shape == (batch, config.latent_dim) and model.decode(z).shape == x.shape
    assert model.image_shape == config.image_shape
    again = networks.build(json.loads(json.dumps(config.to_dict())))
    assert again.config == config
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model(x))


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("shape", [(8, 12), (2, 4, 20)])
def test_any_kernel_fits_any_size(kernel, shape):
    model = StridedConfig(image_shape=shape, latent_dim=2, channels=(3, 4), kernel=kernel).build().eval()
    x = torch.rand(2, *shape)
    assert model.decode(model.encode(x)).shape == x.shape


def test_the_papers_network():
    """Four convolutions of 5 x 5 with 64 to 512 channels each way, 64 latent variables."""
    with torch.device("meta"):
        model = StridedConfig(image_shape=(3, 64, 64)).build()
    steps = [(3, 64), (64, 128), (128, 256), (256, 512)]
    convolutions = sum(25 * i * o for i, o in steps)
    normalised = 2 * (64 + 128 + 256 + 512)
    features = 512 * 4 * 4
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    assert counts[0] == convolutions + normalised + features * 128 + 128
    assert counts[1] == convolutions + 3 + normalised + 64 * features + features
    assert model.latent_dim == 64 and isinstance(model.decoder[-1].maximum, float)


@refuses(
    ({"image_shape": (3, 10, 16)}, r"divisible by 2 \*\* len\(channels\) = 4, got \(3, 10, 16\)"),
    ({"image_shape": (1, 3, 16, 16)}, "two positive integers, or three with the channels first, got"),
    ({"image_shape": (16,)}, "image_shape must be two positive integers"),
    ({"image_shape": (0, 16, 16)}, "image_shape must be two positive integers"),
    ({"channels": ()}, "divisible by"),
    ({"channels": (4, 0)}, r"channels must be positive integers, got \(4, 0\)"),
    ({"kernel": 1}, "kernel must be an integer of at least 2, got 1"),
    ({"activation": "step"}, "activation must be one of"),
    ({"maximum": 0.0}, "maximum must be positive"),
    error=ValueError,
)
def test_bad_configurations(change):
    StridedConfig(**{"image_shape": (3, 16, 16), "channels": (4, 4)} | change)


def test_other_architectures_refuse_channels():
    with pytest.raises(ValueError, match=r"image_shape must be two positive integers, got \(3, 8, 8\)"):
        GridConfig(image_shape=(3, 8, 8), latent_dim=4, encoder=(4,), decoder=(4,))


# batch normalisation


def test_a_batch_is_decoded_as_its_samples_and_leaves_the_model_alone():
    model, _ = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    z = 2 * torch.randn(7, 4)
    batch = model.double().decode(z.double())
    one_by_one = torch.cat([model.decode(sample[None]) for sample in z.double()])
    assert torch.allclose(batch, one_by_one, rtol=0, atol=1e-14)
    x = discs(7, seed=3).double()
    assert torch.allclose(model.encode(x), torch.cat([model.encode(s[None]) for s in x]), rtol=0, atol=1e-13)
    training.evaluate(model, x)
    training.latent_statistics(model, x)
    assert all(torch.equal(tensor, before[name].to(tensor)) for name, tensor in model.state_dict().items())


def test_decoders_differentiate_under_func_transforms():
    model = trained()[0].double()
    z, dz, w = torch.randn(3, 2, 4, dtype=torch.float64)
    x, dx = torch.func.jvp(model.decode, (z,), (dz,))
    (g,) = torch.func.vjp(model.decode, z)[1](x)
    assert torch.isclose((dx * x).sum(), (dz * g).sum(), rtol=1e-10)
    one_by_one = torch.func.vmap(lambda t: model.decode(t[None])[0])(w)
    assert torch.allclose(one_by_one, model.decode(w), atol=1e-12)


def test_validation_while_training_changes_nothing():
    plain, _ = trained(steps=12)
    watched, card = trained(steps=12, validation=discs(9, seed=1), validate_every=3)
    assert same(plain, watched) and len(card["history"]) == 4


@pytest.mark.parametrize("half", [False, True])
def test_running_statistics_are_stored_with_the_weights(half, tmp_path):
    model, card = trained()
    loaded, _ = weights.load(weights.save(tmp_path / "colour", model, card, half=half)[0])
    state = loaded.state_dict()
    assert state["encoder.1.num_batches_tracked"] == 30
    assert state["encoder.1.num_batches_tracked"].dtype == torch.int64
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.allclose(state[name], tensor, rtol=1e-3 if half else 0, atol=1e-6 if half else 0)
    x = discs(5, seed=9)
    assert torch.allclose(loaded(x), model(x), atol=5e-3 if half else 0)


def test_the_average_of_the_weights_has_the_average_of_the_statistics():
    settings = {"ema": 0.9, "steps": 25}
    model, _ = trained(**settings)
    plain, _ = trained(steps=25)
    averages, history = [], []

    optimisation = Optimisation(lr=3e-3, schedule="constant", batch_size=8, **settings)
    again = _fresh()
    run = AutoencoderTrainer(again, optimisation, Batches.checked(discs, again, optimisation), Options())
    for step in range(25):
        torch.manual_seed(optimisation.seed_of(step))
        run.advance()
        run.stepped()
        history.append([t.clone() for t in running_statistics(run.module)])
        averages.append(min(0.9, (step + 1) / (step + 10)))
    expected = [torch.zeros_like(t) if k % 2 == 0 else torch.ones_like(t) for k, t in enumerate(history[0])]
    for decay, tensors in zip(averages, history, strict=True):
        expected = [decay * e + (1 - decay) * t for e, t in zip(expected, tensors, strict=True)]
    run.finish()
    for found, mean, last in zip(running_statistics(model), expected, history[-1], strict=True):
        assert torch.allclose(found, mean, rtol=1e-4, atol=1e-6) and not torch.equal(found, last)
    assert same(model, run.module)
    for found, last in zip(running_statistics(plain), history[-1], strict=True):
        assert torch.equal(found, last)


class KilledError(Exception):
    pass


def test_a_resumed_run_gives_exactly_the_uninterrupted_result(tmp_path):
    calls = []

    def killing(n, *, seed):
        calls.append(seed)
        if len(calls) > 8:
            raise KilledError
        return discs(n, seed=seed)

    settings = {
        "ema": 0.9,
        "steps": 10,
        "checkpoint_seconds": 0.0,
        "validation": discs(4, seed=5),
        "validate_every": 2,
    }
    whole, card = trained(**settings)
    file = tmp_path / "run.checkpoint"
    with pytest.raises(KilledError):
        trained(images=killing, checkpoint=file, **settings)
    resumed, again = trained(checkpoint=file, resume=True, **settings)
    assert same(whole, resumed) and card == again


def test_whiten_keeps_the_reconstruction():
    for variational in (True, False):
        model = trained(dataclasses.replace(TINY, variational=variational))[0].double()
        x = discs(60, seed=4).double()
        before, statistics = model(x), [t.clone() for t in running_statistics(model)]
        training.whiten(model, x)
        assert torch.allclose(model(x), before, atol=1e-10)
        found = training.latent_statistics(model, x)
        assert found["mean"] == pytest.approx([0.0] * 4, abs=1e-9)
        assert found["std"] == pytest.approx([1.0] * 4, abs=1e-9)
        assert all(torch.equal(a, b) for a, b in zip(statistics, running_statistics(model), strict=True))


def test_an_encoder_is_trained_beside_a_decoder_that_stays_as_it_is():
    model, _ = trained(steps=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def pairs(n, *, seed):
        x = discs(n, seed=seed).clamp(1e-3, 1 - 1e-3)
        return x, x.flip(-1)

    fit_encoder(model, pairs, steps=3, batch_size=8, progress=False)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"encoder.0.weight", "encoder.1.running_mean"} <= moved
    assert all(name.startswith("encoder.") for name in moved)


# colour images, from training to solution


def test_training_lowers_the_loss():
    held_out = discs(50, seed=10**6)
    before = training.evaluate(trained(steps=1)[0], held_out)
    model, card = trained(steps=60, validation=held_out, input_noise=15 / 255)
    assert card["score"]["loss"] < before["loss"] - 300
    assert card["score"]["psnr"] > before["psnr"] + 3
    assert card["architecture"] == TINY.to_dict() and json.loads(json.dumps(card)) == card
    x, error = held_out[:3], (model(held_out) - held_out).square()
    assert card["score"]["mse"] == pytest.approx(error.mean().item(), rel=1e-5)
    score = training.range_error(model, x, steps=20)
    assert score["range_mse"] <= training.evaluate(model, x)["mse"]


@refuses(
    (torch.zeros(4, 16, 16), r"images must have the shape \(N, 3, 16, 16\), got \(4, 16, 16\)"),
    (torch.zeros(4, 1, 16, 16), r"\(N, 3, 16, 16\), got \(4, 1, 16, 16\)"),
    (torch.zeros(0, 3, 16, 16), r"got \(0, 3, 16, 16\)"),
    (torch.zeros(3, 16, 16), r"got \(3, 16, 16\)"),
    (lambda n, *, seed: torch.zeros(n, 16, 16), r"sampler in images returns must have .* got \(1, 16, 16\)"),
    (torch.full((1, 3, 16, 16), torch.nan), "images must be finite, got 768 NaN"),
    error=ValueError,
)
def test_images_of_another_shape(images):
    trained(images=images)


def test_a_gan_of_colour_images():
    config = GanConfig(generator=TINY)
    assert config.critic.batch_norm is False and config.critic.image_shape == (3, 16, 16)
    model = config.build()
    real, fake = discs(4, seed=0), discs(4, seed=1)
    model.critic = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    slope = torch.linalg.vector_norm(model.critic[1].weight)
    assert training.gradient_penalty(model, real, fake).item() == pytest.approx((slope - 1).square().item())
    model = config.build()
    card = training.fit_gan(model, discs, steps=2, batch_size=4, ema=0.5, validate_every=1, progress=False)
    assert len(card["history"]) == 2 and all(map(np.isfinite, card["history"][-1].values()))
    assert np.isfinite(training.range_error(model, real, steps=2, restarts=1)["range_psnr"])
    assert running_statistics(model.decoder) and not running_statistics(model.critic)


SPACES = {
    "rn": odl.rn((3, 16, 16)),
    "discr": odl.uniform_discr([0, 0, 0], [3, 1, 1], (3, 16, 16)),
}


@pytest.fixture(name="model", scope="module")
def trained_model():
    return trained(steps=80)[0].double()


@pytest.mark.parametrize("X", SPACES.values(), ids=SPACES)
def test_the_generator_of_colour_images_is_an_odl_operator(model, X):
    G = genreg.Generator(model, X)
    z = torch.randn(5, 4, dtype=torch.float64)
    x = G.decode(z).mean
    assert x.shape == (5, 3, 16, 16) and torch.equal(genreg.to_torch(G)(z), x)
    assert np.allclose(G(G.domain.element(z[0].numpy())).asarray(), x[0])
    assert G.sample(2, seed=0).shape == (2, 3, 16, 16)
    assert G.encode(x).shape == (5, 4)
    assert np.allclose(G.encoder(X.element(x[0].numpy())).asarray(), G.encode(x)[0])
    derivative_test(G, seed=0)
    derivative_test(G.encoder, seed=0)
    with pytest.raises(ValueError, match="makes 3 x 16 x 16 images, range is 16 x 16 x 3"):
        genreg.Generator(model, odl.rn((16, 16, 3)))


def test_a_channel_axis_of_one_may_be_left_out():
    model = ONE.build().double()
    z = torch.randn(4, 3, dtype=torch.float64)
    with_axis, without = (genreg.Generator(model, odl.rn(shape)) for shape in ((1, 8, 8), (8, 8)))
    x = with_axis.decode(z).mean
    assert x.shape == (4, 1, 8, 8) and torch.equal(without.decode(z).mean, x[:, 0])
    assert torch.equal(without.encode(x[:, 0]), with_axis.encode(x))
    element = without.range.element(x[0, 0].numpy())
    assert np.allclose(without.encoder(element).asarray(), with_axis.encode(x)[0])


@pytest.mark.parametrize("X", SPACES.values(), ids=SPACES)
def test_operators_on_colour_images(X):
    pixels = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    keep = pixels.expand(3, 16, 16)
    A = mask(X, keep)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(genreg.to_torch(A)(x), x[:, keep])
    kernel = torch.full((1, 3, 3), 1 / 9)  # within the channels
    for B in (A, gaussian_measurements(X, 20, seed=0), blur(X, kernel, boundary="reflect")):
        dot_test(B, seed=1)
        one_by_one = torch.cat([genreg.to_torch(B)(sample[None]) for sample in x])
        assert torch.allclose(genreg.to_torch(B)(x), one_by_one, atol=1e-12)


@pytest.mark.parametrize("X", SPACES.values(), ids=SPACES)
def test_inpainting_with_a_hard_constraint(model, X):
    G = genreg.Generator(model, X)
    pixels = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    A = mask(X, pixels.expand(3, 16, 16))
    truth = G.decode(torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).mean
    y = genreg.to_torch(A)(truth)
    options = {"noise_std": 0.01, "lam": 1e-3, "max_iter": 200, "progress": False}
    batch = genreg.reconstruct(A, y, genreg.HardConstraint(G), restarts=3, **options)
    hidden = ~pixels.expand(3, 16, 16)
    error = (batch.image - truth)[:, hidden].square().mean(1).sqrt()
    assert batch.image.shape == (2, 3, 16, 16) and (error < 0.01).all()
    single = genreg.reconstruct(
        A, A.range.element(y[0].numpy()), genreg.HardConstraint(G), restarts=3, **options
    )
    assert single.image in X and np.allclose(single.image.asarray(), batch.image[0], atol=1e-4)


# pictures


def drawn(figure):
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


def reconstruction(image, lam):
    zero = torch.zeros(lam.shape)
    fields = dict.fromkeys(("residual", "level", "value", "status", "iterations"), zero)
    return genreg.Reconstruction(image=image, blocks={}, lam=lam, time=0.0, **fields)


def test_colour_images_are_drawn_in_colour():
    x = torch.rand(4, 3, 5, 6)
    figure = matplotlib.figure.Figure()
    draw_images(figure, {"truth": x, "mine": x.flip(0)}, errors=True, vmin=0.0, vmax=1.0, columns=2)
    arrays = drawn(figure)
    assert len(arrays) == 6 and all(array.shape == (5, 6, 3) for array in arrays)
    assert np.allclose(arrays[0], x[0].movedim(0, -1)) and np.allclose(arrays[2], x[3].movedim(0, -1))
    assert np.allclose(arrays[4], (0.5 + x[3] - x[0]).clamp(0, 1).movedim(0, -1))
    same_figure = matplotlib.figure.Figure()
    draw_images(same_figure, {"truth": x, "mine": x}, errors=True)
    assert np.allclose(drawn(same_figure)[-1], 0.5)


def test_what_counts_as_a_colour_image():
    x = torch.rand(3, 5, 6)
    assert as_pictures(odl.rn((3, 5, 6)).element(x.numpy())).shape == (1, 3, 5, 6)
    assert as_pictures(odl.rn((4, 5, 6)).one()).shape == (4, 5, 6)
    assert as_pictures(x).shape == (3, 5, 6) and as_pictures(x[None]).shape == (1, 3, 5, 6)
    assert as_pictures(x[:, None]).shape == (3, 5, 6) and as_pictures(x[0]).shape == (1, 5, 6)
    assert np.allclose(as_pictures((3 + 4j) * torch.ones(2, 3, 4, 4)), 5.0)
    with pytest.raises(ValueError, match=r"\(B, 1 or 3, n, m\), got \(2, 4, 5, 6\)"):
        as_pictures(torch.rand(2, 4, 5, 6))


def test_show_draws_a_sample_with_three_channels_as_one_image():
    x, truth = torch.rand(2, 2, 3, 5, 6)
    element = odl.rn((3, 5, 6)).element(x[0].numpy())
    for image, reference, lam, count in (
        (x, truth, torch.ones(2), 6),
        (x[0], truth[0], torch.tensor(1.0), 3),
        (element, truth[0].numpy(), torch.tensor(1.0), 3),
        (element, element, torch.tensor(1.0), 3),
    ):
        arrays = drawn(reconstruction(image, lam).show(reference))
        assert len(arrays) == count and all(array.shape == (5, 6, 3) for array in arrays)
    assert drawn(reconstruction(x[0, 0], torch.tensor(1.0)).show())[0].shape == (5, 6)
    assert len(drawn(reconstruction(x[0], torch.ones(3)).show())) == 3


def _fresh():
    torch.manual_seed(2)
    return TINY.build()
