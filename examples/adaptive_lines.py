"""Choose the lines of k-space to measure next, by what a generative prior still leaves open, two at a time.

Every line of k-space is a group of candidates. In each round the lines are measured from which most is learned, given
draws of the posterior of all before; random lines for comparison. In an experiment a function that measures would take
the place of the simulated data.
"""

import argparse

import numpy as np
import odl
import torch

import genreg
from genreg import adaptive
from genreg.operators import fourier_sampling
from genreg.plotting import image_grid


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of few steps")
    parser.add_argument("--output", default="adaptive_lines.png", help="figure")
    options = parser.parse_args(arguments)

    X = odl.rn((56, 56), dtype="float32")
    A = fourier_sampling(X, np.ones((56, 56), dtype=bool))
    line = torch.arange(56).repeat_interleave(56)  # of every sample
    truth = X.element(genreg.datasets.shapes(1, seed=5)[0].numpy())
    noise_std = 0.5
    y = A(truth) + noise_std * odl.core.phantom.noise.white_noise(A.range, seed=1)

    G = genreg.load_generator("shapes-vae", range=X)
    problem = adaptive.Candidates(A, y, noise_std, groups=line)
    rounds, steps = (2, 20) if options.quick else (4, 60)
    images, found = {"truth": truth}, {}
    for name, policy in {"chosen": adaptive.InformationGain(), "random": adaptive.Random()}.items():
        found[name] = adaptive.adaptive_measurements(
            problem, policy, rounds, 2, G=G, chains=5, steps=steps, restart="map", seed=0, progress=False
        )
        print(found[name].advice())
        lines = [sorted(chosen) for chosen in found[name].chosen.tolist()]
        for r, error in enumerate(found[name].error(truth).tolist()):
            measured = f"{name} lines {lines[r - 1]}" if r else "nothing measured"
            print(f"{measured}: mean squared error {error:.2g}")
        for r in (1, rounds):
            images[f"{2 * r} {name} lines"] = found[name].mean[r]
    image_grid(images, transposed=True).savefig(options.output, dpi=200)
    return found, truth


if __name__ == "__main__":
    main()
