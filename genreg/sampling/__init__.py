"""Samples of posteriors with generative priors: of latent vectors, and of images together with them."""

from genreg.sampling.chains import langevin, resume, sample
from genreg.sampling.diagnostics import (
    Diagnostics,
    Mixing,
    autocorrelation,
    diagnose,
    effective_sample_size,
    monte_carlo_error,
    rank_normalised_rhat,
)
from genreg.sampling.figures import plot_traces
from genreg.sampling.gibbs_sampler import gibbs
from genreg.sampling.kernels.metropolis import HMC, MALA, PCN, ULA
from genreg.sampling.kernels.skrock import SKROCK
from genreg.sampling.posterior import LatentPosterior
from genreg.sampling.samples import ChainStatus, JointSamples, Samples
from genreg.sampling.screening import screened_starts
from genreg.sampling.starting_points import starts

__all__ = [
    "HMC",
    "MALA",
    "PCN",
    "SKROCK",
    "ULA",
    "ChainStatus",
    "Diagnostics",
    "JointSamples",
    "LatentPosterior",
    "Mixing",
    "Samples",
    "autocorrelation",
    "diagnose",
    "effective_sample_size",
    "gibbs",
    "langevin",
    "monte_carlo_error",
    "plot_traces",
    "rank_normalised_rhat",
    "resume",
    "sample",
    "screened_starts",
    "starts",
]
