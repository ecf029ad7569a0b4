"""The recipes: their settings, small trainings by them, and the shipped weights that come from them."""

import dataclasses

import pytest
import torch

from genreg import recipes, weights
from genreg.networks import DenseConfig, GanConfig, RegionsConfig, Structured, StructuredConfig
from genreg.recipes.recipe import Data, Recipe
from genreg.recipes.structured import StructuredRecipe
from genreg.training import autoencoder, gan, precision
from genreg.training.gaussian_likelihood import likelihood, log_likelihoods
from genreg.training.settings import Optimisation

VAE = DenseConfig(image_shape=(4, 6), latent_dim=2, encoder=(8,), decoder=(8,))


def images(n, seed=1):
    return torch.rand(n, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_settings_are_those_of_the_training(name):
    recipe = recipes.RECIPES[name]
    options = {GanConfig: gan.Options, StructuredConfig: precision.Options}
    shared = {field.name for field in dataclasses.fields(Optimisation)}
    for settings in (recipe.settings, getattr(recipe, "joint", {})):
        settings = {"steps": 1, "batch_size": 1, "lr": 1.0, **settings}
        Optimisation(**{key: value for key, value in settings.items() if key in shared})
        own = {key: value for key, value in settings.items() if key not in shared}
        options.get(type(recipe.architecture), autoencoder.Options)(**own)


def test_an_autoencoder_is_trained_and_saved(tmp_path):
    file = recipes.train("shapes-ae", tmp_path, quick=True, progress=False)
    model, card = weights.load(file)
    assert card["quick"] and card["name"] == "shapes-ae" and card["training"]["steps"] == 20
    assert card["score"]["range_psnr"] >= card["score"]["psnr"] - 0.5
    assert model.config == recipes.RECIPES["shapes-ae"].architecture
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shapes-ae.json", "shapes-ae.safetensors"]
    with pytest.raises(ValueError, match=r"name must be one of .* got 'nonsense'"):
        recipes.train("nonsense", tmp_path)


@pytest.mark.parametrize("name", weights.shipped())
def test_shipped_weights_come_from_the_recipes(name):
    card = weights.read_card(name)
    recipe = recipes.RECIPES[name]
    assert card["architecture"] == recipe.architecture.to_dict()
    assert card["training"].items() >= {**recipe.settings}.items()


def test_a_gan_is_trained_and_saved(tmp_path, monkeypatch):
    recipe = recipes.RECIPES["shapes-gan"]
    decoder = RegionsConfig(image_shape=(56, 56), latent_dim=10, maximum=0.5, decoder=(8,), regions=1, rank=2)
    critic = DenseConfig(image_shape=(56, 56), latent_dim=1, variational=False, encoder=(8,))
    small = dataclasses.replace(
        recipe,
        architecture=GanConfig(generator=decoder, critic=critic),
        settings={**recipe.settings, "batch_size": 4},
        data=dataclasses.replace(recipe.data, validation=lambda: torch.zeros(2, 56, 56)),
        range_images=5,
    )
    monkeypatch.setitem(recipes.RECIPES, "shapes-gan", small)
    file = recipes.train("shapes-gan", tmp_path, quick=True, progress=False)
    model, card = weights.load(file)
    assert card["quick"] and card["name"] == "shapes-gan" and card["training"]["steps"] == 20
    assert card["data"] == recipe.data.description and card["score"]["restarts"] == 2
    assert model.config == small.architecture and "latent" not in card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shapes-gan.json", "shapes-gan.safetensors"]


@pytest.mark.parametrize("data", ["mnist", "shapes"])
def test_recipes_of_the_paper(data):
    beta = {"mnist": 0.05, "shapes": 0.01}[data]
    for kind in ("ae", "vae", "gan"):
        recipe = recipes.RECIPES[f"{data}-{kind}-duff"]
        with torch.device("meta"):
            model = recipe.architecture.build()
        assert model.latent_dim == {"mnist": 8, "shapes": 10}[data]
        if kind == "gan":
            assert recipe.settings["steps"] == 20_000
            assert [m.out_channels for m in model.critic.modules() if isinstance(m, torch.nn.Conv2d)] == [
                64
            ] * 3
        else:
            assert model.variational == (kind == "vae")
            assert (recipe.settings["steps"], recipe.settings["batch_size"]) == (30_000, 100)
            weight = 2 * recipe.settings["gamma"] ** 2  # of the divergence, when that of the error is one
            assert weight == pytest.approx(beta if kind == "vae" else 1.0)


SMALL = Data(
    description="toy",
    training=lambda: images(40),
    validation=lambda: images(6, seed=2),
    test=lambda: images(6, seed=3),
)


def test_recipe_grows_a_head_on_the_mean_beside_it(tmp_path, monkeypatch):
    recipe = StructuredRecipe(
        mean="toy-vae",
        architecture=StructuredConfig(mean=VAE, channels=(4,), distance=1),
        data=SMALL,
        settings={"steps": 30, "batch_size": 8, "lr": 1e-2},
        joint={"steps": 5, "batch_size": 8, "lr": 1e-4},
    )
    monkeypatch.setitem(recipes.RECIPES, "toy-supn", recipe)
    monkeypatch.setitem(recipes.RECIPES, "toy-diagonal", dataclasses.replace(recipe.diagonal(), joint={}))
    monkeypatch.setitem(recipes.RECIPES, "toy-vae", Recipe(VAE, SMALL, start=dim, range_images=3))
    recipes.train("toy-vae", tmp_path, quick=True, progress=False)
    for name in ("toy-supn", "toy-diagonal"):
        model, card = weights.load(recipes.train(name, tmp_path, quick=True, progress=False))
        assert isinstance(model, Structured) and card["quick"] and card["name"] == name
        assert card["training"]["steps"] == 20 and card["architecture"] == model.config.to_dict()
        assert card["mean"] == {
            "name": "toy-vae",
            "sha256": weights.read_card(tmp_path / "toy-vae")["sha256"],
        }
        assert card["score"] == pytest.approx(likelihood(model, SMALL.test()) | card_extras(model))
        assert ("joint_training" in card) == (name == "toy-supn")
    assert model.config.distance == 0
    mean = weights.load(tmp_path / "toy-vae")[0]
    assert all(
        torch.equal(p, q) for p, q in zip(mean.decoder.parameters(), model.decoder.parameters(), strict=True)
    )
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def card_extras(model):
    return {"gamma": model.log_gamma.exp().item(), "images": 6}


def dim(model):
    model.decoder[-3].bias.data.fill_(-2.0)


@pytest.mark.parametrize(("data", "count"), [("mnist", 200), ("brain", 8)])
def test_shipped_models_share_their_mean_and_structure_pays(data, count, data_dir):
    names = [f"{data}-{kind}" for kind in ("vae", "diagonal", "supn")]
    models = [weights.load(name)[0] for name in names]
    x = recipes.RECIPES[names[-1]].data.test()[:count]
    for model in models[1:]:
        for part in ("encoder", "decoder"):
            one, other = (getattr(m, part).state_dict() for m in (models[0], model))
            assert all(torch.equal(one[key], other[key]) for key in one)
    isotropic, diagonal, structured = (log_likelihoods(model, x)["log_likelihood"] for model in models)
    size = x[0].numel()
    assert ((diagonal - isotropic) / size).mean() > 1.0
    assert ((structured - diagonal) / size).mean() > 0.1
    assert all((weights.FOLDER / f"{name}.safetensors").stat().st_size < 6e6 for name in names)
