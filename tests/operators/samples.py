"""Random samples of spaces, and the comparison of a batch with ODL's elements one by one."""

import odl
import torch

from genreg.operators import to_element, to_tensor
from genreg.operators.spaces import is_stacked, space_shape, torch_dtype

BATCHES = [(), (1,), (7,)]
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}


def random(space, batch=(), seed=0, positive=False):
    """Random tensors, distinct from sample to sample."""
    if isinstance(space, odl.ProductSpace) and not is_stacked(space):
        return tuple(random(s, batch, seed + 17 * i, positive) for i, s in enumerate(space))
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(batch + space_shape(space), dtype=torch_dtype(space), generator=generator)
    return t.abs() + 0.1 if positive else t


def samples(space, t):
    """The elements of a batch, one by one."""
    if not is_stacked(space):
        parts = zip(*(samples(s, part) for s, part in zip(space, t, strict=True)), strict=True)
        return [space.element(list(p), copy=False) for p in parts]
    return [to_element(space, x) for x in t.reshape(-1, *space_shape(space))]


def assert_equal_samples(space, t, elements):
    for got, expected in zip(samples(space, t), elements, strict=True):
        torch.testing.assert_close(to_tensor(got), to_tensor(expected), **ROUNDING)
