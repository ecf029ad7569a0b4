"""A folder of images of several sizes and formats: what is read, skipped, held out and cropped."""

import numpy as np
import pytest
import torch
from PIL import Image

from genreg.datasets import MixedImages, RandomCrops, read_images


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    """A volume, pictures of two sizes, and all that can't be used."""
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "volume.npy", noise(3, 20, 24))
    Image.fromarray((noise(18, 30) * 255).astype(np.uint8)).save(tmp_path / "b.png")
    Image.fromarray((noise(40, 17) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def spoil(folder):
    holes = noise(4, 20, 20)
    holes[1, 3, 4] = np.nan
    holes[2] = 0.5
    np.save(folder / "holes.npy", holes)
    np.save(folder / "small.npy", noise(30, 15))
    np.save(folder / "complex.npy", noise(20, 20).astype(complex))
    (folder / "damaged.png").write_bytes(b"damaged")


def test_what_is_read(folder):
    found = read_images(folder, smallest=16, progress=False)
    volume = [f"sub/volume.npy, slice {k}" for k in range(3)]
    assert found.names == ("a.png", "b.png", *volume) and len(found) == 5 and not found.skipped
    assert found.groups == ("a.png", "b.png", "sub/", "sub/", "sub/")
    assert [tuple(x.shape) for x in found.images] == [(40, 17), (18, 30), *[(20, 24)] * 3]
    assert torch.equal(found.images[3], torch.from_numpy(noise(3, 20, 24)[1]))
    assert len(read_images(folder, limit=1, progress=False)) == 1


def test_what_can_not_be_used_is_skipped_and_named(folder):
    spoil(folder)
    with pytest.warns(UserWarning, match=r"5 of 12 images in .* can't be used and were skipped: ") as caught:
        found = read_images(folder, smallest=16, progress=False)
    assert len(found) == 7 and len(caught) == 1
    reasons = {
        "complex.npy": "must hold real numbers, got complex128",
        "damaged.png": "can't be read",
        "holes.npy, slice 1": "it has 1 NaN or infinite pixels",
        "holes.npy, slice 2": "all its pixels are 0.5",
        "small.npy": "must have at least 16 x 16 pixels, got 30 x 15",
    }
    assert found.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found.skipped[name] and name in str(caught[0].message)
    with pytest.raises(ValueError, match=r"image complex.npy in .* can't be used: it must hold real numbers"):
        read_images(folder, strict=True, progress=False)


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder of images, got"):
        read_images(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="which has none"):
        read_images(tmp_path)
    np.save(tmp_path / "a.npy", noise(9, 9))
    with pytest.raises(
        ValueError, match=r"images that can be used, got none: a.npy \(it must have at least 10"
    ):
        read_images(tmp_path, smallest=10, progress=False)
    with pytest.raises(ValueError, match="limit must be"):
        read_images(tmp_path, limit=0)


def images(groups, sizes=(20,)):
    found = tuple(torch.rand(sizes[k % len(sizes)], 20) for k in range(len(groups)))
    return MixedImages(found, tuple(map(str, range(len(groups)))), tuple(groups))


def test_split_keeps_groups_together_and_does_not_change_with_other_files():
    groups = [f"p{k // 3}/" for k in range(30)]
    training, held_out = images(groups).split(0.2, seed=3)
    assert len(held_out) == 6 and len(set(held_out.groups)) == 2
    assert not set(training.groups) & set(held_out.groups)
    assert sorted([*training.names, *held_out.names], key=int) == list(map(str, range(30)))
    again = images(groups[::-1]).split(0.2, seed=3)[1]
    assert set(again.groups) == set(held_out.groups)
    assert {images(groups).split(0.2, seed=k)[1].groups for k in range(5)} != {held_out.groups}
    assert len(images("ab").split(0.01)[1]) == 1


def test_split_of_one_volume_holds_out_its_end():
    training, held_out = images(["volume.npy"] * 10).split(0.3)
    assert training.names == tuple("0123456") and held_out.names == tuple("789")
    with pytest.raises(ValueError, match="at least two to hold one out, got 1"):
        images("a").split(0.5)


def test_affine_is_robust_and_follows_the_unit():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 200, 200, generator=generator)
    x[0, 0, :20], x[1, 0, :20] = 1e6, -1e6  # metal, padding
    plain = MixedImages(tuple(x), ("a", "b"), ("a", "b"))
    scale, offset = plain.affine()
    assert scale == pytest.approx(1.0, abs=0.01) and offset == pytest.approx(0.0, abs=0.01)
    units = MixedImages(tuple(x * 2000 - 1000), ("a", "b"), ("a", "b"))
    assert units.affine() == pytest.approx((2000 * scale, 2000 * offset - 1000), rel=1e-3)
    assert torch.stack(units.mapped(*units.affine()).images).aminmax() == (-1.0, 2.0)
    torch.testing.assert_close(
        units.mapped(*units.affine()).images[0][1:],
        plain.mapped(scale, offset).images[0][1:],
        atol=1e-4,
        rtol=0,
    )
    flat = MixedImages((torch.eye(60, 60) * (torch.arange(60) < 1),), ("a",), ("a",))
    with pytest.raises(ValueError, match="must differ from a constant, got 0 in nearly all pixels"):
        flat.affine()


def test_crops_are_parts_of_the_images():
    x = [torch.arange(12.0 * 9).view(12, 9), 1000 + torch.arange(8.0 * 20).view(8, 20)]
    crops = RandomCrops(x, 8, augment=False)
    drawn = crops(40, seed=1)
    assert torch.equal(drawn, crops(40, seed=1)) and not torch.equal(drawn, crops(40, seed=2))
    kinds = set()
    for crop in drawn:
        source = x[int(crop[0, 0] >= 1000)]
        i, j = divmod(int(crop[0, 0]) % 1000, source.shape[1])
        assert torch.equal(crop, source[i : i + 8, j : j + 8])
        kinds.add((int(crop[0, 0] >= 1000), i, j))
    assert {k for k, _, _ in kinds} == {0, 1} and max(i for _, i, _ in kinds) == 4
    with pytest.raises(ValueError, match="at least 9 rows and columns, got 8"):
        RandomCrops(x, 9)


def test_augmentation_turns_mirrors_and_recolours():
    x = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    drawn = RandomCrops([x], 6)(200, seed=0)
    turned = [y for k in range(4) for y in (torch.rot90(x, k), torch.rot90(x, k).flip(1))]
    low, high = x.min(), x.max()
    seen = set()
    for crop in drawn:
        gain = (crop.max() - crop.min()) / (high - low)
        shift = crop.min() - gain * low
        assert 0.899 < gain < 1.101 and -0.051 < shift < 0.051
        errors = torch.stack([(gain * y + shift - crop).abs().max() for y in turned])
        assert errors.min() < 1e-5
        seen.add(int(errors.argmin()))
    assert seen == set(range(8))
