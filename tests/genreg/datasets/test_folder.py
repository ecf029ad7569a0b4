"""Folders of images: what is read, which images are drawn, and a model trained on them."""

import dataclasses

import numpy as np
import odl
import pytest
import torch
from PIL import Image

import genreg
from genreg import recipes, training, weights
from genreg.cli import main
from genreg.datasets import ImageFolder, image_folder
from genreg.networks import StridedConfig
from genreg.operators import mask
from genreg.recipes.celeba import _ends

from ...refusals import refuses


def disc(k, rows=40, columns=30):
    """A coloured disc on black, ``(rows, columns, 3)``, uint8."""
    random = np.random.default_rng(k)
    centre = random.uniform(0.35, 0.65, 2) * (rows, columns)
    radius, colour = random.uniform(4, 9), random.integers(80, 256, 3)
    i, j = np.indices((rows, columns))
    distance = np.hypot(i - centre[0], j - centre[1])
    return (np.clip(radius - distance, 0, 1)[..., None] * colour).astype(np.uint8)


def write(folder, name, array, **options):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)
    return file


@pytest.fixture(name="faces", scope="module")
def folder_of_discs(tmp_path_factory):
    """Twelve discs in two folders, between files that are none."""
    folder = tmp_path_factory.mktemp("discs")
    for k in range(12):
        write(folder, f"{'b' if k < 6 else 'a/deep'}/{k:02}.png", disc(k))
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "b" / "._00.png").write_text("no image either")
    (folder / ".hidden").mkdir()
    write(folder, ".hidden/00.png", disc(0))
    return folder


# what is read


def test_files_are_found_in_the_order_of_their_names(faces):
    folder = ImageFolder(faces, 8)
    assert folder.files == (
        *(f"a/deep/{k:02}.png" for k in range(6, 12)),
        *(f"b/{k:02}.png" for k in range(6)),
    )
    assert len(folder) == 12 and folder.image_shape == (3, 8, 8)
    assert ImageFolder(str(faces), 8, limit=2).files == folder.files[:2]
    assert ImageFolder(faces, (8, 6), colour=False).image_shape == (8, 6)


def test_pixels_come_as_they_are_where_nothing_is_to_be_resized(faces, tmp_path):
    x = image_folder(faces, (40, 30))
    assert x.shape == (12, 3, 40, 30) and x.dtype == torch.float32
    assert torch.equal(x[6], torch.from_numpy(disc(0)).movedim(-1, 0) / 255)
    middle = image_folder(faces, (20, 10), crop=(20, 10), limit=7)
    assert torch.equal(middle, x[:7, :, 10:30, 10:20])
    grey = image_folder(faces, (40, 30), colour=False)
    assert grey.shape == (12, 40, 30)
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert (grey - luma).abs().max() < 1 / 255
    write(tmp_path, "odd.png", disc(0, 41, 31))
    odd = torch.from_numpy(disc(0, 41, 31)).movedim(-1, 0) / 255
    assert torch.equal(image_folder(tmp_path, 30, crop=30)[0], odd[:, 5:35, 0:30])


def test_images_are_reduced_without_aliasing(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    write(tmp_path, "stripes.png", stripes)
    x = image_folder(tmp_path, 16)  # stripes finer than a pixel become their mean
    assert (x - 100 / 255)[..., 2:-2].abs().max() < 0.01  # the filter is cut off at the edges


def test_the_largest_part_in_the_middle_of_the_right_proportions_is_kept(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    write(tmp_path, "wide.png", wide)
    assert torch.equal(image_folder(tmp_path, 10), torch.ones(1, 3, 10, 10))
    strip = image_folder(tmp_path, (10, 30))
    assert (strip[0, :, :, 11:19] == 1).all() and (strip[0, :, :, [*range(9), *range(21, 30)]] == 0).all()


@pytest.mark.parametrize("colour", [True, False])
def test_every_kind_of_image_is_converted(tmp_path, colour):
    grey = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None], (1, 16))
    rgb = np.repeat(grey[..., None], 3, 2)
    write(tmp_path, "grey.png", grey)
    write(tmp_path, "rgb.bmp", rgb)
    write(tmp_path, "alpha.png", np.concatenate([rgb, np.full_like(rgb[..., :1], 128)], 2))
    write(tmp_path, "sixteen.png", grey.astype(np.uint16) * 257)
    write(tmp_path, "deep/photo.JPG", rgb, quality=100)
    Image.fromarray(rgb).quantize(16).save(tmp_path / "palette.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(np.rot90(rgb)).save(tmp_path / "turned.tif", exif=turned)
    x = image_folder(tmp_path, 16, colour=colour, workers=3)
    assert x.shape == ((7, 3, 16, 16) if colour else (7, 16, 16))
    expected = torch.from_numpy(grey) / 255
    assert (x - expected).abs().max() < 3 / 255


@pytest.mark.parametrize("workers", [1, 4])
def test_bad_files_are_named(tmp_path, workers):
    for k in range(6):
        write(tmp_path, f"{k}.png", disc(k))
    folder = ImageFolder(tmp_path, 16, workers=workers)
    whole = (tmp_path / "3.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image"):
        (tmp_path / "3.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"image .*/3\.png can't be read: "):
            folder.load()
    assert folder.load([0, 5]).shape == (2, 3, 16, 16)
    write(tmp_path, "3.png", disc(3, 20, 15))
    with pytest.raises(ValueError, match=r"image .*/3\.png must have at least 16 x 16 pixels, got 20 x 15"):
        folder.load()
    with pytest.raises(ValueError, match=r"3\.png must have at least 30 x 30 pixels, got 20 x 15"):
        ImageFolder(tmp_path, 10, crop=30, workers=workers).load([3])
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "3.tif")
    with pytest.raises(ValueError, match=r"3\.tif can't be read: it must have 8 or 16 bits a channel"):
        ImageFolder(tmp_path, 10, workers=workers).load()
    with pytest.raises(IndexError):
        folder.load([6])


@refuses(
    ({"path": "nowhere"}, FileNotFoundError, "path must be a folder of images, got 'nowhere'"),
    ({"size": 0}, ValueError, "size must be a positive integer, got 0"),
    ({"size": (3, 64, 64)}, ValueError, r"size must be 2 integers, got \(3, 64, 64\)"),
    ({"size": 8.0}, TypeError, r"size must be .* got 8\.0"),
    ({"crop": 4}, ValueError, "crop must have the proportions of size and be no smaller, got 4 and 8"),
    ({"crop": (20, 10)}, ValueError, r"proportions of size .* got \(20, 10\) and 8"),
    ({"limit": 0}, ValueError, "limit must be a positive integer, got 0"),
    ({"workers": 1.5}, TypeError, r"workers must be an integer, got 1\.5"),
)
def test_bad_arguments(faces, change):
    ImageFolder(**{"path": faces, "size": 8} | change)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("none")
    with pytest.raises(FileNotFoundError, match=r"path must be a folder of images \(\.bmp, .*which has none"):
        image_folder(tmp_path, 8)


# which images are drawn


def test_draws_are_lazy_seeded_and_different_within_a_batch(faces, monkeypatch):
    folder = ImageFolder(faces, 10)
    read = []
    original = ImageFolder._read
    monkeypatch.setattr(ImageFolder, "_read", lambda self, file: read.append(file) or original(self, file))
    one = folder(5, seed=3)
    assert one.shape == (5, 3, 10, 10) and len(read) == len(set(read)) == 5
    assert torch.equal(one, folder(5, seed=3)) and not torch.equal(one, folder(5, seed=4))
    assert torch.equal(one, dataclasses.replace(folder, workers=3)(5, seed=3))
    assert 0 <= one.min() and one.max() <= 1
    assert len({image.sum().item() for image in folder(12, seed=0)}) == 12
    assert folder(20, seed=0).shape == (20, 3, 10, 10)
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        folder(0, seed=1)


def test_flips_mirror_half_of_what_is_drawn(faces):
    folder = ImageFolder(faces, (40, 30))
    plain, flipped = folder(12, seed=7), dataclasses.replace(folder, flip=True)(12, seed=7)
    mirrored = [torch.equal(f, p.flip(-1)) for p, f in zip(plain, flipped, strict=True)]
    kept = [torch.equal(f, p) for p, f in zip(plain, flipped, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 2 <= sum(mirrored) <= 10
    assert torch.equal(dataclasses.replace(folder, flip=True).load(), folder.load())


def test_splits_depend_on_the_names_alone(faces, tmp_path):
    folder = ImageFolder(faces, 10, flip=True)
    training_part, validation = folder.split(0.25)
    assert len(validation) == 3 and not validation.flip and training_part.flip
    assert sorted([*training_part.files, *validation.files]) == list(folder.files)
    assert list(training_part.files) == sorted(training_part.files)
    assert folder.split(3)[1] == validation and folder.split(3, seed=1)[1].files != validation.files
    for name in folder.files:  # the same names elsewhere
        write(tmp_path, name, disc(0))
    assert ImageFolder(tmp_path, 20).split(3)[1].files == validation.files
    assert folder.split(5)[1].files > () and set(validation.files) <= set(folder.split(5)[1].files)
    for count in (12, 0.01, np.int64(13)):
        with pytest.raises(
            ValueError, match="held_out must leave at least one of 12 files on either side, got"
        ):
            folder.split(count)
    for count, error in ((0, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"held_out must be (positive and finite|an integer|a number), got"):
            folder.split(count)
    assert folder.subset([3, 1]).files == (folder.files[3], folder.files[1])
    with pytest.raises(ValueError, match="indices must name at least one file"):
        folder.subset([])


# a model trained on them


def small(recipe):
    architecture = StridedConfig(image_shape=(3, 16, 16), latent_dim=4, channels=(8, 12))
    return dataclasses.replace(recipe, architecture=architecture, settings={"steps": 3, "batch_size": 4})


def test_a_model_of_a_folder_restores_what_is_hidden(faces, tmp_path):
    training_part, held_out = ImageFolder(faces, 16, crop=24, flip=True).split(2)
    torch.manual_seed(0)
    model = StridedConfig(image_shape=(3, 16, 16), latent_dim=6, channels=(8, 12)).build()
    settings = {"batch_size": 8, "lr": 5e-3, "input_noise": 15 / 255, "progress": False}
    card = training.fit(
        model, training_part, steps=60, validation=held_out.load(), validate_every=10, **settings
    )
    losses = [entry["train_loss"] for entry in card["history"]]
    assert losses[-1] < losses[0] - 200

    file, _ = weights.save(tmp_path / "discs", model, card)
    X = odl.uniform_discr([0, 0, 0], [3, 1, 1], (3, 16, 16), dtype="float32")
    G = genreg.load_generator(file, X)
    x = training_part.load([0])[0]
    pixels = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    A = mask(X, pixels.expand(3, 16, 16))
    y = A(X.element(x.numpy()))
    options = {"noise_std": 0.02, "lam": 0.1, "restarts": 4, "max_iter": 100, "progress": False}
    rec = genreg.reconstruct(A, y, genreg.HardConstraint(G), **options)
    hidden = ~pixels.expand(3, 16, 16).numpy()
    error, blank = (np.square(image - x.numpy())[hidden].mean() for image in (rec.image.asarray(), 0.0))
    assert error < 0.25 * blank
    assert rec.show(x).axes[0].images[0].get_array().shape == (16, 16, 3)


def test_the_recipe_for_faces(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GENREG_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"recipe 'celeba' needs .* GENREG_DATA names, which is not set"
    ):
        recipes.train("celeba", tmp_path)
    monkeypatch.setenv("GENREG_DATA", str(tmp_path))
    assert main(["train", "celeba", "--out", str(tmp_path / "runs")]) == 2
    assert "the recipe 'celeba' needs the aligned images of CelebA" in capsys.readouterr().err
    for k in range(2):
        write(tmp_path, f"celeba/img_align_celeba/{k:06}.jpg", disc(k, 218, 178))
    with pytest.raises(ValueError, match="needs at least 3 images, got 2"):
        recipes.train("celeba", tmp_path)
    for k in range(2, 10):
        write(tmp_path, f"celeba/img_align_celeba/{k:06}.jpg", disc(k, 218, 178))
    data = recipes.RECIPES["celeba"].data
    assert [len(data.training()), len(data.validation()), len(data.test())] == [8, 1, 1]
    assert data.training().files[-1] == "img_align_celeba/000007.jpg"
    assert data.test().shape == (1, 3, 64, 64)


def test_the_recipe_of_the_paper_trains(tmp_path, monkeypatch):
    recipe = recipes.RECIPES["celeba"]
    assert recipe.settings["batch_size"] == 128 and recipe.settings["lr"] == 1e-4
    assert recipe.settings["input_noise"] == 15 / 255
    assert recipe.architecture == StridedConfig(
        image_shape=(3, 64, 64), channels=(64, 128, 256, 512), kernel=5
    )
    for k in range(10):
        write(tmp_path, f"celeba/{k:06}.jpg", disc(k, 120, 110))
    monkeypatch.setenv("GENREG_DATA", str(tmp_path))
    architecture = StridedConfig(image_shape=(3, 64, 64), latent_dim=2, channels=(2, 2, 2))
    test = recipe.data.test().expand(3, -1, -1, -1)
    data = dataclasses.replace(recipe.data, test=lambda: test)
    settings = {**recipe.settings, "steps": 3, "batch_size": 4}
    tiny = dataclasses.replace(recipe, architecture=architecture, data=data, settings=settings)
    monkeypatch.setitem(recipes.RECIPES, "celeba", tiny)
    monkeypatch.setattr(
        ImageFolder,
        "__call__",
        lambda self, n, *, seed, draw=ImageFolder.__call__: draw(self, min(n, 40), seed=seed),
    )
    file = recipes.train("celeba", tmp_path / "runs", quick=True, progress=False)
    model, card = weights.load(file)
    assert card["name"] == "celeba" and "CelebA" in card["data"] and card["score"]["images"] == 3
    assert model.image_shape == (3, 64, 64) and card["training"]["input_noise"] == 15 / 255


def test_the_division_of_the_data_set():
    assert _ends(202_599) == [162_770, 182_637]
    for count in range(3, 50):
        first, last = _ends(count)
        assert 0 < first < last < count
