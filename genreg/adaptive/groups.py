"""Groups of data that are measured together: a pixel, a row of a matrix, an angle, a line of k-space."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer


@dataclass(frozen=True)
class Groups:
    """A partition of m numbers.

    Attributes
    ----------
    labels : Tensor
        The group of every number, ``(m,)``, from 0 to ``count - 1``.
    count : int
        Number of groups.
    """

    labels: Tensor
    count: int

    @classmethod
    def of(cls, groups: Any, shape: tuple[int, ...], device: torch.device) -> Groups:
        """The groups that a user described, of data of a shape.

        Parameters
        ----------
        groups : None, int or Tensor
            None: every datum is a group. An integer: the data with one index along this axis are a group. Labels of
            the shape of the data: those with one label are a group.
        shape : tuple of int
            Shape of the data.
        device : torch.device
            Where the labels lie.

        Raises
        ------
        TypeError, ValueError
            If the axis does not exist, or the labels are no integers, of another shape or leave a number out.
        """
        size = math.prod(shape)
        if groups is None:
            return cls(torch.arange(size, device=device), size)
        if not isinstance(groups, list | tuple | str) and not np.ndim(groups):
            groups = integer(groups, "groups")
            if not -len(shape) <= groups < len(shape):
                raise ValueError(
                    f"groups must be an axis of data of the shape {shape} or labels, got the axis {groups}"
                )
            index = torch.arange(shape[groups], device=device)
            wide = index.view(-1, *(1,) * (len(shape) - 1 - groups % len(shape))).expand(shape)
            return cls(wide.flatten(), shape[groups])
        if not isinstance(groups, Tensor | np.ndarray | list | tuple):
            raise TypeError(
                f"groups must be None, an axis or integer labels of the data, got {type(groups).__name__}"
            )
        labels = torch.as_tensor(groups, device=device)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"groups must be integer labels, got {labels.dtype}")
        if tuple(labels.shape) != shape:
            raise ValueError(f"groups must be labels of the shape {shape}, got {tuple(labels.shape)}")
        found = labels.unique()
        if not torch.equal(found, torch.arange(len(found), device=device).to(found)):
            raise ValueError(
                "groups must be labels that start at 0 and leave no number out, got "
                f"{len(found)} labels from {int(found.min())} to {int(found.max())}"
            )
        return cls(labels.flatten().long(), len(found))

    def doubled(self) -> Groups:
        """The groups of twice as many numbers, where each is a pair (real and imaginary part)."""
        return Groups(self.labels.repeat_interleave(2), self.count)

    @functools.cached_property
    def sizes(self) -> Tensor:
        """How many numbers each group has, ``(count,)``."""
        return torch.bincount(self.labels, minlength=self.count)

    @functools.cached_property
    def members(self) -> Tensor:
        """The numbers of every group, ``(count, largest)``, filled up with m."""
        m, largest = len(self.labels), int(self.sizes.max())
        order = self.labels.argsort(stable=True)
        group = self.labels[order]
        place = torch.arange(m, device=order.device) - (self.sizes.cumsum(0) - self.sizes)[group]
        filled = torch.full((self.count, largest), m, device=order.device)
        return filled.index_put((group, place), order)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over every group: ``(..., m)`` to ``(..., count)``."""
        if self.count == len(self.labels):
            return values[..., self.members[:, 0]]
        out = values.new_zeros(*values.shape[:-1], self.count)
        return out.index_add(-1, self.labels, values)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over every group: ``(..., m)`` to ``(..., count)``."""
        return self.sum(values) / self.sizes

    def gather(self, values: Tensor) -> Tensor:
        """Group by group, ``(..., m)`` to ``(..., count, largest)``, filled up with zeros."""
        return torch.cat((values, values.new_zeros(*values.shape[:-1], 1)), -1)[..., self.members]

    def mask(self, chosen: Tensor) -> Tensor:
        """Which numbers belong to the groups chosen: ``(B, k)`` to a boolean ``(B, m)``."""
        return self.flags(chosen)[:, self.labels]

    def flags(self, chosen: Tensor) -> Tensor:
        """Which groups are chosen: ``(B, k)`` to a boolean ``(B, count)``."""
        nothing = torch.zeros((len(chosen), self.count), dtype=torch.bool, device=chosen.device)
        return nothing.scatter(1, chosen, True)
