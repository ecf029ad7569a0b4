r"""Latent terms: what a reconstruction asks of the latent vector z, as ODL functionals on Z.

========================  ==========================================  =================  ============
functional                value                                       gradient           prox
========================  ==========================================  =================  ============
`StandardNormal`          :math:`\|z\|_2^2`                           yes                yes
`Box`                     0 where :math:`|z_i| \le r`, else infinite  no                 yes
`Sphere`                  0 where :math:`\|z\|_2 = r`, else infinite  no                 yes
`Power`                   :math:`\sum_i |z_i|^q`, 0 < q <= 2          for q = 2          yes
`ImageVariation`          total variation of G(z), smoothed           yes                no
`Discriminator`           :math:`\log(1 - D(G(z)))`                   yes                no
`DensityRatio`            :math:`-d(G(z))`, d a discriminator's logit  yes                no
========================  ==========================================  =================  ============

Sums and multiples are those of ODL, ``0.5 * StandardNormal(Z) + Box(Z, 3)``; `genreg.solvers.split` takes
them apart again. A sum may have any number of terms with a gradient, and one that has a prox only.

The sums over components are plain, without the weight of Z. A prox and a gradient are taken in the inner
product of Z, as everywhere in ODL: a weight w divides the step of a prox, and the gradient.
"""

from genreg.latent.generated import DensityRatio, Discriminator, ImageVariation
from genreg.latent.terms import Box, Power, Sphere, StandardNormal

__all__ = ["Box", "DensityRatio", "Discriminator", "ImageVariation", "Power", "Sphere", "StandardNormal"]
