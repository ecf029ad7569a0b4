import numpy as np
import pytest
import scipy.io
import torch

from genreg.datasets import HTCData, htc2022, solid_disc
from genreg.datasets.discs import DISC_RADIUS, FIELD_OF_VIEW
from genreg.datasets.fan_beam import Rim

from ...refusals import refuses


def write(folder, *, name="htc2022_xx_full", variable="CtDataFull", reference=True, **changes):
    """Write a small file with the challenge's structure."""
    angles = changes.pop("angles", np.arange(0, 20.5, 0.5))
    parameters = {
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "pixelSizePost": 0.2,
        "numDetectorsPost": 560,
        "angles": angles,
    }
    sinogram = changes.pop("sinogram", np.zeros((len(angles), 560)))
    parameters |= changes
    file = folder / f"{name}.mat"
    scipy.io.savemat(file, {variable: {"type": "2D", "sinogram": sinogram, "parameters": parameters}})
    if reference:
        image = np.zeros((512, 512), dtype=np.uint8)
        image[100:200, 50:400] = 1
        scipy.io.savemat(
            folder / f"{name.removesuffix('_limited')}_recon_fbp_seg.mat", {"reconFullFbpSeg": image}
        )
    return file


def acrylic(data, rim, *, beta=0.0):
    """Sinogram of the disc without holes at a given place, by the formulae of the documentation."""
    u = (np.arange(560) - 279.5) * 0.2
    theta = np.deg2rad(data.angles)[:, None]
    # in the scanner's frame: the source at the distance 410.66 mm, x to the right, y up
    x, y = rim.centre[1], -rim.centre[0]
    across, along = x * np.cos(theta) + y * np.sin(theta), -x * np.sin(theta) + y * np.cos(theta)
    offset = (u * (along + 410.66) - 553.74 * across) / np.hypot(u, 553.74)
    length = 2 * np.sqrt(np.clip(DISC_RADIUS**2 - offset**2, 0, None))
    c = (0.0158977273, 0.0419770846, -8.68805954e-05, -2.02093324e-06, 1.47918074e-08)
    curve = sum(c[k] * length**k for k in range(1, 5))
    return torch.from_numpy((rim.gain * curve + c[0]).astype(np.float32)), torch.from_numpy(length)


@pytest.fixture
def data():
    return HTCData("synthetic", torch.zeros(61, 560), np.arange(75.0, 105.5, 0.5), None)


def test_file_is_read(tmp_path):
    data = htc2022(write(tmp_path), size=64)
    assert data.name == "xx"
    assert data.sinogram.shape == (41, 560)
    assert data.sinogram.dtype == torch.float32
    assert data.reference.shape == (512, 512)
    assert data.reference.dtype == torch.bool
    assert data.reference.sum() == 100 * 350
    assert data.angles[-1] == 20.0
    assert data.space.shape == (64, 64)
    assert data.space.cell_sides[0] * 64 == pytest.approx(FIELD_OF_VIEW)
    assert data.geometry.angles.size == 41
    assert data.geometry.det_partition.shape == (560,)
    assert data.geometry.src_radius + data.geometry.det_radius == pytest.approx(553.74)


def test_pixels_have_the_size_of_the_reference(tmp_path):
    data = htc2022(str(write(tmp_path, name="htc2022_05z_limited", variable="CtDataLimited")))
    assert data.name == "05z"
    assert data.reference is not None
    assert data.space.shape == (512, 512)
    assert data.space.cell_sides == pytest.approx(0.2 / (553.74 / 410.66))


def test_reference_may_be_missing(tmp_path):
    assert htc2022(write(tmp_path, reference=False)).reference is None


@refuses(
    ({"variable": "Other"}, r"must hold the variable CtDataFull or CtDataLimited, got \['Other'\]"),
    ({"sinogram": np.zeros((40, 560))}, r"sinogram in .* must have the shape .* got \(40, 560\)"),
    ({"sinogram": np.zeros((41, 280))}, r"sinogram in .* must have the shape"),
    ({"sinogram": np.full((41, 560), np.nan)}, "sinogram in .* must be finite"),
    ({"sinogram": np.zeros((41, 560), dtype=int)}, "2-D floating-point sinogram"),
    ({"angles": np.arange(41) ** 2.0}, "angles in .* must increase in equal steps"),
    ({"angles": -np.arange(41) * 0.5}, "angles in .* must increase in equal steps"),
    ({"distanceSourceOrigin": 400.0}, "parameters.distanceSourceOrigin in .* must be 410.66, got 400"),
    ({"distanceSourceDetector": "far"}, "parameters.distanceSourceDetector in .* must be 553.74, got far"),
    ({"pixelSizePost": 0.1}, "parameters.pixelSizePost in .* must be 0.2, got 0.1"),
    ({"numDetectorsPost": 280}, "parameters.numDetectorsPost in .* must be 560, got 280"),
    error=ValueError,
)
def test_altered_files(tmp_path, changes):
    htc2022(write(tmp_path, **changes))


def test_altered_reference(tmp_path):
    file = write(tmp_path)
    scipy.io.savemat(tmp_path / "htc2022_xx_full_recon_fbp_seg.mat", {"reconFullFbpSeg": np.zeros((8, 8))})
    with pytest.raises(ValueError, match=r"must be 512 x 512, got shape \(8, 8\)"):
        htc2022(file)


def test_damaged_file(tmp_path):
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="must be a readable MATLAB file"):
        htc2022(file)


def test_missing_file(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file .*htc2022_ta_full.mat; the data are on Zenodo"):
        htc2022(tmp_path / "htc2022_ta_full.mat")
    monkeypatch.setenv("GENREG_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"htc2022_zz_full.mat or .*htc2022_zz_limited.mat"):
        htc2022("zz")
    monkeypatch.delenv("GENREG_DATA")
    with pytest.raises(FileNotFoundError, match="got 'ta' and no GENREG_DATA"):
        htc2022("ta")


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError), ("64", TypeError)],
)
def test_bad_size(tmp_path, size, error):
    with pytest.raises(error, match=r"size must be an? (positive )?integer, got"):
        htc2022(write(tmp_path), size=size)


def test_subset(data):
    part = data.subset(80, 10, step=1.0)
    assert np.allclose(part.angles, np.arange(80, 91))
    assert part.sinogram.shape == (11, 560)
    for start, span in ((70, 10), (80, 30), (80.25, 10), (80, 0)):
        with pytest.raises(ValueError, match="must select at least two of the measured angles, 75 to 105"):
            data.subset(start, span, step=1.0)


def test_binned_and_resized(data):
    assert data.binned(4).sinogram.shape == (61, 140)
    assert data.binned(4).geometry.det_partition.extent == pytest.approx(112.0)
    assert data.resized(96).space.shape == (96, 96)
    with pytest.raises(ValueError, match="factor must divide the number of detectors 560, got 3"):
        data.binned(3)
    with pytest.raises(ValueError, match="size must be a positive"):
        data.resized(0)


@pytest.mark.parametrize("rim", [Rim((0.0, 0.0), 1.0, 0.0), Rim((1.2, -0.7), 1.03, 0.0)])
def test_rim_and_path_lengths_of_a_synthetic_disc(data, rim):
    from dataclasses import replace

    sinogram, length = acrylic(data, rim)
    data = replace(data, sinogram=sinogram)
    found = data.fit_rim()
    assert found.centre == pytest.approx(rim.centre, abs=2e-3)
    assert found.gain == pytest.approx(rim.gain, rel=1e-4)
    assert found.residual < 1e-4
    assert (data.path_length(rim.gain) - length).abs().max() < 1e-3
    assert data.fit_gain(length) == pytest.approx(rim.gain, rel=1e-4)
    with pytest.raises(ValueError, match=r"lengths must have the shape \(61, 560\), got \(560,\)"):
        data.fit_gain(length[0])
    with pytest.raises(ValueError, match="gain must be positive and finite, got 0"):
        data.path_length(0.0)


@pytest.mark.parametrize("rim", [Rim((0.0, 0.0), 1.0, 0.0), Rim((1.2, -0.7), 0.99, 0.0)])
def test_ray_transform_of_the_aligned_disc_explains_the_data(data, rim):
    from dataclasses import replace

    from genreg.operators import ray_transform, to_torch

    data = replace(data, sinogram=acrylic(data, rim)[0]).subset(75, 30, step=5.0)
    y = data.path_length(rim.gain).reshape(7, 140, 4).mean(-1)

    def error(where):
        aligned = data.aligned(where).resized(128).binned(4)
        A = to_torch(ray_transform(aligned.space, aligned.geometry))
        return (A(solid_disc(128)) - y).square().mean().sqrt()

    best = error(rim)  # what is left is the discretisation
    assert best < 0.3  # mm, of up to 70 mm
    wrong = Rim((rim.centre[0] + 1.0, rim.centre[1]), rim.gain, 0.0)  # across the views
    assert error(wrong) > 2 * best


def test_upright_undoes_the_alignment(data):
    aligned = data.aligned(Rim((0.0, 0.0), 1.0, 0.0)).resized(64)
    line = (np.arange(64) + 0.5) / 64 - 0.5
    # a spot at the middle of the right-hand side; the middle view of the data is at 90 degrees
    spot = np.exp(-((line[:, None] - 0.0) ** 2 + (line - 0.25) ** 2) / 0.005)
    image = aligned.upright(torch.from_numpy(spot)[None].float(), size=64)[0]
    expected = np.rot90(spot)
    assert aligned.turn == -90
    assert np.allclose(image.numpy(), expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"image must have shape \(\*batch, 64, 64\), got \(1, 32, 32\)"):
        aligned.upright(torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match="got data that are aligned already"):
        aligned.aligned()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_upright_keeps_the_batch(data, shape):
    assert data.resized(16).upright(torch.ones(*shape, 16, 16), size=8).shape == (*shape, 8, 8)


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(("name", "gain"), [("ta", 0.995), ("td", 1.02), ("solid_disc", 0.995)])
def test_projections_of_the_reference_explain_the_measured_data(name, gain):
    from genreg.operators import ray_transform, to_torch

    data = htc2022(name, size=128).subset(0, 180, step=30.0)
    rim = data.fit_rim()
    assert rim.gain == pytest.approx(gain, abs=0.012)
    assert np.hypot(*rim.centre) < 1.5
    binned = data.binned(4)
    A = to_torch(ray_transform(binned.space, binned.geometry))
    x = torch.nn.functional.avg_pool2d(data.reference[None].float(), 4)[0]
    y = data.path_length(rim.gain).reshape(7, 140, 4).mean(-1)
    # a flip or a wrong angle gives 7 mm for ta
    assert (A(x) - y).square().mean().sqrt() < 1.5  # mm, of up to 70 mm
    gain = binned.fit_gain(A(x))
    assert gain == pytest.approx(rim.gain, abs=0.02)
    y = data.path_length(gain).reshape(7, 140, 4).mean(-1)
    assert (A(x) - y).square().mean().sqrt() < 0.8


@pytest.mark.usefixtures("data_dir")
def test_limited_angle_files_are_found_by_name():
    data = htc2022("07a")
    assert data.sinogram.shape == (61, 560)
    assert (data.angles[0], data.angles[-1]) == (75.0, 105.0)
    assert data.reference is not None
