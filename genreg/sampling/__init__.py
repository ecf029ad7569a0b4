"""Samples of posteriors with generative priors: of latent vectors, and of images together with them."""

from genreg.sampling.chains import langevin, resume, sample
from genreg.sampling.gibbs import JointSamples, gibbs
from genreg.sampling.kernels import HMC, MALA, PCN, ULA
from genreg.sampling.posterior import LatentPosterior
from genreg.sampling.samples import ChainStatus, Samples
from genreg.sampling.skrock import SKROCK

__all__ = [
    "HMC",
    "MALA",
    "PCN",
    "SKROCK",
    "ULA",
    "ChainStatus",
    "JointSamples",
    "LatentPosterior",
    "Samples",
    "gibbs",
    "langevin",
    "resume",
    "sample",
]
