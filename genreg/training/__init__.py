"""Training: autoencoders, GANs, flows, discriminators, precisions, encoders, denoisers, and one model from many.

One engine runs all of them (`genreg.training.engine`). They share how to optimise, `Optimisation`, and how the run is
kept, `Bookkeeping`; either is given as an object, or by its fields as keywords.
"""

from genreg.training.amortised_encoder import fit_encoder
from genreg.training.autoencoder import fit, loss
from genreg.training.batches import Sampler
from genreg.training.denoiser import fit_denoiser
from genreg.training.density_ratio import fine_tune, fit_discriminator
from genreg.training.discriminator import RatioScores, discriminator_scores
from genreg.training.distillation import distil
from genreg.training.flow import fit_flow
from genreg.training.gan import fit_gan, gradient_penalty
from genreg.training.gaussian_likelihood import fit_scale, likelihood, log_likelihoods
from genreg.training.model_scores import evaluate, latent_statistics, range_error, whiten
from genreg.training.precision import fit_gamma, fit_precision, precision_of
from genreg.training.settings import SCHEDULES, Bookkeeping, Optimisation

__all__ = [
    "SCHEDULES",
    "Bookkeeping",
    "Optimisation",
    "RatioScores",
    "Sampler",
    "discriminator_scores",
    "distil",
    "evaluate",
    "fine_tune",
    "fit",
    "fit_denoiser",
    "fit_discriminator",
    "fit_encoder",
    "fit_flow",
    "fit_gamma",
    "fit_gan",
    "fit_precision",
    "fit_scale",
    "gradient_penalty",
    "latent_statistics",
    "likelihood",
    "log_likelihoods",
    "loss",
    "precision_of",
    "range_error",
    "whiten",
]
