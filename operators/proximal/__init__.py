"""The proximal map of a least-squares misfit, in closed form where there is one."""

from genreg.operators.proximal.closed_forms import DataProx, data_prox

__all__ = ["DataProx", "data_prox"]
