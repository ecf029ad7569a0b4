"""Generative regularisers for inverse problems: written in ODL, solved as batched PyTorch.

A problem is written with ODL's spaces, operators and functionals; `to_torch` lowers it to torch, where a
trained generator is the prior and a batch of images, parameters and restarts is solved at once.
"""

import sys

import lazy_loader

import genreg._checkout
import genreg._former_names

__version__ = "0.1.0"

# The names of `__init__.pyi`, each imported when it is first used: `genreg --help` needs neither torch nor ODL.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if "odl" in sys.modules:
    import genreg.operators  # noqa: F401  # it undoes what the import of ODL changes, and repairs it
