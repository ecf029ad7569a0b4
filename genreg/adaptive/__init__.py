"""Adaptive measurements: what to measure next, given the posterior of a generative prior.

`adaptive_measurements` runs the loop, for a batch of images, each with choices of its own. `Candidates` are what can
be measured, a policy chooses: `Variance`, `InformationGain`, `EpsilonGreedy` and `Random` to learn about the image,
`UpperConfidenceBound` and `Thompson` to find its largest datum.
"""

from genreg.adaptive.candidates import Candidates
from genreg.adaptive.loop import adaptive_measurements
from genreg.adaptive.policies import (
    EpsilonGreedy,
    InformationGain,
    Policy,
    Predictive,
    Random,
    Thompson,
    UpperConfidenceBound,
    Variance,
)
from genreg.adaptive.result import AdaptiveResult

Belief = Predictive  # its former name

__all__ = [
    "AdaptiveResult",
    "Belief",
    "Candidates",
    "EpsilonGreedy",
    "InformationGain",
    "Policy",
    "Predictive",
    "Random",
    "Thompson",
    "UpperConfidenceBound",
    "Variance",
    "adaptive_measurements",
]
