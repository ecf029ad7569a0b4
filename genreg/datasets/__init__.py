"""Data sets: synthetic shapes and acrylic discs, MNIST, brains, knees, folders of images, and measured X-ray data."""

from genreg.datasets.brain import brain_slices
from genreg.datasets.digits import mnist
from genreg.datasets.discs import discs_with_holes
from genreg.datasets.fan_beam import HTCData
from genreg.datasets.fastmri_files import FastMRISlices, fastmri, fastmri_kspace
from genreg.datasets.folder import ImageFolder, image_folder
from genreg.datasets.gradients import add_gradients, gradient_digits, intensity_ramps
from genreg.datasets.helsinki_challenge import htc2022
from genreg.datasets.limited_angle import LimitedAngleDiscs, solid_disc
from genreg.datasets.mixed_images import MixedImages, read_images
from genreg.datasets.occlusion import dead_leaves
from genreg.datasets.phases import complex_images
from genreg.datasets.random_crops import RandomCrops
from genreg.datasets.synthetic import shapes, shapes_plus

__all__ = [
    "FastMRISlices",
    "HTCData",
    "ImageFolder",
    "LimitedAngleDiscs",
    "MixedImages",
    "RandomCrops",
    "add_gradients",
    "brain_slices",
    "complex_images",
    "dead_leaves",
    "discs_with_holes",
    "fastmri",
    "fastmri_kspace",
    "gradient_digits",
    "htc2022",
    "image_folder",
    "intensity_ramps",
    "mnist",
    "read_images",
    "shapes",
    "shapes_plus",
    "solid_disc",
]
