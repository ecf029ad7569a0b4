"""How ODL's operators and functionals are lowered to torch; the import of each module registers its rules."""

from genreg.operators.lowering import (  # these register in `lower`
    algebra,
    elementary,
    fallback,
    fields,
    functional_algebra,
    functionals,
    norms,
    splitting,
    total_variation,
)

__all__ = [
    "algebra",
    "elementary",
    "fallback",
    "fields",
    "functional_algebra",
    "functionals",
    "norms",
    "splitting",
    "total_variation",
]
