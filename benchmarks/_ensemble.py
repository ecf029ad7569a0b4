"""Limited-angle reconstruction by an ensemble of networks: data, members, and what distils them."""

import math
from dataclasses import dataclass
from pathlib import Path

import odl
import torch
from _study import kept, normal
from odl.applications import tomo
from torch import Tensor

from genreg import datasets, links
from genreg.networks import GaussianRegressor, GaussianRegressorConfig
from genreg.operators import data_prox, ray_transform, to_torch
from genreg.training import distil

__all__ = ["LINK", "Sizes", "Task", "distilled", "ensemble", "outputs_of", "pairs"]

LINK = links.Logit(
    lower=-0.05, upper=1.05
)  # with a margin, so that the images, in [0, 1], have finite log-odds
NOISE = 0.02  # standard deviation; the largest line integrals are about 0.55
SHIFT = 0.01  # of Tikhonov's method


@dataclass(frozen=True)
class Sizes:
    """What is computed."""

    members: int = 5
    training: int = 200
    distillation: int = 2000
    test: int = 200
    member_steps: int = 600
    steps: int = 3000
    mean_steps: int = 500


class Task:
    """Images with a disc, a rectangle and a spot, and their Tikhonov reconstructions from 15 views of 60 degrees."""

    def __init__(self) -> None:
        X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
        angles = odl.uniform_partition(0, math.pi / 3, 15)
        detector = odl.uniform_partition(-1.5, 1.5, 84)
        self.A = ray_transform(X, tomo.Parallel2dGeometry(angles, detector))
        self._forward, self._prox = to_torch(self.A), data_prox(self.A)

    def rough(self, x: Tensor, seed: int) -> Tensor:
        """Simulate data and reconstruct, min ‖A r - y‖² + SHIFT ‖r‖² with Euclidean norms."""
        y = self._forward(x)
        return self._prox(torch.zeros_like(x), y + NOISE * normal(y.shape, seed), SHIFT)


def pairs(task: Task, n: int, seed: int, cache: Path) -> tuple[Tensor, Tensor]:
    """Draw inputs and images, or read them from the cache."""

    def compute() -> dict[str, Tensor]:
        x = datasets.shapes_plus(n, seed=seed)
        parts = [task.rough(part, 1000 * seed + k) for k, part in enumerate(x.split(500))]
        return {"inputs": torch.cat(parts), "images": x}

    found = kept(cache / f"data-{n}-{seed}.pt", {}, compute)
    return found["inputs"], found["images"]


@torch.no_grad()
def outputs_of(members: list[GaussianRegressor], inputs: Tensor) -> Tensor:
    """What the members make of inputs ``(N, n, m)``: images ``(N, M, n, m)``."""
    return torch.cat(
        [torch.stack([LINK.inverse(m(part)[0]) for m in members], 1) for part in inputs.split(100)]
    )


def _network(distance: int, seed: int) -> GaussianRegressor:
    torch.manual_seed(seed)
    return GaussianRegressorConfig(
        image_shape=(56, 56), distance=distance, link=LINK, bounds=(-5.0, 7.0)
    ).build()


def ensemble(sizes: Sizes, inputs: Tensor, images: Tensor, cache: Path) -> list[GaussianRegressor]:
    """Train the members: other initial weights, other batches, and each its bootstrap sample of the pairs."""
    members = []
    for k in range(sizes.members):
        model = _network(0, k)
        chosen = torch.randint(len(inputs), (len(inputs),), generator=torch.Generator().manual_seed(k))
        steps, file = sizes.member_steps, cache / f"member-{k}-{sizes.member_steps}.checkpoint"
        _fit(model, inputs[chosen], images[chosen], file, steps=steps, mean_steps=steps, seed=k)
        members.append(model)
    return members


def _fit(model: GaussianRegressor, inputs: Tensor, images: Tensor, file: Path, **settings: int) -> None:
    common = {"batch_size": 16, "lr": 3e-3, "warmup": 50, "checkpoint": file, "resume": True}
    distil(model, inputs, images, **common, **settings)


def distilled(distance: int, sizes: Sizes, inputs: Tensor, outputs: Tensor, cache: Path) -> GaussianRegressor:
    """Distil the ensemble into one network, diagonal for distance 0."""
    model = _network(distance, 100)
    file = cache / f"distilled-{distance}-{sizes.distillation}-{sizes.steps}.checkpoint"
    _fit(model, inputs, outputs, file, steps=sizes.steps, mean_steps=sizes.mean_steps)
    return model
