"""TV denoising by the primal-dual method: time per iteration of ours against ODL's solver, same iterates.

    python benchmarks/pdhg.py            # 256 x 256
    python benchmarks/pdhg.py --quick    # 64 x 64, fewer iterations

min_x ½‖x - y‖² + λ‖∇x‖_{2,1} in float32 with the same fixed steps; ODL on its numpy backend. Goal: 5 times.
"""

import numpy as np
import odl
from _study import arguments, interleaved

from genreg.solvers import SaddlePoint, pdhg


def main() -> None:
    quick = arguments(__doc__, threads=2).quick
    n, iterations, repeats = (64, 50, 3) if quick else (256, 200, 9)

    X = odl.uniform_discr([0, 0], [n, n], (n, n), dtype="float32")
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    truth = np.zeros((n, n), "float32")
    truth[n // 4 : n // 2, n // 4 : 3 * n // 4] = 1
    y = X.element(truth + 0.1 * np.random.default_rng(0).standard_normal((n, n)).astype("float32"))
    f = 0.5 * odl.functionals.L2NormSquared(X).translated(y)
    g = 0.1 * odl.functionals.GroupL1Norm(D.range)
    tau = sigma = 0.99 / np.sqrt(8)

    def odl_solver():
        x = X.zero()
        odl.solvers.pdhg(x, f, g, D, niter=iterations, tau=tau, sigma=sigma)
        return x

    def ours():
        return pdhg(
            SaddlePoint(f, g, D), tau=tau, sigma=sigma, max_iter=iterations, tol=0.0, progress=False
        ).blocks["x"]

    difference = float(np.abs(odl_solver().asarray() - ours().asarray()).max())
    times = interleaved({"odl": odl_solver, "genreg": ours}, repeats=repeats)
    per_iteration = {name: 1e3 * seconds / iterations for name, seconds in times.items()}
    print(f"{n} x {n}, {iterations} iterations, largest difference of the iterates {difference:.1e}")
    print(
        f"odl {per_iteration['odl']:.3f} ms, genreg {per_iteration['genreg']:.3f} ms an iteration: ", end=""
    )
    print(f"{times['odl'] / times['genreg']:.1f} times (goal 5)")


if __name__ == "__main__":
    main()
