r"""Problems of a latent vector: what is measured, and the least-squares objective of the hard constraint.

.. math:: \min_z \frac{1}{2 \sigma^2} \|A(G(z)) - y\|^2 + \frac{w}{2} \|z\|^2
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import TorchOperator, torch_dtype
from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.door import Door, enter, given_back, per_sample_number, usable
from genreg.operators.bridge.jacobians import columns, jacobian, linearise
from genreg.operators.bridge.spaces import space_shape
from genreg.operators.linear.conjugate_gradient import inner
from genreg.operators.linear.least_squares import rough_reconstruction
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.objective import Blocks, Curvature, Objective

__all__ = ["Measured", "latent_curvature", "least_squares", "real", "scaled_curvature"]


@dataclass(frozen=True)
class Measured:
    """Data of A∘G that a solver has taken in.

    Attributes
    ----------
    A, G : odl.Operator
        Forward operator X -> Y and generator Z -> X.
    y : Tensor
        Data, ``(B, *Y.shape)``.
    noise_std : Tensor
        σ, ``(B,)``.
    door : Door
        How the data came in.
    """

    A: odl.Operator
    G: Any
    y: Tensor
    noise_std: Tensor
    door: Door

    @classmethod
    def enter(cls, A: Any, y: Any, G: Any, noise_std: float | Tensor) -> Measured:
        """Take data in.

        Raises
        ------
        TypeError, ValueError
            If A or G is no operator, G does not map to the domain of A, y does not fit the range of A or is not
            finite, or noise_std is not positive.
        """
        if not isinstance(A, odl.Operator) or not isinstance(G, odl.Operator):
            name, given = ("G", G) if isinstance(A, odl.Operator) else ("A", A)
            raise TypeError(f"{name} must be an ODL operator, got {type(given).__name__}")
        if G.range != A.domain:
            raise ValueError(f"G must map to the domain of A, {A.domain!r}, got {G.range!r}")
        door = enter(y, {"y": A.range}, "y")
        data = door.blocks["y"]
        return cls(A, G, data, per_sample_number(noise_std, "noise_std", data), door)

    @property
    def inverse_variance(self) -> Tensor:
        """1 / σ², ``(B,)``."""
        return self.noise_std**-2

    @property
    def has_encoder(self) -> bool:
        """Whether G has an encoder, a method ``encode`` on batches of images."""
        return bool(getattr(self.G, "has_encoder", False))

    def start(self, init: Any = None) -> Tensor:
        """First latent vectors, ``(B, *Z.shape)``.

        Those given, alone or as ``{"z": ...}``; the codes of images given as ``{"x": ...}``; by default the codes
        of rough reconstructions, zero where they overflow, or zero where G has no encoder.

        Raises
        ------
        TypeError, ValueError
            If `init` is no latent vector or image for every sample.
        """
        Z, count = self.G.domain, len(self.y)
        if init is None and self.has_encoder:
            rough = usable({"x": rough_reconstruction(self.A, self.y)})["x"]
            return usable({"z": self.G.encode(rough)})["z"]
        if init is None:
            return torch.zeros((count, *Z.shape), dtype=torch_dtype(Z), device=self.y.device)
        if isinstance(init, Mapping) and not {"x", "z"} & set(init):
            raise ValueError(
                f"init must be a latent vector, {{'z': latent vector}} or {{'x': image}}, got the keys {list(init)}"
            )
        image = isinstance(init, Mapping) and "z" not in init
        if image and not self.has_encoder:
            raise ValueError(f"init must be a latent vector: {self.G!r} has no encoder for an image")
        given = init["x"] if image else init["z"] if isinstance(init, Mapping) and "z" in init else init
        start = enter(given, {"init": self.A.domain if image else Z}).blocks["init"].to(self.y.device)
        if len(start) != count:
            raise ValueError(f"init must have the batch size of y, {count}, got {len(start)}")
        return usable({"z": self.G.encode(start)})["z"] if image else start

    def starts(self, init: Any, restarts: int, seed: int) -> tuple[Tensor, Tensor]:
        """The first latent vectors and draws of N(0, I), ``(B * restarts, *Z.shape)``, and the sample of each."""
        z = self.start(init)
        generator = seeded_generator(seed)
        drawn = torch.randn((len(z), restarts - 1, *z.shape[1:]), generator=generator, dtype=z.dtype)
        rows = torch.arange(len(z), device=z.device).repeat_interleave(restarts)
        return torch.cat((z[:, None], drawn.to(z.device)), 1).flatten(0, 1), rows

    def leave(self, solution: Solution, image: Tensor, **blocks: Tensor) -> Solution:
        """Give a solution back as the caller's kind of data, with its image and with these blocks."""
        X, Z = self.A.domain, self.G.domain
        spaces = {name: Z if name == "z" else X for name in blocks}

        def out(space: Any, value: Tensor) -> Any:
            return given_back(self.door.kind, space, self.door.per_sample(value))

        per_sample = self.door.per_sample
        return replace(
            solution,
            blocks={name: out(spaces[name], value) for name, value in blocks.items()},
            image=out(X, image),
            value=per_sample(solution.value),
            status=per_sample(solution.status),
            iterations=per_sample(solution.iterations),
            operator_calls=per_sample(solution.operator_calls),
            history={name: per_sample(h, axis=1) for name, h in solution.history.items()},
        )


def least_squares(forward: TorchOperator, generate: TorchOperator, **per_sample: Tensor) -> Objective:
    r"""The objective :math:`\frac{1}{2 \sigma^2} \|A(G(z)) - y\|^2 + \frac{w}{2} \|z\|^2` of z, with its curvature.

    Parameters
    ----------
    forward, generate : TorchOperator
        A and G.
    **per_sample : Tensor
        y, ``(B, *Y.shape)``, and inverse_variance (1/σ²) and weight (w), ``(B,)``.
    """

    def value(blocks: Blocks, y: Tensor, inverse_variance: Tensor, weight: Tensor) -> Tensor:
        z = blocks["z"]
        r = forward(generate(z)) - y
        return 0.5 * (inverse_variance * inner(r, r) + weight * inner(z, z))

    return Objective(
        value,
        {"z": generate.domain},
        per_sample=per_sample,
        curvature={"z": latent_curvature(forward, generate)},
        lengths={"z": 1.0},
    ).made_by(functools.partial(least_squares, **per_sample), forward, generate)


def latent_curvature(forward: TorchOperator, generate: TorchOperator) -> Callable[..., Curvature]:
    r"""The Gauss-Newton matrix :math:`J^T J / \sigma^2 + w I`, J the Jacobian of A∘G, as `Objective` takes it.

    1/σ² may be one for every sample, ``(B,)``, or for every datum, a tensor that broadcasts to the data.
    """
    both = TorchOperator(lambda z: forward(generate(z)), generate.domain, forward.range)
    many_data = math.prod(space_shape(forward.range)) >= generate.domain.size

    def curvature(blocks: Blocks, *, inverse_variance: Tensor, weight: Tensor, **data: Tensor) -> Curvature:
        z = blocks["z"]
        linear = functools.cache(lambda: linearise(both, z)[1:])
        of_data = inverse_variance if inverse_variance.ndim > 1 else None

        def gram() -> Tensor:
            if forward.linear and many_data:
                J = forward(columns(generate, z))
            else:
                J = jacobian(both, z).movedim(2, 0).unflatten(2, space_shape(forward.range))
            J = J if of_data is None else J * of_data.sqrt()
            J = real(J).permute(1, 2, 0)  # (B, m, n)
            return J.mT @ J

        def product(p: Tensor) -> Tensor:
            push, pull = linear()
            return pull(push(p) if of_data is None else of_data * push(p))

        scale = inverse_variance if of_data is None else torch.ones_like(weight)
        return scaled_curvature(gram, product, scale, weight)

    return curvature


def scaled_curvature(
    gram: Callable[[], Tensor], product: Callable[[Tensor], Tensor], inverse_variance: Tensor, weight: Tensor
) -> Curvature:
    """The matrix N = M / σ² + w I of every sample.

    Parameters
    ----------
    gram, product : callable
        M, ``(B, n, n)``, and p -> M p, see `Curvature`.
    inverse_variance, weight : Tensor
        1/σ² and w, ``(B,)``.
    """

    def matrix() -> Tensor:
        with torch.no_grad():
            M = inverse_variance[:, None, None] * gram()
            return M + torch.diag_embed(weight[:, None].expand(-1, M.shape[1]))

    def of_vector(p: Tensor) -> Tensor:
        scale = (-1, *(1,) * (p.ndim - 1))
        return inverse_variance.view(scale) * product(p) + weight.view(scale) * p

    return Curvature(matrix, of_vector)


def real(J: Tensor) -> Tensor:
    """Columns ``(n, B, *shape)`` as real vectors, ``(n, B, m)``, real and imaginary parts side by side."""
    J = torch.view_as_real(J) if J.is_complex() else J
    return J.flatten(2)
