"""ODL's own solvers on genreg's functionals: the same minimisers as those of genreg's solvers.

A network is an ordinary ODL operator here, and a regulariser an ordinary ODL functional, with gradients in
the inner products of their spaces.
"""

import argparse

import odl
from odl.applications import tomo
from odl.core.phantom.noise import white_noise

import genreg


def generative(A, y, noise_std, iterations):
    """Minimise the objective of the hard constraint by steepest descent, and by genreg's quasi-Newton method."""
    G = genreg.load_generator("shapes-vae", range=A.domain)
    R = genreg.HardConstraint(G)
    J = genreg.GaussianFidelity(A, y, noise_std) * G + 1.0 * R  # ODL's algebra, with a nonlinear operator
    start = R.initial(y, A)
    ours = genreg.solvers.quasi_newton(J, start, progress=False)

    z = start["z"].copy()
    search = odl.solvers.BacktrackingLineSearch(J, discount=0.1, estimate_step=True)
    try:
        odl.solvers.steepest_descent(J, z, line_search=search, maxiter=iterations)
    except ValueError:
        pass  # ODL's line search raises where single precision allows no further decrease
    values = {"start": J(start["z"]), "ODL": J(z), "genreg": float(ours.value)}
    print("hard constraint, objective:", ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
    return values


def total_variation(A, y, noise_std, iterations):
    """Minimise ‖Ax - y‖²/(2σ²) + λ TV(x) over x >= 0 by ODL's primal-dual method, and by genreg's."""
    X, Y, lam = A.domain, A.range, 30.0
    R = genreg.TotalVariation(X, lower=0.0)
    ours = genreg.reconstruct(
        A, y, R, noise_std=noise_std, lam=lam, max_iter=2000, tol=1e-6, progress=False
    ).image

    # ODL's norm on Y carries the cell volume, genreg's fidelity is the plain sum of squares
    fidelity = 0.5 / Y.weighting.const * odl.functionals.L2NormSquared(Y).translated(y / noise_std)
    variation = lam * odl.functionals.GroupL1Norm(R.derivative_operator.range)
    K = odl.BroadcastOperator(A / noise_std, R.derivative_operator)
    norm = 1.1 * odl.power_method_opnorm(K, maxiter=30, xstart=white_noise(X, seed=0))
    x, balance = X.zero(), 1000.0
    odl.solvers.pdhg(
        x, odl.functionals.IndicatorNonnegativity(X), odl.functionals.SeparableSum(fidelity, variation), K,
        niter=iterations, tau=1 / (balance * norm), sigma=balance / norm,
    )  # fmt: skip
    difference = (x - ours).norm() / ours.norm()
    print(f"total variation, relative difference of the images: {difference:.1e}")
    return difference


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer iterations")
    options = parser.parse_args(arguments)

    X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
    A = genreg.operators.ray_transform(X, tomo.parallel_beam_geometry(X, 20))
    truth = X.element(genreg.datasets.shapes(1, seed=5)[0].numpy())
    noise_std = 0.02
    y = A(truth) + noise_std * white_noise(A.range, seed=1)
    return (
        generative(A, y, noise_std, 100 if options.quick else 1000),
        total_variation(A, y, noise_std, 500 if options.quick else 2000),
    )


if __name__ == "__main__":
    main()
