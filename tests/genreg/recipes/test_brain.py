"""The images of the recipes of the brain."""

import torch

from genreg.recipes.brain import BrainSampler


def test_sampler_of_slices_is_seeded_and_keeps_to_its_slabs():
    volume = torch.zeros(30, 16, 16)
    volume[10:20] = 0.3 + 0.4 * torch.rand(10, 16, 16, generator=torch.Generator().manual_seed(0))
    volume[20:] = 1.0
    sampler = BrainSampler(volume, ((10, 20), (0, 10)), weights=(1, 0), recolour=0.0)
    x = sampler(8, seed=3)
    assert x.shape == (8, 16, 16) and x.min() >= 0 and x.max() <= 1
    assert torch.equal(x, sampler(8, seed=3)) and not torch.equal(x, sampler(8, seed=4))
    inside = sampler._cut(64, torch.Generator().manual_seed(1))
    assert 0.3 <= inside.min() and inside.max() <= 0.7  # neither zeros nor ones
    changed = BrainSampler(volume, ((10, 20),), recolour=1.0)(8, seed=3)
    assert changed.shape == (8, 16, 16) and changed.min() >= 0 and changed.max() <= 1
    assert torch.isfinite(changed).all()


def test_sampler_without_deformation_returns_slices():
    texture = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    volume = 0.2 + 0.05 * torch.arange(12)[:, None, None] * texture
    still = BrainSampler(volume, ((2, 12),), deform=0.0, recolour=0.0)
    cut = still._cut(5, torch.Generator().manual_seed(2))
    level = ((cut - 0.2) / (0.05 * texture)).flatten(1)  # the same at all pixels
    assert torch.allclose(level, level[:, :1].expand_as(level), atol=1e-3)
    assert 2 <= level.min() and level.max() <= 11 and level[:, 0].std() > 1
    moved = still._deformed(cut, torch.Generator().manual_seed(2))
    assert torch.allclose(moved, cut, atol=1e-5)
