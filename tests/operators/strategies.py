"""Hypothesis strategies: random spaces, and random ODL operators between them.

An expression is drawn as its domain and the productions of a grammar below; its elements come from seeds, so that
examples shrink to few parts. Sizes are odd on purpose, cells are not cubes, and magnitudes stay near one.
"""

import math

import numpy as np
import odl
import scipy.sparse
import torch
from hypothesis import strategies as st
from odl.core.discr import DiscretizedSpace
from odl.core.set import Field

from genreg.operators import to_element
from genreg.operators.bridge.spaces import is_stacked, torch_dtype

from .samples import random

BATCHES = st.sampled_from([(), (1,), (3,)])
SEEDS = st.integers(0, 99)
NUMBERS = st.sampled_from([1.0, -1.0, 0.5, -1.5, 2.0, 0.0])
POSITIVE = st.sampled_from([0.25, 1.0, 1.5])
PADDING = ["constant", "symmetric", "periodic", "order0", "order1", "order2"]
PADDING += ["symmetric_adjoint", "order0_adjoint", "order1_adjoint"]


def is_complex(space):
    return torch_dtype(space).is_complex


def is_product(space):
    return isinstance(space, odl.ProductSpace)


def is_plain(space):
    """Whether the product space has no weights of its own; ODL makes no operators between others."""
    return getattr(space.weighting, "const", None) == 1.0


def is_power(space):
    return is_product(space) and is_stacked(space) and not is_product(space[0])


def is_discr(space):
    """Whether ODL has differences on the space, which need two entries along each axis."""
    return isinstance(space, DiscretizedSpace) and min(space.shape) > 1


@st.composite
def tensor_spaces(draw, dtypes=("float64", "complex128", "float32", "complex64"), discretised=None):
    """Spaces of one to three axes; without weights, with a number, an array, or the volume of their cells."""
    shape = tuple(draw(st.lists(st.sampled_from([3, 2, 4, 5, 1]), min_size=1, max_size=3)))
    dtype, impl = draw(st.sampled_from(dtypes)), draw(st.sampled_from(["numpy", "numpy", "pytorch"]))
    kinds = {None: ["plain", "constant", "array", "cells", "cells plain"], True: ["cells", "cells plain"]}
    kinds = kinds.get(discretised, ["plain", "constant", "array"])
    kind = draw(st.sampled_from(kinds))
    if kind.startswith("cells"):
        sides = draw(st.permutations([0.6, 1.0, 1.7]))[: len(shape)]
        corner = [s * n for s, n in zip(sides, shape, strict=True)]
        options = {"weighting": 1.0} if kind == "cells plain" else {}
        return odl.uniform_discr([0.0] * len(shape), corner, shape, dtype=dtype, impl=impl, **options)
    if kind == "array":  # ODL compares and hashes array weights of numpy only
        weights = 0.3 + np.random.default_rng(draw(SEEDS)).random(shape)
        return odl.tensor_space(shape, dtype=dtype, weighting=weights)
    return odl.tensor_space(shape, dtype=dtype, impl=impl, weighting=0.3 if kind == "constant" else None)


@st.composite
def spaces(draw, dtypes=("float64", "complex128", "float32", "complex64"), products=True):
    """A tensor space, a power of one, or a product of different ones of one data type; weighted or nested."""
    kinds = ["tensor", "tensor", "tensor", "power", "power", "product", "weighted", "nested"]
    kind = draw(st.sampled_from(kinds if products else ["tensor"]))
    dtypes = (draw(st.sampled_from(dtypes)),)
    if kind == "tensor":
        return draw(tensor_spaces(dtypes))
    if kind == "power":
        return draw(tensor_spaces(dtypes)) ** draw(st.integers(1, 3))
    parts = draw(st.lists(spaces(dtypes, products=False), min_size=1, max_size=3))
    if kind == "nested":
        return odl.ProductSpace(draw(st.sampled_from([odl.ProductSpace(*parts), parts[0] ** 2])), parts[0])
    if kind == "weighted":
        parts = draw(st.sampled_from([parts, parts[:1] * 3]))
        return odl.ProductSpace(*parts, weighting=draw(st.sampled_from([0.4, [0.5, 2.0, 1.5][: len(parts)]])))
    return odl.ProductSpace(*parts)


@st.composite
def elements(draw, space, positive=False):
    return to_element(space, random(space, seed=draw(SEEDS), positive=positive))


@st.composite
def numbers(draw, space):
    """A number of the field of the space."""
    c = draw(NUMBERS)
    return c + 1j * draw(NUMBERS) if is_complex(space) and draw(st.booleans()) else c


def matrix(draw, space, rows):
    """A MatrixOperator along one axis, dense or sparse, real or of the data type of the space."""
    axis = draw(st.integers(0, space.ndim - 1))
    shape = (rows or space.shape[axis], space.shape[axis])
    rng = np.random.default_rng(draw(SEEDS))
    M = rng.standard_normal(shape) / math.sqrt(shape[1])
    if is_complex(space):
        M = M + 1j * rng.standard_normal(shape) / math.sqrt(shape[1])
    M = M.astype(space.dtype_identifier)
    if space.ndim == 1 and space.impl == "numpy" and draw(st.booleans()):
        M = scipy.sparse.coo_matrix(M)
    elif space.impl == "pytorch":
        M = torch.from_numpy(M)
    return odl.MatrixOperator(M, domain=space, range=space if rows is None else None, axis=axis)


def difference(draw, space, kind):
    """A differential operator; the padding by extrapolation needs some entries along each axis."""
    short = min(space.shape) < 4
    mode = draw(st.sampled_from([m for m in PADDING if not (short and m[:6] in ("order1", "order2"))]))
    if kind == "Laplacian":
        return odl.Laplacian(
            space, pad_mode=mode if "order1" not in mode and "order2" not in mode else "order0"
        )
    options = {"method": draw(st.sampled_from(["forward", "backward", "central"])), "pad_mode": mode}
    if kind == "PartialDerivative":
        return odl.PartialDerivative(space, draw(st.integers(0, space.ndim - 1)), **options)
    return odl.Divergence(range=space, **options) if kind == "Divergence" else odl.Gradient(space, **options)


def sampling(draw, space):
    count = draw(st.integers(1, 4))
    points = [draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=count)) for n in space.shape]
    return odl.SamplingOperator(space, points, variant=draw(st.sampled_from(["point_eval", "integrate"])))


@st.composite
def endomorphisms(draw, space, depth=2, linear=True):
    """Operators from a space to itself."""
    productions = ["identity", "scaling", "zero"]
    if is_product(space):
        productions += ["multiply"] * is_power(space)
        if is_plain(space):
            productions += ["diagonal", "component"] + ["matrix of operators"] * is_power(space)
    else:
        productions += ["multiply", "matrix", "sampling"] + ["flattening"] * (space.impl == "numpy")
        productions += ["real part"] * is_complex(space)
        productions += ["Laplacian", "PartialDerivative", "normal"] * is_discr(space)
    if not linear:
        productions += ["constant", "power"] if not is_product(space) else ["constant"]
        productions += ["modulus"] * (is_complex(space) and not is_product(space))
    if depth > 0:
        productions += ["sum", "composition", "left number", "right number", "left vector", "right vector"]
        productions += [] if linear else ["translation", "product"]

    def part(s=space):
        return draw(endomorphisms(s, depth - 1, linear))

    match draw(st.sampled_from(productions)):
        case "identity":
            return odl.IdentityOperator(space)
        case "scaling":
            return odl.ScalingOperator(space, draw(numbers(space)))
        case "zero":
            return odl.ZeroOperator(space)
        case "diagonal":
            return odl.DiagonalOperator(*(part(s) for s in space), domain=space, range=space)
        case "component":
            P = odl.ComponentProjection(space, draw(st.integers(0, len(space) - 1)))
            return P.adjoint * P
        case "matrix of operators":
            rows = [[part(space[0]) if draw(st.booleans()) else None for _ in space] for _ in space]
            return odl.ProductSpaceOperator(rows, domain=space, range=space)
        case "multiply":
            return odl.MultiplyOperator(draw(elements(space)))
        case "matrix":
            return matrix(draw, space, None)
        case "flattening":
            A = odl.FlatteningOperator(space)
            return A.inverse * A
        case "sampling":
            A = sampling(draw, space)
            return A.adjoint * A
        case "real part":
            A = draw(st.sampled_from([odl.RealPart, odl.ImagPart]))(space)
            A = odl.ComplexEmbedding(A.range, draw(numbers(space))) * A
            return A if A.range == space else odl.IdentityOperator(space)  # ODL drops the weights
        case "Laplacian" | "PartialDerivative" as kind:
            return difference(draw, space, kind)
        case "normal":
            A = difference(draw, space, "Gradient")
            return A.adjoint * A
        case "constant":
            return odl.ConstantOperator(draw(elements(space)))
        case "power":
            return odl.PowerOperator(space, draw(st.sampled_from([2, 3, 1])))
        case "modulus":
            A = draw(st.sampled_from([odl.ComplexModulus, odl.ComplexModulusSquared]))(space)
            A = odl.ComplexEmbedding(A.range) * A
            return A if A.range == space else odl.IdentityOperator(space)
        case "sum":
            return part() + part()
        case "composition":
            return part() * part()
        case "left number":
            return draw(numbers(space)) * part()
        case "right number":
            return part() * draw(numbers(space))
        case "left vector":
            return draw(elements(space)) @ part()
        case "right vector":
            return part() @ draw(elements(space))
        case "translation":
            return part() + draw(elements(space))
        case "product":
            return odl.OperatorPointwiseProduct(part(), part())


@st.composite
def maps(draw, space, linear=True):
    """Operators to another space."""
    productions = ["inner product", "broadcast", "zero"]
    if not is_product(space):
        productions += ["matrix", "sampling"] + ["flattening"] * (space.impl == "numpy")
        productions += ["RealPart", "ImagPart"] if is_complex(space) else ["ComplexEmbedding"]
        productions += ["Gradient", "Gradient", "resizing"] * is_discr(space)
    else:
        productions += ["component"] + ["slice", "PointwiseInner", "PointwiseSum"] * is_power(space)
        if is_plain(space):
            productions += ["reduction of vectors"] + ["reduction"] * is_power(space)
            productions += ["LinComb"] * (is_power(space) and len(space) == 2)
            if is_power(space) and is_discr(space[0]) and len(space) == space[0].ndim:
                productions += ["Divergence"] * 3
    if not linear:
        productions += ["norm", "distance", "functional times vector"]
        productions += ["ComplexModulus", "ComplexModulusSquared"] * (
            is_complex(space) and not is_product(space)
        )
        productions += ["PointwiseNorm"] * is_power(space)
    kind = draw(st.sampled_from(productions))
    match kind:
        case "inner product":
            return odl.InnerProductOperator(draw(elements(space)))
        case "norm":
            return odl.NormOperator(space)
        case "distance":
            return odl.DistOperator(draw(elements(space)))
        case "functional times vector":
            f = odl.InnerProductOperator(draw(elements(space)))
            f = f if is_complex(space) else draw(st.sampled_from([f, odl.NormOperator(space)]))
            target = draw(tensor_spaces((_base(space).dtype_identifier,)))
            return odl.FunctionalLeftVectorMult(f, draw(elements(target)))
        case "broadcast":
            parts = draw(st.lists(endomorphisms(space, 1, linear), min_size=1, max_size=3))
            return odl.BroadcastOperator(*parts)
        case "reduction":
            return odl.ReductionOperator(*(draw(endomorphisms(space[0], 1, linear)) for _ in space))
        case "reduction of vectors":
            target = draw(tensor_spaces((_base(space).dtype_identifier,)))
            vectors = [(odl.InnerProductOperator(draw(elements(s))), draw(elements(target))) for s in space]
            return odl.ReductionOperator(*(odl.FunctionalLeftVectorMult(f, v) for f, v in vectors))
        case "zero":
            return odl.ZeroOperator(space, draw(spaces((_base(space).dtype_identifier,))))
        case "matrix":
            return matrix(draw, space, draw(st.integers(1, 4)))
        case "flattening":
            return odl.FlatteningOperator(space)
        case "sampling":
            return sampling(draw, space)
        case "resizing":
            shape = [n + draw(st.integers(-1, 1)) if n > 1 else n for n in space.shape]
            mode = draw(st.sampled_from(["constant", "periodic", "order0"]))
            return odl.ResizingOperator(space, ran_shp=shape, pad_mode=mode)
        case "component":
            return odl.ComponentProjection(space, draw(st.integers(-len(space), len(space) - 1)))
        case "slice":
            chosen = st.sampled_from([slice(0, None), slice(1), slice(None, None, -1), [0], [-1, 0]])
            return odl.ComponentProjection(space, draw(chosen))
        case "LinComb":
            return odl.LinCombOperator(space[0], draw(numbers(space)), draw(numbers(space)))
        case "Gradient":
            return difference(draw, space, kind)
        case "Divergence":
            return difference(draw, space[0], kind)
        case "PointwiseNorm":
            weights = draw(st.sampled_from([None, 2.0])) if is_discr(space[0]) else None  # else ODL raises
            return odl.PointwiseNorm(space, draw(st.sampled_from([2.0, 1.0, 3.0, math.inf])), weights)
        case "PointwiseInner":
            weights = draw(st.sampled_from([None, 2.0])) if is_discr(space[0]) else None  # else ODL raises
            return odl.PointwiseInner(space, draw(elements(space)), weighting=weights)
        case _:  # the name of a class
            return getattr(odl, kind)(space)


@st.composite
def operators(draw, linear=True, dtypes=("float64", "complex128", "float32", "complex64")):
    """Operators between random spaces: one from a space to itself, and often one to another space after it."""
    A = draw(endomorphisms(draw(spaces(dtypes)), linear=linear))
    if draw(st.booleans()):
        A = draw(maps(A.range, linear)) * A
        if not isinstance(A.range, Field) and draw(st.booleans()):
            A = draw(endomorphisms(A.range, 1, linear)) * A
    return A


def _base(space):
    return _base(space[0]) if is_product(space) else space
