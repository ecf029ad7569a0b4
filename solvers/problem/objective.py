r"""The problems the solvers take.

`Objective` is :math:`\min_v H(v) + \sum_i g_i(v_i)` over named blocks :math:`v = (v_1, v_2, \dots)`, with H
smooth and every :math:`g_i` proximable. `SaddlePoint` is :math:`\min_x f(x) + \sum_j g_j(K_j x)`, with f and
the :math:`g_j` proximable and the :math:`K_j` linear. Values have the shape ``(B,)``: every sample of a batch
is a problem of its own, and may have its own data and parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import odl
import torch
from odl.functionals import Functional, FunctionalComp
from torch import Tensor

from genreg.operators import TorchFunctional, to_torch, weight
from genreg.operators.bridge.lowered import Picklable
from genreg.operators.bridge.protocols import Space, StackedSpace
from genreg.operators.bridge.spaces import Tensors, join
from genreg.operators.lowering.splitting import Term, is_smooth, proximable, split, summed, terms
from genreg.solvers.problem.capabilities import Capability

__all__ = ["Blocks", "Curvature", "Objective", "SaddlePoint", "block_spaces", "lowered", "pack", "split"]

Blocks = dict[str, Tensor]


@dataclass(frozen=True)
class Curvature:
    """The Gauss-Newton approximation N of a Hessian at one point, symmetric and positive semidefinite.

    Attributes
    ----------
    matrix : callable
        ``matrix() -> (B, n, n)``.
    product : callable
        ``product(p) -> N p`` for p and N p of the shape of the block, ``(B, *shape)``.
    """

    matrix: Callable[[], Tensor]
    product: Callable[[Tensor], Tensor]


def block_spaces(domain: Space, names: Sequence[str]) -> dict[str, Any]:
    """Space of every named block of `domain`: its parts, or `domain` itself for a single name.

    Raises
    ------
    ValueError
        If the number of names is not the number of blocks.
    """
    if len(names) == 1:
        return {names[0]: domain}
    if not isinstance(domain, odl.ProductSpace) or len(domain) != len(names):
        parts = len(domain) if isinstance(domain, odl.ProductSpace) else 1
        raise ValueError(
            f"init must have one block for each of the {parts} parts of {domain!r}, got {list(names)}"
        )
    return dict(zip(names, domain.spaces, strict=True))


def pack(domain: Space, blocks: Mapping[str, Tensor]) -> Tensors:
    """Arrange blocks as a lowered operator on `domain` takes them: a tensor, a stack or a tuple."""
    parts = tuple(blocks.values())
    return parts[0] if len(parts) == 1 else join(domain, parts)


@dataclass(frozen=True)
class Objective(Picklable):
    r"""Smooth part and proximable parts of an objective, :math:`H(v) + \sum_i g_i(v_i)`.

    Parameters
    ----------
    smooth : callable
        ``smooth(blocks, **per_sample) -> (B,)``, differentiable by autograd.
    spaces : dict of str to ODL space
        Space of every block, in order; their weights turn an ODL prox into a Euclidean one.
    proximable : dict of str to TorchFunctional
        :math:`g_i` for some of the blocks.
    per_sample : dict of str to Tensor
        Arguments of `smooth` with a leading batch axis (data, λ, ...): a solver that drops finished
        samples from the batch indexes them.
    curvature : dict of str to callable
        For some blocks ``curvature(blocks, **per_sample) -> Curvature``: the Gauss-Newton matrix of H, where it
        is the sum of squares of something whose derivative is cheap.
    lengths : dict of str to float
        For some blocks the unit of length ℓ of its Euclidean norm, where that is known beforehand: 1 for a latent
        vector with the prior N(0, I). A solver finds that of another block where it starts: the norm of the block
        there, or the distance of the minimum along the negative gradient, if that is longer; later at most twice the
        norm of the block and the length of the last step together.
    offset : callable, optional
        ``offset(blocks, **per_sample) -> (B,)``: a part of H that depends on the choice of units only, such as the
        logarithm of a density has it. It is taken where a solver starts, and no part of what residuals are measured
        in.
    """

    smooth: Callable[..., Tensor]
    spaces: Mapping[str, StackedSpace]
    proximable: Mapping[str, TorchFunctional] = field(default_factory=dict)
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    curvature: Mapping[str, Callable[..., Curvature]] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    offset: Callable[..., Tensor] | None = None

    profiled: ClassVar[bool] = False
    """Whether a class has a method ``profile``, the objective with one block minimised exactly."""

    @property
    def offers(self) -> dict[str, frozenset[Capability]]:
        """What a solver can use in every block, see `genreg.solvers.problem.capabilities`."""
        found: dict[str, frozenset[Capability]] = {}
        for name in self.spaces:
            given: dict[Capability, bool] = {
                "proximable": True,
                "smooth": name not in self.proximable,
                "curvature": name in self.curvature,
                "profile": self.profiled,
            }
            found[name] = frozenset(word for word, there in given.items() if there)
        return found

    @classmethod
    def from_odl(cls, functional: Functional, names: Sequence[str]) -> Objective:
        """Lower an ODL functional; its terms without a gradient become proximable parts.

        Raises
        ------
        TypeError
            If `functional` is no ODL functional.
        NotImplementedError
            If a term has neither a gradient nor, on a block of its own, a prox.
        """
        if not isinstance(functional, Functional):
            raise TypeError(
                f"objective must be an ODL functional or an Objective, got {type(functional).__name__}"
            )
        spaces = block_spaces(functional.domain, names)
        smooth: list[tuple[float, Any]] = []
        rough: dict[str, TorchFunctional] = {}
        for scale, term in _blockwise(functional, names):
            if is_smooth(term):
                smooth.append((scale, to_torch(term)))
                continue
            name, part = _on_one_block(term, names)
            if part is None or name in rough:
                raise NotImplementedError(
                    f"objective must consist of terms with a gradient and, at most one for a block, terms "
                    f"with a prox on that block; got {term!r}"
                )
            rough[name] = proximable(scale, part)
        if not smooth:
            raise NotImplementedError(f"objective must have a term with a gradient, got {functional!r}")
        domain, total = functional.domain, summed(smooth, functional.domain)

        def value(blocks: Blocks) -> Tensor:
            return total(pack(domain, blocks))

        return cls(value, spaces, rough).pickled_as(Objective.from_odl, functional, tuple(names))

    def value_and_gradient(self, blocks: Blocks) -> tuple[Tensor, Blocks]:
        """H(v), ``(B,)``, and its Euclidean gradient for every block, in one forward and backward pass."""
        with torch.enable_grad():
            leaves = {name: v.detach().requires_grad_() for name, v in blocks.items()}
            value = self.smooth(leaves, **self.per_sample)
            grads = torch.autograd.grad(value.sum(), tuple(leaves.values()), materialize_grads=True)
        return value.detach(), dict(zip(leaves, grads, strict=True))

    def __call__(self, blocks: Blocks) -> Tensor:
        """H(v) + Σ g_i(v_i), ``(B,)``."""
        with torch.no_grad():
            smooth = self.smooth(blocks, **self.per_sample)
            return sum((g(blocks[name]) for name, g in self.proximable.items()), smooth)

    def weight(self, name: str) -> float:
        """Constant weight w of the inner product of a block, which relates ODL's prox to the Euclidean one."""
        return float(weight(self.spaces[name]))

    def take(self, index: Tensor) -> Self:
        """The same objective for the samples in `index`."""
        return replace(
            self,
            per_sample={name: value[index] for name, value in self.per_sample.items()},
            proximable={name: g.take(index) for name, g in self.proximable.items()},
        ).pickled_as(Objective.take, self, index)


@dataclass(frozen=True)
class SaddlePoint:
    r"""The problem :math:`\min_x f(x) + \sum_j g_j(K_j x)` for the primal-dual hybrid gradient method.

    Parameters
    ----------
    f : Functional or TorchFunctional
        Proximable functional on X.
    g : Functional, TorchFunctional or a sequence of them
        Proximable functionals on the ranges of `operators`.
    operators : odl.Operator or a sequence of them
        Linear operators :math:`K_j` on X.
    expected : Tensor, optional
        About the value of the objective at the solution, ``(B,)``, where it is known, as from the noise of the data:
        the first steps of `pdhg` depend on it.

    Raises
    ------
    TypeError, ValueError
        If an argument is missing or of another kind, an operator is not linear, or spaces or lengths do not fit.
    NotImplementedError
        If a functional has no prox.
    """

    f: Any
    g: Any
    operators: Any
    expected: Tensor | None = None

    def __post_init__(self) -> None:
        for argument in ("g", "operators"):
            given = getattr(self, argument)
            if given is None:
                raise TypeError(f"{argument} must be given, got None")
            several = given if isinstance(given, tuple | list) else (given,)
            object.__setattr__(self, argument, tuple(several))
        if len(self.g) != len(self.operators) or not self.operators:
            raise ValueError(
                f"g and operators must have the same, positive length, got {len(self.g)} and {len(self.operators)}"
            )
        for K in self.operators:
            if not isinstance(K, odl.Operator):
                raise TypeError(f"operators must be ODL operators, got {type(K).__name__}")
            if not K.is_linear:
                raise ValueError(f"operators must be linear, got {K!r}")
            if K.domain != self.domain:
                raise ValueError(f"operators must share one domain, got {K.domain!r} and {self.domain!r}")
        for name, g in (("f", self.f), *((f"g[{j}]", g) for j, g in enumerate(self.g))):
            if not isinstance(g, TorchFunctional | odl.Operator):
                raise TypeError(f"{name} must be a functional, got {type(g).__name__}")
        parts = [g if isinstance(g, TorchFunctional) else to_torch(g) for g in (self.f, *self.g)]
        for name, g, space in zip(
            ("f", *(f"g[{j}]" for j in range(len(self.g)))),
            parts,
            (self.domain, *(K.range for K in self.operators)),
            strict=True,
        ):
            if not isinstance(g, TorchFunctional) or not g.has_prox:
                raise NotImplementedError(f"{name} must have a prox, got {g!r}")
            if g.domain != space:
                raise ValueError(f"{name} must be a functional on {space!r}, got one on {g.domain!r}")
        object.__setattr__(self, "f", parts[0])
        object.__setattr__(self, "g", tuple(parts[1:]))

    @property
    def domain(self) -> StackedSpace:
        """The space X."""
        return self.operators[0].domain

    @property
    def offers(self) -> dict[str, frozenset[Capability]]:
        """What a solver can use in its one block, see `genreg.solvers.problem.capabilities`."""
        return {"x": frozenset({"saddle"})}


def lowered(objective: Objective | Functional, init: Any) -> Objective:
    """An ODL functional as an `Objective` of the blocks of a starting point; whatever else is given, as it is.

    Raises
    ------
    NotImplementedError
        If a term has neither a gradient nor, on a block of its own, a prox.
    """
    if not isinstance(objective, Functional):
        return objective
    return Objective.from_odl(objective, tuple(init) if isinstance(init, Mapping) else ("v",))


def _on_one_block(term: Functional, names: Sequence[str]) -> tuple[str, Functional | None]:
    """The block a term depends on, and the term as a functional on that block (None if it mixes blocks)."""
    if len(names) == 1:
        return names[0], term
    if isinstance(term, FunctionalComp) and isinstance(term.right, odl.ComponentProjection):
        return names[term.right.index], term.left
    return "", None


def _blockwise(functional: Functional, names: Sequence[str]) -> Iterator[Term]:
    """Yield the terms of a functional; a sum over several blocks is taken apart into its parts."""
    for scale, term in terms(functional):
        if len(names) == 1 or not isinstance(term, odl.functionals.SeparableSum):
            yield scale, term
            continue
        for i, part in enumerate(term.functionals):
            projection = odl.ComponentProjection(term.domain, i)
            yield from ((scale * s, f) for s, f in terms(FunctionalComp(part, projection)))
