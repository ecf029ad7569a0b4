r"""Regularisers: ODL functionals of blocks v that stand for an image.

A reconstruction minimises :math:`\mathcal{D}(A(\mathrm{image}(v))) + \lambda R(v)`. Every regulariser has
named blocks, the operator ``image`` from the blocks to the image, its value, a way to find a starting point,
and the form in which its problem is best solved.

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
learning models, arXiv:2107.11191.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.fidelity import GaussianFidelity
from genreg.generator import Generator
from genreg.operators import (
    TorchFunctional,
    lower,
    riesz,
    to_element,
    to_tensor,
    to_torch,
    torch_dtype,
)
from genreg.solvers import (
    Objective,
    SaddlePoint,
    conjugate_gradient,
    gradient_descent,
    pdhg,
    quasi_newton,
    rough_reconstruction,
)
from genreg.solvers.objective import Blocks, block_spaces, pack

__all__ = ["HardConstraint", "Regulariser", "Tikhonov", "TotalVariation"]


_DENSE_HESSIAN = 256  # latent dimension up to which an n × n matrix for every sample is cheap


class Regulariser(Functional):
    """Base of the regularisers.

    Attributes
    ----------
    blocks : tuple of str
        Names of the unknowns, in the order of the parts of the domain.
    image : odl.Operator
        Maps the blocks to the image.
    solver : callable
        ``solver(problem, init, ...)`` for the problems of this regulariser, unless the user names another.
    """

    blocks: tuple[str, ...]
    image: odl.Operator
    solver: Any = staticmethod(gradient_descent)

    @abstractmethod
    def start(
        self, fidelity: GaussianFidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """Starting points, ``(B * restarts, *shape)``, the restarts of a sample next to each other."""

    def initial(self, y: Any, A: odl.Operator, *, init: str | None = None, seed: int = 0) -> dict[str, Any]:
        """Find a starting point from the data.

        Parameters
        ----------
        y : ODL element of A.range, or Tensor
            Data; the result is of the same kind.
        A : odl.Operator
            Forward operator.
        init : str, optional
            What to start from, see the regulariser; by default the best it has.
        seed : int
            Seed of random starts.

        Returns
        -------
        dict
            The blocks.
        """
        fidelity = GaussianFidelity(A, y, 1.0)
        generator = torch.Generator(fidelity.data.device).manual_seed(seed)
        blocks = self.start(fidelity, init, 1, generator)
        if fidelity.batched:
            return blocks
        spaces = block_spaces(self.domain, self.blocks)
        single = {name: v[0] for name, v in blocks.items()}
        return {k: to_element(spaces[k], v) for k, v in single.items()} if fidelity.from_element else single

    def problem(self, fidelity: GaussianFidelity, lam: Tensor) -> Objective | SaddlePoint:
        """The problem ``fidelity(image(v)) + lam R(v)``, with λ, ``(B,)``, and data for every sample.

        This one is for differentiable regularisers.
        """
        domain, value = self.domain, to_torch(self)
        forward = to_torch(fidelity.operator * self.image)

        def smooth(blocks: Blocks, y: Tensor, inverse_variance: Tensor, lam: Tensor) -> Tensor:
            v = pack(domain, blocks)
            return fidelity.misfit(forward(v), y, inverse_variance) + lam * value(v)

        per_sample = {"y": fidelity.data, "inverse_variance": fidelity.inverse_variance, "lam": lam}
        return Objective(smooth, block_spaces(domain, self.blocks), per_sample=per_sample)

    def _call(self, v: Any) -> float:
        with torch.no_grad():
            return float(to_torch(self)(to_tensor(v)))

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient, by autograd."""
        return _RegulariserGradient(self)


class _RegulariserGradient(odl.Operator):
    def __init__(self, regulariser: Regulariser) -> None:
        super().__init__(regulariser.domain, regulariser.domain, linear=False)
        self.value = to_torch(regulariser)

    def _call(self, v: Any) -> Any:
        with torch.enable_grad():
            leaf = to_tensor(v).clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(leaf), leaf)
        return to_element(self.domain, riesz(self.domain, gradient))


class HardConstraint(Regulariser):
    r"""Solutions in the range of a generator: image G(z), value :math:`\|z\|_2^2` (Duff et al., eq. 18).

    The reconstruction is :math:`G(\hat z)` with :math:`\hat z \in \arg\min_z \frac{1}{2\sigma^2}\|A(G(z)) -
    y\|^2 + \lambda \|z\|^2`. For λ = ½ and z ~ N(0, I) that is the maximum a posteriori estimate of z.

    Starting points: ``"encoder"`` encodes a rough reconstruction (a few conjugate gradient steps), further
    restarts are drawn from N(0, I); ``"random"`` draws all of them; ``"zero"`` starts at z = 0, the mode of
    the prior, with restarts drawn. The default is the encoder where the model has one, otherwise zero.

    Problems are solved by `solvers.quasi_newton`; with more than 256 latent dimensions by
    `solvers.gradient_descent`.

    Parameters
    ----------
    G : Generator
        The generator Z -> X.

    References
    ----------
    A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017), Compressed sensing using generative models,
    arXiv:1703.03208.
    """

    blocks = ("z",)

    def __init__(self, G: Generator) -> None:
        if not isinstance(G, Generator):
            raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
        super().__init__(space=G.domain, linear=False)
        self.image = G
        self.solver = quasi_newton if G.domain.size <= _DENSE_HESSIAN else gradient_descent

    def start(
        self, fidelity: GaussianFidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """See the class."""
        G = self.image
        init = init or ("encoder" if G.has_encoder else "zero")
        if init not in ("encoder", "random", "zero"):
            raise ValueError(f"init must be 'encoder', 'random', 'zero' or blocks, got {init!r}")
        count = len(fidelity.data)
        z = torch.randn(
            (count, restarts, *G.domain.shape),
            generator=generator,
            dtype=torch_dtype(G.domain),
            device=fidelity.data.device,
        )
        if init == "zero":
            z[:, 0] = 0
        elif init == "encoder":
            z[:, 0] = G.encode(rough_reconstruction(fidelity.operator, fidelity.data))
        return {"z": z.flatten(0, 1)}

    def __repr__(self) -> str:
        return f"HardConstraint({self.image!r})"


@lower.register(HardConstraint)
def _(op: HardConstraint) -> TorchFunctional:
    return TorchFunctional(lambda z: z.square().sum(-1), op.domain, name="HardConstraint")


class _OnImages(Regulariser):
    """A regulariser of the image itself, which starts from zero."""

    blocks = ("x",)

    def __init__(self, space: Any) -> None:
        if isinstance(space, odl.ProductSpace) or not hasattr(space, "dtype"):
            raise TypeError(f"space must be an ODL tensor or function space, got {space!r}")
        super().__init__(space=space, linear=False)
        self.image = odl.IdentityOperator(space)

    def start(
        self, fidelity: GaussianFidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """Start from ``"zero"`` (the default) or from the ``"rough"`` reconstruction."""
        if init not in (None, "zero", "rough"):
            raise ValueError(f"init must be 'zero', 'rough' or blocks, got {init!r}")
        if init == "rough":
            x = rough_reconstruction(fidelity.operator, fidelity.data)
        else:
            shape = (len(fidelity.data), *self.domain.shape)
            x = torch.zeros(shape, dtype=torch_dtype(self.domain), device=fidelity.data.device)
        return {"x": x.repeat_interleave(restarts, 0)}


class Tikhonov(_OnImages):
    r"""Tikhonov regularisation, :math:`\|L x\|^2` in the norm of the range of L.

    Problems are solved by `solvers.conjugate_gradient`, which needs a linear forward operator; for others pass
    ``solver=solvers.gradient_descent``.

    Parameters
    ----------
    space : ODL space
        The image space X.
    operator : odl.Operator, optional
        L, linear, by default the identity.
    """

    solver = staticmethod(conjugate_gradient)

    def __init__(self, space: Any, operator: odl.Operator | None = None) -> None:
        super().__init__(space)
        L = odl.IdentityOperator(space) if operator is None else operator
        if not isinstance(L, odl.Operator) or not L.is_linear or L.domain != space:
            raise ValueError(f"operator must be a linear ODL operator on {space!r}, got {L!r}")
        self.functional = odl.functionals.L2NormSquared(L.range) * L

    def __repr__(self) -> str:
        return f"Tikhonov({self.functional!r})"


class TotalVariation(_OnImages):
    r"""Isotropic total variation, :math:`\| |\nabla x|_2 \|_1`, in the norms of the space X.

    The gradient is by forward differences divided by the cell size, with no difference across the boundary;
    the sum carries the cell volume. Optional bounds on x are imposed as constraints. Problems are solved by
    `solvers.pdhg`.

    Parameters
    ----------
    space : ODL space
        The image space X, a `uniform_discr`.
    lower, upper : float, optional
        Bounds, for example ``lower=0`` for non-negativity.

    References
    ----------
    L. I. Rudin, S. Osher, E. Fatemi (1992), Nonlinear total variation based noise removal algorithms,
    doi:10.1016/0167-2789(92)90242-F.
    """

    solver = staticmethod(pdhg)

    def __init__(self, space: Any, *, lower: float | None = None, upper: float | None = None) -> None:
        super().__init__(space)
        if not hasattr(space, "partition"):
            raise TypeError(f"space must be a discretised function space (uniform_discr), got {space!r}")
        if lower is not None and upper is not None and not lower < upper:
            raise ValueError(f"lower must be smaller than upper, got {lower} and {upper}")
        self.bounds = (lower, upper)
        self.derivative_operator = odl.Gradient(space, method="forward", pad_mode="symmetric")
        self.functional = (
            odl.functionals.GroupL1Norm(self.derivative_operator.range) * self.derivative_operator
        )

    def problem(self, fidelity: GaussianFidelity, lam: Tensor) -> SaddlePoint:
        """The saddle-point form: bounds on x, the fidelity of A x and λ times the norm of ∇x."""
        if not fidelity.operator.is_linear:
            raise ValueError(f"A must be linear for TotalVariation, got {fidelity.operator!r}")
        box = (
            odl.functionals.ZeroFunctional(self.domain)
            if self.bounds == (None, None)
            else odl.functionals.IndicatorBox(self.domain, *self.bounds)
        )
        norm = to_torch(odl.functionals.GroupL1Norm(self.derivative_operator.range)).scaled(lam)
        return SaddlePoint(box, [fidelity.on_data(), norm], [fidelity.operator, self.derivative_operator])

    def __repr__(self) -> str:
        return f"TotalVariation({self.domain!r}, lower={self.bounds[0]}, upper={self.bounds[1]})"


@lower.register(Tikhonov)
@lower.register(TotalVariation)
def _(op: Tikhonov | TotalVariation) -> TorchFunctional:
    return to_torch(op.functional)
