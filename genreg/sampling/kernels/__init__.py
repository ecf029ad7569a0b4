"""Markov kernels of the chains."""

from genreg.sampling.kernels.metropolis import HMC, MALA, PCN, ULA, Info, Kernel, State, Target
from genreg.sampling.kernels.skrock import SKROCK

__all__ = ["HMC", "MALA", "PCN", "SKROCK", "ULA", "Info", "Kernel", "State", "Target"]
