"""What all trainings have in common: Ctrl-C, checkpoints and what they belong to, seeds, the state they leave."""

import signal
from unittest import mock

import odl
import pytest
import torch

from genreg import GaussianFidelity, Generator, empirical_bayes, training
from genreg.empirical_bayes import FullCovariance, GaussianGraphicalModel, GraphicalLasso
from genreg.networks import (
    CriticConfig,
    DenseConfig,
    GanConfig,
    GaussianRegressorConfig,
    StructuredConfig,
)
from genreg.operators import gaussian_measurements
from genreg.solvers.checkpoints import load_state, save_state
from genreg.training.amortised_encoder import fit_encoder
from genreg.training.engine import State
from genreg.training.flow import fit_flow
from genreg.training.precision import fit_precision
from genreg.training.settings import Plan

PART = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,))
JUDGE = DenseConfig(image_shape=(4, 6), latent_dim=1, encoder=(8,), decoder=(8,), variational=False)
STEPS = 6


def images(seed=0, n=8):
    return torch.rand(n, 4, 6, generator=torch.Generator().manual_seed(seed))


def pairs_of(seed):
    def pairs(n, *, seed, other=seed):
        x = torch.rand(n, 4, 6, generator=torch.Generator().manual_seed(seed)).roll(other, 0)
        return x, (x + other).clamp(0, 1) * 0.9

    return pairs


def sampler(seed):
    return lambda n, *, seed, other=seed: images(seed + other, n)


def generator():
    return Generator(fixed(PART.build()), odl.uniform_discr([0, 0], [4, 6], (4, 6), dtype="float32"))


def fixed(model, seed=7):
    """The model with weights of its own random numbers."""
    random = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.copy_(0.3 * torch.randn(p.shape, generator=random))
    return model


def observations(seed):
    space = odl.rn(3)
    A = gaussian_measurements(space, 4, seed=0)
    return GaussianFidelity(
        A, torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)).double(), 0.3
    )


def encoder_of_observations(model, data, **options):
    prior = GaussianGraphicalModel(odl.rn(3), estimator=GraphicalLasso(lam=0.1))
    found = empirical_bayes.fit(data, prior, FullCovariance(hidden=(4,)), n_critic=2, dense=1, **options)
    model["found"] = found.encoder
    return found.card


def flow(model, data, **options):
    model["found"] = fit_flow(
        data, transforms=1, hidden=(4,), bins=4, noise="gaussian", dequantise=0.1, **options
    )
    return model["found"].card


TRAININGS = {
    "autoencoder": (lambda: PART.build(), training.fit, images),
    "sampled": (lambda: PART.build(), training.fit, sampler),
    "gan": (lambda: GanConfig(generator=PART, critic=JUDGE).build(), training.fit_gan, images),
    "flow": (dict, flow, lambda seed: images(seed, 40).flatten(1)[:, :4].unflatten(1, (2, 2))),
    "discriminator": (
        lambda: CriticConfig(body=JUDGE).build(),
        lambda model, data, **options: training.fit_discriminator(model, *data, **options),
        lambda seed: (generator(), images(seed)),
    ),
    "regressor": (
        lambda: GaussianRegressorConfig(image_shape=(4, 6), channels=(4,)).build(),
        lambda model, x, **options: training.distil(model, x, 0.5 * x, **options),
        images,
    ),
    "precision": (
        lambda: StructuredConfig(mean=PART, channels=(4,), distance=1).build(),
        fit_precision,
        images,
    ),
    "encoder": (lambda: PART.build(), fit_encoder, pairs_of),
    "empirical Bayes": (dict, encoder_of_observations, observations),
}
MODELS = [name for name, (make, _, _) in TRAININGS.items() if make is not dict]


def trained(name, *, data=0, model=None, weights=7, **options):
    make, fit, source = TRAININGS[name]
    model = make() if model is None else model
    if not isinstance(model, dict):
        model = fixed(model, weights).eval()
    data = source(data)
    state = torch.get_rng_state()
    try:
        card = fit(model, data, **{"steps": STEPS, "batch_size": 4, "progress": False} | options)
    finally:
        assert torch.equal(torch.get_rng_state(), state)
    found = model["found"] if isinstance(model, dict) else model
    return {key: t.clone() for key, t in found.state_dict().items()}, card


def same(a, b):
    return all(torch.equal(t, b[key]) for key, t in a.items())


def at_step(step, action):
    """Let something happen at the end of a step."""
    stepped = State._stepped

    def then(run):
        stepped(run)
        if run.step == step:
            action(run)

    return mock.patch.object(State, "_stepped", then)


def press(run):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", TRAININGS)
def test_ctrl_c_writes_a_checkpoint_that_continues_exactly(name, tmp_path):
    file = tmp_path / "run"
    whole, card = trained(name)
    with (
        at_step(3, press),
        pytest.raises(KeyboardInterrupt, match=r"after step 3 of 6, .*run holds: resume=True"),
    ):
        trained(name, checkpoint=file)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert load_state(file, "training")["step"] == 3
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match=r"checkpoint .*run is there already: .* by resume=True"):
        trained(name, checkpoint=file)
    with pytest.raises(ValueError, match=r"belongs to another run: .*differ"):
        trained(name, data=1, checkpoint=file, resume=True)
    assert file.read_bytes() == before
    frozen = name in ("precision", "encoder")  # part of the model must be the same
    again, resumed = trained(name, weights=7 if frozen else 8, checkpoint=file, resume=True)
    assert same(whole, again) and card == resumed


@pytest.mark.parametrize("name", TRAININGS)
def test_seeds_give_other_results_whatever_torch_s_own(name):
    one, _ = trained(name)
    torch.manual_seed(5)
    again, _ = trained(name)
    other, _ = trained(name, seed=1)
    assert same(one, again) and not same(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_an_exception_leaves_modes_and_flags_as_they_were(name):
    model = TRAININGS[name][0]().train()
    parameters = list(model.parameters())
    parameters[-1].requires_grad_(False)
    list(model.modules())[-1].eval()
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in parameters]
    _, fit, source = TRAININGS[name]

    def fail(run):
        raise RuntimeError("out of memory")

    with at_step(2, fail), pytest.raises(RuntimeError, match="out of memory"):
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


def test_resuming_from_nothing_says_so(tmp_path, capsys):
    file = tmp_path / "run"
    whole, _ = trained("autoencoder")
    begun, _ = trained("autoencoder", checkpoint=file, resume=True, progress=True)
    assert (
        same(whole, begun)
        and f"There is no checkpoint {file}: the training starts anew." in capsys.readouterr().err
    )
    trained("autoencoder", checkpoint=file, resume=True, progress=True)
    assert "There is no checkpoint" not in capsys.readouterr().err


def test_checkpoints_go_by_the_clock(tmp_path, monkeypatch):
    clock, saved = iter(range(0, 1000, 50)), []
    monkeypatch.setattr("genreg.training.engine.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(State, "save", lambda run, path: saved.append(run.step))
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
        Plan(steps=1, batch_size=1, lr=1.0, schedule="constant", warmup=0, ema=None, seed=seed)
        for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**40)
    ]
    seeds = [f(k) for plan in plans for f in (plan.seed_of, plan.images_of) for k in range(300)]
    assert len(set(seeds)) == len(seeds)
