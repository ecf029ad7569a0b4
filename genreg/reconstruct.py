r"""The front door: data in, reconstruction out."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.fidelity import GaussianFidelity
from genreg.operators import to_element, to_torch
from genreg.regularisers import Regulariser
from genreg.solvers import Choice, Solution, Trial, morozov
from genreg.solvers.door import enter
from genreg.solvers.driver import Callback
from genreg.solvers.objective import Blocks, block_spaces, pack

__all__ = ["Reconstruction", "reconstruct"]


@dataclass(frozen=True)
class Reconstruction:
    r"""A reconstruction, for one sample or a batch; ODL elements if the data were one, else tensors.

    Attributes
    ----------
    image : ODL element or Tensor
        The image, ``(B, *X.shape)``.
    blocks : dict
        The unknowns of the regulariser, for example ``{"z": ...}``.
    lam : Tensor
        λ of every sample, ``(B,)``; for a single sample, this and all that follow have no batch axis.
    residual : Tensor
        Sum of squares :math:`\|A x - y\|_2^2`.
    level : Tensor
        Morozov's level dim(Y) σ².
    value : Tensor
        Objective, fidelity + λ R.
    status : Tensor
        Integer tensor of `solvers.Status` members.
    iterations : Tensor
        Iterations of the solve that gave the result.
    time : float
        Wall-clock seconds of the whole batch, the search for λ included.
    history : dict of str to Tensor
        The solver's history (its restarts are the batch axis) for a fixed λ; ``lam`` and ``residual`` of all
        λ tried, ``(B, n)``, for Morozov's principle.
    data : ODL element or Tensor
        The data y.
    """

    image: Any
    blocks: dict[str, Any]
    lam: Tensor
    residual: Tensor
    level: Tensor
    value: Tensor
    status: Tensor
    iterations: Tensor
    time: float
    history: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    data: Any = field(default=None, repr=False)

    @property
    def discrepancy(self) -> Tensor:
        """Residual over Morozov's level: 1 where the data are explained to the level of the noise."""
        return self.residual / self.level

    def advice(self) -> str:
        """How many samples ended in which way, and what to do about it."""
        return Solution.advice(self)  # type: ignore[arg-type]

    def show(self, reference: Any = None, *, columns: int = 8, **imshow: Any) -> Any:
        """Draw the images, and their errors if a reference is given.

        Parameters
        ----------
        reference : ODL element, Tensor or array, optional
            True images, of the shape of `image`.
        columns : int
            Images drawn at most.
        **imshow
            Passed to matplotlib's ``imshow``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from genreg.plotting import image_grid

        rows = {"reconstruction": self.image}
        if reference is not None:
            rows = {"reference": reference, **rows}
        return image_grid(rows, errors=reference is not None, columns=columns, **imshow)


def reconstruct(
    A: odl.Operator,
    y: Any,
    regulariser: Regulariser,
    *,
    noise_std: float | Tensor,
    lam: float | Tensor | str = "morozov",
    restarts: int = 1,
    init: Any = None,
    solver: Callable[..., Solution] | None = None,
    seed: int | None = None,
    max_iter: int | None = None,
    tol: float | None = None,
    factor: float = 1.0,
    callback: Callback | None = None,
    progress: bool = True,
) -> Reconstruction:
    r"""Reconstruct images from data.

    The blocks v of the regulariser minimise
    :math:`\frac{1}{2 \sigma^2} \|A(\mathrm{image}(v)) - y\|^2 + \lambda R(v)`.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y.
    y : ODL element of Y, or Tensor
        Data. A tensor may have a leading batch axis; all its samples are solved at once.
    regulariser : Regulariser
        `HardConstraint`, `TotalVariation`, `Tikhonov`, ...
    noise_std : float or Tensor
        Standard deviation σ of the noise of one sample of the data, or one for every image, ``(B,)``.
    lam : float, Tensor or "morozov"
        λ ≥ 0, one for every image, ``(B,)``, or by the discrepancy principle: the largest λ with
        :math:`\|A x - y\|^2 \le \mathrm{factor} \cdot \dim(Y) \sigma^2`.
    restarts : int
        Starting points for every image, solved in the same batch; the smallest objective wins.
    init : str or dict of blocks, optional
        Kind of starting point (see the regulariser), or the starting point itself.
    solver : callable, optional
        ``solver(problem, init, max_iter=, tol=, callback=, progress=)``, by default the regulariser's own.
    seed : int, optional
        Seed of random starting points, 0 by default.
    max_iter, tol : optional
        Those of the solver, by default its own.
    factor : float
        Factor on Morozov's level, 1 by default.
    callback : callable, optional
        Called with a `solvers.Iterate`; a true answer ends the run.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Reconstruction

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite.
    NotImplementedError
        If the solver needs a gradient or prox that the problem does not have.
    """
    if not isinstance(regulariser, Regulariser):
        raise TypeError(f"regulariser must be a genreg regulariser, got {type(regulariser).__name__}")
    fidelity = GaussianFidelity(A, y, noise_std)
    if A.domain != regulariser.image.range:
        raise ValueError(
            f"A and regulariser must share the image space, got {A.domain!r} and {regulariser.image.range!r}"
        )
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
        raise ValueError(f"restarts must be a positive integer, got {restarts!r}")
    if not (isinstance(factor, (int, float)) and factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor must be positive and finite, got {factor!r}")
    options = {k: v for k, v in (("max_iter", max_iter), ("tol", tol)) if v is not None}
    solve = _BatchedSolve(
        fidelity,
        regulariser,
        functools.partial(solver or regulariser.solver, callback=callback, progress=progress, **options),
        _starting_points(fidelity, regulariser, init, restarts, seed or 0),
        restarts,
    )
    began = time.perf_counter()
    if isinstance(lam, str):
        if lam != "morozov":
            raise ValueError(f"lam must be a number, a tensor or 'morozov', got {lam!r}")
        choice = morozov(solve, factor * fidelity.level)
        history: Mapping[str, Tensor] = {"lam": choice.tried_lam, "residual": choice.tried_residual}
    else:
        lam = _parameter(lam, fidelity.data)
        trial = solve(torch.arange(len(lam), device=lam.device), lam[:, None], None)
        choice = Choice.single(lam, trial)
        history = solve.history
    return _finish(fidelity, regulariser, choice, history, time.perf_counter() - began)


def _starting_points(
    fidelity: GaussianFidelity, regulariser: Regulariser, init: Any, restarts: int, seed: int
) -> Blocks:
    """Starting points ``(B, restarts, *shape)``; given blocks are the first of them."""
    generator = torch.Generator(fidelity.data.device).manual_seed(seed)
    if not (init is None or isinstance(init, str | Mapping)):
        raise TypeError(f"init must be a string or a dict of blocks, got {type(init).__name__}")
    kind = init if isinstance(init, str) else None
    count = len(fidelity.data)
    starts = {
        name: v.unflatten(0, (count, restarts))
        for name, v in regulariser.start(fidelity, kind, restarts, generator).items()
    }
    if isinstance(init, Mapping):
        given = enter(init, block_spaces(regulariser.domain, regulariser.blocks)).blocks
        for name, v in given.items():
            if len(v) not in (1, count):
                raise ValueError(f"init[{name!r}] must have a batch of 1 or {count}, got {len(v)}")
            starts[name][:, 0] = v
    return starts


class _BatchedSolve:
    """Solves images × parameters × restarts as one batch and keeps the best restart."""

    def __init__(
        self,
        fidelity: GaussianFidelity,
        regulariser: Regulariser,
        solver: Callable[..., Solution],
        starts: Blocks,
        restarts: int,
    ) -> None:
        self.fidelity, self.regulariser, self.solver = fidelity, regulariser, solver
        self.starts, self.restarts = starts, restarts
        self.history: Mapping[str, Tensor] = {}

    def __call__(self, samples: Tensor, lam: Tensor, init: Blocks | None) -> Trial:
        """Solve with the parameters ``lam``, ``(b, K)``; a warm start ``(b, K, *shape)`` needs no restarts."""
        b, K = lam.shape
        R = self.restarts if init is None else 1
        if init is None:
            init = {name: v[samples, None].expand(-1, K, *v.shape[1:]) for name, v in self.starts.items()}
            init = {name: v.flatten(1, 2) for name, v in init.items()}
        rows = samples.repeat_interleave(K * R)
        data = self.fidelity.take(rows)
        problem = self.regulariser.problem(data, lam.flatten().repeat_interleave(R))
        solution = self.solver(problem, {name: v.flatten(0, 1) for name, v in init.items()})
        self.history = solution.history

        with torch.no_grad():
            domain = self.regulariser.domain
            residual = data.residual(to_torch(self.regulariser.image)(pack(domain, solution.blocks)))
        best = solution.value.nan_to_num(torch.inf).view(b * K, R).argmin(1)

        def pick(value: Tensor) -> Tensor:
            chosen = value.unflatten(0, (b * K, R))[torch.arange(b * K, device=value.device), best]
            return chosen.unflatten(0, (b, K))

        return Trial(
            blocks={name: pick(v) for name, v in solution.blocks.items()},
            residual=pick(residual),
            status=pick(solution.status),
            iterations=pick(solution.iterations),
        )


def _finish(
    fidelity: GaussianFidelity,
    regulariser: Regulariser,
    choice: Choice,
    history: Mapping[str, Tensor],
    seconds: float,
) -> Reconstruction:
    """Give the results back as the caller's kind of data."""
    with torch.no_grad():
        v = pack(regulariser.domain, choice.blocks)
        image = to_torch(regulariser.image)(v)
        value = 0.5 * choice.residual * fidelity.inverse_variance + choice.lam * to_torch(regulariser)(v)
    blocks, level = choice.blocks, fidelity.level
    numbers = [choice.lam, choice.residual, level, value, choice.status, choice.iterations]
    if not fidelity.batched:
        image, numbers = image[0], [n[0] for n in numbers]
        blocks = {name: v[0] for name, v in blocks.items()}
    data = fidelity.data if fidelity.batched else fidelity.data[0]
    if fidelity.from_element:
        spaces = block_spaces(regulariser.domain, regulariser.blocks)
        blocks = {name: to_element(spaces[name], v) for name, v in blocks.items()}
        image, data = to_element(regulariser.image.range, image), to_element(fidelity.operator.range, data)
    lam, residual, level, value, status, iterations = numbers
    return Reconstruction(
        image=image,
        blocks=blocks,
        lam=lam,
        residual=residual,
        level=level,
        value=value,
        status=status,
        iterations=iterations,
        time=seconds,
        history=history,
        data=data,
    )


def _parameter(lam: Any, data: Tensor) -> Tensor:
    tensor = torch.as_tensor(lam, dtype=data.real.dtype, device=data.device)
    if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != len(data)):
        raise ValueError(f"lam must be a number or have the shape ({len(data)},), got {tuple(tensor.shape)}")
    if not bool(((tensor >= 0) & torch.isfinite(tensor)).all()):
        raise ValueError(f"lam must be non-negative and finite, got {lam}")
    return tensor.expand(len(data))
