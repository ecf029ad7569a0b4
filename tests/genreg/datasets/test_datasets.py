import gzip
import sys

import pytest
import torch

from genreg.datasets import mnist, shapes, shapes_plus

from ...refusals import refuses


def test_shapes_are_a_disc_and_a_rectangle_by_the_definition():
    images = shapes(20, seed=3)
    assert images.shape == (20, 56, 56) and images.dtype == torch.float32
    i, j = torch.meshgrid(torch.arange(56), torch.arange(56), indexing="ij")
    found = 0
    for image in images:
        assert set(image.unique().tolist()) == {0.0, 0.5}
        on = image > 0
        # A disc lies in rows and columns 15 to 54, its lowest row is centre + radius; a rectangle in 0 to 25.
        rows, columns = on.any(1).nonzero().flatten(), on.any(0).nonzero().flatten()
        bottom, right, top, left = rows[-1], columns[-1], rows[0], columns[0]
        fits = [
            (c0, c1, r)
            for r in range(6, 14)
            for c0, c1 in [(int(bottom) - r, int(right) - r)]
            if 28 <= c0 < 42
            and 28 <= c1 < 42
            and any(
                torch.equal(
                    on,
                    ((i - c0) ** 2 + (j - c1) ** 2 <= r**2)
                    | ((i >= top) & (i < top + s0) & (j >= left) & (j < left + s1)),
                )
                for s0 in range(6, 14)
                for s1 in range(6, 14)
            )
        ]
        found += bool(fits)
        assert top < 14 and left < 14
    assert found == 20


def test_shapes_parameters_cover_their_ranges():
    images = shapes(4000, seed=0) > 0
    rows = images.any(2)
    assert rows.int().argmax(1).unique().tolist() == list(range(14))  # first rows of the rectangles
    last = 55 - rows.flip(1).int().argmax(1)  # c + r, from 34 to 54
    assert last.unique().tolist() == list(range(34, 55))


def test_shapes_plus_adds_a_spot_inside_the_disc():
    plain, plus = shapes(300, seed=5), shapes_plus(300, seed=5)
    spot = plus == 1.0
    assert torch.equal(torch.where(spot, plain, plus), plain)
    assert (spot.sum((1, 2)) == 13).all()  # pixels with distance at most 2
    assert (plain[spot] == 0.5).all()


@pytest.mark.parametrize("draw", [shapes, shapes_plus])
def test_seeds(draw):
    assert torch.equal(draw(5, seed=1), draw(5, seed=1))
    assert not torch.equal(draw(5, seed=1), draw(5, seed=2))
    state = torch.random.get_rng_state()
    draw(5, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


@refuses(
    (0, 0, ValueError, "n must be a positive integer, got 0"),
    (3, -1, ValueError, "seed must be a non-negative integer, got -1"),
    (2.0, 0, TypeError, "n must be an integer, got"),
    (2, None, TypeError, "seed must be an integer, got"),
)
def test_bad_arguments(n, seed):
    shapes(n, seed=seed)


def test_mnist_test_images(data_dir):
    images, labels = mnist(data_dir / "mnist", train=False)
    assert images.shape == (10_000, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    again, _ = mnist(train=False)
    assert torch.equal(images, again)


def test_mnist_without_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="root must be a folder with the file t10k-images"):
        mnist(tmp_path, train=False)
    monkeypatch.setenv("GENREG_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"pip install genreg\[data\]"):
        mnist()


def test_mnist_offline(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.delenv("GENREG_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(FileNotFoundError, match=r"can't be downloaded .*no route to host.*GENREG_DATA/mnist"):
        mnist()


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"\0\0\x08\x03" + bytes(100), mtime=0)],
    ids=["no gzip", "truncated"],
)
def test_damaged_mnist(tmp_path, content):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="train-images"):
        mnist(tmp_path)
