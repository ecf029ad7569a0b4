r"""Variational reconstruction: data in, images out."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import odl
import torch
from odl.functionals import Functional
from torch import Tensor

from genreg.operators import to_torch
from genreg.operators.bridge.arguments import check_callable, integer, number
from genreg.operators.bridge.caller_data import is_element, per_sample_number
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.fidelity import Fidelity
from genreg.reconstruction.batch import BatchedSolve, checked_fidelity, starting_points
from genreg.reconstruction.parameter_choice import principle, range_of
from genreg.regularisers import Regulariser
from genreg.regularisers.functional import as_regulariser
from genreg.solvers import Choice, Solution, Status
from genreg.solvers.driver.monitor import Callback
from genreg.solvers.problem.objective import block_spaces, pack


@dataclass(frozen=True)
class Reconstruction:
    r"""A reconstruction, for one sample or a batch; its images are ODL elements, tensors or arrays, as the data were.

    Attributes
    ----------
    image : ODL element, Tensor or array
        The image, ``(B, *X.shape)``.
    blocks : dict
        The unknowns of the regulariser, for example ``{"z": ...}``.
    lam : Tensor
        λ of every sample, ``(B,)``; for a single sample, this and all that follow have no batch axis.
    residual : Tensor
        What the discrepancy principle compares with `level`: for Gaussian noise the sum of squares
        :math:`\|A x - y\|_2^2`.
    level : Tensor
        Level of the noise: for Gaussian noise dim(Y) σ², for complex data twice that.
    value : Tensor
        Objective, D + λ R.
    status : Tensor
        Integer tensor of `solvers.Status` members.
    iterations : Tensor
        Iterations of the solve that gave the result.
    time : float
        Wall-clock seconds of the whole batch, the search for λ included.
    history : dict of str to Tensor
        The solver's history (its restarts are the batch axis) for a fixed λ; ``lam`` and ``residual`` of all
        λ tried, ``(B, n)``, where λ is chosen.
    data : ODL element, Tensor or array
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
        return Status.summary(self.status)

    def show(self, reference: Any = None, *, columns: int = 8, **imshow: Any) -> Any:
        """Draw the images, and their errors if a reference is given; a sample ``(3, n, m)`` in colour.

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
        if self.lam.ndim == 0 and tuple(self.image.shape[:-2]) == (3,):
            rows = {key: item if is_element(item) else item[None] for key, item in rows.items()}
        return image_grid(rows, errors=reference is not None, columns=columns, **imshow)


@undisturbed
def reconstruct(
    A: odl.Operator,
    y: Any,
    regulariser: Regulariser | Functional,
    *,
    noise_std: float | Tensor | None = None,
    fidelity: Fidelity | Callable[[odl.Operator, Any], Fidelity] | None = None,
    lam: float | Tensor | str = "morozov",
    lam_range: tuple[float, float] | None = None,
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

    The blocks v of the regulariser minimise :math:`\mathcal{D}(A(\mathrm{image}(v))) + \lambda R(v)`, where D is
    :math:`\frac{1}{2 \sigma^2} \|\cdot - y\|^2` unless another fidelity is given.

    Parameters
    ----------
    A : odl.Operator
        Forward operator X -> Y.
    y : ODL element of Y, Tensor or array
        Data. A tensor or an array (or nested lists) may have a leading batch axis; all its samples are solved at once.
    regulariser : Regulariser or Functional
        `HardConstraint`, `RelaxedConstraint`, `SparseDeviation`, `TotalVariation`, ...; or an ODL functional on X.
        One of differentiable terms is solved by `solvers.lbfgs`; one with terms that have a prox, or are such a
        functional after a linear operator, by `solvers.pdhg`.
    noise_std : float or Tensor
        Standard deviation σ of Gaussian noise of one sample of the data, or one for every image, ``(B,)``, or for
        every datum, see `GaussianFidelity`.
    fidelity : Fidelity or callable, optional
        In place of `noise_std`, the fidelity of `A` and `y` (which may be None then), or a function ``(A, y)`` that
        makes it, for example the class `PoissonFidelity`.
    lam : float, Tensor, "morozov" or "l-curve"
        λ ≥ 0, one for every image, ``(B,)``; or by the discrepancy principle, the largest λ whose discrepancy
        (:math:`\|A x - y\|^2` for Gaussian noise) is at most `factor` times its level (:math:`\dim(Y)
        \sigma^2`, for complex data twice that); or by the corner of the L-curve.
    lam_range : tuple of float, optional
        Smallest and largest λ among which a principle chooses. By default eight decades (L-curve: six) on both sides of
        a λ of the right order: the one that makes both terms equal at a rough reconstruction; 1 for `HardConstraint`
        and `JointPrior`, whose R has no units.
    restarts : int
        Starting points for every image, solved in the same batch; the smallest objective wins.
    init : str, or dict of blocks, optional
        Kind of starting point (see the regulariser), or the starting point itself. A dict is not needed for a
        regulariser of one block.
    solver : callable, optional
        ``solver(problem, init, max_iter=, tol=, callback=, progress=)``, by default the regulariser's own.
    seed : int, optional
        Seed of random starting points, 0 by default.
    max_iter, tol : optional
        Those of the solver, by default its own.
    factor : float
        Factor > 0 on Morozov's level, 1 by default.
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
    regulariser = as_regulariser(regulariser)
    fidelity = checked_fidelity(A, y, noise_std, fidelity, regulariser)
    check_callable(solver, "solver", "(problem, init, ...)")
    check_callable(callback, "callback", "of an Iterate")
    restarts, factor = integer(restarts, "restarts", minimum=1), number(factor, "factor", above=0)
    lam_range = range_of(lam, lam_range)
    options = {k: v for k, v in (("max_iter", max_iter), ("tol", tol)) if v is not None}
    solve = BatchedSolve(
        fidelity,
        regulariser,
        functools.partial(solver or regulariser.solver, callback=callback, progress=progress, **options),
        starting_points(fidelity, regulariser, init, restarts, seed),
    )
    began = time.perf_counter()
    history: Mapping[str, Tensor] = {}
    if isinstance(lam, str):
        choice = principle(lam, "a number, a tensor", regulariser)(
            solve, factor * fidelity.level, solve.lam_scale(), lam_range
        )
        history = {"lam": choice.tried_lam, "residual": choice.tried_residual}
    else:
        lam = per_sample_number(lam, "lam", fidelity.data, zero=True)
        trial = solve(torch.arange(len(lam), device=lam.device), lam[:, None], None)
        choice = Choice.single(lam, trial)
        history = solve.history
    return _finish(fidelity, regulariser, choice, history, time.perf_counter() - began)


def _finish(
    fidelity: Fidelity,
    regulariser: Regulariser,
    choice: Choice,
    history: Mapping[str, Tensor],
    seconds: float,
) -> Reconstruction:
    """Give the results back as the caller's kind of data."""
    with torch.no_grad():
        v = pack(regulariser.domain, choice.blocks)
        image = to_torch(regulariser.image)(v)
    level = fidelity.level
    numbers = [choice.lam, choice.residual, level, choice.value, choice.status, choice.iterations]
    if not fidelity.batched:
        numbers = [n[0] for n in numbers]
    spaces = block_spaces(regulariser.domain, regulariser.blocks)
    lam, residual, level, value, status, iterations = numbers
    return Reconstruction(
        image=fidelity.given_back(regulariser.image.range, image),
        blocks={name: fidelity.given_back(spaces[name], v) for name, v in choice.blocks.items()},
        lam=lam,
        residual=residual,
        level=level,
        value=value,
        status=status,
        iterations=iterations,
        time=seconds,
        history=history,
        data=fidelity.given_back(fidelity.operator.range, fidelity.data),
    )
