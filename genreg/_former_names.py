"""Modules by the names that they had before 0.2: these still import, with a warning, and will be gone in 0.3."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = dict(
    line.split()
    for line in """
adversarial training.gan
amortise training.amortised_encoder
configuration cli.configuration
datasets.fastmri datasets.fastmri_files
datasets.htc2022 datasets.helsinki_challenge
datasets.mnist datasets.digits
demo cli.demo
density_ratio training.density_ratio
distillation training.distillation
empirical_bayes.beliefs empirical_bayes.encoders.densities
empirical_bayes.coordinates empirical_bayes.encoders.coordinates
empirical_bayes.covariance_selection empirical_bayes.graphs.selection
empirical_bayes.graphical empirical_bayes.graphs.model
empirical_bayes.graphical_lasso empirical_bayes.graphs.lasso
empirical_bayes.image_models empirical_bayes.graphs.image_models
empirical_bayes.linearised empirical_bayes.encoders.linearised
empirical_bayes.statistics empirical_bayes.graphs.sufficient_statistics
evaluation.coverage evaluation.intervals
evaluation.summary evaluation.result
fidelity operators.fidelity
fidelity.base operators.fidelity.base
fidelity.functional operators.fidelity.functional
fidelity.gaussian operators.fidelity.gaussian
fidelity.poisson operators.fidelity.poisson
flows training.flow
links networks.links
operators.arguments operators.bridge.arguments
operators.arrays operators.bridge.arrays
operators.blur operators.measurements.convolution
operators.coils operators.mri.coils
operators.conditioning operators.precision.conditioning
operators.covariance operators.precision.covariance
operators.data_prox operators.proximal.closed_forms
operators.data_prox_base operators.proximal.base
operators.data_prox_cg operators.proximal.iterative
operators.dense_precision operators.precision.dense
operators.diagonal_precision operators.precision.diagonal
operators.fallback operators.lowering.fallback
operators.forward operators.measurements.forward
operators.fourier operators.mri.fourier
operators.functional_algebra operators.lowering.functional_algebra
operators.functionals operators.lowering.norms
operators.functionals_simple operators.lowering.functionals
operators.gaussian_posterior operators.precision.gaussian_posterior
operators.jacobian operators.bridge.jacobians
operators.kspace_masks operators.mri.kspace_masks
operators.lowered operators.bridge.lowered
operators.lowering_algebra operators.lowering.algebra
operators.lowering_fields operators.lowering.fields
operators.modes operators.bridge.modes
operators.network operators.bridge.network
operators.norm operators.linear.norm
operators.nufft operators.mri.non_uniform_fourier
operators.ray operators.tomography.ray
operators.ray_direct operators.tomography.ray_direct
operators.ray_matrix operators.tomography.ray_matrix
operators.spaces operators.bridge.spaces
operators.sparse operators.linear.sparse
operators.sparse_cholesky operators.precision.sparse_cholesky
operators.tensor_operator operators.bridge.tensor_operator
operators.total_variation operators.lowering.total_variation
operators.trajectories operators.mri.trajectories
operators.weights operators.bridge.weights
precision_training training.precision
reconstruct reconstruction.variational
sampling.coordinates sampling.adaptation
sampling.gibbs sampling.gibbs_sampler
sampling.joint_moves sampling.joint_posterior
sampling.random sampling.random_numbers
sampling.skrock sampling.kernels.skrock
sampling.starts sampling.starting_points
sampling.warm_up sampling.adaptation
sampling.weights sampling.importance
solvers.adam solvers.updates.adam
solvers.advised solvers.driver.advised
solvers.checks solvers.driver.contracts
solvers.continuation solvers.generative.continuation
solvers.descent solvers.algorithms.descent
solvers.door operators.bridge.caller_data
solvers.gauss_newton solvers.updates.levenberg_marquardt
solvers.inertial solvers.updates.inertial
solvers.joint solvers.generative.isotropic
solvers.jpmap solvers.generative.joint_map
solvers.krylov solvers.algorithms.krylov
solvers.l_curve solvers.parameter_choice.l_curve_corner
solvers.latent solvers.generative.latent
solvers.levenberg_marquardt solvers.generative.hard_constraint
solvers.limited_memory solvers.algorithms.limited_memory
solvers.line_search solvers.updates.line_search
solvers.morozov solvers.parameter_choice.discrepancy_principle
solvers.objective solvers.problem.objective
solvers.primal_dual solvers.algorithms.primal_dual
solvers.primal_dual_steps solvers.algorithms.primal_dual_steps
solvers.projected solvers.generative.projected
solvers.propose solvers.updates.propose
solvers.solution solvers.driver.solution
solvers.splitting operators.lowering.splitting
solvers.state solvers.problem.state
solvers.structured solvers.generative.structured
sweep reconstruction.parameter_sweep
""".strip().splitlines()
)
"""The present name of every module that has moved, both without ``genreg.``."""

FUNCTIONS = {
    "solvers.door": {
        "Door": "Batch",
        "enter": "to_batch",
        "given_back": "as_kind",
        "usable": "finite_or_zero",
    },
    "adversarial": {"fit": "fit_gan"},
    "density_ratio": {"fit": "fit_discriminator", "scores": "discriminator_scores"},
}
"""The present names of functions that have another one, by the former names of their modules."""


class _Former(ModuleType):
    """A module by its former name: what is looked up in it is looked up in the present one.

    The import of a module puts it into its package, even in the place of a function of the same name, which is called
    then.
    """

    _present: ModuleType
    _renamed: dict[str, str]
    _hidden: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._present, self._renamed.get(name, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._hidden(*args, **kwargs)


class _Finder:
    """Finds the former names, and loads the present modules."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification of a module that has moved, None of all others."""
        known = name.startswith("genreg.") and name.removeprefix("genreg.") in MODULES
        return importlib.util.spec_from_loader(name, _Finder) if known else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """The module by its former name."""
        former = spec.name.removeprefix("genreg.")
        present = f"genreg.{MODULES[former]}"
        warnings.warn(
            f"{spec.name} is {present} now; its former name will be gone in 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        module = _Former(spec.name)
        module._present, module._renamed = importlib.import_module(present), FUNCTIONS.get(former, {})
        package, _, own = spec.name.rpartition(".")
        module._hidden = vars(sys.modules[package]).get(own)
        return module

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """There is nothing to execute."""


sys.meta_path.insert(0, _Finder)  # `fidelity` was a package: before its present files
