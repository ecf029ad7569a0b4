"""Training: autoencoders, GANs, flows, discriminators, precisions, encoders, and one model from many (distillation).

One engine runs all of them, with checkpoints, schedules, moving averages and one seed (`genreg.training.engine`).
"""

from genreg.training.amortised_encoder import fit_encoder
from genreg.training.autoencoder import fit
from genreg.training.autoencoder_run import loss
from genreg.training.batches import Sampler
from genreg.training.density_ratio import RatioScores, discriminator_scores, fine_tune, fit_discriminator
from genreg.training.distillation import distil
from genreg.training.flow import fit_flow
from genreg.training.gan import fit_gan, gradient_penalty
from genreg.training.gaussian_likelihood import likelihood, log_likelihoods
from genreg.training.model_scores import evaluate, latent_statistics, range_error, whiten
from genreg.training.precision import fit_gamma, fit_precision, precision_of
from genreg.training.settings import SCHEDULES

__all__ = [
    "SCHEDULES",
    "RatioScores",
    "Sampler",
    "discriminator_scores",
    "distil",
    "evaluate",
    "fine_tune",
    "fit",
    "fit_discriminator",
    "fit_encoder",
    "fit_flow",
    "fit_gamma",
    "fit_gan",
    "fit_precision",
    "gradient_penalty",
    "latent_statistics",
    "likelihood",
    "log_likelihoods",
    "loss",
    "precision_of",
    "range_error",
    "whiten",
]
