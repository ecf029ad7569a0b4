r"""Whether ADMM for x = G(z) beats the continuation in β, and Levenberg-Marquardt on the constraint itself.

    python benchmarks/jpmap_admm.py                             # 100 images, some minutes on one core
    python benchmarks/jpmap_admm.py --images 1000 --first 1000  # other images, for smaller standard errors
    python benchmarks/jpmap_admm.py --quick                     # 2 images, few turns

The methods seek a minimiser of H(z) = ‖A G(z) - y‖² / (2σ²) + ‖z‖² / 2, that is of ‖A x - y‖² / (2σ²) + ‖z‖² / 2
subject to x = G(z). The augmented Lagrangian adds r/2 ‖x - G(z) + u‖² with a penalty r and a scaled multiplier u
for every image. With x' = x + u it is the joint objective of `genreg.solvers.generative.isotropic` with β = r and the
data y + A u; the new multiplier is u = x' - G(z). Two methods follow:

* ADMM: x' by the exact step, then z by a few Gauss-Newton steps for r/2 ‖x' - G(z)‖² + ‖z‖² / 2, then u;
* multipliers: z by a few Gauss-Newton steps for the profile, in which x' follows z, then u.

The penalty grows where ‖x - G(z)‖ has not fallen enough, and the multipliers r u are kept in a box. An image ends
when x, G(z) and the last G(z) are within 0.1 grey levels (root mean square). "encoder": in the first turns z =
E(x') is taken where it lowers the objective of z; the continuation has these proposals in its first stage. "u = 0"
is the same method without multipliers, a continuation. The settings were chosen on other images, numbers 5000 to
5299.

Evaluations are those of G for one image, with or without gradient; Jacobians are counted apart. Times are medians
of interleaved runs of the whole batch, in units of Levenberg-Marquardt. Better/equal/worse: images whose H is
lower, equal within 0.1 %, higher. The last column is the mean of log(H / H of the continuation), in per cent, with
its standard error.

From the encoder's code the multipliers end in minima as good as those of the continuation on average, and ADMM in
none better with three to four times the evaluations.

References
----------
M. González, A. Almansa, P. Tan (2021), arXiv:2103.01648 (algorithms 1.1 and 2.4; ADMM is named as future work).

E. G. Birgin, J. M. Martínez (2014), Practical augmented Lagrangian methods for constrained optimization,
doi:10.1137/1.9781611973365 (bounded multipliers, the rule for the penalty).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from _jpmap import PROBLEMS, Problem, problem
from _timing import interleaved
from torch import Tensor
from torch.autograd import forward_ad

import genreg
from genreg import solvers
from genreg.solvers.algorithms.descent import gauss_newton
from genreg.solvers.generative.isotropic import projection
from genreg.solvers.generative.joint_map import joint_problem
from genreg.solvers.generative.latent import first_codes


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Settings of a method for the augmented Lagrangian; a call solves a problem from first latent vectors.

    x follows z (`profile`) or stays fixed during the step in z (ADMM). The first r is `penalty` / γ²; it grows by
    `growth` after a turn that has not reduced ‖x - G(z)‖ by `reduction`. The encoder proposes in `proposals` turns.
    Without `multipliers` u = 0. A turn has `steps` Gauss-Newton steps; σ² r |u| has entries up to `box`.
    """

    profile: bool = True
    penalty: float = 0.3
    growth: float = 4.0
    reduction: float = 0.25
    proposals: int = 0
    multipliers: bool = True
    steps: int = 3
    turns: int = 60
    grey: float = 0.1
    box: float = 10.0

    def __call__(self, p: Problem, z: Tensor) -> Tensor:
        """The latent vectors found, ``(B, dim Z)``."""
        fidelity, forward = genreg.GaussianFidelity(p.A, p.y, p.noise_std), genreg.to_torch(p.A)
        whole = joint_problem(fidelity, p.G, self.penalty / p.G.std**2)
        r, z, u = whole.per_sample["beta"].clone(), z.clone(), torch.zeros_like(p.x)
        mean, gap = p.G.decode(z).mean, torch.full_like(r, torch.inf)
        level, box = p.x[0].numel() * (self.grey / 255) ** 2, self.box / p.noise_std**2
        running = torch.arange(len(z))
        for turn in range(self.turns):
            y, shift = p.y[running] + forward(u[running]), r[running] * p.noise_std**2
            now = whole.take(running)
            now = replace(now, per_sample={**now.per_sample, "y": y, "beta": r[running]})
            x = now.x_step(mean[running], y, shift)
            latent, start = now.profile(), z[running]
            if not self.profile:
                latent = projection(now.generate, x, r[running], now.per_sample["weight"])
            if turn < self.proposals:
                with torch.no_grad():
                    lower = latent({"z": (code := p.G.encode(x))}) < latent({"z": start})
                start = torch.where(lower[:, None], code, start)
            found = gauss_newton(latent, {"z": start}, max_iter=self.steps, progress=False).blocks["z"]
            new = p.G.decode(found).mean
            v = now.x_step.correction(new, y, shift) if self.profile else x - new
            now_gap, moved = _squares(v - u[running]), _squares(new - mean[running])
            z[running], mean[running] = found, new
            multiplier = (r[running].view(-1, 1, 1) * v).clamp(-box, box) * self.multipliers
            r[running] *= torch.where(now_gap > self.reduction**2 * gap[running], self.growth, 1.0)
            u[running], gap[running] = multiplier / r[running].view(-1, 1, 1), now_gap
            running = running[(now_gap > level) | (moved > level)]
            if not len(running):
                break
        return z


def _squares(t: Tensor) -> Tensor:
    return t.square().flatten(1).sum(1)


class Calls:
    """Counts decoded images, and those among them that carry the tangents of a Jacobian."""

    def __init__(self, G: genreg.Generator) -> None:
        self.evaluations = self.jacobians = 0
        G.module.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        dual = forward_ad.unpack_dual(inputs[0]).tangent is not None
        self.evaluations += 0 if dual else len(inputs[0])
        self.jacobians += len(inputs[0]) if dual else 0


def constrained(p: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
    """H(z) and the mean squared error of G(z), ``(B,)``."""
    with torch.no_grad():
        image = p.G.decode(z).mean
        misfit = _squares(genreg.to_torch(p.A)(image) - p.y)
        return misfit / (2 * p.noise_std**2) + _squares(z) / 2, _squares(image - p.x) / image[0].numel()


def levenberg(p: Problem, z: Tensor) -> Tensor:
    """Levenberg-Marquardt on H."""
    settings = {"noise_std": p.noise_std, "lam": 0.5, "init": z, "progress": False}
    return solvers.levenberg_marquardt(p.A, p.y, p.G, **settings).blocks["z"]


def two_starts(p: Problem, z: Tensor) -> Tensor:
    """The better of two Levenberg-Marquardt runs, the second one from a random z."""
    twice = p._replace(x=p.x.repeat(2, 1, 1), y=torch.cat((p.y, p.y)))
    found = levenberg(twice, torch.cat((z, random_start(p, 1))))
    first, second = constrained(twice, found)[0].chunk(2)
    return torch.where((second < first)[:, None], found[len(z) :], found[: len(z)])


def continuation(p: Problem, z: Tensor, first: float = 0.1) -> Tensor:
    """Algorithm 2.4, to one grey level, with a first β in units of 1/γ²."""
    settings = {"noise_std": p.noise_std, "init": z, "beta": first / p.G.std**2, "progress": False}
    return solvers.jpmap_continuation(p.A, p.y, p.G, epsilon=p.x[0].numel() / 255**2, **settings).blocks["z"]


def splitting(p: Problem, z: Tensor) -> Tensor:
    """Algorithm 1.1, to one grey level."""
    settings = {"noise_std": p.noise_std, "init": z, "progress": False}
    return solvers.map_z_splitting(p.A, p.y, p.G, **settings).blocks["z"]


def random_start(p: Problem, seed: int) -> Tensor:
    """Latent vectors from N(0, I)."""
    return torch.randn(len(p.y), p.G.domain.size, generator=torch.Generator().manual_seed(seed))


def _shares(ratio: Tensor) -> str:
    lower, higher = int((ratio < 0.999).sum()), int((ratio > 1.001).sum())
    return f"{lower}/{len(ratio) - lower - higher}/{higher}"


def print_table(
    p: Problem, z: Tensor, methods: dict[str, Callable[[Problem, Tensor], Tensor]], repeats: int
) -> None:
    """A line for every method; Levenberg-Marquardt and the continuation must be among them."""
    calls, count = Calls(p.G), len(z)
    results, work = {}, {}

    def solve(name: str) -> None:
        calls.evaluations = calls.jacobians = 0
        found = methods[name](p, z)
        work[name] = calls.evaluations / count, calls.jacobians / count
        results[name] = constrained(p, found)

    seconds = interleaved({name: partial(solve, name) for name in methods}, repeats)
    print(
        f"{'':<26}  {'mean H':>7}  {'median':>7}  {'MSE e3':>6}  {'eval':>5}  {'Jac':>4}  {'time':>4}  "
        f"{'than L.-M.':>11}  {'continuation':>12}  log ratio %"
    )
    unit, reference = seconds["Levenberg-Marquardt"], results["continuation"][0]
    for name, (H, mse) in results.items():
        shares = [_shares(H / h) for h in (results["Levenberg-Marquardt"][0], reference)]
        ratio = 100 * (H / reference).log()
        print(
            f"{name:<26}  {H.mean():7.1f}  {H.median():7.1f}  {1000 * mse.mean():6.2f}  {work[name][0]:5.0f}  "
            f"{work[name][1]:4.1f}  {seconds[name] / unit:4.1f}  {shares[0]:>11}  {shares[1]:>12}  "
            f"{ratio.mean():6.2f} ± {ratio.std() / count**0.5:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS)[:3], help=", ".join(PROBLEMS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first test image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count, repeats, turns = (2, 1, 3) if options.quick else (options.images, 3, 60)
    best = AugmentedLagrangian(proposals=5, turns=turns)
    admm = AugmentedLagrangian(profile=False, penalty=1.0, growth=1.2, reduction=0.99, turns=turns)
    methods: dict[str, Callable[[Problem, Tensor], Tensor]] = {
        "Levenberg-Marquardt": levenberg,
        "Levenberg-M., 2 starts": two_starts,
        "continuation": continuation,
        "splitting": splitting,
        "multipliers": replace(best, proposals=0),
        "multipliers, encoder": best,
        "  the same with u = 0": replace(best, multipliers=False),
        "ADMM": admm,
        "ADMM, encoder": replace(admm, proposals=5),
        "  then Levenberg-M.": lambda p, z: levenberg(p, replace(admm, proposals=5)(p, z)),
    }
    few = ("Levenberg-Marquardt", "continuation", "multipliers", "multipliers, encoder", "ADMM")
    penalties = (0.3,) if options.quick else (0.01, 0.1, 1.0, 10.0, 100.0)
    for name in options.problems[: 1 if options.quick else None]:
        try:
            p = problem(name, count, first=options.first)
        except FileNotFoundError as error:
            print(f"skipped: {error}")
            return
        start = first_codes(p.G, genreg.GaussianFidelity(p.A, p.y, p.noise_std))
        print(f"\n{PROBLEMS[name]}; {count} images, from the code of a rough reconstruction")
        print_table(p, start, methods, repeats)
        if not options.quick:
            print("from random z")
            print_table(p, random_start(p, 0), {key: methods[key] for key in few}, 1)
        print("mean H against the first β or penalty, times γ²:", *(f"{r:g}" for r in penalties))
        for label, with_first in {
            "continuation": lambda r: partial(continuation, first=r),
            "multipliers, encoder": lambda r: replace(best, penalty=r),
            "ADMM": lambda r: replace(admm, penalty=r),
        }.items():
            values = (constrained(p, with_first(r)(p, start))[0].mean() for r in penalties)
            print(f"{label:<26} ", *(f"{value:7.1f}" for value in values))


if __name__ == "__main__":
    main()
