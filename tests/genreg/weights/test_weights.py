import json
import shutil

import odl
import pytest
import torch

from genreg import Generator, load_generator, recipes, weights
from genreg.datasets import shapes
from genreg.networks import ConvConfig, DenseConfig, StructuredConfig
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
        ("null", "must have the entries"),
        ("[" * 100_000, "truncated or altered"),
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
        (
            "architecture",
            CONFIG.to_dict() | {"latent_dim": 3},
            r"toy.safetensors don't fit the architecture .* '.*' must have the shape",
        ),
        ("format", True, "must have format 1, got True"),
        ("format", "1", "must have format 1, got '1'"),
        ("architecture", [], r"toy.json must describe an architecture, got \[\]"),
        ("architecture", None, r"toy.json must describe an architecture, got None"),
        (
            "architecture",
            {"name": ["dense"]},
            r"toy.json must describe an architecture: architecture name must",
        ),
        ("architecture", {"name": "dense"}, r"toy.json must describe .*missing 2 required"),
        ("architecture", CONFIG.to_dict() | {"extra": 1}, r"toy.json must describe .*'extra'"),
        (
            "architecture",
            CONFIG.to_dict() | {"latent_dim": "2"},
            r"toy.json .*latent_dim must be int, got '2'",
        ),
        ("architecture", CONFIG.to_dict() | {"latent_dim": 2.0}, r"latent_dim must be int, got 2.0"),
        ("architecture", CONFIG.to_dict() | {"latent_dim": True}, r"latent_dim must be int, got True"),
        ("architecture", CONFIG.to_dict() | {"image_shape": "65"}, r"image_shape must be tuple.*, got '65'"),
        (
            "architecture",
            CONFIG.to_dict() | {"image_shape": [6.0, 5]},
            r"image_shape must be tuple.*, got \[6.0, 5\]",
        ),
        ("architecture", CONFIG.to_dict() | {"encoder": None}, r"encoder must be tuple.*, got None"),
        (
            "architecture",
            CONFIG.to_dict() | {"encoder": [-4]},
            r"toy.json must describe an architecture: .*-4",
        ),
        (
            "architecture",
            CONFIG.to_dict() | {"decoder": [10**30]},
            r"toy.json must describe an architecture: ",
        ),
        (
            "architecture",
            CONFIG.to_dict() | {"encoder": [10**12]},
            r"don't fit .* must have the shape \(1000000000000,",
        ),
        ("architecture", CONFIG.to_dict() | {"variational": "no"}, r"variational must be bool, got 'no'"),
        ("architecture", CONFIG.to_dict() | {"maximum": [1]}, r"maximum must be float \| None, got \[1\]"),
        (
            "architecture",
            {"name": "gan", "generator": {"name": 3}},
            r"toy.json must describe .* architecture name",
        ),
        (
            "architecture",
            {"name": "gan", "generator": 3},
            r"toy.json must describe .* generator must be a config",
        ),
        ("sha256", None, "toy.json must have 64 hexadecimal digits as sha256, got None"),
        ("sha256", "xyz", "toy.json must have 64 hexadecimal digits as sha256, got 'xyz'"),
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


def replaced(saved, **tensors):
    """Other tensors in the file, and a card with the digest of that."""
    import hashlib

    from safetensors.torch import save

    model, file, card = saved
    state = {name: tensor for name, tensor in (model.state_dict() | tensors).items() if tensor is not None}
    file.write_bytes(save(state))
    entries = json.loads(card.read_text()) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    card.write_text(json.dumps(entries))
    return file


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor(float("nan")), "'log_gamma' must be finite, got NaN or infinity"),
        (torch.tensor(float("-inf"), dtype=torch.float16), "'log_gamma' must be finite, got NaN or infinity"),
        (torch.tensor(0.0, dtype=torch.float64), "'log_gamma' must be float32 or float16, got float64"),
        (torch.tensor(0.0, dtype=torch.bfloat16), "'log_gamma' must be float32 or float16, got bfloat16"),
        (torch.tensor(0), "'log_gamma' must be float32 or float16, got int64"),
        (torch.zeros(2), r"'log_gamma' must have the shape \(\), got \(2,\)"),
        (None, "there is no 'log_gamma'"),
    ],
)
def test_tensors_that_do_not_fit_though_the_digest_does(saved, tensor, message):
    file = replaced(saved, log_gamma=tensor)
    with pytest.raises(
        ValueError, match=rf"toy.safetensors don't fit the architecture of their card: {message}"
    ):
        weights.load(file)


def test_more_tensors_than_the_model_has(saved):
    with pytest.raises(ValueError, match=r"toy.safetensors don't fit .*: there are 'more', which it has not"):
        weights.load(replaced(saved, more=torch.zeros(1)))


def test_precision_is_the_one_of_the_card(tmp_path):
    """Double precision is kept where all of a model has it; a part of it is rounded."""
    model = CONFIG.build().double()
    loaded, card = weights.load(weights.save(tmp_path / "toy", model, {})[0])
    assert card["precision"] == "float64"
    for p, q in zip(loaded.parameters(), model.parameters(), strict=True):
        assert p.dtype == torch.float64 and torch.equal(p, q)
    model.log_gamma.data = model.log_gamma.data.float()
    file, entries = weights.save(tmp_path / "toy", model, {})
    loaded, card = weights.load(file)
    assert card["precision"] == "float32"
    for p, q in zip(loaded.parameters(), model.parameters(), strict=True):
        assert p.dtype == torch.float32 and torch.equal(p, q.float())
    entries.write_text(json.dumps(card | {"precision": "float64"}))
    with pytest.raises(ValueError, match=r"toy.safetensors don't fit .* must be float64, got float32"):
        weights.load(file)
    entries.write_text(json.dumps(card | {"precision": ["float16"]}))
    with pytest.raises(
        ValueError, match=r"toy.json must have precision 'float32' or 'float64', got \['float16'\]"
    ):
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
    score = range_error(model, images[:3], steps=100, lr=0.1, restarts=4)
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


def test_the_default_data_type_changes_nothing():
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model, _ = weights.load("shapes-vae")
    finally:
        torch.set_default_dtype(kept)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_models_of_one_mean_share_its_tensors(tmp_path):
    mean = ConvConfig(image_shape=(8, 8), latent_dim=2, channels=(4,)).build()
    model = StructuredConfig(mean=mean.config, channels=(4,), distance=1).grow(mean)
    (alone, _), (other, _) = (
        weights.save(tmp_path / n, m, {}) for n, m in (("whole", model), ("mean", mean))
    )
    file, card = weights.save(tmp_path / "shared", model, {}, shared="mean")
    assert file.stat().st_size < alone.stat().st_size - 4 * sum(p.numel() for p in mean.parameters())
    found, entries = weights.load(file)
    assert entries["shared"]["name"] == "mean"
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert "shared" not in weights.load(weights.save(tmp_path / "again", found, entries)[0])[1]
    with pytest.raises(ValueError, match="shared must be the name of weights in the same folder"):
        weights.save(tmp_path / "bad", model, {}, shared="../mean")
    mean.log_gamma.data += 1
    weights.save(other, mean, {})
    with pytest.raises(ValueError, match=r"share tensors with 'mean' of the SHA-256 .*, which .* has not"):
        weights.load(file)
    other.unlink()
    with pytest.raises(FileNotFoundError, match="share tensors with 'mean', but there is no file"):
        weights.load(file)
    card.write_text(card.read_text().replace('"name": "mean"', '"name": 3'))
    with pytest.raises(ValueError, match="must name the weights it shares"):
        weights.load(file)
