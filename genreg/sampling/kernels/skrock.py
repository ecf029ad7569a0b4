r"""The stochastic orthogonal Runge-Kutta-Chebyshev method of second kind, SK-ROCK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genreg.operators.bridge.arguments import integer, number
from genreg.sampling.kernels.metropolis import ChainState, Info, Target, always
from genreg.sampling.random_numbers import RandomNumbers


@dataclass(frozen=True)
class SKROCK:
    r"""An explicit stabilised step of Langevin's diffusion: s gradients go about s² times as far as one of `ULA`.

    With Chebyshev's polynomials :math:`T_j`, :math:`\omega_0 = 1 + \eta / s^2`, :math:`\omega_1 = T_s(\omega_0) /
    T_s'(\omega_0)` and one draw :math:`Q = \sqrt{h}\, \xi` for all s stages,

    .. math::
        u_1 &= u_0 - \tfrac{\omega_1}{\omega_0} \tfrac{h}{2} \nabla E(u_0 + \tfrac{s \omega_1}{2} Q)
               + \tfrac{s \omega_1}{\omega_0} Q , \\
        u_j &= -\mu_j \tfrac{h}{2} \nabla E(u_{j-1}) + \nu_j u_{j-1} + (1 - \nu_j) u_{j-2} ,

    :math:`\mu_j = 2 \omega_1 T_{j-1}(\omega_0) / T_j(\omega_0)` and :math:`\nu_j = 2 \omega_0 T_{j-1}(\omega_0) /
    T_j(\omega_0)`. It is stable for Hessians up to L where :math:`\tfrac{h}{2} L \le (s - \tfrac12)^2 (2 - \tfrac43
    \eta) - \tfrac32`. There is no test, so the density has a bias that falls with h; for a Gaussian one of second
    order.

    Parameters
    ----------
    stages : int
        s, at least 2.
    damping : float
        η > 0.

    Raises
    ------
    ValueError
        If `stages` is below 2 or `damping` not positive and finite.

    References
    ----------
    A. Abdulle, I. Almuslimani, G. Vilmart (2018), Optimal explicit stabilized integrator of weak order 1 for stiff
    and ergodic stochastic differential equations, doi:10.1137/17M1145859.

    M. Pereyra, L. Vargas Mieles, K. C. Zygalakis (2020), Accelerating proximal Markov chain Monte Carlo by using an
    explicit stabilized method, doi:10.1137/19M1283719.
    """

    stages: int = 10
    damping: float = 0.05

    acceptance: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", integer(self.stages, "stages", minimum=2))
        number(self.damping, "damping", above=0)

    def largest_size(self, curvature: Tensor) -> Tensor:
        """Half of the bound of stability: h = l_s / L."""
        return ((self.stages - 0.5) ** 2 * (2 - 4 * self.damping / 3) - 1.5) / curvature

    def step(
        self, target: Target, state: ChainState, size: Tensor, random: RandomNumbers
    ) -> tuple[ChainState, Info]:
        """See the class."""
        s, half = self.stages, 0.5 * size[:, None]
        w0 = 1 + self.damping / s**2
        T, dT = [1.0, w0], [0.0, 1.0]  # T_j and its derivative at w0
        for _ in range(2, s + 1):
            T.append(2 * w0 * T[-1] - T[-2])
            dT.append(2 * T[-2] + 2 * w0 * dT[-1] - dT[-2])
        w1 = T[s] / dT[s]
        q = size.sqrt()[:, None] * random.normal(state.u)
        before = state.u
        u = before - (w1 / w0) * half * target(before + 0.5 * s * w1 * q)[1] + (s * w1 / w0) * q
        for j in range(2, s + 1):
            mu, nu = 2 * w1 * T[j - 1] / T[j], 2 * w0 * T[j - 1] / T[j]
            before, u = u, -mu * half * target(u)[1] + nu * u + (1 - nu) * before
        return ChainState.at(target, u), always(state)
