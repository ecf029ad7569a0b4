"""Ray transform and adjoint of a batch: ours against a loop over ODL's and against deepinv's, on the CPU.

    python benchmarks/ray_transform.py            # 128 x 128, 180 angles, batch 32
    python benchmarks/ray_transform.py --quick    # 32 x 32, 30 angles, batch 8

All run with the same number of threads in interleaved repeats after a warm-up; the table gives medians in
milliseconds and ratios of medians. deepinv is skipped where it is not installed.
"""

import warnings
from collections.abc import Callable

import odl
import torch
from _study import arguments, interleaved
from odl.applications import tomo

from genreg.operators import ray_transform, to_torch


def contenders(size: int, angles: int, batch: int) -> tuple[dict[str, tuple[Callable, Callable]], list[str]]:
    """Return the (forward, adjoint) pairs to time by name, and remarks."""
    space = odl.uniform_discr([-1, -1], [1, 1], (size, size), dtype="float32")
    geometry = tomo.parallel_beam_geometry(space, angles)
    images = torch.rand(batch, size, size)

    operator = to_torch(ray_transform(space, geometry))
    sinograms = operator(images)
    result = {"genreg": (lambda: operator(images), lambda: operator.adjoint(sinograms))}
    remarks = []

    reference = tomo.RayTransform(space, geometry, impl="astra_cpu")
    elements = [space.element(image.numpy()) for image in images]
    data = [reference.range.element(sinogram.numpy()) for sinogram in sinograms]
    result["odl, loop"] = (
        lambda: [reference(x) for x in elements],
        lambda: [reference.adjoint(y) for y in data],
    )
    for ours, theirs, name in (
        (operator(images)[0], reference(elements[0]), "forward"),
        (operator.adjoint(sinograms)[0], reference.adjoint(data[0]), "adjoint"),
    ):
        theirs = torch.from_numpy(theirs.data)
        error = float((ours - theirs).norm() / theirs.norm())
        remarks.append(f"{name}: relative difference to odl {error:.1e}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepinv
    except ImportError:
        remarks.append("deepinv is not installed: skipped")
    else:
        physics = deepinv.physics.Tomography(angles=angles, img_width=size, device="cpu")
        channel = images[:, None]
        theirs = physics.A(channel)
        result["deepinv"] = (lambda: physics.A(channel), lambda: physics.A_adjoint(theirs))
        remarks.append(f"deepinv {deepinv.__version__}, sinograms {tuple(theirs.shape)}")
    return result, remarks


def main() -> None:
    options = arguments(__doc__, {"--repeats": {"type": int}}, threads=2)
    size, angles, batch, repeats = (32, 30, 8, 3) if options.quick else (128, 180, 32, 11)
    repeats = options.repeats or repeats

    with torch.no_grad():
        pairs, remarks = contenders(size, angles, batch)
        print(
            f"{size} x {size}, {angles} angles, batch {batch}, {options.threads} threads, {repeats} repeats"
        )
        print(f"{'':12} {'forward':>12} {'ratio':>7} {'adjoint':>12} {'ratio':>7}")
        columns = [interleaved({name: pair[k] for name, pair in pairs.items()}, repeats) for k in (0, 1)]
    for name in pairs:
        cells = " ".join(
            f"{1e3 * times[name]:>9.2f} ms {times[name] / times['genreg']:>7.1f}" for times in columns
        )
        print(f"{name:12} {cells}")
    for remark in remarks:
        print(remark)


if __name__ == "__main__":
    main()
