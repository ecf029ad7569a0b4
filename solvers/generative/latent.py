r"""Problems of a latent vector: how data come in, where to start, and the objective of the hard constraint.

.. math:: \min_z \mathcal{D}(A(G(z)); y) + \frac{w}{2} \|z\|^2
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators import TorchOperator, torch_dtype
from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.caller_data import finite_or_zero, to_batch
from genreg.operators.bridge.jacobians import columns, jacobian, linearise
from genreg.operators.bridge.protocols import GeneratorLike
from genreg.operators.bridge.spaces import space_shape
from genreg.operators.fidelity.base import Fidelity
from genreg.operators.fidelity.entry import fidelity_of
from genreg.operators.fidelity.gaussian import squares
from genreg.operators.linear.conjugate_gradient import inner
from genreg.solvers.driver.monitor import Stopping
from genreg.solvers.driver.solution import Solution
from genreg.solvers.problem.objective import Blocks, Curvature, Objective, block_spaces


class OfGenerator(Stopping, total=False):
    r"""What solvers with a generator take.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y, linear or not.
    y : ODL element of Y, Tensor or array
        Data; a tensor or an array may have a leading batch axis, ``(B, *Y.shape)``.
    noise_std : float, Tensor, array or ODL element of Y
        Standard deviation σ > 0 of the noise, one for every sample, ``(B,)``, or for every datum, see
        `GaussianFidelity`.
    fidelity : Fidelity or callable, optional
        In place of `noise_std`: a fidelity with the operator A, or what makes one of (A, y). y may be None then.
    init : ODL element of Z, Tensor or array, optional
        First z. By default the code of a rough reconstruction where G has an encoder, otherwise zero.

    Raises
    ------
    NotImplementedError
        If the fidelity does not offer what the solver needs.
    """

    noise_std: Any
    fidelity: Fidelity | Callable[..., Fidelity] | None
    init: Any


def entered(
    A: odl.Operator, y: Any, G: GeneratorLike, keywords: OfGenerator, *, need: str, by: str
) -> Fidelity:
    """Take in the data of A∘G for a solver, `by` name, that needs something of the fidelity, see `Fidelity.offers`.

    Raises
    ------
    TypeError, ValueError
        If A or G is no operator, G does not map to the domain of A, y does not fit the range of A or is not
        finite, noise_std is not positive, or they do not fit the fidelity.
    NotImplementedError
        If the fidelity does not offer what the solver needs.
    """
    for name, op in (("A", A), ("G", G)):
        if not isinstance(op, odl.Operator):
            raise TypeError(f"{name} must be an ODL operator, got {type(op).__name__}")
    if G.range != A.domain:
        raise ValueError(f"G must map to the domain of A, {A.domain!r}, got {G.range!r}")
    found = fidelity_of(A, y, keywords["noise_std"], keywords["fidelity"])
    found.require(need, by)
    return found


def has_encoder(G: GeneratorLike) -> bool:
    """Whether G has an encoder, a method ``encode`` on batches of images."""
    return bool(getattr(G, "has_encoder", False))


def first_codes(G: GeneratorLike, fidelity: Fidelity) -> Tensor:
    """The codes of rough reconstructions, ``(B, *Z.shape)``, zero where they overflow or where G has no encoder."""
    if has_encoder(G):
        rough = finite_or_zero({"x": fidelity.rough()})["x"]
        return finite_or_zero({"z": G.encode(rough)})["z"]
    Z, data = G.domain, fidelity.data
    return torch.zeros((len(data), *Z.shape), dtype=torch_dtype(Z), device=data.device)


def first_latents(G: GeneratorLike, fidelity: Fidelity, init: Any = None) -> Tensor:
    """First latent vectors, ``(B, *Z.shape)``.

    Those given, alone or as ``{"z": ...}``; the codes of images given as ``{"x": ...}``; by default `first_codes`.

    Raises
    ------
    TypeError, ValueError
        If `init` is no latent vector or image for every sample.
    """
    if init is None:
        return first_codes(G, fidelity)
    if isinstance(init, Mapping) and not {"x", "z"} & set(init):
        raise ValueError(
            f"init must be a latent vector, {{'z': latent vector}} or {{'x': image}}, got the keys {list(init)}"
        )
    image = isinstance(init, Mapping) and "z" not in init
    if image and not has_encoder(G):
        raise ValueError(f"init must be a latent vector: {G!r} has no encoder for an image")
    given = init["x" if image else "z"] if isinstance(init, Mapping) else init
    space, count = G.range if image else G.domain, len(fidelity.data)
    start = to_batch(given, {"init": space}).blocks["init"].to(fidelity.data.device)
    if len(start) != count:
        raise ValueError(f"init must have the batch size of y, {count}, got {len(start)}")
    return finite_or_zero({"z": G.encode(start)})["z"] if image else start


def several_latents(z: Tensor, restarts: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latent vectors and draws of N(0, I), ``(B * restarts, *Z.shape)``, and the sample of each."""
    generator = seeded_generator(seed)
    drawn = torch.randn((len(z), restarts - 1, *z.shape[1:]), generator=generator, dtype=z.dtype)
    rows = torch.arange(len(z), device=z.device).repeat_interleave(restarts)
    return torch.cat((z[:, None], drawn.to(z.device)), 1).flatten(0, 1), rows


def leave(
    fidelity: Fidelity, G: GeneratorLike, solution: Solution, image: Tensor, **blocks: Tensor
) -> Solution:
    """Give a solution back as the kind of the data of a fidelity, with its image and with these blocks."""

    def per_sample(value: Tensor, axis: int = 0) -> Tensor:
        return value if fidelity.batched else value.squeeze(axis)

    return replace(
        solution,
        blocks={
            name: fidelity.given_back(G.domain if name == "z" else G.range, value)
            for name, value in blocks.items()
        },
        image=fidelity.given_back(G.range, image),
        value=per_sample(solution.value),
        status=per_sample(solution.status),
        iterations=per_sample(solution.iterations),
        operator_calls=per_sample(solution.operator_calls),
        history={name: per_sample(h, axis=1) for name, h in solution.history.items()},
    )


def latent_objective(
    forward: TorchOperator, generate: TorchOperator, fidelity: Fidelity | None = None, /, **per_sample: Tensor
) -> Objective:
    r"""The objective :math:`\mathcal{D}(A(G(z)); y) + \frac{w}{2} \|z\|^2` of z, with its curvature.

    Parameters
    ----------
    forward, generate : TorchOperator
        A and G.
    fidelity : Fidelity, optional
        Whose `misfit` and `curvature` are taken; by default those of Gaussian noise.
    **per_sample : Tensor
        What they take, for Gaussian noise y, ``(B, *Y.shape)``, and inverse_variance (1/σ², as for `squares`); and
        weight (w), ``(B,)``.
    """
    misfit = squares if fidelity is None else fidelity.misfit

    def value(blocks: Blocks, weight: Tensor, **data: Tensor) -> Tensor:
        z = blocks["z"]
        return misfit(forward(generate(z)), **data) + 0.5 * weight * inner(z, z)

    return Objective(
        value,
        block_spaces(generate.domain, ("z",)),
        per_sample=per_sample,
        curvature={"z": latent_curvature(forward, generate, fidelity)},
        lengths={"z": 1.0},
    ).pickled_as(functools.partial(latent_objective, **per_sample), forward, generate, fidelity)


def latent_curvature(
    forward: TorchOperator, generate: TorchOperator, fidelity: Fidelity | None = None
) -> Callable[..., Curvature]:
    r"""The Gauss-Newton matrix :math:`J^T D J + w I`, J the Jacobian of A∘G, as `Objective` takes it.

    D is the curvature of the fidelity, by default that of Gaussian noise, 1/σ²: one number for every sample, ``(B,)``,
    or one for every datum, a tensor that broadcasts to the data.
    """
    both = TorchOperator(lambda z: forward(generate(z)), generate.domain, forward.range)
    many_data = math.prod(space_shape(forward.range)) >= generate.domain.size

    def curvature(blocks: Blocks, *, weight: Tensor, **data: Tensor) -> Curvature:
        z = blocks["z"]
        linear = functools.cache(lambda: linearise(both, z)[1:])
        if fidelity is None or "quadratic" in fidelity.offers:
            D = data["inverse_variance"]
        else:
            with torch.no_grad():
                D = fidelity.curvature(both(z), **data)
        of_data = D if D.ndim > 1 else None

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

        return scaled_curvature(gram, product, D if of_data is None else torch.ones_like(weight), weight)

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
