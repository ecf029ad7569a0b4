r"""A supervised unrolled network to compare with: a small variational network for one operator and one noise level.

From the zero-filled image :math:`x_0 = A^T y` it takes T stages

.. math:: x_{t+1} = x_t - \eta_t A^T (A x_t - y) + N_t(x_t - \eta_t A^T (A x_t - y)) ,

each with its own step η_t and its own residual network N_t, four convolutions of 3 x 3 on the image at half the
resolution (its 2 x 2 pixels as four channels). It learns from pairs of images and data to make the squared error of
x_T small, with that of the earlier stages at a smaller weight. Data are made anew at every step.

References
----------
K. Hammernik, T. Klatzer, E. Kobler, M. P. Recht, D. K. Sodickson, T. Pock, F. Knoll (2018), Learning a variational
network for reconstruction of accelerated MRI data, doi:10.1002/mrm.26977.

K. Zhang, W. Zuo, L. Zhang (2018), FFDNet: toward a fast and flexible solution for CNN-based image denoising,
doi:10.1109/TIP.2018.2839891 (convolutions at half the resolution).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _study import atomically
from torch import Tensor, nn
from tqdm import tqdm

from genreg.operators import TorchOperator

__all__ = ["Plan", "Unrolled", "train"]

_EARLIER = 0.1  # weight of the error of a stage relative to that of the next


@dataclass(frozen=True)
class Plan:
    """Architecture and training."""

    stages: int = 6
    channels: int = 32
    steps: int = 3000
    batch: int = 4
    lr: float = 1e-3
    save_every: int = 250
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step: a ramp of 100 steps, then half a cosine."""
        return self.lr * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


class _Residual(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        nn.init.zeros_(self[-2].weight)
        nn.init.zeros_(self[-2].bias)


class Unrolled(nn.Module):
    """The network, for any linear A from images with sides divisible by 2.

    Parameters
    ----------
    stages : int
        Number of stages T.
    channels : int
        Channels of the convolutions.
    """

    def __init__(self, stages: int, channels: int) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(_Residual(channels) for _ in range(stages))
        self.steps = nn.Parameter(torch.ones(stages))
        self.to(memory_format=torch.channels_last)

    def forward(self, A: TorchOperator, y: Tensor) -> list[Tensor]:
        """The images after every stage, each ``(B, n, m)``, from data ``(B, *Y.shape)``."""
        x = A.adjoint(y)
        stages = []
        for step, residual in zip(self.steps, self.residuals, strict=True):
            x = x - step * A.adjoint(A(x) - y)
            x = x + residual(x[:, None].contiguous(memory_format=torch.channels_last))[:, 0].float()
            stages.append(x)
        return stages


def train(
    file: Path,
    images: Callable[..., Tensor],
    A: TorchOperator,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    plan: Plan,
    *,
    progress: bool = True,
) -> Unrolled:
    """Train the network, unless `file` holds it already; an interrupted training goes on.

    Parameters
    ----------
    file : Path
        Where the weights are kept; the checkpoint lies beside it.
    images : callable
        Sampler of training images: ``images(n, seed=seed)`` is ``(n, rows, columns)``.
    A : TorchOperator
        The operator of the training setting.
    noise : callable
        Adds noise to clean data.
    plan : Plan
        The settings.
    progress : bool
        Show a progress bar.
    """
    network = _built(plan)
    if file.is_file():
        saved = torch.load(file, weights_only=True)
        if saved["plan"] == asdict(plan):
            network.load_state_dict(saved["network"])
            return network.eval()
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.lr)
    checkpoint = file.with_suffix(".checkpoint")
    first = _resumed(checkpoint, plan, network, optimiser)
    began, loss = time.perf_counter(), torch.tensor(torch.nan)
    for step in tqdm(range(first, plan.steps), initial=first, total=plan.steps, disable=not progress):
        random = torch.Generator().manual_seed(plan.seed + step)
        x = images(plan.batch, seed=plan.seed + step)
        y = noise(A(x), random)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            stages = network(A, y)
        errors = [(stage - x).square().mean() for stage in stages]
        loss = sum(_EARLIER ** (len(errors) - 1 - t) * error for t, error in enumerate(errors))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimiser.step()
        if (step + 1) % plan.save_every == 0:
            _write(checkpoint, plan, network, optimiser=optimiser.state_dict(), step=step + 1)
            print(f"unrolled network, step {step + 1}: error {float(errors[-1].detach()):.2e}", flush=True)
    _write(file, plan, network, seconds=time.perf_counter() - began)
    checkpoint.unlink(missing_ok=True)
    return network.eval()


def _built(plan: Plan) -> Unrolled:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return Unrolled(plan.stages, plan.channels)


def _resumed(checkpoint: Path, plan: Plan, network: Unrolled, optimiser: torch.optim.Optimizer) -> int:
    """Number of the next step, with network and optimiser as the checkpoint has them."""
    if not checkpoint.is_file():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    if saved["plan"] != asdict(plan):
        return 0
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    return saved["step"]


def _write(path: Path, plan: Plan, network: Unrolled, **more: object) -> None:
    with atomically(path) as target:
        torch.save({"plan": asdict(plan), "network": network.state_dict(), **more}, target)
