"""A linear generator and operator, for which everything has a closed form; a small problem in files."""

import functools
import json

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo
from torch import nn

from genreg import Generator, to_torch
from genreg.cli.configuration import reconstruct_file
from genreg.operators import gaussian_measurements, ray_transform


class LinearModel(nn.Module):
    """x = W z + b, with the pseudo-inverse as its encoder."""

    latent_dim = 3

    def __init__(self, shape=(4, 5), channel=False):
        super().__init__()
        torch.manual_seed(3)
        self.shape = (1, *shape) if channel else shape
        self.linear = nn.Linear(self.latent_dim, int(np.prod(shape)), dtype=torch.float64)
        self.log_gamma = torch.tensor(-2.0)

    def decode(self, z):
        return self.linear(z).unflatten(1, self.shape)

    def encode(self, x):
        return (x.flatten(1) - self.linear.bias) @ torch.linalg.pinv(self.linear.weight).T


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [8, 5], (4, 5))  # cell volume 2


@pytest.fixture(name="A")
def operator(X):
    return gaussian_measurements(X, 12, seed=0)


@pytest.fixture(name="G")
def generator(X):
    return Generator(LinearModel(), X)


@pytest.fixture(name="y")
def data(A):
    return torch.randn(3, *A.range.shape, dtype=torch.float64)


@pytest.fixture
def closed_form(A, G):
    """Minimiser of ‖A(Wz + b) - y‖²/(2σ²) + λ‖z‖² from the normal equations."""
    identity = torch.eye(G.domain.size, dtype=torch.float64)
    offset = to_torch(A)(G.module(torch.zeros(1, 3, dtype=torch.float64)))
    AW = (to_torch(A)(G.module(identity)) - offset).T

    def solve(y, sigma, lam):
        normal = AW.T @ AW / sigma**2 + 2 * lam * identity
        return torch.linalg.solve(normal, AW.T @ (y - offset).T / sigma**2).T

    return solve


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def text(settings):
    return "".join(
        f"[{table}]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in entries.items())
        for table, entries in settings.items()
    )


@functools.cache
def rays(kind):
    X = odl.uniform_discr([-1, -1], [1, 1], (16, 16), dtype="float32")
    angles = odl.uniform_partition(0, 2 * np.pi if kind == "fan" else np.pi, 20)
    detector = odl.uniform_partition(-2, 2, 32)
    radii = {"src_radius": 5.0, "det_radius": 3.0}
    shape = (
        tomo.FanBeamGeometry(angles, detector, **radii)
        if kind == "fan"
        else tomo.Parallel2dGeometry(angles, detector)
    )
    return ray_transform(X, shape, cache=False)


class Case:
    """A small problem of known truth, its data and its configuration in a folder."""

    sigma = 0.01

    def __init__(self, folder, kind):
        self.folder = folder
        self.A = rays(kind)
        self.X = self.A.domain
        truth = torch.zeros(16, 16)
        truth[4:9, 3:12], truth[11:13, 6:8] = 1.0, 0.5
        self.truth = truth.numpy()
        noise = self.sigma * torch.randn(self.A.range.shape)
        self.y = (to_torch(self.A)(truth) + noise).numpy()
        step = 360 / 20 if kind == "fan" else 180 / 20
        self.degrees = step * (np.arange(20) + 0.5)
        self.settings = {
            "data": {"file": "data.npy", "noise_std": self.sigma},
            "image": {"shape": [16, 16], "min": [-1.0, -1.0], "max": [1.0, 1.0]},
            "geometry": {
                "kind": kind,
                "angles": {"start": step / 2, "stop": 20.5 * step, "count": 20},
                "detector": {"pixels": 32, "size": 4.0},
                **({"source_distance": 5.0, "detector_distance": 3.0} if kind == "fan" else {}),
            },
            "prior": {"kind": "tikhonov"},
            "solve": {"lam": 1.0},
        }
        np.save(folder / "data.npy", self.y)

    def write(self, **changes):
        for name, value in changes.items():
            table, entry = name.split("__")
            self.settings.setdefault(table, {})[entry] = value
        (self.folder / "config.toml").write_text(text(self.settings))
        return self.folder / "config.toml"

    def run(self, **changes):
        rec, output = reconstruct_file(self.write(**changes), progress=False)
        return rec, np.load(output)

    def error(self, image):
        return np.linalg.norm(image - self.truth) / np.linalg.norm(self.truth)


@pytest.fixture
def without_pictures(monkeypatch):
    """Write images only: the picture beside takes longer than most of the small problems."""
    monkeypatch.setattr("genreg.cli.configuration._write", lambda image, target: np.save(target, image))


@pytest.fixture
def make_case(tmp_path, monkeypatch):
    """Problems with parallel or fan beam, with their files in `tmp_path`."""
    monkeypatch.setenv("GENREG_CACHE", str(tmp_path / "cache"))
    return lambda kind="parallel": Case(tmp_path, kind)


@pytest.fixture(name="case")
def parallel_case(make_case, without_pictures):
    return make_case()


@pytest.fixture
def configuration_text():
    return text
