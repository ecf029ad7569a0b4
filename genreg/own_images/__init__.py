"""Priors from a user's own images: a folder becomes a generator for images of any size, in minutes."""

from genreg.own_images.folder_prior import OwnPrior, train_prior
from genreg.own_images.settings import PriorSettings

__all__ = ["OwnPrior", "PriorSettings", "train_prior"]
