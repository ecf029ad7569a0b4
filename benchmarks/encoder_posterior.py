r"""How well the encoder of a VAE approximates the posterior of its latent vector, and what it is worth as a start.

    python benchmarks/encoder_posterior.py           # a minute on one core; draws docs/encoder_posterior.png
    python benchmarks/encoder_posterior.py --quick   # 3 images, few iterations, draws into build/

The decoder of mnist-vae-dense says x | z ~ N(G(z), γ² I) and z ~ N(0, I), so that, up to a constant,

    -log p(z | x) = ‖x - G(z)‖² / (2γ²) + ‖z‖² / 2 = J(x, z),

and the encoder answers with q(z | x) = N(E(x), diag s²). Both are drawn, above their minima and in nats, on a
plane through the encoder's mean E(x), the minimiser z* of J and a random direction. Below, J on a plane through
three of its local minima, with descents from the encoder and from random z ~ N(0, I) projected orthogonally
onto it (off the plane J is not that of the colour), and J - J(z*) against the evaluations of J. The tables are
over the first images of the test set; z* is the best of the minima a solver finds for an image. Image 11, drawn here,
is one whose error J(E(x)) - J(z*) is about the median.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.ticker
import odl
import torch
from _digits import digits, generator
from _study import arguments, figure, folder, normal, picture, save, skipped_without_data
from torch import Tensor

import genreg
from genreg import solvers

WORSE = 1.01  # a local minimum is worse if it is more than 1 % above the best
SOLVERS = {
    "BFGS": solvers.quasi_newton,
    "gradient descent": solvers.gradient_descent,
    "Adam, rate 0.1": partial(solvers.gradient_descent, updates={"z": solvers.Adam(lr=0.1)}),
}
RADII = torch.tensor([1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0])  # levels r²/2: r standard deviations of a Gaussian
BLUE, ORANGE, GREEN, RED = "#2b6cb0", "#d9822b", "#2f855a", "#c53030"


def posterior(G: genreg.Generator, x: Tensor) -> solvers.Objective:
    """-log p(z | x) of every image, up to a constant."""
    A = odl.IdentityOperator(G.range)
    gamma = G.std
    return genreg.HardConstraint(G).problem(genreg.GaussianFidelity(A, x, gamma), torch.full((len(x),), 0.5))


@dataclass(frozen=True)
class Study:
    """Descents from the encoder and from n random starts, of B images; start 0 is the encoder."""

    start: Tensor  # (n + 1, B)
    value: Tensor  # (n + 1, B)
    iterations: Tensor  # (n + 1, B)
    calls: Tensor  # (n + 1, B), evaluations of J and its gradient
    z: Tensor  # (n + 1, B, dim Z)
    history: Tensor  # (evaluations, n + 1, B)
    path: Tensor  # (evaluations, n + 1, B, dim Z)

    @property
    def best(self) -> Tensor:
        """z*, ``(B, dim Z)``."""
        return self.z[self.value.argmin(0), torch.arange(self.z.shape[1])]


def descend(
    G: genreg.Generator, x: Tensor, *, starts: int, max_iter: int, solver: Callable = solvers.quasi_newton
) -> Study:
    """Minimise J(x, z) over z from E(x) and from random starts, all in one batch."""
    random = normal((starts, len(x), G.domain.size), 0)
    z = torch.cat((G.encode(x)[None], random)).flatten(0, 1)
    path = [z.clone()]

    def remember(iterate: solvers.Iterate) -> None:
        path.append(path[-1].clone())
        path[-1][iterate.samples] = iterate.blocks["z"]

    problem = posterior(G, x.repeat(starts + 1, 1, 1))
    found = solver(problem, {"z": z}, max_iter=max_iter, tol=1e-4, callback=remember, progress=False)
    shape = (starts + 1, len(x))
    return Study(
        start=found.history["value"][0].reshape(shape),
        value=found.value.reshape(shape),
        iterations=found.iterations.reshape(shape),
        calls=found.operator_calls.reshape(shape),
        z=found.blocks["z"].reshape(*shape, -1),
        history=found.history["value"].unflatten(1, shape),
        path=torch.stack(path).unflatten(1, shape),
    )


def hessians(G: genreg.Generator, x: Tensor, z: Tensor) -> Tensor:
    """Second derivatives of J at z, ``(B, dim Z, dim Z)``."""
    gamma = G.std

    def value(z: Tensor, x: Tensor) -> Tensor:
        return (G.model.decode(z[None])[0] - x).square().sum() / (2 * gamma**2) + 0.5 * z.square().sum()

    return torch.func.vmap(torch.func.hessian(value))(z, x)


def print_descents(name: str, study: Study) -> None:
    best = study.value.amin(0)
    runs = (("encoder", slice(1)), ("random", slice(1, None)))
    for label, part in runs:
        value, start = study.value[part], study.start[part]
        worse = (value > WORSE * best).double()
        columns = (start.mean(), value.amin(0).mean(), value.median(0).values.mean(), value.amax(0).mean())
        failed = f"{100 * worse.mean():7.1f}  {100 * worse.amax(0).mean():8.1f}"
        counts = "  ".join(f"{n[part].double().median():4.0f}" for n in (study.iterations, study.calls))
        print(f"{name:>16}  {label:>7}  {'  '.join(f'{c:7.2f}' for c in columns)}  {failed}  {counts}")


def print_encoder(G: genreg.Generator, x: Tensor, study: Study) -> None:
    mean, std = G.model.encode_distribution(x)
    best = study.best
    gap = study.start[0] - study.value.amin(0)
    laplace = hessians(G, x, best).diagonal(dim1=1, dim2=2).rsqrt()
    rows = {
        "J(E(x)) - J(z*)  [nats]": gap,
        "(J(E(x)) - J(z*)) / J(z*)": gap / study.value.amin(0),
        "‖E(x) - z*‖": (mean - best).norm(dim=1),
        "|E(x) - z*| / s, by coordinate": ((mean - best) / std).abs().flatten(),
        "s (J''(z*)_ii)^½, by coordinate": (std / laplace).flatten(),
    }
    print(f"\n{'the encoder, quantiles':>34}      10 %     50 %     90 %     mean")
    for label, values in rows.items():
        quantiles = values.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        print(f"{label:>34}  " + " ".join(f"{v:8.3f}" for v in (*quantiles, values.mean().item())))


def plane(origin: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Orthonormal directions of the plane through three points, ``(2, dim Z)``."""
    a = torch.nn.functional.normalize(first - origin, dim=0)
    b = second - origin
    return torch.stack((a, torch.nn.functional.normalize(b - (b @ a) * a, dim=0)))


def grid(origin: Tensor, axes: Tensor, points: Tensor, margin: float, n: int) -> tuple[Tensor, ...]:
    """Coordinates of a square around points of the plane, ``(n,)`` twice, and its points ``(n * n, dim Z)``."""
    flat = (points - origin) @ axes.T
    centre = (flat.amax(0) + flat.amin(0)) / 2
    half = (flat.amax(0) - flat.amin(0)).max() / 2 + margin
    u, v = (c + torch.linspace(-1, 1, n) * half for c in centre)
    V, U = torch.meshgrid(v, u, indexing="ij")
    return u, v, origin + torch.stack((U, V), -1).flatten(0, 1) @ axes


def minima(study: Study, image: int) -> Tensor:
    """The minimiser and two other local minima (random points where there are none), ``(3, dim Z)``."""
    order = study.value[:, image].argsort()
    spare = normal((2, study.z.shape[2]), 2)
    chosen: list[Tensor] = []
    for z in (*study.z[order, image], *spare):
        if all((z - other).norm() > 0.5 for other in chosen):
            chosen.append(z)
    return torch.stack(chosen[:3])


def draw_posterior(figure, G, x: Tensor, study: Study, image: int, n: int) -> None:
    mean, std = (t[0] for t in G.model.encode_distribution(x[image : image + 1]))
    best = study.best[image]
    random = mean + normal(mean.shape, 1)
    axes = plane(mean, best, random)
    u, v, z = grid(mean, axes, torch.stack((mean, best)), 4.5 * std.mean().item(), n)
    p = posterior(G, x[image].expand(len(z), -1, -1))({"z": z}) - study.value[:, image].min()
    q = 0.5 * ((z - mean) / std).square().sum(1)
    marks = (torch.zeros(2), (best - mean) @ axes.T)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = matplotlib.colormaps["Blues_r"](torch.linspace(0.35, 1, len(RADII)).numpy())
    for ax, values, title in zip(
        panels, (p, q), ("−log p(z | x), of the decoder", "−log q(z | x), of the encoder"), strict=True
    ):
        levels = [0.0, *(RADII.square() / 2).tolist()]
        values = values.clamp_min(0).reshape(n, n)
        ax.contourf(u, v, values, levels, colors=shades)
        lines = ax.contour(u, v, values, levels[1:], colors="#1a365d", linewidths=0.6)
        ax.clabel(lines, fmt="%.3g", fontsize=6.5)
        for mark, colour, symbol, label in zip(
            marks, (ORANGE, GREEN), "o*", ("encoder's mean E(x)", "minimiser z*"), strict=True
        ):
            ax.plot(*mark, symbol, color=colour, markeredgecolor="white", markersize=11, label=label)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("from E(x) to z*  [prior standard deviations]", fontsize=8)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
    panels[0].set_ylabel("a random direction  [prior standard deviations]", fontsize=8)
    panels[0].legend(fontsize=7.5, loc="upper left")
    figure.suptitle("Nats above the minimum, the same levels r²/2 (r = 1, 2, 3, 4.5, 6, 8, 10)", fontsize=9)


def draw_descents(figure, G, x: Tensor, study: Study, image: int, n: int) -> None:
    points = minima(study, image)
    axes = plane(*points)
    u, v, z = grid(points[0], axes, points, 1.5, n)
    values = posterior(G, x[image].expand(len(z), -1, -1))({"z": z}).reshape(n, n)
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1.0])
    shown = left.contourf(u, v, values.log10(), 24, cmap="Greys")
    bar = figure.colorbar(shown, ax=left, shrink=0.85, format="%.1f")
    bar.set_label("log₁₀ J(x, z) on the plane", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = matplotlib.ticker.MaxNLocator(6)
    bar.update_ticks()
    best = study.value[:, image].min()
    good = study.value[:, image] <= WORSE * best
    for k in reversed(range(len(good))):
        colour = ORANGE if k == 0 else BLUE if good[k] else RED
        track = (study.path[:, k, image] - points[0]) @ axes.T
        style = {"color": colour, "linewidth": 2.2 if k == 0 else 1.1, "zorder": 3 + (k == 0)}
        left.plot(*track.T, **style, alpha=0.9)
        left.plot(
            *track[0], "o", color=colour, markersize=10 if k == 0 else 4, markeredgecolor="white", zorder=6
        )
        label = (
            "from the encoder" if k == 0 else f"from N(0, I), {'to z*' if good[k] else 'to a worse minimum'}"
        )
        excess = study.history[: int(study.calls[k, image]), k, image] - best
        right.plot(torch.arange(1, len(excess) + 1), excess.clamp_min(1e-3), **style, label=label)
    left.plot(0, 0, "*", color=GREEN, markeredgecolor="white", markeredgewidth=0.6, markersize=9, zorder=7)
    left.set(xlim=(u[0], u[-1]), ylim=(v[0], v[-1]), aspect="equal")
    left.set_title("Descents by BFGS, projected on a plane of three local minima", fontsize=9)
    left.set_xlabel("from z* to another minimum  [prior standard deviations]", fontsize=8)
    handles = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    right.legend(handles.values(), handles.keys(), fontsize=7.5, framealpha=1, loc="center right")
    right.set(yscale="log")
    right.set_xlabel("evaluations of J and its gradient", fontsize=8)
    right.set_ylabel("J(x, z) − J(x, z*)  [nats, cut off at 0.001]", fontsize=8)
    right.set_title("Objective above the best minimum", fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    for ax in (left, right):
        ax.tick_params(labelsize=7)


def draw(G: genreg.Generator, x: Tensor, study: Study, image: int, file: Path, n: int) -> None:
    """Draw the figure of one image."""
    whole = figure(9.2, 9.6)
    top, middle, bottom = whole.subfigures(3, 1, height_ratios=[1.6, 4.4, 3.9])
    with torch.no_grad():
        other = minima(study, image)[1]
        encoder = G.encode(x[image : image + 1])[0]
        shown = G.model.decode(torch.stack((encoder, study.best[image], other)))
        draw_posterior(middle, G, x, study, image, n)
        draw_descents(bottom, G, x, study, image, n)
    labels = ("x", "G(E(x)), the encoder", "G(z*), the minimiser", "G(z), a worse local minimum")
    for ax, decoded, label in zip(top.subplots(1, 4), (x[image], *shown), labels, strict=True):
        picture(ax, decoded, label)
    save(whole, file, 150)


@skipped_without_data
def main() -> None:
    options = arguments(
        __doc__,
        {
            "--image": {"type": int, "default": 11, "help": "number of the image to draw"},
            "--starts": {"type": int, "default": 10, "help": "random starts of every image"},
            "--model": {"default": "mnist-vae-dense", "help": "a variational model of MNIST"},
        },
        output=True,
    )
    count, starts, max_iter, image = (
        (3, 3, 10, 0) if options.quick else (100, options.starts, 500, options.image)
    )
    x, G = digits(count), generator(options.model)
    print(
        f"min_z J(x, z), {count} images, the encoder's start and {starts} random ones; means over the images;\n"
        "best, median and worst over an image's starts; runs that end > 1 % above z*, images with such a run"
    )
    print(
        f"{'':>16}  {'start':>7}  {'J start':>7}  {'J best':>7}  {'median':>7}  {'worst':>7}  {'worse %':>7}"
        f"  {'images %':>8}  {'iter':>4}  {'eval':>4}"
    )
    studies = {
        name: descend(G, x, starts=starts, max_iter=max_iter, solver=solver)
        for name, solver in SOLVERS.items()
    }
    for name, study in studies.items():
        print_descents(name, study)
    print_encoder(G, x, studies["BFGS"])
    file = folder(options) / "encoder_posterior.png"
    draw(G, x, studies["BFGS"], image, file, 20 if options.quick else 160)


if __name__ == "__main__":
    main()
