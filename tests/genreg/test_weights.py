import json
import shutil

import odl
import pytest
import torch

from genreg import Generator, load_generator, recipes, weights
from genreg.datasets import shapes
from genreg.networks import DenseConfig
from genreg.training import evaluate, range_error

CONFIG = DenseConfig(image_shape=(6, 5), latent_dim=2, encoder=(4,), decoder=(4,))


@pytest.fixture
def saved(tmp_path):
    model = CONFIG.build().eval()
    return model, *weights.save(tmp_path / "deep" / "toy", model, {"name": "toy", "score": {"psnr": 1.0}})


@pytest.mark.parametrize("spelling", ["toy", "toy.safetensors"])
def test_round_trip(saved, spelling):
    model, file, _ = saved
    loaded, card = weights.load(file.parent / spelling)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert card["score"] == {"psnr": 1.0}
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert loaded.config == CONFIG and not loaded.training
    assert weights.read_card(file) == card
    assert sorted(p.name for p in file.parent.iterdir()) == ["toy.json", "toy.safetensors"]


def test_half_precision_loads_as_single(tmp_path, saved):
    model, full, _ = saved
    file, _ = weights.save(tmp_path / "half", model, {}, half=True)
    loaded, _ = weights.load(file)
    assert file.stat().st_size < full.stat().st_size
    assert torch.equal(loaded.log_gamma, model.log_gamma)
    for p, q in zip(loaded.parameters(), model.parameters(), strict=True):
        assert p.dtype == torch.float32 and torch.allclose(p, q, rtol=1e-3, atol=1e-7)


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(
        FileNotFoundError, match=r"shapes-vae.* or an existing safetensors file, got 'nonsense'"
    ):
        weights.load("nonsense")


def test_missing_file_and_card(saved):
    _, file, card = saved
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.safetensors"):
        weights.load(file.parent / "other")
    card.unlink()
    with pytest.raises(FileNotFoundError, match=r"need their card .*toy\.json"):
        weights.load(file)
    with pytest.raises(TypeError, match="name_or_path must be a string or a path, got int"):
        weights.load(3)


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_truncated_or_altered_weights(saved, damage):
    _, file, _ = saved
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"toy\.safetensors are truncated or altered: their SHA-256 must be"):
        weights.load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "truncated or altered"),
        ("[]", "must have the entries"),
        ('{"format": 1}', "must have the entries"),
    ],
)
def test_damaged_card(saved, text, message):
    _, file, card = saved
    card.write_text(text)
    with pytest.raises(ValueError, match=message):
        weights.load(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "must have format 1, got 99"),
        ("architecture", {"name": "magic"}, "architecture name"),
        ("architecture", CONFIG.to_dict() | {"latent_dim": 3}, "don't fit the architecture"),
    ],
)
def test_card_of_another_model(saved, key, value, message):
    _, file, card = saved
    card.write_text(json.dumps(json.loads(card.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=message):
        weights.load(file)


def test_other_file_with_the_right_checksum(saved):
    import hashlib

    _, file, card = saved
    file.write_bytes(b"no safetensors")
    entries = json.loads(card.read_text()) | {"sha256": hashlib.sha256(b"no safetensors").hexdigest()}
    card.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="must be a safetensors file"):
        weights.load(file)


def test_what_cannot_be_saved(tmp_path):
    model = CONFIG.build()
    with pytest.raises(ValueError, match="JSON"):
        weights.save(tmp_path / "toy", model, {"score": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        weights.save(tmp_path / "toy", model, {"score": torch.ones(1)})
    model.log_gamma.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="finite weights, got NaN or infinity in 'log_gamma'"):
        weights.save(tmp_path / "toy", model, {})
    assert list(tmp_path.iterdir()) == []


SHIPPED = [
    "gradients-2-vae",
    "gradients-4-vae",
    "mnist-ae",
    "mnist-vae",
    "mnist-vae-dense",
    "shapes-ae",
    "shapes-vae",
]
GANS = {"mnist-gan": (18.0, 17.0), "shapes-gan": (29.0, 26.0)}  # dB of the best image: card, short search


def test_shipped_weights_are_complete_and_small():
    assert {*SHIPPED, *GANS} <= set(weights.shipped())
    files = [
        weights.FOLDER / f"{name}{end}" for name in weights.shipped() for end in (".safetensors", ".json")
    ]
    assert sum(file.stat().st_size for file in files) <= 40 * 2**20


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_reach_the_score_on_their_card(name, request):
    model, card = weights.load(name)
    assert card["name"] == name and not card["quick"]
    if not name.startswith("shapes"):
        request.getfixturevalue("data_dir")  # skips without data
    score = evaluate(model, recipes.RECIPES[name].data.test())
    for key, value in score.items():
        assert value == pytest.approx(card["score"][key], rel=1e-3)
    assert max(map(abs, card["latent"]["mean"])) < 0.2
    assert all(0.8 < std < 1.2 for std in card["latent"]["std"])


@pytest.mark.parametrize("name", GANS)
def test_shipped_gans_reach_held_out_images_and_keep_their_variety(name, request):
    model, card = weights.load(name)
    assert card["name"] == name and not card["quick"] and not hasattr(model, "encode")
    if name.startswith("mnist"):
        request.getfixturevalue("data_dir")  # skips without data
    assert card["score"]["range_psnr"] > GANS[name][0]
    images = recipes.RECIPES[name].data.test()[:500]
    score = range_error(model, images[:5], steps=100, lr=0.1, restarts=4)
    assert score["range_psnr"] > GANS[name][1]
    z = torch.randn(500, model.latent_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        samples = model.decode(z)
    assert (samples.mean(0) - images.mean(0)).abs().mean() < 0.03
    assert samples.var(0).sum().item() == pytest.approx(images.var(0).sum().item(), rel=0.2)


def test_shapes_models_reconstruct_new_images():
    images = shapes(500, seed=77)
    for name, least in (("shapes-vae", 45.0), ("shapes-ae", 40.0)):
        assert evaluate(weights.load(name)[0], images)["psnr"] > least


def test_shipped_weights_load_from_a_copy_and_by_name(tmp_path):
    for end in (".safetensors", ".json"):
        shutil.copy(weights.FOLDER / f"shapes-vae{end}", tmp_path / f"mine{end}")
    z = torch.randn(2, 10)
    assert torch.equal(weights.load(tmp_path / "mine")[0].decode(z), weights.load("shapes-vae")[0].decode(z))


def test_a_generator_without_a_space_has_that_of_its_images(saved):
    G = load_generator(saved[1])
    assert G.range == odl.uniform_discr([0, 0], [6, 5], (6, 5), dtype="float32")
    assert G.range.cell_sides.tolist() == [1.0, 1.0]


def test_a_size_that_does_not_fit_is_named():
    X = odl.uniform_discr([-1, -1], [1, 1], (160, 160), dtype="float32")
    with pytest.raises(ValueError, match=r"^weights brain-supn make 128 x 128 images, range is 160 x 160$"):
        load_generator("brain-supn", range=X)
    with pytest.raises(ValueError, match=r"^the model Autoencoder makes 6 x 5 images, range is 5 x 6$"):
        Generator(CONFIG.build(), odl.rn((5, 6), dtype="float32"))
    assert Generator(CONFIG.build(), odl.rn((6, 5), dtype="float32")).range.shape == (6, 5)
