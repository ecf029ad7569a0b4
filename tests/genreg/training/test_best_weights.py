"""The best weights by held-out data: kept, counted on with patience, and the same after an interruption."""

import pytest
import torch

from genreg import training
from genreg.networks import DenseConfig, GanConfig, StructuredConfig
from genreg.training import Optimisation

SHAPE = (6, 6)
CONFIG = DenseConfig(image_shape=SHAPE, latent_dim=4, encoder=(32,), decoder=(32,), maximum=None)


def images(n, seed):
    """Few images for many weights: a training on them over-fits."""
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


X, HELD_OUT = images(4, 0), images(20, 1)
RUN = {
    "steps": 200,
    "batch_size": 4,
    "lr": 3e-3,
    "validation": HELD_OUT,
    "validate_every": 10,
    "progress": False,
}


def built(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CONFIG.build()


def losses(card):
    return [entry["loss"] for entry in card["history"]]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_best_weights_are_kept(ema):
    last, best = built(), built()
    over_fitted = training.fit(last, X, ema=ema, **RUN)
    card = training.fit(best, X, ema=ema, keep_best=True, **RUN)
    assert losses(card) == losses(over_fitted)  # the way is the same
    assert min(losses(card)) < losses(card)[-1]
    assert card["history"][losses(card).index(min(losses(card)))]["step"] == card["kept_step"]
    assert training.evaluate(best, HELD_OUT)["loss"] == pytest.approx(min(losses(card)), rel=1e-6)
    assert card["score"]["loss"] == min(losses(card)) and over_fitted["score"]["loss"] == losses(card)[-1]
    assert "kept_step" not in over_fitted and not best.training


def test_patience_ends_a_training_that_over_fits(capsys):
    model = built()
    card = training.fit(model, X, patience=3, **(RUN | {"progress": True}))
    steps = [entry["step"] for entry in card["history"]]
    assert steps[-1] == card["kept_step"] + 30 < 200
    assert (
        f"ends after step {steps[-1]} of 200: it over-fits since step {card['kept_step']}"
        in capsys.readouterr().err
    )
    assert training.evaluate(model, HELD_OUT)["loss"] == pytest.approx(min(losses(card)), rel=1e-6)


def test_an_interruption_changes_nothing(tmp_path, monkeypatch):
    settings = RUN | {"patience": 3, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}
    right, model = built(), built()
    card = training.fit(right, X, **{**settings, "checkpoint": None})
    advance, killed = training.autoencoder.AutoencoderTrainer.advance, card["kept_step"] + 15

    def until(self):
        if self.step == killed:
            raise RuntimeError("killed")
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.autoencoder.AutoencoderTrainer, "advance", until)
        with pytest.raises(RuntimeError, match="killed"):
            training.fit(model, X, **settings)
    for again in range(2):  # from the middle, and what has ended
        other = built(again)
        assert training.fit(other, X, resume=True, **settings)["history"] == card["history"]
        assert all(
            torch.equal(a, b)
            for a, b in zip(other.state_dict().values(), right.state_dict().values(), strict=True)
        )
    with pytest.raises(ValueError, match="patience was 3 and is 4"):
        training.fit(model, X, resume=True, **settings | {"patience": 4})


def test_more_likelihood_is_better():
    model = StructuredConfig(mean=CONFIG, channels=(4,), distance=1).grow(built())
    settings = RUN | {"steps": 12, "lr": 0.3, "validate_every": 2}
    card = training.fit_precision(model, X, keep_best=True, **settings)
    nats = [entry["nats_sampled"] for entry in card["history"]]
    assert card["history"][nats.index(max(nats))]["step"] == card["kept_step"]
    assert card["score"]["nats_sampled"] == max(nats)


def test_what_is_refused():
    gan = GanConfig(generator=CONFIG).build()
    with pytest.raises(
        ValueError, match="keep_best and patience need a training whose score tells better from worse"
    ):
        training.fit_gan(gan, X, steps=1, keep_best=True, validation=HELD_OUT, progress=False)
    with pytest.raises(ValueError, match="keep_best and patience need held-out data"):
        training.fit(built(), X, steps=1, patience=2, progress=False)
    for change, error, message in (
        ({"keep_best": 1}, TypeError, "keep_best must be True or False, got 1"),
        ({"patience": 0}, ValueError, "patience must be a positive integer, got 0"),
    ):
        with pytest.raises(error, match=message):
            Optimisation(steps=1, batch_size=1, lr=1.0, **change)
