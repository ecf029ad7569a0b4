r"""Parameter studies: images × λ × μ × restarts as one batch.

Duff, Campbell and Ehrhardt minimise :math:`\mathcal{D}(A x; y) + \lambda R` with regularisers such as
:math:`R = \|G(z) - x\|^2 + \mu s(z)`: the latent term s has the weight λ μ, *tied* to λ. With ``tied=False`` the
values of μ are this weight itself, :math:`\mathcal{D} + \lambda \|G(z) - x\|^2 + \mu s(z)`, so that the latent
term stays the same while λ, the weight of the deviation, is swept or chosen.

References
----------
M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with generative machine
learning models, arXiv:2107.11191, section 5.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor
from tqdm import tqdm

from genreg.evaluation import psnr
from genreg.operators import to_torch, torch_dtype
from genreg.operators.bridge.arguments import check_callable, flag, integer, number, seed_number
from genreg.operators.bridge.arrays import array, check_finite
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.fidelity import Fidelity
from genreg.reconstruction.batch import BatchedSolve, checked_fidelity, starting_points
from genreg.reconstruction.parameter_choice import principle, range_of
from genreg.reconstruction.selection import Best, Selection
from genreg.reconstruction.sweep_result import Sweep
from genreg.regularisers import Regulariser
from genreg.regularisers.functional import as_regulariser
from genreg.regularisers.identity import of_fidelity, of_regulariser
from genreg.solvers import Choice, Solution, Trial
from genreg.solvers.checkpoints import of_setting, resumable
from genreg.solvers.problem.objective import Blocks, pack

__all__ = ["Best", "Selection", "Sweep", "sweep"]

_TRIED_AT_ONCE = 5  # values of λ in a round of Morozov's search


@undisturbed
def sweep(
    A: odl.Operator,
    y: Any,
    regulariser: Regulariser | Functional,
    *,
    lam: Any,
    lam_range: tuple[float, float] | None = None,
    mu: Any = None,
    tied: bool = True,
    noise_std: float | Tensor | None = None,
    fidelity: Fidelity | Callable[[odl.Operator, Any], Fidelity] | None = None,
    restarts: int = 1,
    init: Any = None,
    solver: Callable[..., Solution] | None = None,
    seed: int | None = None,
    max_iter: int | None = None,
    tol: float | None = None,
    factor: float = 1.0,
    reference: Any = None,
    data_range: float | None = None,
    batch_size: int = 512,
    progress: bool = True,
    keep_images: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Sweep:
    r"""Reconstruct images with every λ and μ.

    Parameters
    ----------
    A, y, regulariser, lam_range, noise_std, fidelity, restarts, init, solver, seed, max_iter, tol, factor, progress
        Those of `reconstruct`.
    lam : sequence of float, "morozov" or "l-curve"
        λ > 0, increasing; or how λ is chosen, for every image and every μ. Morozov's principle takes the largest λ
        whose discrepancy is at most `factor` times its level; the L-curve is that of λ for fixed μ.
    mu : sequence of float, optional
        μ ≥ 0, increasing, for regularisers that have it; by default the regulariser's own.
    tied : bool
        Whether μ is that of the regulariser, :math:`\mathcal{D} + \lambda (\cdot + \mu s(z))` as in the paper, or the
        weight of the latent term itself, :math:`\mathcal{D} + \lambda (\cdot) + \mu s(z)`, fixed while λ moves.
        Untied, the penalty is R without the latent term, which counts with the misfit in the L-curve.
    reference : ODL element, Tensor or array, optional
        True images, ``X.shape`` or ``(B, *X.shape)``, to score the images by their PSNR.
    data_range : float, optional
        Range of grey values for the PSNR, needed with a reference.
    batch_size : int
        Problems solved at once at most; at least `restarts`. More of them are solved one batch after the other, with
        the same results. (Starting points are found for all images × restarts together.)
    keep_images : bool
        Keep all images.
    checkpoint : str or Path, optional
        New file that receives the results of all batches solved, about every minute and at the end. Smaller batches
        lose less where a sweep is stopped.
    resume : bool
        Go on from the checkpoint, with the same arguments otherwise; the result is that of a sweep without an end.
        Where there is no such file yet the sweep starts from the beginning.

    Returns
    -------
    Sweep
        Of tensors, with B = 1 for a single sample.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape, dtype, device or sign, or is not finite, or the checkpoint to resume
        from is damaged or was made with other arguments.
    FileExistsError
        If the checkpoint exists and `resume` is false.
    NotImplementedError
        If the solver needs a gradient or prox that the problem does not have.

    Examples
    --------
    ``sweep(A, y, RelaxedConstraint(G, 1.0), noise_std=0.1, lam=torch.logspace(-2, 2, 9), mu=[0.01, 0.1, 1.0],
    reference=truth, data_range=1.0).best("psnr")`` is the pair of parameters with the best mean PSNR.
    """
    regulariser = as_regulariser(regulariser)
    fidelity = checked_fidelity(A, y, noise_std, fidelity, regulariser)
    check_callable(solver, "solver", "(problem, init, ...)")
    restarts, factor = integer(restarts, "restarts", minimum=1), number(factor, "factor", above=0)
    lam_range = range_of(lam, lam_range)
    batch_size, tied = integer(batch_size, "batch_size", minimum=1), flag(tied, "tied")
    keep_images, seed = flag(keep_images, "keep_images"), 0 if seed is None else seed_number(seed)
    if batch_size < restarts:
        raise ValueError(f"batch_size must be at least the number of restarts, {restarts}, got {batch_size}")
    like = fidelity.data.real.flatten(1)[:, 0]
    if isinstance(lam, str):
        choose = principle(lam, "a sequence of numbers", regulariser)
        grid = None
    else:
        grid = _grid(lam, "lam", like)
        if not grid[0] > 0:
            raise ValueError(f"lam must be positive, got {grid.tolist()}")
    mus, parameters = _mu(mu, tied, regulariser, like)
    truth = _reference(reference, data_range, len(like), A.domain)
    settings: dict[str, Any] = {"lam": lam if grid is None else grid.tolist(), "tied": tied, "seed": seed}
    settings |= {"max_iter": max_iter, "tol": tol, "factor": factor, "data_range": data_range}
    settings |= {"restarts": restarts, "batch_size": batch_size, "keep_images": keep_images}
    made = {"mu": mus, "lam_range": lam_range, "init": init, "solver": solver, "reference": truth}
    settings |= {name: of_setting(value) for name, value in made.items()}
    file, saved = resumable.begin(
        checkpoint,
        resume,
        "sweep",
        lambda: {**of_fidelity(fidelity), **of_regulariser(regulariser, like), **settings},
        progress=progress,
    )

    began = time.perf_counter() - (0.0 if saved is None else saved["seconds"])
    parts: list[dict[str, Tensor]] = [
        {k: v if k == "psnr" else v.to(like.device) for k, v in p.items()}
        for p in ([] if saved is None else saved["parts"])
    ]
    options = {k: v for k, v in (("max_iter", max_iter), ("tol", tol)) if v is not None}
    solver = functools.partial(solver or regulariser.solver, progress=progress, **options)
    image_of = torch.arange(len(like), device=like.device).repeat_interleave(len(mus))  # of every row
    mu_of = mus.to(like).repeat(len(like))
    rows_at_once = max(1, batch_size // (restarts * (_TRIED_AT_ONCE if grid is None else len(grid))))
    chunks = torch.arange(len(image_of), device=like.device).split(rows_at_once)
    if len(parts) < len(chunks):
        starts = starting_points(fidelity, regulariser, init, restarts, seed)

    def part_of(rows: Tensor) -> dict[str, Tensor]:
        of = image_of[rows]
        data = fidelity.take(of)
        own = {name: p[of] for name, p in parameters.items()}
        solve = BatchedSolve(
            data,
            regulariser,
            solver,
            {name: v[of] for name, v in starts.items()},
            own if mu is None else own | {"mu": mu_of[rows]},
            absolute=() if tied else ("mu",),
        )
        bounded = _bounded(solve, batch_size)
        if grid is None:
            choice = choose(bounded, factor * data.level, solve.lam_scale(), lam_range)
            part, blocks = _columns(choice), {name: v[:, None] for name, v in choice.blocks.items()}
        else:
            every = grid.expand(len(rows), -1)
            trial = bounded(torch.arange(len(rows), device=rows.device), every.to(like), None)
            part, blocks = {"lam": every, **_fields(trial)}, trial.blocks
        if keep_images or truth is not None:
            with torch.no_grad():
                flat = {name: v.flatten(0, 1) for name, v in blocks.items()}
                images = to_torch(regulariser.image)(pack(regulariser.domain, flat))
            if truth is not None and data_range is not None:
                repeated = truth[of.cpu()].repeat_interleave(part["lam"].shape[1], 0)
                part["psnr"] = psnr(images, repeated, data_range=data_range).view(part["lam"].shape)
            if keep_images:
                part["images"] = images.unflatten(0, part["lam"].shape)
        return part

    bar = tqdm(chunks, desc="sweep", disable=not progress or len(chunks) == 1, leave=False)
    with resumable.saving(file, lambda: {"parts": parts, "seconds": time.perf_counter() - began}) as done:
        for index, rows in enumerate(bar):
            if index >= len(parts):
                parts.append(part_of(rows))
                done(now=index + 1 == len(chunks))
    results = {name: torch.cat([p[name] for p in parts]).unflatten(0, (len(like), -1)) for name in parts[0]}
    return Sweep(
        mu=None if mus.isnan().any() else mus,
        tied=tied,
        principle=lam if grid is None else None,
        level=fidelity.level,
        factor=factor,
        time=time.perf_counter() - began,
        reference=truth,
        **results,
    )


def _bounded(solve: BatchedSolve, batch_size: int) -> Callable[[Tensor, Tensor, Blocks | None], Trial]:
    """The same solve, a few λ at a time where they would make more problems than `batch_size`."""

    def in_parts(samples: Tensor, lam: Tensor, init: Blocks | None) -> Trial:
        restarts = solve.restarts if init is None else 1
        count = max(1, batch_size // (len(samples) * restarts))
        parts = []
        for k in range(0, lam.shape[1], count):
            at = (slice(None), slice(k, k + count))
            start = None if init is None else {name: v[at] for name, v in init.items()}
            parts.append(solve(samples, lam[at], start))
        return parts[0].map(lambda *tensors: torch.cat(tensors, 1), *parts[1:])

    return in_parts


def _fields(result: Trial | Choice) -> dict[str, Tensor]:
    names = ("residual", "value", "penalty", "status", "iterations")
    return {name: getattr(result, name) for name in names}


def _columns(choice: Choice) -> dict[str, Tensor]:
    return {name: v[:, None] for name, v in {"lam": choice.lam, **_fields(choice)}.items()}


def _grid(values: Any, name: str, like: Tensor) -> Tensor:
    """Values of a parameter as a tensor ``(n,)``, float64 so that they stay the numbers that were given."""
    tensor = array(values, name, complex=False, wanted="a sequence of numbers")
    if tensor.ndim != 1 or not len(tensor):
        raise ValueError(
            f"{name} must be a sequence of at least one number, got the shape {tuple(tensor.shape)}"
        )
    grid = tensor.detach().to(like.device, torch.float64)
    if not bool((torch.isfinite(grid) & (grid >= 0)).all()):
        raise ValueError(f"{name} must be non-negative and finite, got {grid.tolist()}")
    if not bool((grid.to(like).diff() > 0).all()):
        raise ValueError(f"{name} must be strictly increasing, got {grid.tolist()}")
    return grid


def _mu(mu: Any, tied: bool, regulariser: Regulariser, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The values of μ, NaN where there is no single one, and all parameters of the regulariser, ``(B,)``."""
    if "mu" not in regulariser.parameters:
        if mu is not None:
            raise ValueError(f"mu must be None for {type(regulariser).__name__}, which has no μ, got {mu!r}")
        if not tied:
            raise ValueError(
                f"tied must be True for {type(regulariser).__name__}, which has no μ, got {tied!r}"
            )
    parameters = regulariser.parameters_of(like)
    if mu is not None:
        return _grid(mu, "mu", like), parameters
    own = torch.as_tensor(
        regulariser.parameters.get("mu", torch.nan), dtype=torch.float64, device=like.device
    )
    return (own if own.ndim == 0 else own.new_tensor(torch.nan))[None], parameters


def _reference(reference: Any, data_range: float | None, count: int, space: StackedSpace) -> Tensor | None:
    """True images, ``(B, *X.shape)``, on the CPU."""
    if (reference is None) != (data_range is None):
        raise ValueError(
            "reference and data_range must be given together, the true images and their range of grey values"
        )
    if reference is None:
        return None
    number(data_range, "data_range", above=0)
    tensor = array(reference, "reference", complex=torch_dtype(space).is_complex)
    shape = tuple(space.shape)
    if tuple(tensor.shape) not in (shape, (1, *shape), (count, *shape)):
        raise ValueError(
            f"reference must have the shape {shape} or {(count, *shape)}, got {tuple(tensor.shape)}"
        )
    check_finite(tensor, "reference", samples=None if tuple(tensor.shape) == shape else 0)
    return tensor.cpu().to(torch_dtype(space)).reshape(-1, *shape).expand(count, *shape)
