"""Markov kernels of the chains."""

from genreg.sampling.kernels.metropolis import HMC, MALA, PCN, ULA, ChainState, Info, Kernel, Target
from genreg.sampling.kernels.skrock import SKROCK

State = ChainState  # its former name

__all__ = ["HMC", "MALA", "PCN", "SKROCK", "ULA", "ChainState", "Info", "Kernel", "State", "Target"]
