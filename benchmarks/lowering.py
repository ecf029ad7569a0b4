"""Value and gradient of a lowered ODL objective against the same written by hand in torch.

    python benchmarks/lowering.py            # batches of 100 and 1
    python benchmarks/lowering.py --quick

The objective is ‖A(G(z)) - y‖² / (2σ²) + λ‖z‖² for shapes tomography (56 x 56, 40 angles, the prior
shapes-vae), written in ODL as ``fidelity * G + lam * R`` and lowered by ``to_torch``. By hand it is the
decoder, the same sparse matrix product and the sums of squares. Goal: at most 1.15 times the time by hand for
a batch of 100, 1.3 for a batch of 1.
"""

import odl
import torch
from _study import arguments, interleaved, normal
from odl.applications import tomo

import genreg
from genreg.operators import ray_transform


def main() -> None:
    quick = arguments(__doc__, threads=2).quick
    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = ray_transform(X, tomo.parallel_beam_geometry(X, 40))
    G = genreg.load_generator("shapes-vae", range=X)
    R = genreg.HardConstraint(G)
    sigma, lam = 0.05, 0.3
    forward, decode = genreg.to_torch(A), G.model.decode
    y = forward(genreg.datasets.shapes(1, seed=0))[0]

    # ODL elements hold one sample; the batch exists in torch only, and all its samples share y here.
    J = genreg.GaussianFidelity(A, A.range.element(y.numpy()), sigma) * R.image + lam * R
    lowered = genreg.to_torch(J)

    def by_hand(z: torch.Tensor) -> torch.Tensor:
        r = forward(decode(z)) - y
        return (r * r).sum((1, 2)) / (2 * sigma**2) + lam * (z * z).sum(1)

    def value_and_gradient(f, z):
        leaf = z.detach().requires_grad_()
        value = f(leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    print(f"{'batch':>6s} {'by hand, ms':>12s} {'lowered, ms':>12s} {'ratio':>7s} {'goal':>6s}")
    for batch, goal, inner in ((100, 1.15, 1), (1, 1.3, 20)):
        z = normal((batch, 10), 0)
        hand, ours = value_and_gradient(by_hand, z), value_and_gradient(lowered, z)
        for a, b in zip(hand, ours, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)
        times = interleaved(
            {
                "hand": lambda z=z: value_and_gradient(by_hand, z),
                "lowered": lambda z=z: value_and_gradient(lowered, z),
            },
            repeats=5 if quick else 60,
            inner=1 if quick else inner,
        )
        ratio = times["lowered"] / times["hand"]
        print(
            f"{batch:6d} {1e3 * times['hand']:12.2f} {1e3 * times['lowered']:12.2f} {ratio:7.2f} {goal:6.2f}"
        )


if __name__ == "__main__":
    main()
