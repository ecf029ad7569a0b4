r"""Speed of posterior sampling: many chains at once, kernels against each other, memory of a long run.

    python benchmarks/sampling_speed.py            # some twenty minutes on two cores
    python benchmarks/sampling_speed.py --quick    # seconds, to see that it works

The latent posterior E(z) = ‖A G(z) - y‖² / (2σ²) + ½‖z‖² of compressed sensing (50 Gaussian measurements) of digits
that the generator itself has made, in float32.

1. Evaluations of energy and gradient a second, and turns of MALA a second, of 1,000 chains at once (100 images x 10
   chains) and of one chain alone. Goal: 30 times the throughput.
2. Effective samples a second: the smallest effective sample size (rank-normalised bulk, Vehtari et al. 2021) of the
   latent components of an image, its median over images, over the time of all turns, warm-up included, against the
   unadjusted Langevin algorithm with the settings of Liang (2021): step 0.01, noise of standard deviation sqrt(step),
   no learnt coordinates. All start at the same maximum. Beside it the bias: the largest error of a component's mean
   in posterior standard deviations and of its standard deviation in per cent, the median over images, against a long
   run of HMC. Goal: 3 times as many at equal bias. Where that algorithm's step is too long for the data it diverges.
3. Memory of the process after 1,000, 10,000 and 100,000 turns. Goal: flat.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from _digits import SPACE, generator
from _study import arguments, interleaved, normal

import genreg
from genreg.operators import gaussian_measurements
from genreg.sampling import (
    HMC,
    MALA,
    PCN,
    SKROCK,
    ULA,
    ChainStatus,
    LatentPosterior,
    Samples,
    effective_sample_size,
    resume,
    sample,
    starts,
)
from genreg.sampling.kernels import ChainState, Kernel
from genreg.sampling.random_numbers import RandomNumbers

MODELS = ("mnist-vae-dense", "mnist-vae", "mnist-gan")
MEASUREMENTS = 50


def posterior(model: str, images: int, sigma: float) -> LatentPosterior:
    """Of images of the generator itself."""
    G, A = generator(model), gaussian_measurements(SPACE, MEASUREMENTS, seed=0)
    y = genreg.to_torch(A)(G.sample(images, seed=1))
    return LatentPosterior(genreg.GaussianFidelity(A, y + sigma * normal(y.shape, 2), sigma), G)


def throughput(models: tuple[str, ...], images: int, chains: int, repeats: int) -> None:
    """Table 1."""
    count = images * chains
    print(f"1. a second, {count} chains at once and one alone ({torch.get_num_threads()} threads)")
    print(
        f"{'':18s}{'E and gradient':>16s}{'alone':>9s}{'ratio':>7s}{'MALA turns':>14s}{'alone':>9s}{'ratio':>7s}"
    )
    for model in models:
        whole = posterior(model, images, 0.1).take(torch.arange(images).repeat(chains))
        single = whole.take(torch.tensor([0]))
        calls = {}
        for name, p in (("many", whole), ("one", single)):
            random = RandomNumbers(0, torch.device("cpu"))
            z = random.normal(torch.empty(p.batch, p.generator.domain.size))
            size = torch.full((p.batch,), 1e-3)

            def target(u, *, gradient=True, p=p):
                energy, slope = p.objective.value_and_gradient({"z": u})
                return energy, slope["z"]

            state = ChainState.at(target, z)
            calls[name] = lambda target=target, z=z: target(z)
            calls[f"{name}, MALA"] = lambda t=target, s=state, h=size, r=random: MALA().step(t, s, h, r)
        rate = interleaved(calls, repeats)
        row = [count / rate["many"], 1 / rate["one"], count / rate["many, MALA"], 1 / rate["one, MALA"]]
        print(
            f"{model:18s}{row[0]:16,.0f}{row[1]:9,.0f}{row[0] / row[1]:7.1f}"
            f"{row[2]:14,.0f}{row[3]:9,.0f}{row[2] / row[3]:7.1f}"
        )
    print("goal: 30\n")


@dataclass(frozen=True)
class Row:
    """A kernel with the arguments of `sample`."""

    name: str
    kernel: Kernel
    metric: str = "dense"
    step: float | None = None


ROWS = (
    Row("ULA, step 0.01", ULA(), "identity", 0.01),
    Row("ULA", ULA(), "identity"),
    Row("ULA, dense", ULA()),
    Row("SK-ROCK, 5 stages", SKROCK(5), "identity"),
    Row("pCN", PCN(), "identity"),
    Row("MALA", MALA(), "identity"),
    Row("MALA, dense", MALA()),
    Row("HMC, dense", HMC()),
)


def effective(found: Samples) -> torch.Tensor:
    """The smallest effective sample size of the components of each image; 0 where a chain has diverged."""
    size = torch.as_tensor(effective_sample_size(found.z)).amin(-1)
    return torch.where((found.status == ChainStatus.DIVERGED).any(0), 0.0, size.nan_to_num(0.0))


def bias(found: Samples, reference: Samples) -> tuple[float, float]:
    """Of means, in posterior standard deviations, and of standard deviations, in per cent."""
    (mean, std), (mean0, std0) = ((s.z.mean((0, 1)), s.z.flatten(0, 1).std(0)) for s in (found, reference))
    shift = ((mean - mean0) / std0).abs().amax(1)
    spread = 100 * (std / std0 - 1).abs().amax(1)
    return float(shift.nanmedian()), float(spread.nanmedian())


def kernels(model: str, images: int, chains: int, steps: int, sigmas: tuple[float, ...]) -> None:
    """Table 2."""
    print(f"2. {model}: effective samples a second, {images} images x {chains} chains x {steps} turns")
    print(
        f"{'σ':>6s} {'':20s}{'ESS':>8s}{'seconds':>9s}{'ESS/s':>9s}{'ratio':>7s}{'diverged':>10s}"
        f"{'mean':>7s}{'std %':>7s}"
    )
    for sigma in sigmas:
        target = posterior(model, images, sigma)
        start, _ = starts(target, "map", chains, RandomNumbers(0, torch.device("cpu")))
        common = {"chains": chains, "thin": 1, "init": start, "progress": False}
        reference = sample(target, HMC(), steps=3 * steps, burn_in=steps, seed=9, **common)
        base = None
        for row in ROWS:
            settings = {"steps": steps, "burn_in": steps // 3, "step": row.step, "metric": row.metric}
            found = sample(target, row.kernel, seed=1, **settings, **common)
            ess = float(effective(found).median())
            rate = ess / found.time
            base = rate if base is None else base
            lost = float((found.status == ChainStatus.DIVERGED).double().mean())
            shift, spread = bias(found, reference)
            ratio = f"{rate / base:7.1f}" if base else f"{'':>7s}"
            print(
                f"{sigma:6.2f} {row.name:20s}{ess:8.0f}{found.time:9.1f}{rate:9.1f}{ratio}{100 * lost:9.0f}%"
                f"{shift:7.3f}{spread:7.1f}"
            )
    print("goal: 3 times the first row at equal bias\n")


def resident() -> float:
    """Memory of the process, in MiB."""
    if sys.platform != "linux":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory(marks: tuple[int, ...]) -> None:
    """Table 3."""
    target = posterior("mnist-vae-dense", 1, 0.1)
    print("3. memory of the process, one image x 10 chains of MALA")
    found = sample(
        target, MALA(), chains=10, steps=marks[0], burn_in=100, thin=marks[-1] // 1000, seed=0, progress=False
    )
    print(f"{marks[0]:9,d} turns {resident():8.1f} MiB")
    for steps in marks[1:]:
        found = resume(target, found, steps=steps, progress=False)
        print(f"{steps:9,d} turns {resident():8.1f} MiB   ({found.z.shape[0]} draws kept)")


def main() -> None:
    quick = arguments(__doc__, threads=None).quick
    torch.manual_seed(0)
    if quick:
        throughput(MODELS[:1], 4, 5, 2)
        kernels(MODELS[0], 2, 2, 60, (1.0,))
        memory((1_000, 2_000))
    else:
        throughput(MODELS, 100, 10, 15)
        kernels(MODELS[0], 10, 10, 1500, (1.0, 0.3, 0.1))
        memory((1_000, 10_000, 100_000))


if __name__ == "__main__":
    main()
