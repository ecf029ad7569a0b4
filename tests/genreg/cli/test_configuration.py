"""Configurations: every geometry and prior, and the examples for measured data."""

import tomllib
from pathlib import Path

import numpy as np
import odl
import pytest
import scipy.io
import torch
from odl.applications import tomo

from genreg import GaussianFidelity, to_torch
from genreg.cli.configuration import reconstruct_file
from genreg.cli.data_files import averaged
from genreg.datasets import htc2022
from genreg.operators import ray_transform

SIGMA = 0.01  # of the cases
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_geometries_reproduce_the_image(tmp_path, make_case, kind):
    case = make_case(kind)
    rec, image = case.run(prior__kind="tv", solve__lam=30.0, solve__max_iter=80, prior__lower=0.0)
    assert case.error(image) < 0.05
    assert np.allclose(rec.image.asarray(), image)
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {
        "config.toml", "data.npy", "image.npy", "image.png",
    }  # fmt: skip


def test_operator_is_the_one_described(make_case, without_pictures):
    """The residual of the reconstruction is that of the same image under the operator made with ODL."""
    case = make_case("fan")
    rec, image = case.run(solve__max_iter=20)
    exact = GaussianFidelity(case.A, torch.from_numpy(case.y), SIGMA).residual(torch.from_numpy(image)[None])
    assert float(rec.residual) == pytest.approx(float(exact), rel=1e-4)


def test_nested_struct_and_reconstruction_from_mat(case):
    scipy.io.savemat(case.folder / "d.mat", {"scan": {"raw": {"y": case.y}, "theta": case.degrees}})
    _, image = case.run(
        data__file="d.mat", data__key="scan.raw.y", geometry__angles={"key": "scan.theta"}, solve__max_iter=20
    )
    np.save(case.folder / "data.npy", case.y)
    case.settings["data"].pop("key")
    step = 180 / 20
    _, same = case.run(
        data__file="data.npy", geometry__angles={"start": step / 2, "stop": 180 + step / 2, "count": 20}
    )
    assert np.allclose(image, same, atol=1e-5)


def test_data_and_output_of_the_call_override(make_case, tmp_path):
    case = make_case()
    np.save(tmp_path / "other.npy", 2 * case.y)
    config = case.write(solve__max_iter=20)
    _, first = reconstruct_file(config, progress=False)
    _, second = reconstruct_file(
        config, data=tmp_path / "other.npy", output=tmp_path / "new" / "x.npy", progress=False
    )
    assert second == tmp_path / "new" / "x.npy"
    assert np.allclose(np.load(second), 2 * np.load(first), rtol=1e-3, atol=1e-4)


# angles


def test_uniform_angles_make_a_uniform_partition(case):
    rec, _ = case.run(geometry__angles=case.degrees.tolist(), solve__max_iter=1)
    grid = rec.data.space.partition.byaxis[0]
    assert grid.is_uniform and np.allclose(grid.grid.coord_vectors[0], np.deg2rad(case.degrees))
    assert np.allclose(rec.data.space.cell_volume, case.A.range.cell_volume)


def test_other_angles_keep_their_places(case):
    """A list of unequal angles, unsorted: the data are sorted with them."""
    keep = np.array([9, 1, 2, 4, 19, 7, 15, 0, 12, 16])
    np.save(case.folder / "data.npy", case.y[keep])
    rec, image = case.run(geometry__angles=case.degrees[keep].tolist(), solve__max_iter=20)
    part = rec.data.space.partition.byaxis[0]
    assert np.allclose(part.grid.coord_vectors[0], np.deg2rad(np.sort(case.degrees[keep])))
    assert np.allclose(rec.data.asarray(), case.y[np.sort(keep)])
    exact = to_torch(case.A)(torch.from_numpy(image))[np.sort(keep)] - torch.from_numpy(case.y[np.sort(keep)])
    assert float(rec.residual) == pytest.approx(float(exact.square().sum()), rel=1e-3)


KEEP = [0, 1, 3, 4, 6, 8, 9, 10, 12, 14, 15, 17, 19]


def test_unequal_angles_have_the_closed_form_of_tikhonov(case):
    np.save(case.folder / "data.npy", case.y[KEEP])
    sigma = 0.3  # well conditioned in single precision
    _, image = case.run(geometry__angles=case.degrees[KEEP].tolist(), data__noise_std=sigma, solve__tol=1e-7)
    M = to_torch(case.A)(torch.eye(256).view(256, 16, 16))[:, KEEP].flatten(1).T.double()
    normal = M.T @ M / sigma**2 + 2 * case.X.cell_volume * torch.eye(256, dtype=torch.float64)
    exact = torch.linalg.solve(normal, M.T @ torch.from_numpy(case.y[KEEP]).double().flatten() / sigma**2)
    assert np.allclose(image, exact.view(16, 16), atol=5e-4)


def test_unequal_angles_with_total_variation(case):
    np.save(case.folder / "data.npy", case.y[KEEP])
    _, image = case.run(
        geometry__angles=case.degrees[KEEP].tolist(), prior__kind="tv", prior__lower=0.0, solve__lam=10.0,
        solve__max_iter=100,
    )  # fmt: skip
    assert case.error(image) < 0.05


def test_subset_of_angles(case):
    rec, _ = case.run(data__angles_every=4, solve__max_iter=1)
    assert rec.data.shape == (5, 32)
    assert np.allclose(rec.data.asarray(), case.y[::4])
    assert np.allclose(rec.data.space.grid.coord_vectors[0], np.deg2rad(case.degrees[::4]))


def normal_solution(case, order, sigma):
    """Tikhonov's closed form of the rows of the case in some order, with repetitions."""
    M = to_torch(case.A)(torch.eye(256).view(256, 16, 16))[:, order].flatten(1).T.double()
    normal = M.T @ M / sigma**2 + 2 * case.X.cell_volume * torch.eye(256, dtype=torch.float64)
    y = torch.from_numpy(np.load(case.folder / "data.npy")).double().reshape(len(order), -1).flatten()
    return torch.linalg.solve(normal, M.T @ y / sigma**2).view(16, 16)


@pytest.mark.parametrize("order", [[3, 7, 3, 12, 0, 3, 7], [5, 5, 5], [4]])
def test_repeated_and_single_angles_have_the_closed_form_of_tikhonov(case, order):
    """Every projection counts as often as it was measured."""
    np.save(case.folder / "data.npy", case.y[order] + 0.1 * np.arange(len(order), dtype="float32")[:, None])
    sigma = 0.3
    rec, image = case.run(
        geometry__angles=case.degrees[order].tolist(),
        data__noise_std=sigma,
        solve__tol=1e-5,
        solve__max_iter=200,
    )
    assert rec.data.shape == (1 if len(set(order)) == 1 else len(order), 32)
    np.testing.assert_allclose(image, normal_solution(case, order, sigma), atol=1e-3)


def test_a_single_projection_is_a_line_or_an_image(case):
    """(columns,), or (rows, columns) of which a row is taken."""
    case.settings["geometry"]["angles"] = {"start": 30, "stop": 31, "count": 1}
    np.save(case.folder / "data.npy", case.y[3])
    rec, _ = case.run(solve__max_iter=1)
    assert np.allclose(rec.data.asarray(), case.y[3:4])
    np.save(case.folder / "data.npy", case.y[2:5])
    rec, _ = case.run(solve__max_iter=1, data__slice=1)
    assert np.allclose(rec.data.asarray(), case.y[3:4])


def test_every_second_of_the_different_angles(case):
    order = np.repeat(np.arange(10), 2)
    np.save(case.folder / "data.npy", case.y[order])
    rec, _ = case.run(geometry__angles=case.degrees[order].tolist(), data__angles_every=2, solve__max_iter=1)
    assert np.allclose(rec.data.asarray(), case.y[np.repeat(np.arange(0, 10, 2), 2)])
    rec, _ = case.run(data__angles_every=10)
    assert np.allclose(rec.data.asarray(), case.y[:1])


def test_oblong_pixels(case):
    """Twice as many columns as rows: the image of square pixels, in halves."""
    _, image = case.run(
        prior__kind="tv", prior__lower=0.0, solve__lam=10.0, image__shape=[16, 32], solve__max_iter=100
    )
    assert case.error(image.reshape(16, 16, 2).mean(-1)) < 0.15


def test_offset_turns_the_image(case):
    _, image = case.run(solve__max_iter=50)
    _, turned = case.run(geometry__offset=90.0)
    assert np.allclose(turned, np.rot90(image), atol=0.02)


# detector and raw data


def test_centre_and_bin(case):
    """Columns cut off on one side: the axis is off the middle of the detector that is left."""
    np.save(case.folder / "data.npy", case.y[:, 6:])
    detector = {"pixels": 26, "size": 26 / 8}
    _, image = case.run(
        geometry__detector=detector, geometry__centre=9.5, prior__kind="tv", prior__lower=0.0, solve__lam=10.0,
        solve__max_iter=100,
    )  # fmt: skip
    assert case.error(image) < 0.05
    rec, image = case.run(data__bin=2)
    pixels = rec.data.space.partition.byaxis[1]
    assert len(pixels) == 13 and np.allclose([pixels.min_pt, pixels.max_pt], [[-10 / 8], [16 / 8]])
    assert np.allclose(rec.data.asarray(), averaged(case.y[:, 6:], 2)) and case.error(image) < 0.3
    _, wrong = case.run(geometry__centre=8.0)
    assert case.error(wrong) > 2 * case.error(image)


def test_raw_projections(case):
    """Intensities with a beam profile, offset and two slices give the image of the sinogram."""
    h5py = pytest.importorskip("h5py")
    white = np.random.default_rng(0).uniform(900, 1100, (2, 32))
    dark = np.full((2, 32), 100.0)
    raw = np.stack([np.exp(-case.y) * (white[0] - dark[0]) + dark[0], np.broadcast_to(dark[1], (20, 32))], 1)
    with h5py.File(case.folder / "raw.h5", "w") as stream:
        stream["d"], stream["w"] = raw, np.stack([white - 5, white + 5])
        stream["k"], stream["theta"] = np.stack([dark] * 3), case.degrees
    rec, _ = case.run(
        data__file="raw.h5", data__key="d", data__white="w", data__dark="k", data__slice=0,
        geometry__angles={"key": "theta"}, solve__max_iter=1,
    )  # fmt: skip
    assert np.allclose(rec.data.asarray(), case.y, atol=1e-5)
    with h5py.File(case.folder / "raw.h5", "a") as stream:
        stream["one"] = white  # a frame (rows, columns) is no sequence of lines
    rec, _ = case.run(data__white="one")
    assert np.allclose(rec.data.asarray(), case.y, atol=1e-5)


# priors


def test_generative_prior_and_scale(tmp_path, make_case, without_pictures):
    """Data in other units: the image is in theirs, and the same problem is solved."""
    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    angles, detector = odl.uniform_partition(0, np.pi, 10), odl.uniform_partition(-1.5, 1.5, 60)
    A = ray_transform(X, tomo.Parallel2dGeometry(angles, detector), cache=False)
    from genreg import load_generator

    truth = load_generator("shapes-vae", range=X).sample(1, seed=3)[0]
    y = to_torch(A)(truth).numpy()
    case = make_case()
    np.save(tmp_path / "data.npy", y)
    case.settings |= {
        "data": {"file": "data.npy", "noise_std": 0.01},
        "image": {"shape": [56, 56], "min": [-1.0, -1.0], "max": [1.0, 1.0]},
        "geometry": {
            "kind": "parallel",
            "angles": (18 * np.arange(10) + 9.0).tolist(),
            "detector": {"pixels": 60, "size": 3.0},
        },
        "prior": {"kind": "hard", "weights": "shapes-vae"},
        "solve": {"lam": 0.1, "restarts": 2, "max_iter": 12},
    }
    _, image = case.run()
    assert np.abs(image - truth.numpy()).mean() < 5e-3
    for kind in ("relaxed", "sparse", "sparse-tv"):
        rec, near = case.run(
            prior__kind=kind, prior__mu=1e-3, solve__lam=100.0, solve__restarts=1, solve__max_iter=4
        )
        assert np.abs(near - truth.numpy()).mean() < 5e-3
        assert "z" in rec.blocks and len(rec.blocks) == 2
    case.settings["prior"] = {"kind": "joint", "weights": "shapes-vae"}
    rec, near = case.run(solve__lam=1.0, solve__max_iter=2)
    case.settings["solve"] |= {"restarts": 2, "max_iter": 12}
    assert np.abs(near - truth.numpy()).mean() < 5e-3 and set(rec.blocks) == {"x", "z"}
    case.settings["prior"] = {"kind": "hard", "weights": "shapes-vae"}
    case.settings["solve"]["lam"] = 0.1
    # A power of two changes no rounding, so that unfinished runs agree as well.
    np.save(tmp_path / "data.npy", 16 * y)
    rec, scaled = case.run(data__noise_std=0.16, prior__scale=16.0)
    assert np.allclose(scaled, 16 * image, atol=1e-4)
    assert np.allclose(16 * rec.image.asarray(), scaled)


def test_bounds_are_in_the_units_of_the_data(case):
    _, image = case.run(
        prior__kind="tv", prior__lower=0.1, prior__upper=0.6, prior__scale=2.0, solve__max_iter=50
    )
    assert image.min() == pytest.approx(0.1) and image.max() == pytest.approx(0.6)


@pytest.mark.parametrize(("lam", "iterations"), [("morozov", 500), (3.0, 5)])
def test_choice_of_lam(case, lam, iterations):
    rec, _ = case.run(solve__lam=lam, solve__max_iter=iterations, data__noise_std=0.05)
    if lam == "morozov":
        assert float(rec.discrepancy) == pytest.approx(1.0, abs=0.03)
    else:
        assert float(rec.lam) == lam
    assert np.isfinite(rec.image.asarray()).all()


def test_lam_is_chosen_by_default(case):
    case.settings.pop("solve")
    rec, _ = case.run(data__noise_std=0.05)
    assert float(rec.discrepancy) == pytest.approx(1.0, abs=0.03)


# measured data


@pytest.fixture(name="run_example")
def changed_example(data_dir, tmp_path, configuration_text, monkeypatch, without_pictures):
    """Run a configuration of the examples with some entries changed, to be quicker."""
    monkeypatch.setenv("GENREG_CACHE", str(tmp_path / "cache"))

    def run(name, data, **changes):
        settings = tomllib.loads((EXAMPLES / name).read_text())
        for key, value in changes.items():
            table, entry = key.split("__")
            settings[table][entry] = value
        (tmp_path / name).write_text(configuration_text(settings))
        rec, output = reconstruct_file(
            tmp_path / name, data=data_dir / data, output=tmp_path / "x.npy", progress=False
        )
        return rec, np.load(output)

    return run


def test_example_htc2022(run_example, data_dir):
    """The disc has the orientation of the reference: above half the attenuation of acrylic is acrylic."""
    data = "htc2022/htc2022_ta_full.mat"
    changes = {"data__angles_every": 24, "data__bin": 4, "image__shape": [128, 128], "solve__max_iter": 150}
    _, image = run_example("htc2022.toml", data, **changes)
    reference = htc2022(data_dir / data).reference[::4, ::4]
    both = torch.stack([torch.from_numpy(image > 0.018), reference]).flatten(1)
    assert torch.corrcoef(both.float())[0, 1] > 0.95


def test_example_tooth(run_example):
    """An axis of rotation at another column explains the data less well."""
    changes = {"data__angles_every": 8, "data__bin": 8, "image__shape": [50, 50], "solve__max_iter": 150}
    residual = {
        centre: float(
            run_example("tooth.toml", "tomo/tooth.h5", geometry__centre=centre, **changes)[0].residual
        )
        for centre in (290.0, 296.0, 302.0)
    }
    assert residual[296.0] < 0.5 * min(residual[290.0], residual[302.0])
