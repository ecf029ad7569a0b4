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

from genreg.operators import bridge, measurements, mri, precision, proximal, tomography
from genreg.operators.bridge import *  # first: imports ODL and repairs it
from genreg.operators.linear import operator_norm
from genreg.operators.measurements import *
from genreg.operators.mri import *
from genreg.operators.precision import *
from genreg.operators.proximal import *
from genreg.operators.testing import derivative_test, dot_test
from genreg.operators.tomography import *

from genreg.operators import lowering  # noqa: F401  # isort: skip  # its rules register in `lower`

__all__ = ["derivative_test", "dot_test", "operator_norm"]
__all__ += bridge.__all__
__all__ += measurements.__all__
__all__ += mri.__all__
__all__ += precision.__all__
__all__ += proximal.__all__
__all__ += tomography.__all__
