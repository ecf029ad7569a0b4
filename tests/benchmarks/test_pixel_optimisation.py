"""What the benchmark of pixel optimisation computes: regret, when a pixel is found, summaries; a search of a toy."""

import pixel_optimisation as benchmark
import pytest
import torch
from _digits import SPACE
from torch import nn

from genreg import Generator


def test_rounds_until_found_and_summary():
    regret = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.3, 0.1], [0.0, 0.0, 0.0]])
    found = benchmark.Search(torch.zeros(3, 3, 1, dtype=torch.long), regret, 1.5, 2)
    assert found.found.tolist() == [2.0, torch.inf, 1.0]
    random = benchmark.Search(found.chosen, regret + torch.tensor([[0.1], [0.2], [0.3]]), 0.0, 0)
    row = benchmark.summary("Thompson", found, random)
    assert row["regret"] == pytest.approx([0.3, 0.1, 0.1 / 3])
    assert row["minus_random"] == pytest.approx([-0.2] * 3)
    assert row["minus_random_error"] == pytest.approx([0.1 / 3**0.5] * 3)
    assert row["found"] == pytest.approx([1 / 3, 2 / 3, 2 / 3]) and row["found_round"] == [2, -1, 1]
    assert row["median_round"] == 2 and row["stuck_chains"] == 2


class Bump(nn.Module):
    """A bump whose column z_1 says, and its brightness z_2."""

    latent_dim = 2
    log_gamma = torch.tensor(-2.0)

    def decode(self, z):
        columns = torch.arange(28, dtype=z.dtype)
        bump = torch.exp(-0.05 * (columns - 14 - 5 * z[:, :1]).square()) * (1 + 0.1 * z[:, 1:])
        return bump[:, None, :] * torch.linspace(0.5, 1, 28, dtype=z.dtype)[:, None]


def test_policies_find_the_brightest_pixel_sooner_than_chance():
    G = Generator(Bump(), SPACE)
    x = G.sample(4, seed=0)
    effort = benchmark.Effort(images=4, rounds=6, k=3, chains=4, steps=40)
    found = {name: benchmark.search(x, G, policy, effort) for name, policy in benchmark.POLICIES.items()}
    for name, result in found.items():
        assert result.chosen.shape == (4, 6, 3) and result.regret.shape == (4, 6)
        values = (
            x.flatten(1).gather(1, result.chosen.flatten(1)).unflatten(1, (6, 3)).amax(2).cummax(1).values
        )
        assert torch.allclose(result.regret, x.amax((1, 2))[:, None] - values)
        assert (result.regret >= 0).all()
        if name != "random":
            assert result.regret[:, -1].mean() < 0.3 * found["random"].regret[:, -1].mean()
