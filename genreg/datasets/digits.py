"""MNIST: handwritten digits, 60,000 for training and 10,000 for testing, 28 x 28."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genreg.operators.linear.cache import cache_directory

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "train-images-idx3-ubyte.gz": "db8f937d487057fb14a9f0fbe97f0bc8d311ab41b750d41e1ff37c43b9e55e19",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def mnist(root: str | os.PathLike[str] | None = None, *, train: bool = True) -> tuple[Tensor, Tensor]:
    """Read MNIST from a folder, or download it.

    Parameters
    ----------
    root
        Folder with the files ``train-images-idx3-ubyte.gz`` and so on. Where it is None, the files are taken
        from ``$GENREG_DATA/mnist`` if they are there, and otherwise from the cache folder of the user,
        or ``$GENREG_CACHE``, into which pooch (the extra ``genreg[data]``) downloads them once, 11 MB, with their
        checksums verified.
    train
        Whether to read the 60,000 training images or the 10,000 test images.

    Returns
    -------
    images : Tensor
        float32, ``(60000, 28, 28)`` or ``(10000, 28, 28)``, grey values / 255, in [0, 1].
    labels : Tensor
        int64, the digits, ``(60000,)`` or ``(10000,)``.

    Raises
    ------
    FileNotFoundError
        If the files are in neither place and can't be downloaded.
    ValueError
        If a file is damaged.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", 1998. Licence CC BY-SA
    3.0.
    """
    prefix = "train" if train else "t10k"
    count = 60_000 if train else 10_000
    images = _idx(_file(f"{prefix}-images-idx3-ubyte.gz", root), (count, 28, 28))
    labels = _idx(_file(f"{prefix}-labels-idx1-ubyte.gz", root), (count,))
    return torch.from_numpy(images).float().div_(255), torch.from_numpy(labels).long()


def _file(name: str, root: str | os.PathLike[str] | None) -> Path:
    if root is not None:
        path = Path(root) / name
        if not path.is_file():
            raise FileNotFoundError(f"root must be a folder with the file {name}, got {os.fspath(root)!r}")
        return path
    data = os.environ.get("GENREG_DATA")
    if data and (Path(data) / "mnist" / name).is_file():
        return Path(data) / "mnist" / name
    advice = f"put the file from {URL}{name} into a folder and pass it as root, or into $GENREG_DATA/mnist"
    try:
        import pooch
    except ImportError:
        raise FileNotFoundError(
            f"MNIST file {name} is not in $GENREG_DATA/mnist, and pooch, which would download it, is not "
            f"installed: pip install genreg[data], or {advice}"
        ) from None
    folder = cache_directory()
    if folder is None:
        raise FileNotFoundError(
            f"MNIST file {name} is not in $GENREG_DATA/mnist, and there is no folder to download it into, for the user "
            f"has no home: set GENREG_CACHE to a folder, or {advice}"
        )
    try:
        return Path(pooch.retrieve(URL + name, f"sha256:{SHA256[name]}", fname=name, path=folder / "mnist"))
    except (OSError, ValueError) as error:  # of requests; of a wrong checksum
        raise FileNotFoundError(f"MNIST file {name} can't be downloaded ({error}): {advice}") from error


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array in a gzipped idx file: magic number (0, 0, 8, ndim), big-endian sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or altered: {error}") from error
    header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    if not content.startswith(header) or len(content) != len(header) + np.prod(shape):
        raise ValueError(f"{path} must be an idx file of bytes with shape {shape}, got another kind of file")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()
