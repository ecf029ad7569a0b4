"""What all trainings have in common: settings, Ctrl-C, checkpoints and what they belong to, seeds, what they leave."""

import dataclasses
import functools
import inspect
import json
import math
import signal
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import odl
import pytest
import torch
from safetensors import SafetensorError

from genreg import GaussianFidelity, Generator, empirical_bayes, training
from genreg.empirical_bayes import (
    DistributionPrior,
    FullCovariance,
    GaussianGraphicalModel,
    GraphicalLasso,
    InverseAutoregressive,
    MeanField,
)
from genreg.networks import (
    CriticConfig,
    DenoiserConfig,
    DenseConfig,
    DuffConfig,
    GanConfig,
    GaussianRegressorConfig,
    StructuredConfig,
)
from genreg.operators import gaussian_measurements
from genreg.solvers.checkpoints import load_state, save_state, state_files
from genreg.training.engine import Trainer
from genreg.training.settings import Bookkeeping, Keywords, Optimisation

PART = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,))
JUDGE = DenseConfig(image_shape=(4, 6), latent_dim=1, encoder=(8,), decoder=(8,), variational=False)
Z = odl.rn(3)
STEPS = 6


def images(seed=0, n=8, shape=(4, 6)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def pairs_of(seed):
    def pairs(n, *, seed, other=seed):
        x = torch.rand(n, 4, 6, generator=torch.Generator().manual_seed(seed)).roll(other, 0)
        return x, (x + other).clamp(0, 1) * 0.9

    return pairs


def sampler(seed, shape=(4, 6)):
    return lambda n, *, seed, other=seed: images(seed + other, n, shape)


def generator():
    return Generator(fixed(PART.build()), odl.uniform_discr([0, 0], [4, 6], (4, 6), dtype="float32"))


def fixed(model, seed=7):
    """The model with weights of its own random numbers."""
    random = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.copy_(0.3 / (1 + p.numel() / 1000) * torch.randn(p.shape, generator=random))
    return model


def observations(seed):
    A = gaussian_measurements(Z, 4, seed=0)
    return GaussianFidelity(
        A, torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)).double(), 0.3
    )


def bayes(make, encoder):
    def fit(model, data, **options):
        found = empirical_bayes.fit(data, make(), encoder, **{"n_critic": 2, "dense": 1} | options)
        model["found"] = torch.nn.ModuleList([found.encoder, found.prior])
        return found.card

    return fit


def graphical(**more):
    return lambda: GaussianGraphicalModel(Z, estimator=GraphicalLasso(lam=0.1), **more)


class Independents(torch.nn.Module):
    """Independent normals, a distribution with parameters."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))

    def forward(self):
        return torch.distributions.Independent(
            torch.distributions.Normal(self.mean.double(), self.log_std.exp().double()), 1
        )


def flow(noise):
    def fit(model, data, **options):
        own = {"transforms": 1, "hidden": (4,), "bins": 4, "noise": noise, "dequantise": 0.1}
        model["found"] = training.fit_flow(data, **own | options)
        return model["found"].card

    return fit


def squares(seed):
    return images(seed, 40)[:, :2, :2]


def fine_tuned(model, data, **options):
    with torch.random.fork_rng():
        critic = fixed(CriticConfig(body=JUDGE).build())
    model["found"] = training.fine_tune(critic, *data, **options)
    return {}


class Training(NamedTuple):
    """A training: the model (a dict where it makes its own), the call, its data by a seed, its own options."""

    make: Callable
    fit: Callable
    source: Callable
    options: dict  # none of which is the default
    other: str  # one of these, which a checkpoint has to agree on


def autoencoder(source, config=PART, **options):
    own = {
        "kl_weight": 2.0,
        "kl_warmup": 4,
        "input_noise": 0.1,
        "validation": images(3, 3, config.image_shape),
    }
    return Training(config.build, training.fit, source, own | options, "kl_weight")


def gan(config, source=images):
    own = {"penalty": 5.0, "critic_steps": 2, "betas": (0.5, 0.8)}
    return Training(config.build, training.fit_gan, source, own, "penalty")


def precision(**options):
    own = {"weight_prior": 0.1, "validation": images(3), **options}
    model = StructuredConfig(mean=PART, channels=(4,), distance=1)
    return Training(model.build, training.fit_precision, images, own, "weight_prior")


def discriminator(source):
    own = {"noise_std": 0.1, "validation": images(3)}
    call = lambda model, data, **options: training.fit_discriminator(model, *data, **options)  # noqa: E731
    return Training(
        CriticConfig(body=JUDGE).build, call, lambda seed: (generator(), source(seed)), own, "noise_std"
    )


def empirical(make, encoder):
    own = {"draws": 2, "memory": 10, "validation": observations(5)}
    return Training(dict, bayes(make, encoder), observations, own, "draws")


DUFF = DuffConfig(image_shape=(7, 7), latent_dim=2, encoder_strides=(2, 2, 1), decoder_strides=(1, 1, 1))
TRAININGS = {
    "autoencoder": autoencoder(images),
    "sampled": autoencoder(sampler, gamma=0.3),
    "gan": gan(GanConfig(generator=PART, critic=JUDGE)),
    "flow": Training(
        dict, flow("gaussian"), squares, {"dequantise": 0.2, "validation": squares(3)}, "dequantise"
    ),
    "discriminator": discriminator(images),
    "fine-tuned": Training(
        dict,
        fine_tuned,
        lambda seed: (generator(), images(seed)),
        {"momentum": 0.5, "noise_std": 0.1},
        "momentum",
    ),
    "regressor": Training(
        GaussianRegressorConfig(image_shape=(4, 6), channels=(4,)).build,
        lambda model, x, **options: training.distil(model, x, 0.5 * x, **options),
        images,
        {"mean_steps": 2, "validation": (images(3), 0.5 * images(3))},
        "mean_steps",
    ),
    "denoiser": Training(
        DenoiserConfig(image_shape=(4, 6), channels=(4, 6), blocks=1).build,
        training.fit_denoiser,
        images,
        {"noise_min": 0.1, "noise_max": 0.3, "validation": images(3)},
        "noise_max",
    ),
    "precision": precision(),
    "encoder": Training(
        PART.build, training.fit_encoder, pairs_of, {"clean": 0.3, "latent_weight": 0.2}, "latent_weight"
    ),
    "empirical Bayes": empirical(graphical(), FullCovariance(hidden=(4,))),
}
VARIANTS = {
    "few images": autoencoder(lambda seed: images(seed, 3)),
    "autoencoder with dropout": autoencoder(lambda seed: images(seed, 8, (7, 7)), DUFF),
    "sampled autoencoder with dropout": autoencoder(lambda seed: sampler(seed, (7, 7)), DUFF),
    "gan with dropout": gan(GanConfig(generator=DUFF), lambda seed: sampler(seed, (7, 7))),
    "flow, uniform noise": Training(dict, flow("uniform"), squares, {"validation": squares(3)}, ""),
    "discriminator, few images": discriminator(lambda seed: images(seed, 3)),
    "discriminator, sampled": discriminator(sampler),
    "precision, jointly": precision(joint=True, kl_weight=0.5),
    "precision, sampled": precision()._replace(source=sampler),
    "mixture": empirical(
        graphical(components=2, mean="learned"),
        InverseAutoregressive(hidden=(4,), transforms=1, flow_hidden=(8,)),
    ),
    "means of a mixture": empirical(
        graphical(components=2, mean="learned", precision=torch.eye(3)), MeanField(hidden=(4,))
    ),
    "normals": empirical(
        lambda: DistributionPrior(Z, Independents()), MeanField(hidden=(4,), amortised=True)
    ),
}
ALL = TRAININGS | VARIANTS
MODELS = [name for name, training in TRAININGS.items() if training.make is not dict]
SHARED = {
    "ema": 0.9,
    "clip": 1.0,
    "weight_decay": 0.1,
    "warmup": 2,
    "schedule": "one-cycle",
    "validate_every": 2,
}


def trained(name, *, data=0, model=None, weights=7, full=False, **options):
    make, fit, source, own, _ = ALL[name]
    model = make() if model is None else model
    if not isinstance(model, dict):
        model = fixed(model, weights).eval()
    data = source(data)
    options = {"steps": STEPS, "batch_size": 4, "progress": False} | (SHARED | own if full else {}) | options
    state = torch.get_rng_state()
    try:
        card = fit(model, data, **options)
    finally:
        assert torch.equal(torch.get_rng_state(), state)
    found = model["found"] if isinstance(model, dict) else model
    return {key: t.clone() for key, t in found.state_dict().items()}, card


@functools.cache
def whole(name):
    """The weights and card of a training that nothing interrupts."""
    return trained(name, full=True)


def same(a, b):
    return all(torch.equal(t, b[key]) for key, t in a.items())


def at_step(step, action):
    """Let something happen at the end of a step."""
    stepped = Trainer.stepped

    def then(run):
        stepped(run)
        if run.step == step:
            action(run)

    return mock.patch.object(Trainer, "stepped", then)


def press(run):
    signal.raise_signal(signal.SIGINT)


def fail(run):
    raise KilledError("out of memory")


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "end"), [*((name, press) for name in ALL), *((name, fail) for name in TRAININGS)]
)
def test_a_resumed_run_gives_exactly_the_uninterrupted_result(name, end, tmp_path):
    """After Ctrl-C, which keeps the step, and for other ends from the last step that was kept."""
    file = tmp_path / "run"
    often = {"checkpoint_seconds": 0.0} if end is fail else {}
    message = "out of memory" if end is fail else r"after step 3 of 6, .*run holds: resume=True"
    with (
        at_step(4 if end is fail else 3, end),
        pytest.raises((KilledError, KeyboardInterrupt), match=message),
    ):
        trained(name, full=True, **often, checkpoint=file)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert load_state(file, "training")["step"] == 3 and list(tmp_path.iterdir()) == [file]
    frozen = name.startswith(("precision", "encoder"))  # part of the model must be the same
    again, resumed = trained(name, full=True, weights=7 if frozen else 8, checkpoint=file, resume=True)
    right, card = whole(name)
    assert same(right, again) and card == resumed
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("name", TRAININGS)
def test_a_checkpoint_belongs_to_its_run(name, tmp_path):
    file, other = tmp_path / "run", TRAININGS[name].other
    trained(name, checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match=r"checkpoint .*run is there already: .* by resume=True"):
        trained(name, checkpoint=file)
    for change, message in (
        ({"data": 1}, "another run: .*differ"),
        ({"steps": 5, "lr": 0.1}, r"another run: steps was 6 and is 5, lr was 0\.00\d+ and is 0\.1"),
        ({other: TRAININGS[name].options[other]}, f"another run: {other} was .* and is "),
    ):
        with pytest.raises(ValueError, match=f"belongs to {message}"):
            trained(name, **change, checkpoint=file, resume=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", TRAININGS)
def test_the_card_says_it_all(name):
    _, card = whole(name)
    if name == "fine-tuned":
        assert card == {}
        return
    settings = card["training"] if name != "encoder" else card
    expected = {k: list(v) if k == "betas" else v for k, v in TRAININGS[name].options.items()} | SHARED
    known = {k: v for k, v in expected.items() if k not in ("validation", "validate_every")}
    assert settings.items() >= {**known, "steps": STEPS, "batch_size": 4, "seed": 0}.items()
    assert [entry["step"] for entry in card["history"]] == [2, 4, 6]
    assert ("score" in card) == ("validation" in expected)
    if name != "empirical Bayes":  # whose prior moves once more
        assert card.get("score", {}).items() <= card["history"][-1].items()


@pytest.mark.parametrize("name", TRAININGS)
def test_seeds_give_other_results_whatever_torch_s_own(name):
    one, _ = whole(name)
    torch.manual_seed(5)
    again, _ = trained(name, full=True)
    other, _ = trained(name, full=True, seed=1)
    assert same(one, again) and not same(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_an_exception_leaves_modes_and_flags_as_they_were(name):
    model = TRAININGS[name][0]().train()
    parameters = list(model.parameters())
    parameters[-1].requires_grad_(False)
    list(model.modules())[-1].eval()
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in parameters]
    _, fit, source, *_ = TRAININGS[name]
    with at_step(2, fail), pytest.raises(KilledError):
        fit(model, source(0), steps=STEPS, batch_size=4, progress=False)
    assert modes == [m.training for m in model.modules()] and flags == [p.requires_grad for p in parameters]
    fit(model, source(0), steps=STEPS, batch_size=4, progress=False)
    assert not any(m.training for m in model.modules()) and flags == [p.requires_grad for p in parameters]


def poison(run):
    next(p for p in run.module.parameters() if p.requires_grad).data.fill_(torch.nan)


@pytest.mark.parametrize("name", TRAININGS)
def test_weights_that_are_not_finite_are_named_and_never_kept(name, tmp_path):
    file = tmp_path / "run"
    with at_step(STEPS - 1, press), pytest.raises(KeyboardInterrupt):
        trained(name, checkpoint=file)
    before = file.read_bytes()
    with (
        at_step(STEPS, poison),
        pytest.raises(FloatingPointError, match=r"are not finite after step 6: lower lr.*, lr is"),
    ):
        trained(name, checkpoint=file, resume=True)
    assert file.read_bytes() == before
    state = load_state(file, "training")
    key = next(key for key, t in state["model"].items() if t.is_floating_point() and "running" not in key)
    state["model"][key].fill_(torch.nan)
    save_state(file, state, "training")
    with pytest.raises(ValueError, match=r"run can't be used: .* is not finite"):
        trained(name, checkpoint=file, resume=True)


BAD = [
    ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
    ({"steps": 2.5}, TypeError, "steps must be an integer, got 2.5"),
    ({"batch_size": -1}, ValueError, "batch_size must be a positive integer, got -1"),
    ({"lr": 0.0}, ValueError, "lr must be positive and finite, got 0"),
    ({"lr": math.nan}, ValueError, "lr must be positive and finite, got nan"),
    ({"lr": "1"}, TypeError, "lr must be a number, got '1'"),
    ({"schedule": "linear"}, ValueError, "schedule must be one of .* got 'linear'"),
    ({"warmup": -1}, ValueError, "warmup must be a non-negative integer, got -1"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be non-negative and finite, got -1"),
    ({"clip": 0.0}, ValueError, "clip must be positive and finite, got 0"),
    ({"ema": 1.0}, ValueError, "ema must be a number between 0 and 1, got 1"),
    ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    ({"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
    ({"validate_every": 0}, ValueError, "validate_every must be a positive integer, got 0"),
    ({"validate_every": 2.5}, TypeError, "validate_every must be an integer, got 2.5"),
    ({"checkpoint": 3}, TypeError, "checkpoint must be a string or a path, got int"),
    ({"checkpoint_seconds": -1}, ValueError, "checkpoint_seconds must be non-negative, got -1"),
    ({"checkpoint_seconds": "1"}, TypeError, "checkpoint_seconds must be a number, got '1'"),
    ({"resume": True}, ValueError, "resume needs the file to resume from: give checkpoint"),
    ({"resume": 1, "checkpoint": "x"}, TypeError, "resume must be True or False, got 1"),
    ({"step": 1}, TypeError, r"\(\) got an unexpected keyword argument 'step'"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
@pytest.mark.parametrize("name", TRAININGS)
def test_bad_settings(name, change, error, message):
    with pytest.raises(error, match=message):
        trained(name, **change)


@pytest.mark.parametrize("name", TRAININGS)
def test_settings_are_objects_or_keywords(name, tmp_path):
    optimisation = Optimisation(steps=4, batch_size=3, lr=2e-3, clip=1.0, seed=5)
    bookkeeping = Bookkeeping(validate_every=2, progress=False)
    make, fit, source, *_ = TRAININGS[name]
    flat = dataclasses.asdict(optimisation) | dataclasses.asdict(bookkeeping)
    results = []
    for options in (flat, {"optimisation": optimisation, "bookkeeping": bookkeeping}):
        model = make() if make is dict else fixed(make())
        card = fit(model, source(0), **options)
        results.append((model["found"] if make is dict else model, card))
    (one, card), (other, again) = results
    assert same(one.state_dict(), other.state_dict()) and card == again
    with pytest.raises(TypeError, match="give optimisation or its fields as keywords, not both, got steps"):
        fit(model, source(0), optimisation=optimisation, steps=3)
    with pytest.raises(TypeError, match=r"bookkeeping must be a genreg\.training\.Bookkeeping, got dict"):
        fit(model, source(0), optimisation=optimisation, bookkeeping={})
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        fit(model, source(0), optimisation=optimisation, bookkeeping=Bookkeeping(checkpoint=tmp_path / "run"))


def test_signatures_show_the_keywords():
    fields = [f.name for kind in (Optimisation, Bookkeeping) for f in dataclasses.fields(kind)]
    assert list(Keywords.__annotations__) == fields
    shown = inspect.signature(training.fit_gan).parameters
    assert set(shown) > {*fields, "penalty", "optimisation", "bookkeeping"} and "keywords" not in shown
    assert (shown["lr"].default, shown["schedule"].default) == (1e-4, "constant")
    assert shown["steps"].default is inspect.Parameter.empty
    assert "Number of steps.\n" in training.fit_gan.__doc__ and "Seconds between" in training.fit_gan.__doc__
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'steps'"):
        training.fit_gan(GanConfig(generator=PART).build(), images())


def test_checkpoints_are_replaced_atomically(tmp_path, monkeypatch):
    file = tmp_path / "run"
    with at_step(3, press), pytest.raises(KeyboardInterrupt):
        trained("autoencoder", checkpoint=file)
    before = file.read_bytes()

    def failing(tensors, target, header):
        target.write_bytes(b"half of it")
        raise SafetensorError("disk full")

    monkeypatch.setattr(state_files, "save_file", failing)
    with pytest.raises(OSError, match=r"run can't be written: disk full"):
        trained("autoencoder", checkpoint=file, resume=True)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_other_architectures_and_damaged_files_are_refused(tmp_path):
    file = tmp_path / "run"
    trained("autoencoder", checkpoint=file)
    with pytest.raises(ValueError, match="another run: architecture"):
        trained("autoencoder", model=JUDGE.build(), checkpoint=file, resume=True)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="can't be read"):
        trained("autoencoder", checkpoint=file, resume=True)


def test_resuming_from_nothing_says_so(tmp_path, capsys):
    file = tmp_path / "run"
    right, _ = trained("autoencoder")
    begun, _ = trained("autoencoder", checkpoint=file, resume=True, progress=True)
    assert (
        same(right, begun)
        and f"There is no checkpoint {file}: the training starts anew." in capsys.readouterr().err
    )
    trained("autoencoder", checkpoint=file, resume=True, progress=True)
    assert "There is no checkpoint" not in capsys.readouterr().err


def test_checkpoints_go_by_the_clock(tmp_path, monkeypatch):
    clock, saved = iter(range(0, 1000, 50)), []
    monkeypatch.setattr("genreg.training.engine.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(Trainer, "save", lambda run, path: saved.append(run.step))
    trained("autoencoder", checkpoint=tmp_path / "run")
    assert saved == [3, 6]  # 150 and, one look at the clock after the first, 350 s


def test_a_decoder_that_is_another_is_refused(tmp_path):
    for name, words in (
        ("encoder", "images of the decoder differ"),
        ("precision", "encoder and mean differ"),
    ):
        trained(name, checkpoint=tmp_path / name)
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            trained(name, weights=8, checkpoint=tmp_path / name, resume=True)


def test_no_two_runs_share_a_seed():
    plans = [
        Optimisation(steps=1, batch_size=1, lr=1.0, seed=seed) for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**40)
    ]
    seeds = [f(k) for plan in plans for f in (plan.seed_of, plan.images_of) for k in range(300)]
    assert len(set(seeds)) == len(seeds)
