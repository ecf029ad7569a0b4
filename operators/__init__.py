"""ODL operators, and the bridge between ODL and torch.

ODL is the language in which a problem is written, torch the engine on which it runs; `to_torch` translates.
"""

from genreg.operators import _repairs  # noqa: F401  # first: imports odl, undoes its side effects, repairs it
from genreg.operators.bridge import (
    TorchFunctional,
    TorchOperator,
    check_tensor,
    lower,
    riesz,
    to_element,
    to_tensor,
    to_torch,
    torch_device,
    torch_dtype,
    weight,
)
from genreg.operators.forward import blur, gaussian_measurements, mask, normalised
from genreg.operators.ray import ray_transform

from genreg.operators import (  # noqa: F401  # isort: skip  # these register in `lower`
    fallback,
    functional_algebra,
    functionals,
    functionals_simple,
    lowering,
    lowering_algebra,
    lowering_fields,
)

__all__ = [
    "TorchFunctional",
    "TorchOperator",
    "blur",
    "check_tensor",
    "gaussian_measurements",
    "lower",
    "mask",
    "normalised",
    "ray_transform",
    "riesz",
    "to_element",
    "to_tensor",
    "to_torch",
    "torch_device",
    "torch_dtype",
    "weight",
]
