"""Priors of own images: what is trained, kept, resumed and refused, and in which units the images are."""

import dataclasses
import json
import math
import signal

import numpy as np
import odl
import pytest
import torch

from genreg import load_generator, weights
from genreg.datasets import MixedImages
from genreg.own_images import PriorSettings, folder_prior, outcome, stages, train_prior
from genreg.own_images.stages import Crops, ended, steps_within, train_mean, train_precision
from genreg.training.autoencoder import AutoencoderTrainer
from genreg.training.gaussian_likelihood import likelihood, log_likelihoods
from genreg.training.precision import PrecisionTrainer

TINY = PriorSettings(
    crop=16,
    channels=(3, 4),
    top_channels=(3,),
    latent_channels=2,
    top_latent_channels=1,
    head_channels=(3,),
    distance=1,
    steps=6,
    precision_steps=4,
    batch_size=2,
    held_out=0.4,
)


def problem(joint, hard, tv, unfinished=0):
    """The entry of a problem in the comparison with TV."""
    own = {"JointPrior": joint, "HardConstraint": hard}
    best = max(own, key=own.__getitem__)
    estimates = {k: {"psnr": v, "unfinished": unfinished, "warnings": []} for k, v in own.items()}
    return {"prior": own[best], "best": best, "tv": tv, "lam": 1.0, "noise_std": 0.1, "estimates": estimates}


COMPARED = {
    "denoising": problem(28.0, 30.0, 29.0, unfinished=1),
    "tomography": problem(25.0, 24.0, 26.0),
    "images": 2,
    "side": 16,
}


def blobs(count=8, scale=1.0, offset=0.0):
    """Smooth images of two sizes."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for k in range(count):
        rows, columns = (20, 17) if k % 2 else (16, 24)
        coarse = torch.rand((1, 1, 4, 4), generator=generator)
        x = torch.nn.functional.interpolate(coarse, (rows, columns), mode="bilinear", align_corners=True)
        found.append(scale * x[0, 0].clamp(0.1, 0.9) + offset)
    names = tuple(f"{k}.npy" for k in range(count))
    return MixedImages(tuple(found), names, names)


class NoFigure:
    def savefig(self, part, **options):
        part.write_bytes(b"")


@pytest.fixture(scope="module")
def alone():
    """The training without picture and comparison with TV, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_prior, "compare", lambda *args, **kwargs: COMPARED)
        patch.setattr(folder_prior, "picture", lambda *args, **kwargs: NoFigure())
        yield


@pytest.fixture
def train(alone, tmp_path):
    def run(out="runs", images=None, **options):
        given = {"settings": TINY, "progress": False, **options}
        return train_prior(blobs() if images is None else images, "mine", out=tmp_path / out, **given)

    return run


@pytest.fixture(scope="module")
def whole(alone, tmp_path_factory):
    """A prior that nothing interrupted."""
    return train_prior(blobs(), "mine", out=tmp_path_factory.mktemp("whole"), settings=TINY, progress=False)


def tensors(prior):
    return weights.load(prior.file)[0].state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_written(train, tmp_path):
    skipping = dataclasses.replace(blobs(), skipped={"bad.png": "it can't be read: damaged"})
    prior = train(images=skipping, settings=dataclasses.replace(TINY, diagonal=True))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "mine.json",
        "mine.png",
        "mine.safetensors",
    ]
    model, card = weights.load(prior.file)
    assert (
        prior.card == card
        and card["architecture"] == TINY.architecture().to_dict()
        and card["name"] == "mine"
    )
    data = card["data"]
    assert (data["training"], data["held_out"], data["test"], data["images"]) == (5, 1, 2, 8)
    assert data["skipped"] == {"bad.png": "it can't be read: damaged"} and not data["test_chose_weights"]
    assert (data["smallest"], data["largest"]) == ([16, 24], [20, 17])
    assert card["settings"]["steps"] == 6 and card["quick"] is False and card["comparison"] == COMPARED
    assert card["units"]["offset"] == pytest.approx(0.1, abs=0.05)
    assert card["units"]["scale"] == pytest.approx(0.8, abs=0.1)
    for stage in ("mean", "precision", "diagonal"):
        assert card["stages"][stage]["kept_step"] in [e["step"] for e in card["stages"][stage]["history"]]
    text = prior.summary()
    assert (
        "5 images to train on, 1 to choose weights by, 1 skipped; measured on 2 that nothing was chosen"
        in text
    )
    unfinished = "(1 of 2 images not converged)"
    assert (
        f"denoising: JointPrior 28.00 dB {unfinished}, HardConstraint 30.00 dB {unfinished}; TV with" in text
    )
    assert (
        "tomography: JointPrior 25.00 dB, HardConstraint 24.00 dB; TV with its best weight 26.00 dB" in text
    )
    last = "This prior beats TV on your held-out images in denoising (by HardConstraint), not in tomography."
    assert text.endswith(last)
    # the scores are those of the stored model on the images that nothing was chosen by
    units, images = card["units"], [blobs().images[int(name[0])] for name in data["test_images"]]
    own = [likelihood(model.at(tuple(x.shape)), (x[None] - units["offset"]) / units["scale"]) for x in images]
    assert card["score"]["nats"]["SUPN"] == pytest.approx(sum(one["nats"] for one in own) / 2, rel=1e-4)
    assert card["score"]["nats"].keys() == {"isotropic", "diagonal", "SUPN"} and card["score"]["images"] == 2


def test_units_are_those_of_the_files(train, whole):
    """Images times s plus a make the same model, whose generator gives images times s plus a."""
    s, a = 1500.0, -1000.0
    plain, units = whole, train("units", images=blobs(scale=s, offset=a))
    assert units.card["units"]["scale"] == pytest.approx(s * plain.card["units"]["scale"], rel=1e-4)
    X = odl.uniform_discr([0, 0], [1, 1], (19, 30), dtype="float32")
    G, H = load_generator(plain.file, X), load_generator(units.file, X)
    assert (H.scale, H.offset) == (units.card["units"]["scale"], units.card["units"]["offset"])
    torch.testing.assert_close(H.sample(2, seed=0), s * G.sample(2, seed=0) + a, rtol=1e-3, atol=1.0)
    assert H.std == pytest.approx(s * G.std, rel=1e-3)
    model = load_generator(units.file, X, scale=1.0, offset=0.0)
    torch.testing.assert_close(H.sample(1, seed=1), H.scale * model.sample(1, seed=1) + H.offset)
    given = train("given", settings=dataclasses.replace(TINY, range=(-1.0, 3.0)))
    assert given.card["units"] == {"scale": 4.0, "offset": -1.0}


@pytest.mark.parametrize(("stage", "step"), [(AutoencoderTrainer, 3), (PrecisionTrainer, 2)])
def test_resumed_is_uninterrupted(train, whole, monkeypatch, stage, step):
    advance = stage.advance

    def pressed(run):
        if run.step == step:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "advance", pressed)
        with pytest.raises(KeyboardInterrupt, match=f"after step {step + 1}"):
            train()
    with pytest.raises(FileExistsError, match="resume=True"):
        train()
    with pytest.raises(
        ValueError, match=r"run .*mine.run.json belongs to another run: batch_size was 2 and is 3"
    ):
        train(settings=dataclasses.replace(TINY, batch_size=3), resume=True)
    with pytest.raises(ValueError, match="belongs to another run: images differ"):
        train(images=blobs(9), resume=True)
    resumed = train(resume=True)
    assert same(tensors(whole), tensors(resumed))
    assert {k: v for k, v in resumed.card.items() if k != "comparison"} == {
        k: v for k, v in whole.card.items() if k != "comparison"
    }
    with pytest.raises(FileExistsError, match=r"weights .*mine.safetensors are there already"):
        train(resume=True)


def test_steps_chosen_by_time_stay_those_of_the_run(train, monkeypatch, tmp_path):
    calls = []

    def chosen(minutes, crops, settings):
        calls.append(minutes)
        return dataclasses.replace(settings, steps=3, precision_steps=2)

    monkeypatch.setattr(folder_prior, "steps_within", chosen)
    with monkeypatch.context() as patch:
        patch.setattr(PrecisionTrainer, "advance", lambda run: signal.raise_signal(signal.SIGINT) or run.loss)
        with pytest.raises((KeyboardInterrupt, AttributeError)):
            train(minutes=1)
    assert json.loads((tmp_path / "runs" / "mine.run.json").read_text())["settings"]["steps"] == 3
    by_time = train(minutes=1, resume=True)
    assert calls == [1] and by_time.card["settings"]["steps"] == 3
    by_steps = train("again", settings=dataclasses.replace(TINY, steps=3, precision_steps=2))
    assert same(tensors(by_time), tensors(by_steps))


def crops():
    images = blobs()
    return Crops.of(images.take(range(5)), images.take(range(5, 8)), TINY)


def test_held_out_residuals_bound_gamma_and_precision():
    mean, card = train_mean(crops(), TINY, progress=False)
    held_out = crops().held_out
    error = log_likelihoods(mean, held_out, sampled=True)["squared_error"].mean().item()
    assert card["gamma"] == pytest.approx(math.sqrt(error)) == pytest.approx(mean.log_gamma.exp().item())
    model, card = train_precision(mean, crops(), TINY, distance=1, progress=False)
    whitened = log_likelihoods(model, held_out, sampled=True)["whitened"].mean().item()
    assert whitened == pytest.approx(1.0, abs=0.02) and card["scale"] > 0
    diagonal, _ = train_precision(mean, crops(), TINY, distance=0, progress=False)
    assert diagonal.decode_factor(diagonal.encode(held_out[:1]))[1] is None


def test_a_training_that_over_fits_ends_and_says_so(monkeypatch):
    losses = iter([3.0, 1.0, *range(2, 50)])
    score = AutoencoderTrainer.score
    monkeypatch.setattr(AutoencoderTrainer, "score", lambda run: score(run) | {"loss": float(next(losses))})
    settings = dataclasses.replace(TINY, steps=40, patience=3)
    _, card = train_mean(crops(), settings, progress=False)
    assert ended(card) == "over-fitted: ended after step 10 of 40, the weights are those of step 4"
    whole = card | {"history": [*card["history"], {"step": 40}]}
    assert ended(whole) == "40 steps, the weights are those of step 4"


def test_steps_within_a_time(monkeypatch):
    clock = [0.0]

    def takes(seconds):
        def run(*args, **kwargs):
            settings = next(a for a in args if isinstance(a, PriorSettings))
            clock[0] += 7.0 + seconds * settings.steps
            return None, {}

        return run

    monkeypatch.setattr(stages.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(stages, "train_mean", takes(0.1))
    monkeypatch.setattr(stages, "train_precision", takes(0.2))
    found = steps_within(1.0, crops(), TINY)
    assert (found.steps, found.precision_steps) == (360, 120)  # 36 s and 24 s
    assert steps_within(0.01, crops(), TINY).steps == 100


def test_one_image_held_out_is_said_to_choose_and_to_measure(train):
    prior = train(images=blobs(3))
    assert prior.card["data"]["test_chose_weights"]
    assert "measured on 1 that chose the weights" in prior.summary()


def test_a_structured_precision_that_is_no_better_is_reported(whole):
    prior = whole
    worse = json.loads(json.dumps(prior.card))
    worse["score"]["nats"] = {"isotropic": 2.0, "SUPN": 1.9}
    worse["comparison"]["denoising"]["prior"] = None
    for estimate in worse["comparison"]["denoising"]["estimates"].values():
        estimate["psnr"] = None
    worse["comparison"]["tomography"]["estimates"]["JointPrior"]["warnings"] = ["inexact conjugate gradients"]
    text = dataclasses.replace(prior, card=worse).summary()
    beta = (prior.card["units"]["scale"] * prior.card["stages"]["mean"]["gamma"]) ** -2
    assert f"no better than a simpler one on held-out images: JointPrior(G, beta={beta:.6g})" in text
    assert "denoising: JointPrior failed, HardConstraint failed; TV" in text
    assert "tomography: JointPrior 25.00 dB (with warnings), HardConstraint 24.00 dB; TV" in text
    assert "This prior does not beat TV on your held-out images: use TV, or train longer" in text
    assert (
        "no better"
        not in dataclasses.replace(
            prior, card=worse | {"score": worse["score"] | {"nats": {"isotropic": 2.0, "SUPN": 2.1}}}
        ).summary()
    )


def test_a_quick_run_on_files_says_so(train, tmp_path):
    for k, x in enumerate(blobs(5).images):
        np.save(tmp_path / f"{k}.npy", x.numpy())
    prior = train(images=tmp_path, quick=True, minutes=99)
    assert prior.card["quick"] and prior.card["settings"]["steps"] == 20
    assert prior.summary().startswith("a quick run, to see that it works: the figures say nothing")
    assert "beat" not in prior.summary()


def test_picture(whole):
    figure = outcome.picture(weights.load(whole.file)[0], blobs().mapped(0.8, 0.1))
    axes = figure.axes
    rows = ["held out", "reconstruction", "sample, mean", "sample"]
    assert len(axes) == 4 * 4 and [ax.get_ylabel() for ax in axes[::4]] == rows
    shown = [np.asarray(ax.images[0].get_array()) for ax in axes]
    assert all(x.shape == (16, 16) and np.isfinite(x).all() for x in shown)
    assert np.abs(shown[12] - shown[8]).max() > 0.1  # what the mean leaves open


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"crop": 15}, "crop must be"),
        ({"channels": ()}, "channels must be"),
        ({"range": (1.0, 1.0)}, "range must be two increasing numbers"),
        ({"range": (0.0, math.nan)}, "range must be"),
        ({"held_out": 1.0}, "held_out must be"),
        ({"steps": 0}, "steps must be"),
        ({"head_channels": ()}, "channels must be"),
        ({"crop": 16, "distance": 16}, "neighbourhood smaller than the image"),
    ],
)
def test_wrong_settings(options, match):
    with pytest.raises(ValueError, match=match):
        PriorSettings(**options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"name": "shapes-vae"},
            ValueError,
            "must not be that of a shipped recipe where images are given, got 'sha",
        ),
        ({"name": "a/b"}, ValueError, "name must be letters"),
        ({"name": 3}, TypeError, "name must be a string"),
        ({"minutes": 0}, ValueError, "minutes must be"),
        ({"settings": {}}, TypeError, "settings must be PriorSettings"),
        ({"images": "nowhere"}, FileNotFoundError, "must be a folder of images"),
    ],
)
def test_wrong_arguments(tmp_path, options, error, match):
    given = {"images": blobs(), "name": "mine", "out": tmp_path, **options}
    with pytest.raises(error, match=match):
        train_prior(given.pop("images"), given.pop("name"), **given)
    assert not list(tmp_path.iterdir())


def test_images_that_are_too_small_for_the_crop(tmp_path):
    with pytest.raises(ValueError, match=r"images must have at least 32 rows and columns, got 1[67]"):
        train_prior(blobs(), "mine", out=tmp_path, settings=dataclasses.replace(TINY, crop=32))
