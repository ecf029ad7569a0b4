"""Throughput of the batched hard constraint against one-by-one Adam, on MNIST compressed sensing.

    python benchmarks/mnist_hard_constraint.py            # 100 images, Adam on 10 of them
    python benchmarks/mnist_hard_constraint.py --quick    # 4 images, Adam on 1, with a small limit
    python benchmarks/mnist_hard_constraint.py --adam 100 # Adam on all of them: some minutes

150 Gaussian measurements, noise 0.1, min_z ‖A G(z) - y‖² / (2σ²) + λ‖z‖² with λ = ½, the prior mnist-vae.
Both start from the same z and minimise the same objective on the same model: ours all images in one batch by
`quasi_newton`, the other each image by itself by Adam (learning rate 0.01) until ‖gradient‖ / dim(Z) < 1e-5
or 5,000 steps. The images Adam runs on are spread over the batch, and the runs are interleaved. Goal: 60
times the throughput at a lower or equal mean objective.
"""

import statistics
import time

import torch
from _digits import SPACE, digits, generator
from _study import arguments, normal, skipped_without_data

import genreg
from genreg.operators import gaussian_measurements

NOISE, LAM = 0.1, 0.5


def adam(objective, z: torch.Tensor, steps: int) -> tuple[float, int]:
    """Minimise for one image; return the objective and the number of steps."""
    z = z.clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.01)
    taken = 0
    while taken < steps:
        taken += 1
        optimiser.zero_grad()
        value = objective(z)
        value.backward()
        if float(z.grad.norm()) / z.numel() < 1e-5:
            break
        optimiser.step()
    return float(objective(z).detach()), taken


@skipped_without_data
def main() -> None:
    number = {"type": int, "default": 10, "help": "images that Adam runs on"}
    options = arguments(__doc__, {"--adam": number, "--model": {"default": "mnist-vae"}}, threads=2)
    count, singles, steps, repeats = (4, 1, 200, 1) if options.quick else (100, options.adam, 5000, 3)

    A, G, truth = gaussian_measurements(SPACE, 150, seed=0), generator(options.model), digits(count, 100)
    forward, decode = genreg.to_torch(A), G.model.decode
    clean = forward(truth)
    y = clean + NOISE * normal(clean.shape, 1)
    regulariser = genreg.HardConstraint(G)
    start = regulariser.initial(y, A)

    def batched() -> genreg.Reconstruction:
        return genreg.reconstruct(A, y, regulariser, noise_std=NOISE, lam=LAM, init=start, progress=False)

    def one(k: int):
        def objective(z: torch.Tensor) -> torch.Tensor:
            r = forward(decode(z)) - y[k : k + 1]
            return (r * r).sum() / (2 * NOISE**2) + LAM * (z * z).sum()

        return objective

    batched()
    ours, theirs, values, taken = [], [], [], []
    chosen = torch.linspace(0, count - 1, singles).long().tolist()
    for k in chosen:
        if len(ours) < max(repeats, 3):
            began = time.perf_counter()
            rec = batched()
            ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        value, used = adam(one(k), start["z"][k : k + 1], steps)
        theirs.append(time.perf_counter() - began)
        values.append(value)
        taken.append(used)
    batch_time, single_time = statistics.median(ours), statistics.mean(theirs)
    psnr = genreg.evaluation.psnr(rec.image, truth, data_range=1.0).mean()
    print(
        f"{count} images in one batch: {batch_time:.2f} s, {rec.advice().splitlines()[0][:60]}; mean PSNR {psnr:.2f} dB"
    )
    print(
        f"Adam, one by one, {len(chosen)} images: {single_time:.2f} s each, {statistics.mean(taken):.0f} steps"
    )
    print(
        f"mean objective on those images: {rec.value[chosen].mean():.3f} batched, {statistics.mean(values):.3f} Adam"
    )
    print(f"throughput: {count * single_time / batch_time:.0f} times (goal 60)")


if __name__ == "__main__":
    main()
