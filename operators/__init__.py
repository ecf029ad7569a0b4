"""ODL operators, and the bridge between ODL and torch.

ODL is the language in which a problem is written, torch the engine on which it runs; `to_torch` translates.
An ODL element is one sample; batches exist only in torch.

Which backend should ODL's spaces have? The results of genreg are the same, since its solvers run on lowered operators.

- **numpy**, ODL's default, is right for most work on the CPU: elements and tensors share memory, all of ODL's solvers
  and operators (ray transforms, wavelets, plotting) support it, and its overhead per operation is the smallest. A
  problem written on numpy spaces can also be solved on tensors on a GPU; only elements are copied.
- **pytorch** (``impl="pytorch"``) is right when elements are on a GPU (``device="cuda:0"``), above all to run ODL's own
  solvers there. A few of ODL's operators lack it.

ODL 1.0.0 has defects, most of them on pytorch spaces; importing this package repairs them, unless the
environment variable ``GENREG_NO_ODL_REPAIRS`` is 1.
"""

from genreg.operators.bridge import (  # first: imports ODL and repairs it
    NetworkFunctional,
    NetworkOperator,
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
from genreg.operators.linear import operator_norm
from genreg.operators.measurements import blur, gaussian_measurements, mask, normalised
from genreg.operators.mri import (
    FourierSampling,
    Nufft,
    calibration_region,
    cartesian_mask,
    coil_maps,
    density_compensation,
    fourier_sampling,
    golden_angle_trajectory,
    nufft,
    radial_mask,
    radial_trajectory,
)
from genreg.operators.precision import (
    ComplexPrecision,
    Conditional,
    DenseCholeskyPrecision,
    DiagonalPrecision,
    Estimate,
    GaussianPosterior,
    IsotropicPrecision,
    Precision,
    SparseCholeskyPrecision,
    condition,
    correlation_image,
    covariance_column,
    marginal_variance,
    neighbourhood,
    soft_clip,
)
from genreg.operators.proximal import DataProx, data_prox
from genreg.operators.testing import derivative_test, dot_test
from genreg.operators.tomography import ray_transform

from genreg.operators import lowering  # noqa: F401  # isort: skip  # its rules register in `lower`

__all__ = [
    "ComplexPrecision",
    "Conditional",
    "DataProx",
    "DenseCholeskyPrecision",
    "DiagonalPrecision",
    "Estimate",
    "FourierSampling",
    "GaussianPosterior",
    "IsotropicPrecision",
    "NetworkFunctional",
    "NetworkOperator",
    "Nufft",
    "Precision",
    "SparseCholeskyPrecision",
    "TorchFunctional",
    "TorchOperator",
    "blur",
    "calibration_region",
    "cartesian_mask",
    "check_tensor",
    "coil_maps",
    "condition",
    "correlation_image",
    "covariance_column",
    "data_prox",
    "density_compensation",
    "derivative_test",
    "dot_test",
    "fourier_sampling",
    "gaussian_measurements",
    "golden_angle_trajectory",
    "lower",
    "marginal_variance",
    "mask",
    "neighbourhood",
    "normalised",
    "nufft",
    "operator_norm",
    "radial_mask",
    "radial_trajectory",
    "ray_transform",
    "riesz",
    "soft_clip",
    "to_element",
    "to_tensor",
    "to_torch",
    "torch_device",
    "torch_dtype",
    "weight",
]
