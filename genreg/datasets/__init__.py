"""Data sets: synthetic shapes and acrylic discs, MNIST, and measured X-ray data."""

from genreg.datasets.mnist import mnist
from genreg.datasets.synthetic import shapes, shapes_plus

__all__ = ["mnist", "shapes", "shapes_plus"]
