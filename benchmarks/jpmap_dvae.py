r"""Does the denoising criterion make a better encoder for JPMAP? Reconstructions and encoder against its noise.

    python benchmarks/jpmap_dvae.py           # trains 6 models, 3 minutes each on one core, then 8 minutes
    python benchmarks/jpmap_dvae.py --seeds 2 # the same with two models for every noise
    python benchmarks/jpmap_dvae.py --quick   # 2 models of 20 steps, 3 images; writes to build/ and a temporary folder

The VAE 784-512-512-8 of MNIST is trained with Gaussian noise of standard deviation σ_DVAE on the encoder's input
(the denoising criterion) by the recipe of "mnist-vae-dense", in bfloat16, all with the same seed. The models are
kept in build/dvae; an interrupted training goes on. With every model digits are reconstructed by

* CSGM, min_z ‖A G(z) - y‖² / (2σ²) + ‖z‖² / 2, whose image is G(z) (`HardConstraint`);
* JPMAP, min_{x, z} ‖A x - y‖² / (2σ²) + ‖x - G(z)‖² / (2γ²) + ‖z‖² / 2, whose image is x (`solvers.jpmap`), with
  descents, and with turns of the encoder only, z = E(x), until one no longer lowers the objective (rule "exact").

Then the encoder is compared with what it stands for, z*(x) = argmin_z J(x, z) with J(x, z) = ‖x - G(z)‖² / (2γ²) +
‖z‖² / 2, for clean digits and, since JPMAP encodes images that are no digits yet, for noisy ones.

Means are over images and models, standard errors are those over the images of the means of the models.

References
----------
M. González, A. Almansa, P. Tan (2021), Solving inverse problems by joint posterior maximization with autoencoding
prior, arXiv:2103.01648.

D. Im, S. Ahn, R. Memisevic, Y. Bengio (2017), Denoising criterion for variational auto-encoding framework,
doi:10.1609/aaai.v31i1.10777.

A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017), Compressed sensing using generative models, arXiv:1703.03208.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import matplotlib.ticker
import odl
import torch
from _digits import SPACE, digits
from _study import arguments, figure, folder, light, mean_and_error, normal, save, skipped_without_data
from encoder_posterior import descend
from torch import Tensor

import genreg
from genreg import recipes, solvers
from genreg.operators import gaussian_measurements, mask

LEVELS = (0, 5, 10, 15, 25, 50)  # 255 σ_DVAE
NOISE = (0, 10, 25, 50, 110)  # 255 times the noise on images to encode
PROBLEMS = {
    "denoising": "σ = 110/255",
    "compressed sensing": "140 measurements, σ = 10/255",
    "inpainting": "80 % missing, σ = 10/255",
}


@dataclass(frozen=True)
class Sizes:
    """What is computed."""

    levels: tuple[int, ...] = LEVELS
    seeds: tuple[int, ...] = (0,)
    images: int = 100
    restarts: int = 10
    max_iter: int = 500
    quick: bool = False


def train(folder: Path, level: int, seed: int, *, quick: bool, progress: bool = True) -> Path:
    """Train a model with the input noise level / 255, unless it is there; return its file."""
    name = f"dvae-{level}-{seed}" + ("-quick" if quick else "")
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        recipe = recipes.RECIPES["mnist-vae-dense"]
        settings = {**recipe.settings, "input_noise": level / 255, "seed": seed}
        recipes.RECIPES[name] = replace(recipe, settings=settings, mixed=True)
        recipes.train(name, folder, resume=not quick, quick=quick, progress=progress)
    return file


def problems(x: Tensor) -> Iterator[tuple[str, odl.Operator, Tensor, float]]:
    """Name, operator, data of the images and noise level of the three problems."""
    random = torch.Generator().manual_seed(0)
    keep = (torch.randperm(784, generator=random) < round(0.2 * 784)).reshape(28, 28)
    operators = (odl.IdentityOperator(SPACE), gaussian_measurements(SPACE, 140, seed=0), mask(SPACE, keep))
    for name, A, noise in zip(PROBLEMS, operators, (110 / 255, 10 / 255, 10 / 255), strict=True):
        clean = genreg.to_torch(A)(x)
        yield name, A, clean + noise * torch.randn(clean.shape, generator=random), noise


def reconstructions(
    A: odl.Operator, y: Tensor, G: genreg.Generator, noise: float, sizes: Sizes
) -> Iterator[tuple[str, Tensor, solvers.Solution | None]]:
    """Name, images and, of JPMAP, the solution of every method."""
    R, options = genreg.HardConstraint(G), {"max_iter": sizes.max_iter, "progress": False}
    many = f"best of {sizes.restarts} random starts"
    for label, init, restarts in (
        ("one random start", "random", 1),
        (many, "random", sizes.restarts),
        ("encoder", "encoder", 1),
    ):
        rec = genreg.reconstruct(
            A, y, R, noise_std=noise, lam=0.5, init=init, restarts=restarts, seed=0, **options
        )
        yield f"CSGM, {label}", rec.image, None
    z = R.initial(y, A, init="random", seed=0)["z"]
    for label, given in (
        ("one random start", {"init": z}),
        (many, {"init": z, "restarts": sizes.restarts}),
        ("encoder", {}),
        ("encoder's turns only", {"rule": "exact"}),
    ):
        found = solvers.jpmap(A, y, G, noise_std=noise, **given, **options)
        yield f"JPMAP, {label}", found.image, found


def study(folder: Path, x: Tensor, sizes: Sizes) -> dict[str, Tensor]:
    """Measure everything, for every level, seed and image: name to ``(levels, seeds, images)``."""
    files = [
        [train(folder, level, seed, quick=sizes.quick) for seed in sizes.seeds] for level in sizes.levels
    ]
    found: dict[str, list[Tensor]] = defaultdict(list)
    for file in (file for row in files for file in row):
        G = genreg.load_generator(file, range=SPACE)
        for problem, A, y, noise in problems(x):
            value = {}
            for method, image, solution in reconstructions(A, y, G, noise, sizes):
                found[f"{problem}: {method}"].append((image - x).square().mean((1, 2)))
                if solution is not None:
                    value[method], turns = solution.value, solution.iterations
            found[f"turns in {problem}"].append(turns.to(x.dtype))
            found[f"left in {problem}"].append(value["JPMAP, encoder's turns only"] - value["JPMAP, encoder"])
        for level in NOISE:
            noisy = x + level / 255 * normal(x.shape, level)
            search = descend(G, noisy, starts=3, max_iter=sizes.max_iter)
            best = search.value.amin(0)
            found[f"gap {level}"].append(search.start[0] - best)
            found[f"relative gap {level}"].append((search.start[0] - best) / best)
            found[f"distance {level}"].append((G.encode(noisy) - search.best).norm(dim=1))
            found[f"not best {level}"].append((search.value[0] > 1.01 * best).to(x.dtype))
            with torch.no_grad():
                found[f"encoder mse {level}"].append((G.model(noisy) - x).square().mean((1, 2)))
                found[f"range mse {level}"].append((G.model.decode(search.best) - x).square().mean((1, 2)))
        found["gamma²"].append(torch.full((len(x),), G.std**2))
        print(f"measured {file.stem}", flush=True)
    return {k: torch.stack(v).unflatten(0, (len(sizes.levels), len(sizes.seeds))) for k, v in found.items()}


def by_level(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error over the images of values ``(levels, seeds, images)``, ``(levels,)`` each."""
    return mean_and_error(values.double().mean(1).T)


def print_table(found: dict[str, Tensor], sizes: Sizes) -> None:
    def row(label: str, values: Tensor, factor: int = 1) -> None:
        cells = (f"{factor * m:.2f} ± {factor * e:.2f}" for m, e in zip(*by_level(values), strict=True))
        print(f"{label:>52}  " + "  ".join(f"{cell:>15}" for cell in cells))

    print(
        f"\nmeans over {sizes.images} images and {len(sizes.seeds)} seed(s) ± standard errors over the images"
    )
    print(f"{'255 σ_DVAE':>52}  " + "  ".join(f"{level:>15}" for level in sizes.levels))
    for name, values in found.items():
        squares = any(part in name for part in (": ", "mse", "²"))
        row(name, values, 1000 if squares else 1)
    print("squared errors, per pixel, and γ² are × 1000, gaps and what is left in nats")
    print(f"paired differences of squared errors × 1000, also to the models with {sizes.levels[0]}")
    many = f"best of {sizes.restarts} random starts"
    for problem in PROBLEMS:
        for start in ("encoder", many):
            jpmap, csgm = (found[f"{problem}: {method}, {start}"] for method in ("JPMAP", "CSGM"))
            row(f"{problem}, {start}: JPMAP − CSGM", jpmap - csgm, 1000)
            row(f"JPMAP − its own at {sizes.levels[0]}", jpmap - jpmap[:1], 1000)
            row(f"CSGM − its own at {sizes.levels[0]}", csgm - csgm[:1], 1000)


STYLES = {
    "CSGM, one random start": ("#2b6cb0", ":"),
    "CSGM, best of": ("#2b6cb0", "--"),
    "CSGM, encoder": ("#2b6cb0", "-"),
    "JPMAP, one random start": ("#d9822b", ":"),
    "JPMAP, best of": ("#d9822b", "--"),
    "JPMAP, encoder's turns only": ("#c53030", "-."),
    "JPMAP, encoder": ("#d9822b", "-"),
}


def line(ax, levels: tuple[int, ...], values: Tensor, shift: float = 0.0, **style) -> None:
    """Draw means with standard errors, and as crosses the means of the single models."""
    mean, error = by_level(values)
    at = torch.tensor(levels) + shift
    ax.errorbar(at, mean, error, marker="o", markersize=4, linewidth=1.5, capsize=2, **style)
    if values.shape[1] > 1:
        ax.plot(at, values.mean(2), "x", markersize=4, color=style["color"], alpha=0.7)


def draw(found: dict[str, Tensor], sizes: Sizes, file: Path) -> None:
    whole = figure(13, 7.4)
    upper, lower = whole.subfigures(2, 1, hspace=0.04)
    upper.suptitle(
        f"{sizes.images} test digits: mean squared error per pixel ± standard error over the digits",
        fontsize=10,
    )
    axes = upper.subplots(1, len(PROBLEMS))
    for ax, (problem, setting) in zip(axes, PROBLEMS.items(), strict=True):
        methods = [name for name in found if name.startswith(problem + ": ")]
        for k, name in enumerate(methods):
            method = name.rpartition(": ")[2]
            color, dash = next(style for key, style in STYLES.items() if method.startswith(key))
            shift = 0.35 * (k - len(methods) // 2)
            line(ax, sizes.levels, 1000 * found[name], shift, color=color, linestyle=dash, label=method)
        ax.set_title(f"{problem}, {setting}", fontsize=9)
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("mean squared error × 1000", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    upper.legend(
        handles, labels, fontsize=8, frameon=False, ncols=4, handlelength=4, loc="outside lower center"
    )

    lower.suptitle(
        "The encoder E as an approximation of z*(x) = argmin J(x, z), for digits x with noise of standard deviation σ",
        fontsize=10,
    )
    axes = lower.subplots(1, 4)
    shades = matplotlib.colormaps["viridis"](torch.linspace(0, 0.88, len(NOISE)).numpy())
    for ax, key, label, title in (
        (axes[0], "gap", "J(x, E(x)) − J(x, z*)  [nats]", "error of the code in the objective"),
        (axes[1], "distance", "‖E(x) − z*(x)‖  [prior standard deviations]", "error of the code in z"),
    ):
        ax.set_title(title, fontsize=9)
        for level, shade in zip(NOISE, shades, strict=True):
            text = f"σ = {level}/255" if level else "clean"
            line(ax, sizes.levels, found[f"{key} {level}"], color=shade, label=text)
        ax.set_ylabel(label, fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    for key, color, label in (
        ("encoder mse 0", "#d9822b", "‖x − G(E(x))‖² / 784, encoder"),
        ("gamma²", "#718096", "γ², learnt variance of a pixel"),
        ("range mse 0", "#2f855a", "‖x − G(z*)‖² / 784, best in the range"),
    ):
        line(axes[2], sizes.levels, 1000 * found[key], color=color, label=label)
    axes[2].set_title("reconstruction of clean digits", fontsize=9)
    axes[2].set_ylabel("per pixel, × 1000", fontsize=8)
    axes[2].set_ylim(bottom=0)
    axes[2].legend(fontsize=7, frameon=False)
    for problem, color in zip(PROBLEMS, ("#2b6cb0", "#d9822b", "#2f855a"), strict=True):
        line(axes[3], sizes.levels, found[f"left in {problem}"], color=color, label=problem)
    axes[3].set_title("JPMAP: what the encoder alone leaves", fontsize=9)
    axes[3].set_ylabel("J(encoder's turns only) − J(with descents)  [nats]", fontsize=8)
    axes[3].legend(fontsize=7, frameon=False)
    for ax in (axes[0], axes[1], axes[3]):
        ax.set(yscale="log")
        ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    for ax in whole.axes:
        ax.set_xlabel(r"$255\,\sigma_{\mathrm{DVAE}}$, noise in training", fontsize=8)
        ax.set_xticks(sizes.levels)
        ax.tick_params(which="both", labelsize=7)
        light(ax, linewidth=0.5)
    save(whole, file, 150)


@skipped_without_data
def main() -> None:
    models = {"type": Path, "default": Path("build/dvae"), "help": "folder of the models"}
    seeds = {"type": int, "default": 1, "help": "models for every noise"}
    options = arguments(__doc__, {"--models": models, "--seeds": seeds}, output=True)
    sizes = Sizes(seeds=tuple(range(options.seeds)))
    if options.quick:
        sizes = Sizes(levels=(0, 25), seeds=(0,), images=3, restarts=2, max_iter=5, quick=True)
    x = digits(sizes.images)
    with tempfile.TemporaryDirectory() as scratch:
        found = study(Path(scratch) if options.quick else options.models, x, sizes)
    print_table(found, sizes)
    draw(found, sizes, folder(options) / "jpmap_dvae.png")


if __name__ == "__main__":
    main()
