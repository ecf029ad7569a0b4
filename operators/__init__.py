"""ODL operators, and the bridge between ODL and torch.

ODL is the language in which a problem is written, torch the engine on which it runs; `to_torch` translates.
An ODL element is one sample; batches exist only in torch.

Which backend should ODL's spaces have? For what genreg solves it makes no difference to the result, since the
solvers run on lowered operators in either case.

- **numpy**, ODL's default, is right for most work on the CPU: elements and tensors share memory, ODL's own
solvers
  and operators (ray transforms, wavelets, plotting) all support it, and its overhead per operation is the
  smallest. A problem written on numpy spaces may also be solved on tensors on a GPU; only elements cross
  over.
- **pytorch** (``impl="pytorch"``) is right when elements live on a GPU (``device="cuda:0"``), above all when
ODL's
  own solvers are to run there. A few of ODL's operators lack it.

ODL 1.0.0 has defects, most of them on pytorch spaces; importing this package repairs them, unless the
environment variable ``GENREG_NO_ODL_REPAIRS`` is 1.
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
from genreg.operators.coils import calibration_region, coil_maps
from genreg.operators.conditioning import Conditional, condition
from genreg.operators.covariance import Estimate, correlation_image, covariance_column, marginal_variance
from genreg.operators.data_prox import DataProx, data_prox
from genreg.operators.dense_precision import DenseCholeskyPrecision
from genreg.operators.diagonal_precision import DiagonalPrecision, IsotropicPrecision
from genreg.operators.forward import blur, gaussian_measurements, mask, normalised
from genreg.operators.fourier import FourierSampling, fourier_sampling
from genreg.operators.gaussian_posterior import GaussianPosterior
from genreg.operators.kspace_masks import cartesian_mask, radial_mask
from genreg.operators.network import NetworkFunctional, NetworkOperator
from genreg.operators.norm import operator_norm
from genreg.operators.nufft import Nufft, nufft
from genreg.operators.precision import Precision
from genreg.operators.ray import ray_transform
from genreg.operators.sparse_cholesky import SparseCholeskyPrecision, neighbourhood, soft_clip
from genreg.operators.testing import derivative_test, dot_test
from genreg.operators.trajectories import density_compensation, golden_angle_trajectory, radial_trajectory

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
