r"""What every regulariser is: an ODL functional of blocks v that stand for an image.

A reconstruction minimises :math:`\mathcal{D}(A(\mathrm{image}(v))) + \lambda R(v)` with

.. math:: R(v) = S(v; \theta) + \sum_i g_i(v_i; \theta),

S smooth and every :math:`g_i` with a proximal operator on its block; θ are parameters such as μ, each a number
or one for every sample of a batch.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators import TorchFunctional, lower, to_tensor, to_torch
from genreg.operators.bridge.arguments import described, seeded_generator
from genreg.operators.bridge.arrays import array, fitting
from genreg.operators.bridge.modes import normal, undisturbed
from genreg.operators.bridge.protocols import own_keywords
from genreg.operators.bridge.spaces import Tensors, split
from genreg.operators.fidelity import Fidelity, GaussianFidelity
from genreg.operators.lowering.splitting import terms
from genreg.regularisers.differentiable import Gradient, Lowered
from genreg.solvers import Objective, SaddlePoint, Solution, gradient_descent
from genreg.solvers.problem.objective import Blocks, block_spaces, pack


def checked_parameter(value: Any, name: str) -> float | Tensor:
    """Check that a parameter is a finite number >= 0, or a tensor of such numbers, one for every sample.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    tensor = array(value, name, complex=False, wanted="a number or a tensor (B,)")
    if tensor.ndim > 1 or not tensor.numel():
        raise ValueError(f"{name} must be a number or have the shape (B,), got shape {tuple(tensor.shape)}")
    if not bool(((tensor >= 0) & torch.isfinite(tensor)).all()):
        raise ValueError(f"{name} must be non-negative and finite, got {described(value)}")
    return tensor if tensor.ndim else float(tensor)


class Regulariser(Functional):
    """Base of the regularisers.

    Attributes
    ----------
    blocks : tuple of str
        Names of the unknowns, in the order of the parts of the domain.
    image : odl.Operator
        Maps the blocks to the image.
    parameters : dict of str to float or Tensor
        Parameters such as μ; a tensor has one for every sample, ``(B,)``.
    lengths : dict of str to float
        Units of length of blocks that are known beforehand, see `solvers.Objective`.
    offset : callable or None
        ``offset(blocks) -> (B,)``: a part of R that depends on the choice of units only, see `solvers.Objective`.
    solver : callable
        ``solver(problem, init, ...)`` for the problems of this regulariser, unless the user names another.
    """

    blocks: tuple[str, ...]
    image: odl.Operator
    parameters: Mapping[str, float | Tensor] = {}
    lengths: Mapping[str, float] = {}
    offset: Callable[[Blocks], Tensor] | None = None
    solver: Callable[..., Solution] = staticmethod(gradient_descent)

    @abstractmethod
    @own_keywords
    def smooth(self, blocks: Blocks, **parameters: float | Tensor) -> Tensor:
        """The smooth part S(v; θ), ``(B,)``."""

    @own_keywords
    def proximable(self, **parameters: float | Tensor) -> dict[str, TorchFunctional]:
        """The parts g_i with a proximal operator, by the name of their block; none in the base."""
        return {}

    @abstractmethod
    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """Starting points, ``(B * restarts, *shape)``, the restarts of a sample next to each other."""

    @undisturbed
    def initial(
        self,
        y: Any,
        A: odl.Operator,
        *,
        noise_std: float | Tensor | None = None,
        init: str | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Find a starting point from the data.

        Parameters
        ----------
        y : ODL element of A.range, Tensor or array
            Data; the result is of the same kind.
        A : odl.Operator
            Forward operator.
        noise_std : float or Tensor, optional
            Standard deviation of the noise, which counts where the starting point is a solution of its own; by
            default 5 % of the root mean square of the data.
        init : str, optional
            What to start from, see the regulariser; by default the best it has.
        seed : int
            Seed of random starts.

        Returns
        -------
        dict
            The blocks.
        """
        if not (init is None or isinstance(init, str)):
            raise TypeError(f"init must be a word or None, got {described(init)}")
        fidelity = GaussianFidelity(A, y, 1.0 if noise_std is None else noise_std)
        if noise_std is None:
            rms = fidelity.data.abs().square().flatten(1).mean(1).sqrt()
            fidelity = GaussianFidelity(A, y, torch.where(rms > 0, 0.05 * rms, 1.0))
        blocks = self.start(fidelity, init, 1, seeded_generator(seed, fidelity.data.device))
        spaces = block_spaces(self.domain, self.blocks)
        return {name: fidelity.given_back(spaces[name], v) for name, v in blocks.items()}

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> Objective | SaddlePoint:
        """The problem ``fidelity(image(v)) + lam R(v)``, with λ, ``(B,)``, and data for every sample.

        Parameters
        ----------
        fidelity : Fidelity
            The data, B samples.
        lam : Tensor
            λ, ``(B,)``.
        **parameters : Tensor
            Parameters of R for every sample, ``(B,)``, by default those of the regulariser.

        Raises
        ------
        NotImplementedError
            If the fidelity is not differentiable.
        """
        domain = self.domain
        fidelity.require("gradient", type(self).__name__)
        forward = to_torch(fidelity.operator * self.image)
        if not self.parameters.keys() <= parameters.keys():
            parameters = self.parameters_of(lam) | parameters
        names = tuple(parameters)

        def smooth(blocks: Blocks, lam: Tensor, **given: Tensor) -> Tensor:
            mine = {name: given.pop(name) for name in names}
            return fidelity.misfit(forward(pack(domain, blocks)), **given) + lam * self.smooth(blocks, **mine)

        proximable = {name: g.scaled(lam) for name, g in self.proximable(**parameters).items()}
        per_sample = {**fidelity.per_sample, "lam": lam, **parameters}

        made = Objective(
            smooth,
            block_spaces(domain, self.blocks),
            proximable,
            per_sample,
            lengths=self.lengths,
            offset=None if self.offset is None else functools.partial(_scaled_offset, self.offset),
        )
        return made.pickled_as(posed, self, fidelity, lam, parameters)

    def parameters_of(self, lam: Tensor) -> dict[str, Tensor]:
        """The parameters as tensors ``(B,)``, of the kind of `lam`.

        Raises
        ------
        ValueError
            If a parameter is given for another number of samples.
        """
        tensors = {
            name: normal(
                fitting(
                    torch.as_tensor(p, dtype=None if isinstance(p, Tensor) else torch.float64),
                    name,
                    lam.dtype,
                )
            )
            for name, p in self.parameters.items()
        }
        for name, p in tensors.items():
            if p.ndim and len(p) != len(lam):
                raise ValueError(
                    f"{name} must be a number or have the shape ({len(lam)},), got {tuple(p.shape)}"
                )
        return {name: p.to(lam.device).expand(len(lam)) for name, p in tensors.items()}

    def lam_scale(self, fidelity: Fidelity, blocks: Blocks, **parameters: Tensor) -> Tensor:
        """A λ of the right order, ``(B,)``, around which the principles of parameter choice search.

        1 in the base: R is the negative logarithm of a density, of order 1 in λ whatever the units of image and data.

        Parameters
        ----------
        fidelity : Fidelity
            The data, B samples.
        blocks : dict of str to Tensor
            Starting point of every sample, ``(B, *shape)``.
        **parameters : Tensor
            All parameters of R for every sample, ``(B,)``.
        """
        return torch.ones_like(fidelity.expected)

    def balanced(self, fidelity: Fidelity, blocks: Blocks, **parameters: Tensor) -> Tensor:
        """The λ that makes both terms equal, ``(B,)``: what is expected of the fidelity over R(v; θ) of these blocks.

        It has the units that λ must have. 1 where that is no positive number.
        """
        with torch.no_grad():
            R = self.value_of(blocks, **parameters)
        return self._balance(fidelity, R)

    @staticmethod
    def _balance(fidelity: Fidelity, R: Tensor) -> Tensor:
        """What is expected of the fidelity over numbers R, ``(B,)``; 1 where that is no positive number."""
        with torch.no_grad():
            expected = fidelity.expected
            if bool(expected.isnan().any()):  # the noise is not known
                zero = torch.zeros_like(fidelity.rough())
                expected = torch.where(expected.isnan(), to_torch(fidelity)(zero), expected)
            ratio = (expected / R).to(expected.dtype)
        return torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0)

    def value_of(self, blocks: Blocks, **parameters: float | Tensor) -> Tensor:
        """R(v; θ), ``(B,)``."""
        parts = self.proximable(**parameters).items()
        return sum((g(blocks[name]) for name, g in parts), self.smooth(blocks, **parameters))

    def named(self, v: Tensors) -> Blocks:
        """Blocks by their names, from a tensor, stack or tuple as a lowered functional takes it."""
        parts = (v,) if len(self.blocks) == 1 else split(self.domain, v)
        return dict(zip(self.blocks, parts, strict=True))

    def _call(self, v: Any) -> float:
        with torch.no_grad():
            return float(to_torch(self)(to_tensor(v)))

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient, by autograd.

        Raises
        ------
        NotImplementedError
            If a part of R has a proximal operator only.
        """
        if self.proximable(**self.parameters):
            raise NotImplementedError(f"{self!r} is not differentiable: solve with palm")
        return Gradient(self)

    @property
    def marginal(self) -> Functional:
        r"""The functional of the image alone, :math:`R_G(x) = \min R` over the other blocks."""
        return self


def _scaled_offset(
    offset: Callable[[Blocks], Tensor], blocks: Blocks, lam: Tensor, **given: Tensor
) -> Tensor:
    return lam * offset(blocks)


def posed(
    regulariser: Regulariser, fidelity: Fidelity, lam: Tensor, parameters: Mapping[str, Tensor]
) -> Objective | SaddlePoint:
    """Pose the problem of a regulariser, as its pickles do."""
    return regulariser.problem(fidelity, lam, **parameters)


@lower.register(Regulariser)
def _(op: Regulariser) -> TorchFunctional:
    return TorchFunctional(
        lambda v: op.value_of(op.named(v), **op.parameters), op.domain, name=type(op).__name__
    )


@terms.register(Regulariser)
def _(op: Regulariser) -> Iterator[tuple[float, Functional]]:
    for part in _parts(op):
        yield 1.0, part


def _parts(op: Regulariser) -> Iterator[Functional]:
    """S and the g_i, each as a functional of all blocks."""
    parameters = op.parameters

    def smooth(v: Tensors) -> Tensor:
        return op.smooth(op.named(v), **parameters)

    whole = TorchFunctional(smooth, op.domain, name=type(op).__name__)
    yield Lowered(whole.pickled_as(_smooth_part, op))
    for name, g in op.proximable(**parameters).items():
        part = Lowered(g)
        yield (
            part if len(op.blocks) == 1 else part * odl.ComponentProjection(op.domain, op.blocks.index(name))
        )


def _smooth_part(op: Regulariser) -> TorchFunctional:
    return next(_parts(op)).lowered
