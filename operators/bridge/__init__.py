"""Between ODL and torch: spaces, weights, lowered operators, networks as operators, the caller's kinds of data."""

from genreg.operators.bridge import repairs  # noqa: F401  # isort: skip  # first: imports ODL and repairs it
from genreg.operators.bridge.lowered import TorchFunctional, TorchOperator
from genreg.operators.bridge.network import NetworkFunctional, NetworkOperator
from genreg.operators.bridge.spaces import check_tensor, to_element, to_tensor, torch_device, torch_dtype
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.bridge.weights import riesz, weight

__all__ = [
    "NetworkFunctional",
    "NetworkOperator",
    "TorchFunctional",
    "TorchOperator",
    "check_tensor",
    "lower",
    "riesz",
    "to_element",
    "to_tensor",
    "to_torch",
    "torch_device",
    "torch_dtype",
    "weight",
]
