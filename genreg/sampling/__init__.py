"""Samples of posteriors with generative priors."""

from genreg.sampling.gibbs import JointSamples, gibbs

__all__ = ["JointSamples", "gibbs"]
