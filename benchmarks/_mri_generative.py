"""Reconstructions of MRI with a generative model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from _mri import Measured
from _mri_baselines import Parameters, unconverged
from torch import Tensor

import genreg
from genreg import solvers
from genreg.evaluation import psnr
from genreg.operators import GaussianPosterior, to_torch
from genreg.solvers.generative.profiled import codes, maximise
from genreg.solvers.generative.structured import StructuredProblem

__all__ = ["Joint", "RangeConstrained", "WeightOptimised", "quasi_newton_solver"]


@dataclass(frozen=True)
class RangeConstrained:
    """Images G(z): the hard constraint, λ by the best mean PSNR on subject 1, from the code of a rough image.

    Parameters
    ----------
    G : Generator
        The generator.
    lams : tuple of float
        Values of λ to choose from.
    max_iter : int
        Iterations at most.

    References
    ----------
    A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017), Compressed sensing using generative models, arXiv:1703.03208.
    """

    G: genreg.Generator
    lams: tuple[float, ...] = (0.5, 5.0, 50.0, 500.0)
    max_iter: int = 60
    name: str = "range-constrained"

    def tune(self, data: Measured) -> dict[str, float]:
        """Find λ."""
        if len(self.lams) == 1:
            return {"lam": self.lams[0]}
        scores = [psnr(self._found(data, lam).image, data.x, data_range=1.0).mean() for lam in self.lams]
        return {"lam": self.lams[int(torch.stack(scores).argmax())]}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Reconstruct with this λ."""
        found = self._found(data, parameters["lam"])
        return found.image, unconverged(found.status)

    def _found(self, data: Measured, lam: float) -> genreg.Reconstruction:
        return genreg.reconstruct(
            data.A,
            data.y,
            genreg.HardConstraint(self.G),
            noise_std=data.setting.noise_std,
            lam=lam,
            max_iter=self.max_iter,
            progress=False,
        )


def quasi_newton_solver(G: genreg.Generator, tol: float) -> Callable[..., solvers.Solution]:
    """A solver of the joint posterior whose z moves by proposals of the encoder and by quasi-Newton steps.

    Parameters
    ----------
    G : Generator
        The generator.
    tol : float
        Error of an image given z, in posterior standard deviations.
    """

    def solve(problem: Any, init: Mapping[str, Tensor], **settings: Any) -> solvers.Solution:
        if isinstance(problem, StructuredProblem):
            problem = replace(problem, tol=tol)

        update = solvers.Propose([solvers.Proposal(codes(problem, G.encode), 2)], solvers.QuasiNewton())
        return maximise(problem, init, update, **settings)

    return solve


@dataclass(frozen=True)
class Joint:
    """The joint posterior of image and latent vector, maximised; the structure of its precision is that of the model.

    The latent vector moves by proposals of the encoder and by quasi-Newton steps, for all structures alike.

    Parameters
    ----------
    G : Generator
        The generator.
    name : str
        Name of the row.
    max_iter : int
        Turns at most.
    tol : float
        Error of an image given z, in posterior standard deviations.
    """

    G: genreg.Generator
    name: str
    max_iter: int = 20
    tol: float = 0.05

    def tune(self, data: Measured) -> dict[str, float]:
        """There is nothing to choose: a density has no free weight."""
        return {}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Reconstruct."""
        found = self.found(data)
        return found.image, unconverged(found.status)

    def found(self, data: Measured) -> genreg.Reconstruction:
        """Maximise the posterior."""
        return genreg.reconstruct(
            data.A,
            data.y,
            genreg.JointPrior(self.G),
            noise_std=data.setting.noise_std,
            lam=1.0,
            solver=quasi_newton_solver(self.G, self.tol),
            max_iter=self.max_iter,
            progress=False,
        )

    def posterior(self, data: Measured) -> GaussianPosterior:
        """The posterior of the image given z, at the maximum of the joint one."""
        fidelity = genreg.GaussianFidelity(data.A, data.y, data.setting.noise_std)
        found = genreg.JointPrior(self.G).posterior(fidelity, self.found(data).blocks["z"])
        found.tol = self.tol
        return found


@dataclass(frozen=True)
class WeightOptimised:
    """Images of a generator whose weights are optimised too, for every slice: first z, then z and the weights.

    Without early stopping the weights would fit the noise; the number of steps is chosen on subject 1.

    Parameters
    ----------
    start : RangeConstrained
        The first stage.
    steps : int
        Steps of Adam at most.
    every : int
        Steps between the numbers of steps to choose from.
    lr, lr_latent : float
        Learning rates of the weights and of z.

    References
    ----------
    D. Narnhofer, K. Hammernik, F. Knoll, T. Pock (2019), Inverse GANs for accelerated MRI reconstruction,
    doi:10.1117/12.2527753.
    """

    start: RangeConstrained
    steps: int = 200
    every: int = 20
    lr: float = 1e-3
    lr_latent: float = 1e-2
    name: str = "weights optimised"

    def tune(self, data: Measured) -> dict[str, float]:
        """Find λ of the first stage, and, on every other slice, the number of steps."""
        parameters, data = self.start.tune(data), data.take(slice(None, None, 2))
        z = self.start._found(data, parameters["lam"]).blocks["z"]
        scores = []
        for k in range(len(z)):
            one = data.take(slice(k, k + 1))
            scores.append(
                [float(psnr(x, one.x, data_range=1.0)) for x in self._path(one, z[k : k + 1], self.steps)]
            )
        best = int(torch.tensor(scores).mean(0).argmax())
        return {**parameters, "steps": best * self.every}

    def solve(self, data: Measured, parameters: Parameters) -> tuple[Tensor, str]:
        """Reconstruct with this number of steps."""
        z, steps = self.start._found(data, parameters["lam"]).blocks["z"], int(parameters["steps"])
        images = []
        for k in range(len(z)):
            *_, image = self._path(data.take(slice(k, k + 1)), z[k : k + 1], steps)
            images.append(image)
        return torch.cat(images), "steps at the end of their range" if steps == self.steps else ""

    def _path(self, data: Measured, z: Tensor, steps: int) -> Iterator[Tensor]:
        """The images ``(1, n, m)`` of one slice after 0, `every`, ... steps."""
        decoder, forward = copy.deepcopy(self.start.G.module), to_torch(data.A)
        decoder.requires_grad_(True)
        z = z.clone().requires_grad_()
        # what does not make the mean, such as an encoder, gets no gradient and stays
        groups = [{"params": list(decoder.parameters())}, {"params": [z], "lr": self.lr_latent}]
        optimiser = torch.optim.Adam(groups, lr=self.lr)
        for step in range(steps + 1):
            x = decoder(z)
            if step % self.every == 0:
                yield x.detach()
            if step == steps:
                break
            optimiser.zero_grad()
            (forward(x) - data.y).abs().square().sum().backward()
            optimiser.step()
