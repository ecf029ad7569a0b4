"""Random samples of spaces, and the comparison of a batch with ODL's elements one by one."""

import contextlib

import odl
import torch

from genreg.operators import to_element, to_tensor
from genreg.operators.bridge.spaces import is_stacked, space_shape, torch_dtype, tree_leaves, tree_map

BATCHES = [(), (1,), (7,)]
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}


def random(space, batch=(), seed=0, positive=False):
    """Random tensors, distinct from sample to sample."""
    if isinstance(space, odl.ProductSpace) and not is_stacked(space):
        return tuple(random(s, batch, seed + 17 * i, positive) for i, s in enumerate(space))
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(batch + space_shape(space), dtype=torch_dtype(space), generator=generator)
    return (t.abs() + 0.1).to(t.dtype) if positive else t


def element(space, seed=5, positive=False):
    """A random element."""
    return to_element(space, random(space, seed=seed, positive=positive))


def samples(space, t):
    """The elements of a batch, one by one."""
    if not is_stacked(space):
        parts = zip(*(samples(s, part) for s, part in zip(space, t, strict=True)), strict=True)
        return [space.element(list(p), copy=False) for p in parts]
    return [to_element(space, x) for x in t.reshape(-1, *space_shape(space))]


def assert_equal_samples(space, t, elements):
    for got, expected in zip(samples(space, t), elements, strict=True):
        torch.testing.assert_close(to_tensor(got), to_tensor(expected), **ROUNDING)


def stacked(elements, batch):
    """Elements of a space as a batch of tensors."""
    trees = [to_tensor(x) for x in elements]
    return tree_map(lambda *leaves: torch.stack(leaves).reshape(*batch, *leaves[0].shape), *trees)


def close(a, b, tol):
    """Whether trees of tensors agree up to `tol` times their magnitude, or one; infinities and NaN as well."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    if any(p.shape != q.shape for p, q in pairs):
        return False
    finite = [q[q.isfinite()].abs() for _, q in pairs]
    scale = max([1.0, *(float(q.max()) for q in finite if q.numel())])
    return all(torch.allclose(p.to(q.dtype), q, rtol=tol, atol=tol * scale, equal_nan=True) for p, q in pairs)


@contextlib.contextmanager
def unchanged(*trees):
    """Let no computation write into what it was given."""
    before = [leaf.detach().clone() for tree in trees for leaf in tree_leaves(tree)]
    yield
    after = [leaf for tree in trees for leaf in tree_leaves(tree)]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
