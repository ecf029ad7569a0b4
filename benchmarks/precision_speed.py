"""Speed of precisions with a sparse Cholesky factor: scaling, samples, and against sparse matrices.

    python benchmarks/precision_speed.py            # images of up to 1024 x 1024
    python benchmarks/precision_speed.py --quick
    python benchmarks/precision_speed.py --cpu      # seconds of the processor, where others use it too

Everything in float32 and on one thread; medians of interleaved repeats. Four tables, for neighbourhoods of 5 x 5:

1. `quadratic` + `logdet` with their gradient in all parameters, against the number of pixels N. Goal: the fitted
   exponent of N at most 1.05.
2. One sample at 256 x 256 in products with L^T and in milliseconds. Goal: at most 5 products or 10 ms.
3. The triangular solve of one right-hand side, L^T x = u, by torch's sparse solve (as the library does it, the entries
   of the matrix at hand or not), by a wavefront in torch (all pixels that depend on finished ones at a time), by
   SciPy's `spsolve_triangular` and by SuperLU, factorisation included and not.
4. Log-likelihood and gradient against a torch sparse CSR matrix that is built from the same parameters each time:
   naively (indices and all, differentiated by autograd), with the indices at hand (autograd), and with the indices
   at hand and a gradient written by hand. Goal: 10 times faster.
"""

import functools
import math
import os
import time
import warnings

import numpy as np
import odl
import scipy.sparse.linalg
import torch
from _study import arguments, interleaved

from genreg.operators import SparseCholeskyPrecision, neighbourhood

DISTANCE = 2
OFFSETS = neighbourhood(DISTANCE)


def parameters(n, batch=1):
    """A plausible factor: correlations over a few pixels."""
    generator = torch.Generator().manual_seed(0)
    log_diag = 0.1 * torch.randn(batch, n, n, generator=generator)
    weights = (0.02 * torch.randn(batch, len(OFFSETS), n, n, generator=generator)) - 0.07
    return log_diag, weights, torch.randn(batch, n, n, generator=generator)


def precision(n, log_diag, weights):
    return SparseCholeskyPrecision(odl.rn((n, n), dtype="float32"), log_diag, weights, distance=DISTANCE)


def with_gradient(value, *tensors):
    """The value of a function and its gradient in the tensors."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    result = value(*leaves).sum()
    return [result.detach(), *torch.autograd.grad(result, leaves)]


def print_ratios(title, times, unit, what="ratio"):
    """A table of times, and of their ratios to one of them."""
    print(f"{title}\n{'':24s} {'ms':>9s} {what:>9s}")
    for name, seconds in times.items():
        print(f"{name:24s} {1e3 * seconds:9.3f} {seconds / times[unit]:9.2f}")


def scaling(sizes, measure):
    print(f"1. quadratic + logdet with gradient\n{'pixels':>12s} {'ms':>9s} {'ns/pixel':>9s}")
    calls = {}
    for n in sizes:
        log_diag, weights, r = parameters(n)

        def value(log_diag, weights, n=n, r=r):
            P = precision(n, log_diag, weights)
            return P.quadratic(r) + P.logdet()

        calls[n] = functools.partial(with_gradient, value, log_diag, weights)
    times = measure(calls)
    for n, seconds in times.items():
        print(f"{n:5d} x {n:4d} {1e3 * seconds:9.3f} {1e9 * seconds / n**2:9.1f}")
    pixels = np.log([n**2 for n in sizes])
    exponent = np.polyfit(pixels, np.log(list(times.values())), 1)[0]
    last = math.log(times[sizes[-1]] / times[sizes[-2]]) / (pixels[-1] - pixels[-2])
    print(f"fitted exponent {exponent:.3f} (goal 1.05); between the largest two {last:.3f}\n")


def sampling(n, measure):
    log_diag, weights, r = parameters(n)
    P, fresh = precision(n, log_diag, weights), lambda: precision(n, log_diag, weights)
    times = measure(
        {
            "product": lambda: P.whiten(r),
            "first sample": lambda P=P: P.with_parameters(**P.parameters).sample(1, 0),
            "sample": lambda: P.sample(1, 0),
            "sample of 100": lambda: P.sample(100, 0),
            "construction": fresh,
        }
    )
    times["sample of 100"] /= 100
    print_ratios(f"2. one sample of {n} x {n}", times, "product", "products")
    print("goal: at most 5 products or 10 ms\n")


class Wavefront:
    """Back substitution by all pixels of one wave, (d + 1) row + column, at a time."""

    def __init__(self, n, log_diag, weights):
        i, j = np.mgrid[:n, :n]
        wave = ((DISTANCE + 1) * i + j).ravel()
        order = np.argsort(-wave, kind="stable")
        cuts = np.flatnonzero(np.diff(-wave[order])) + 1
        width = n + DISTANCE
        place = (i * width + j).ravel()[order]
        shift = np.array([a * width + b for a, b in OFFSETS])
        self.pieces = [
            (torch.from_numpy(p), torch.from_numpy(p[:, None] + shift)) for p in np.split(place, cuts)
        ]
        of_pixel = weights[0].flatten(1).T[torch.from_numpy(order)]
        sizes = [len(p) for p, _ in self.pieces]
        self.weights = of_pixel.contiguous().split(sizes)
        self.diagonal = log_diag[0].exp().flatten()[torch.from_numpy(order)].split(sizes)
        self.n, self.width = n, width

    def solve(self, u):
        """Return L^{-T} u."""
        x = torch.nn.functional.pad(u[0], (0, DISTANCE, 0, DISTANCE)).flatten()
        for (place, later), w, d in zip(self.pieces, self.weights, self.diagonal, strict=True):
            x[place] = (x[place] - (w * x[later]).sum(1)) / d
        return x.reshape(-1, self.width)[: self.n, : self.n]


def solving(n, measure):
    log_diag, weights, u = parameters(n)
    P = precision(n, log_diag, weights)
    wavefront = Wavefront(n, log_diag, weights)
    L = P.take(0).factor_to_scipy()
    upper, flat = L.T.tocsr(), u[0].flatten().numpy()

    def factorise():
        return scipy.sparse.linalg.splu(upper.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0)

    lu, expected = factorise(), P.colour(u)[0]
    torch.testing.assert_close(wavefront.solve(u), expected, rtol=1e-3, atol=1e-3)
    calls = {
        "torch, entries at hand": lambda: P.colour(u),
        "torch, entries filled in": lambda: P.with_parameters(**P.parameters).colour(u),
        "wavefront in torch": lambda: wavefront.solve(u),
        "SciPy spsolve_triangular": lambda: scipy.sparse.linalg.spsolve_triangular(upper, flat, lower=False),
        "SuperLU, factorised": lambda: lu.solve(flat),
        "SuperLU": lambda: factorise().solve(flat),
    }
    for name in list(calls)[3:]:
        found = torch.from_numpy(calls[name]()).reshape(n, n)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, check_dtype=False)
    print_ratios(f"3. triangular solve, {n} x {n}", measure(calls), "torch, entries at hand")
    print()


class Indices:
    """Where the entries of L^T are in a CSR matrix without a margin."""

    def __init__(self, n):
        i, j = np.mgrid[:n, :n]
        rows, columns, source = ([(i * n + j).ravel()] for _ in range(3))
        for k, (a, b) in enumerate(OFFSETS):
            inside = (i + a < n) & (j + b >= 0) & (j + b < n)
            place = (i * n + j)[inside]
            rows.append(place)
            columns.append(place + a * n + b)
            source.append(place + (k + 1) * n * n)
        rows, columns, source = (np.concatenate(t) for t in (rows, columns, source))
        order = np.lexsort((columns, rows))
        counts = np.bincount(rows, minlength=n * n)
        self.crow = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        self.col = torch.from_numpy(columns[order].astype(np.int32))
        self.row = torch.from_numpy(rows[order].astype(np.int32))
        self.source = torch.from_numpy(source[order])
        self.back = torch.zeros((len(OFFSETS) + 1) * n * n, dtype=torch.int64)
        self.back[self.source] = torch.arange(len(order))
        self.outside = torch.ones(len(self.back), dtype=torch.bool)
        self.outside[self.source] = False
        self.size = (n * n, n * n)


def log_likelihood(log_diag, y):
    return log_diag.sum() - 0.5 * y.square().sum() - 0.5 * y.numel() * math.log(2 * math.pi)


def by_autograd(at, log_diag, weights, r):
    """L^T r by a CSR matrix, differentiated by autograd."""
    entries = torch.cat([log_diag.exp().reshape(-1), weights.reshape(-1)])[at.source]
    matrix = torch.sparse_csr_tensor(at.crow, at.col, entries, at.size, check_invariants=False)
    return log_likelihood(log_diag, torch.sparse.mm(matrix, r.reshape(-1, 1)))


def by_hand(at, log_diag, weights, r):
    """The log-likelihood and its gradient, the latter written by hand with the fewest passes."""
    diagonal, r = log_diag.exp(), r.reshape(-1)
    entries = torch.cat([diagonal.reshape(-1), weights.reshape(-1)]).index_select(0, at.source)
    y = torch.sparse_csr_tensor(at.crow, at.col, entries, at.size, check_invariants=False) @ r
    gradient = (y.index_select(0, at.row) * r.index_select(0, at.col)).neg_().index_select(0, at.back)
    gradient.masked_fill_(at.outside, 0)
    n = log_diag.numel()
    of_diagonal = (gradient[:n] * diagonal.reshape(-1)).add_(1).reshape(log_diag.shape)
    return [log_likelihood(log_diag, y), of_diagonal, gradient[n:].reshape(weights.shape)]


def likelihoods(n, measure):
    log_diag, weights, r = parameters(n)
    at = Indices(n)
    calls = {
        "genreg": lambda: with_gradient(lambda *p: precision(n, *p).log_density(r), log_diag, weights),
        "CSR, by hand": lambda: by_hand(at, log_diag, weights, r),
        "CSR, autograd": lambda: with_gradient(lambda *p: by_autograd(at, *p, r), log_diag, weights),
        "CSR, indices each time": lambda: with_gradient(
            lambda *p: by_autograd(Indices(n), *p, r), log_diag, weights
        ),
    }
    if n > 128:  # time and memory of the backward pass grow with the square of the number of pixels
        calls = {name: calls[name] for name in ("genreg", "CSR, by hand")}
    expected = calls["genreg"]()
    for call in list(calls.values())[1:]:
        for a, b in zip(call(), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    print_ratios(f"4. log-likelihood and gradient, {n} x {n}", measure(calls), "genreg")
    print("goal: 10 times faster than CSR\n")


def main() -> None:
    options = arguments(__doc__, {"--cpu": {"action": "store_true"}})
    quick, clock = options.quick, time.thread_time if options.cpu else time.perf_counter
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    measure = functools.partial(interleaved, repeats=5 if quick else 41, clock=clock)
    scaling([32, 64, 128] if quick else [64, 128, 256, 512, 1024], measure)
    sampling(64 if quick else 256, measure)
    solving(64 if quick else 256, measure)
    for n in [64] if quick else [64, 128, 256]:
        likelihoods(n, measure)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
