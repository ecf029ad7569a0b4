import contextlib
import copy
import pickle
import warnings

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo

from genreg.operators import ray_transform, to_torch
from genreg.operators.tomography import ray, ray_direct, ray_matrix

astra = pytest.importorskip("astra")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache on disk, and none in memory."""
    monkeypatch.setenv("GENREG_CACHE", str(tmp_path))
    ray_matrix._PAIRS.clear()
    return tmp_path


def parallel(n=16, angles=10, **options):
    space = odl.uniform_discr([-1, -1], [1, 1], (n, n), **({"dtype": "float32"} | options))
    return space, tomo.parallel_beam_geometry(space, angles)


def fan(n=16, angles=10, **options):
    """A scaled-down copy of the geometry of the HTC2022 challenge: mm, 60 degrees, measured angles."""
    space = odl.uniform_discr([-38, -38], [38, 38], (n, n), **({"dtype": "float32"} | options))
    views = odl.nonuniform_partition(np.radians(np.linspace(10, 70, angles) ** 1.01))
    detector = odl.uniform_partition(-56, 56, 3 * n)
    return space, tomo.FanBeamGeometry(views, detector, src_radius=410.66, det_radius=143.08)


def rectangle(n=16, angles=7, **options):
    """An image off the axis, few angles over a part of the circle."""
    space = odl.uniform_discr([-1, -1], [1, 2], (n, 3 * n // 2), **({"dtype": "float32"} | options))
    views, detector = odl.uniform_partition(0.1, 2.5, angles), odl.uniform_partition(-2, 2, 2 * n)
    return space, tomo.Parallel2dGeometry(views, detector)


def shifted(n=16, angles=7, **options):
    """The same with a detector that is off the axis too, which ODL's CPU back-end ignores."""
    space, geometry = rectangle(n, angles, **options)
    return space, tomo.Parallel2dGeometry(geometry.motion_partition, odl.uniform_partition(-2, 2.5, 2 * n))


GEOMETRIES = [parallel, fan, rectangle]


def oblong(n=16, angles=7, **options):
    """Pixels of 1 : 1.6, an image and a detector off the axis."""
    space = odl.uniform_discr([-1, -1], [1, 2.2], (n, n), **({"dtype": "float32"} | options))
    views, detector = odl.uniform_partition(0.1, 2.5, angles), odl.uniform_partition(-2, 2.5, 2 * n)
    return space, tomo.Parallel2dGeometry(views, detector, translation=[0.1, -0.2])


def oblong_fan(n=16, angles=7, **options):
    """The same for a fan."""
    space, geometry = oblong(n, angles, **options)
    return space, tomo.FanBeamGeometry(geometry.motion_partition, geometry.det_partition, 5.0, 1.5)


OBLONG = [oblong, oblong_fan]
ALL_GEOMETRIES = [*GEOMETRIES, shifted, *OBLONG]


def dot_error(A, seed=0):
    """|<Ax, y> - <x, A*y>| relative to |Ax||y|, summed in double precision."""
    rng = np.random.default_rng(seed)
    x, y = (
        space.element(rng.standard_normal(space.shape).astype(space.dtype_identifier))
        for space in (A.domain, A.range)
    )

    def inner(space, a, b):
        return space.weighting.const * np.vdot(np.float64(data(b)), np.float64(data(a)))

    Ax = A(x)
    norms = np.sqrt(inner(A.range, Ax, Ax) * inner(A.range, y, y))
    return abs(inner(A.range, Ax, y) - inner(A.domain, x, A.adjoint(y))) / norms


def data(x):
    return x.data.numpy() if isinstance(x.data, torch.Tensor) else x.data


def noise(space):
    values = np.random.default_rng(1).random(space.shape).astype(space.dtype_identifier)
    return space.element(torch.from_numpy(values) if space.impl == "pytorch" else values)


def relative(a, b):
    return np.linalg.norm(data(a) - data(b)) / np.linalg.norm(data(b))


@pytest.mark.parametrize("impl", ["numpy", "pytorch"])
@pytest.mark.parametrize("weighting", [None, 1.0])
@pytest.mark.parametrize("make", GEOMETRIES)
@pytest.mark.parametrize("method", ["matrix", "astra"])
def test_values_equal_those_of_odl(make, impl, weighting, method):
    space, geometry = make(impl=impl, weighting=weighting)
    A = ray_transform(space, geometry, method=method)
    reference = tomo.RayTransform(space, geometry, impl="astra_cpu")
    x, y = noise(space), noise(reference.range)
    assert A.range == reference.range and A.method == method and A.is_linear
    assert relative(A(x), reference(x)) < 1e-6
    assert relative(A.adjoint(y), reference.adjoint(y)) < 1e-6
    assert A.adjoint.adjoint is A
    out = A.range.zero()
    A(x, out=out)
    assert relative(out, A(x)) == 0


@pytest.mark.parametrize("make", ALL_GEOMETRIES)
@pytest.mark.parametrize(
    ("dtype", "method", "tolerance"),
    [("float32", "matrix", 1e-6), ("float64", "matrix", 1e-12), ("float32", "astra", 1e-6)],
)
def test_adjoint_is_exact(make, dtype, method, tolerance):
    assert dot_error(ray_transform(*make(dtype=dtype), method=method)) < tolerance


@pytest.mark.parametrize("method", ["matrix", "astra"])
@pytest.mark.parametrize(
    "options", [{}, {"translation": [0.3, -0.2]}, {"det_axis_init": [-1, 0]}, {"det_pos_init": [0, 2]}]
)
def test_detector_off_the_axis(method, options):
    """The shadow of a pixel lies where the geometry projects its centre to."""
    space = odl.uniform_discr([-1, -1], [1, 2], (20, 30), dtype="float32")
    views, detector = odl.uniform_partition(0.1, 2.5, 7), odl.uniform_partition(-2.5, 3, 60)
    geometry = tomo.Parallel2dGeometry(views, detector, **options)
    A = ray_transform(space, geometry, method=method)
    for i, j in ((3, 21), (10, 6), (18, 14)):
        pixel = np.zeros(space.shape, "float32")
        pixel[i, j] = 1
        shadow = A(space.element(pixel)).data
        centre = np.array([space.grid.coord_vectors[0][i], space.grid.coord_vectors[1][j]])
        bins = detector.coord_vectors[0]
        for k, angle in enumerate(geometry.angles):
            expected = (centre - geometry.det_refpoint(angle)) @ geometry.det_axis(angle)
            got = shadow[k] @ bins / shadow[k].sum()
            assert got == pytest.approx(expected, abs=0.5 * detector.cell_sides[0])


def test_double_precision_values():
    single = ray_transform(*parallel())
    double = ray_transform(*parallel(dtype="float64"))
    x = noise(double.domain)
    assert relative(double(x), single(single.domain.element(x.data.astype("float32")))) < 1e-6
    assert double(x).data.dtype == np.float64


@pytest.mark.parametrize("method", ["matrix", "astra"])
def test_complex_images(method):
    real = ray_transform(*parallel(), method=method)
    A = ray_transform(*parallel(dtype="complex64"), method=method)
    x, y = noise(real.domain), noise(real.range)
    z = A.domain.element(x.data + 2j * x.data[::-1])
    np.testing.assert_allclose(A(z).real.data, real(x).data, rtol=1e-5)
    np.testing.assert_allclose(A(z).imag.data, 2 * real(real.domain.element(x.data[::-1])).data, rtol=1e-5)
    np.testing.assert_allclose(
        A.adjoint(A.range.element(1j * y.data)).imag.data, real.adjoint(y).data, rtol=1e-5
    )


@pytest.mark.parametrize("method", ["matrix", "astra"])
@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
def test_batches(method, batch):
    A = ray_transform(*shifted(), method=method)
    T = to_torch(A)
    x, y = torch.rand(*batch, *A.domain.shape), torch.rand(*batch, *A.range.shape)
    Tx, Ty = T(x), T.adjoint(y)
    assert Tx.shape == (*batch, *A.range.shape) and Ty.shape == x.shape
    for index in np.ndindex(batch):
        torch.testing.assert_close(Tx[index], torch.from_numpy(A(A.domain.element(x[index].numpy())).data))
        torch.testing.assert_close(
            Ty[index], torch.from_numpy(A.adjoint(A.range.element(y[index].numpy())).data)
        )
    assert T.adjoint.adjoint(x).equal(Tx)
    assert to_torch(A.adjoint)(y).equal(Ty)


def test_autograd():
    T = to_torch(ray_transform(*parallel(4, 3, dtype="float64")))
    x = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, *T.range.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(T, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradcheck(T.adjoint, y, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: (T(x) ** 2).sum(), x, fast_mode=True)
    torch.testing.assert_close(torch.func.vmap(T)(x), T(x))
    ratio = T.range.weighting.const / T.domain.weighting.const
    _, vjp = torch.func.vjp(T, x)
    torch.testing.assert_close(ratio * vjp(y)[0], T.adjoint(y))


def test_autograd_of_direct_calls():
    T = to_torch(ray_transform(*parallel(6, 4), method="astra"))
    M = to_torch(ray_transform(*parallel(6, 4)))
    x = torch.rand(3, 6, 6, requires_grad=True)
    gradients = [torch.autograd.grad((A(x) ** 2).sum(), x, create_graph=True)[0] for A in (T, M)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(torch.func.vmap(T)(x), M(x))
    with torch.no_grad():
        assert T(x[:0]).shape == (0, *T.range.shape)


@pytest.mark.parametrize("make", [parallel, fan])
def test_direct_calls_share_out_the_views_of_few_images(make, monkeypatch):
    A = ray_transform(*make(12, 7), method="astra")
    x, y = torch.rand(2, 12, 12), torch.rand(2, *A.range.shape)
    found = []
    for threads in (1, 2, 3, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # noqa: B023
        found.append((A.forward(x), A.transpose(y)))
        assert torch.equal(A.transpose(y), found[-1][1])
    for forward, transposed in found[1:]:
        assert torch.equal(forward, found[0][0])
        torch.testing.assert_close(transposed, found[0][1])


@pytest.mark.parametrize("impl", ["astra_cpu", None])
@pytest.mark.parametrize("make", GEOMETRIES)
def test_odl_ray_transform_lowers_natively(make, impl, monkeypatch):
    if impl is None and torch.cuda.is_available():
        pytest.skip("ODL chooses its CUDA back-end")
    reference = tomo.RayTransform(*make(), impl=impl)
    x, y = noise(reference.domain), noise(reference.range)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward, adjoint = to_torch(reference), to_torch(reference.adjoint)
    batch = torch.from_numpy(np.stack([x.data, 2 * x.data]))
    torch.testing.assert_close(forward(batch)[1], 2 * torch.from_numpy(reference(x).data))
    torch.testing.assert_close(adjoint(torch.from_numpy(y.data)), torch.from_numpy(reference.adjoint(y).data))
    torch.testing.assert_close(forward.adjoint(torch.from_numpy(y.data)), adjoint(torch.from_numpy(y.data)))
    torch.testing.assert_close(adjoint.adjoint(batch), forward(batch))
    assert ray._LOWERED[reference] is not None
    monkeypatch.setattr(ray, "_pair", None)  # lowered again without building anything
    torch.testing.assert_close(to_torch(reference)(batch), forward(batch))


@pytest.mark.filterwarnings("ignore:.*Ray(Transform|BackProjection):UserWarning")
@pytest.mark.filterwarnings("ignore:.*ignores that:UserWarning")
@pytest.mark.parametrize(("make", "impl"), [(parallel, "skimage"), (shifted, "astra_cpu")])
def test_what_odl_computes_in_another_way_is_left_alone(make, impl):
    reference = tomo.RayTransform(*make(), impl=impl)
    x, y = noise(reference.domain), noise(reference.range)
    torch.testing.assert_close(
        to_torch(reference)(torch.from_numpy(x.data)), torch.from_numpy(reference(x).data)
    )
    expected = torch.from_numpy(reference.adjoint(y).data)
    torch.testing.assert_close(to_torch(reference.adjoint)(torch.from_numpy(y.data)), expected)


OFF, ROTATED = "is off the axis of rotation by up to", "is rotated or mirrored"
IGNORED = [
    ("astra_cpu", (-2, 2.5), {}, rf"{OFF} 0.25, and"),
    ("astra_cpu", (-2, 2), {"translation": [0.3, 0]}, rf"{OFF} 0.289, and"),
    ("astra_cpu", (-2, 2), {"det_pos_init": [1, 1]}, f"{ROTATED}, and"),
    ("astra_cpu", (-2, 2.5), {"det_axis_init": [-1, 0]}, f"{OFF} 0.25 and {ROTATED}, and"),
    ("skimage", (-2, 2.5), {"translation": [0.3, 0]}, rf"{OFF} 0.289, and"),
    ("skimage", (-2, 2.5), {"det_axis_init": [-1, 0]}, f"{ROTATED}, and"),
]


@pytest.mark.filterwarnings("ignore:.*no native lowering:UserWarning")
@pytest.mark.parametrize(("impl", "ends", "options", "message"), IGNORED)
def test_what_odl_ignores_is_named(impl, ends, options, message):
    """ODL's values are far from those of the geometry, and the warning names the reason."""
    space = odl.uniform_discr([-1, -1], [1, 1], (16, 16), dtype="float32")
    views, detector = odl.uniform_partition(0.1, 2.5, 7), odl.uniform_partition(*ends, 32)
    geometry = tomo.Parallel2dGeometry(views, detector, **options)
    reference = tomo.RayTransform(space, geometry, impl=impl)
    x = space.element(np.pad(np.ones((4, 4), "float32"), ((2, 10), (9, 3))))
    assert relative(reference(x), ray_transform(space, geometry)(x)) > 0.4
    for op in (reference, reference.adjoint):
        with pytest.warns(UserWarning, match=f"back-end {impl} ignores that the detector {message}"):
            to_torch(op)


@pytest.mark.filterwarnings("ignore:.*no native lowering:UserWarning")
def test_a_detector_that_scikit_image_takes_as_it_is():
    reference = tomo.RayTransform(parallel()[0], shifted()[1], impl="skimage")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "ignores that")
        to_torch(reference)


# images whose pixels are not square, and any unit of length


def chords(geometry, centre, radii):
    """Lengths of all rays within an ellipse, (angles, bins)."""
    angles, bins = np.meshgrid(geometry.angles, geometry.det_grid.coord_vectors[0], indexing="ij")
    point = (geometry.det_point_position(angles.ravel(), bins.ravel()) - centre) / radii
    ray = geometry.det_to_src(angles.ravel(), bins.ravel()) / radii
    a, b, c = (ray**2).sum(1), (point * ray).sum(1), (point**2).sum(1) - 1
    return (2 * np.sqrt(np.clip(b**2 - a * c, 0, None)) / a).reshape(angles.shape)


@pytest.mark.parametrize("make", OBLONG)
@pytest.mark.parametrize("method", ["matrix", "astra"])
def test_oblong_pixels_have_the_chords_of_an_ellipse(make, method):
    space, geometry = make(64, 20)
    centre, radii = np.array([0.2, 0.5]), np.array([0.5, 0.8])
    fine = odl.uniform_discr(space.min_pt, space.max_pt, (512, 512)).points().reshape(64, 8, 64, 8, 2)
    share = (((fine - centre) / radii) ** 2).sum(-1) < 1
    y = ray_transform(space, geometry, method=method)(space.element(share.mean((1, 3)))).data
    exact = chords(geometry, centre, radii)
    assert np.linalg.norm(y - exact) < 0.03 * np.linalg.norm(exact)
    np.testing.assert_allclose(y.sum(1), exact.sum(1), rtol=0.01)


@pytest.mark.parametrize("make", OBLONG)
def test_oblong_pixels_split_into_square_ones(make):
    """A pixel of 1 : 1.6 is 5 x 8 square ones; in strips as narrow as those, its values are theirs."""
    space, geometry = make(15, 6, dtype="float64")
    sides = np.array([75, 120])
    fine = odl.uniform_discr(space.min_pt, space.max_pt, sides)
    x = noise(space)
    cells = np.repeat(np.repeat(x.data, 5, 0), 8, 1)
    expected = ray_transform(fine, geometry)(fine.element(cells))
    got = ray_transform(space, geometry)(x)
    # lengths of intersection are the same for any division, Joseph's interpolation is not
    assert relative(got, expected) < (1e-4 if make is oblong_fan else 0.1)


def test_oblong_pixels_in_filtered_backprojection():
    space = odl.uniform_discr([-1, -1], [1, 1], (32, 48), dtype="float32")
    A = ray_transform(space, tomo.parallel_beam_geometry(space, 60))
    x = odl.core.phantom.ellipsoid_phantom(space, [[1, 0.5, 0.5, 0, 0, 0]])
    assert relative(tomo.fbp_op(A, filter_type="Hann", frequency_scaling=0.8)(A(x)), x) < 0.3


@pytest.mark.parametrize("make", [parallel, shifted, oblong, fan])
@pytest.mark.parametrize("method", ["matrix", "astra"])
def test_values_are_lengths_in_any_unit(make, method):
    """A micrometre in metres and a kilometre in millimetres: ASTRA's tolerances are absolute."""
    space, geometry = make()
    x = noise(space)
    y = ray_transform(space, geometry, method=method)(x).data
    for unit in (1e-7, 1e-3, 1e6):
        scaled = odl.uniform_discr(unit * space.min_pt, unit * space.max_pt, space.shape, dtype="float32")
        ends = geometry.det_partition.min_pt.item(), geometry.det_partition.max_pt.item()
        detector = odl.uniform_partition(*(unit * end for end in ends), geometry.det_partition.size)
        if make is fan:
            radii = {"src_radius": unit * geometry.src_radius, "det_radius": unit * geometry.det_radius}
            moved = tomo.FanBeamGeometry(geometry.motion_partition, detector, **radii)
        else:
            moved = tomo.Parallel2dGeometry(
                geometry.motion_partition, detector, translation=unit * geometry.translation
            )
        A = ray_transform(scaled, moved, method=method)
        np.testing.assert_allclose(A(scaled.element(x.data)).data / unit, y, rtol=1e-4, atol=1e-4 * y.max())


def full_fan(n=16, angles=10, **options):
    space, geometry = fan(n, angles, **options)
    views = odl.uniform_partition(0, 2 * np.pi, angles)
    return space, tomo.FanBeamGeometry(views, geometry.det_partition, src_radius=410.66, det_radius=143.08)


@pytest.mark.parametrize("make", [parallel, full_fan])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_filtered_backprojection(make, dtype):
    space, geometry = make(32, 60, dtype=dtype)
    A = ray_transform(space, geometry)
    x = odl.core.phantom.ellipsoid_phantom(space, [[1, 0.5, 0.5, 0, 0, 0]])
    result = tomo.fbp_op(A, filter_type="Hann", frequency_scaling=0.8)(A(x))
    if dtype == "float32":
        reference = tomo.RayTransform(space, geometry, impl="astra_cpu")
        expected = tomo.fbp_op(reference, filter_type="Hann", frequency_scaling=0.8)(reference(x))
        assert relative(result, expected) < 1e-5
    assert relative(result, x) < (0.3 if make is parallel else 1.1)


def test_copies():
    for method in ("matrix", "astra"):
        A = ray_transform(*parallel(), method=method)
        x = noise(A.domain)
        y = A.adjoint(A(x))
        for B in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A)):
            assert relative(B.adjoint(B(x)), y) == 0
            assert B.geometry.angles.size == A.geometry.angles.size


def test_cache(cache, monkeypatch):
    A = ray_transform(*parallel())
    (file,) = cache.iterdir()
    x = noise(A.domain)
    expected = A(x)
    before = file.read_bytes()

    built = []
    build = ray_matrix._build
    monkeypatch.setattr(ray_matrix, "_build", lambda *args: built.append(args) or build(*args))

    def again(**options):
        ray_matrix._PAIRS.clear()
        return ray_transform(*parallel(), **options)

    assert relative(again()(x), expected) == 0 and not built
    assert relative(again(cache=False)(x), expected) == 0 and len(built) == 1
    assert ray_transform(*parallel())._pair is ray_transform(*parallel())._pair

    middle = len(before) // 2
    for content in (
        b"",
        b"no zip file",
        before[:middle],
        before[:middle] + b"\xff" * 8 + before[middle + 8 :],
    ):
        file.write_bytes(content)
        count = len(built)
        assert relative(again()(x), expected) == 0 and len(built) == count + 1
        assert [path.name for path in cache.iterdir()] == [file.name]  # rebuilt, nothing temporary left
        assert relative(again()(x), expected) == 0 and len(built) == count + 1


def test_cache_keys(cache):
    for make, n, angles in ((parallel, 8, 5), (parallel, 8, 6), (parallel, 9, 5), (fan, 8, 5)):
        ray_transform(*make(n, angles))
    assert len(list(cache.iterdir())) == 4
    ray_transform(*parallel(8, 5, dtype="float64"))
    assert len(list(cache.iterdir())) == 4


def test_cache_that_cannot_be_written(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("GENREG_CACHE", str(cache / "file" / "folder"))
    A = ray_transform(*parallel(8, 5))
    assert A.method == "matrix"


@pytest.mark.parametrize("make", ALL_GEOMETRIES)
@pytest.mark.parametrize(("n", "angles"), [(16, 12), (48, 40)])
def test_estimate(make, n, angles):
    space, geometry = make(n, angles)
    nonzeros = ray_matrix.ray_pair(space, geometry, torch.float32).matrix.values().numel()
    assert ray_matrix.estimate_nonzeros(space, geometry) == pytest.approx(nonzeros, rel=0.15)
    assert ray_matrix.matrix_memory(space, geometry) == pytest.approx(16 * nonzeros, rel=0.2)


def test_estimate_of_a_narrow_detector():
    space, _ = parallel(48)
    views, detector = odl.uniform_partition(0, np.pi, 20), odl.uniform_partition(-0.4, 0.4, 16)
    geometry = tomo.Parallel2dGeometry(views, detector)
    nonzeros = ray_matrix.ray_pair(space, geometry, torch.float32).matrix.values().numel()
    assert ray_matrix.estimate_nonzeros(space, geometry) == pytest.approx(nonzeros, rel=0.15)


def test_matrix_built_in_blocks(monkeypatch):
    whole = ray_matrix.ray_pair(*fan(), torch.float64, cache=False)
    ray_matrix._PAIRS.clear()
    monkeypatch.setattr(ray_matrix, "_BLOCK", 1000)
    parts = ray_matrix.ray_pair(*fan(), torch.float64, cache=False)
    torch.testing.assert_close(parts.matrix.to_dense(), whole.matrix.to_dense(), rtol=0, atol=0)


def test_memory_limit():
    space, geometry = parallel()
    memory = ray_matrix.matrix_memory(space, geometry)
    assert ray_transform(space, geometry, max_memory=memory).method == "matrix"
    assert ray_transform(space, geometry, max_memory=memory - 1).method == "astra"
    assert ray_transform(space, geometry, max_memory=0, method="matrix").method == "matrix"
    with pytest.warns(UserWarning, match="single precision"):
        A = ray_transform(*parallel(dtype="float64"), max_memory=0)
    M = ray_transform(*parallel(dtype="float64"))
    x = noise(A.domain)
    assert A(x).data.dtype == np.float64
    assert relative(A(x), M(x)) < 1e-6 and relative(A.adjoint(A(x)), M.adjoint(M(x))) < 1e-6


def test_choice_on_a_device(monkeypatch):
    """What "auto" takes, for a space whose device is CUDA."""
    choose = ray._choose
    monkeypatch.setattr(ray, "torch_device", lambda space: torch.device("cuda:0"))
    single, double = parallel(), parallel(dtype="float64")
    memory = ray_matrix.matrix_memory(*double)
    monkeypatch.setattr(astra, "use_cuda", lambda: True)
    assert choose(*single, "auto", memory) == "cuda"
    assert choose(*double, "auto", memory) == "matrix"
    with pytest.warns(UserWarning, match="single precision"):
        assert choose(*double, "auto", 0) == "cuda"
    assert choose(*single, "matrix", 0) == "matrix"
    with pytest.raises(ValueError, match="`method='astra'` needs a space on the CPU, got cuda:0"):
        choose(*single, "astra", 0)
    monkeypatch.setattr(astra, "use_cuda", lambda: False)
    assert choose(*single, "auto", memory) == "matrix"
    with pytest.raises(
        ValueError, match=r"`max_memory` must be at least .* where ASTRA can't use the device"
    ):
        choose(*single, "auto", 0)


def cylinder(n=4):
    space = odl.uniform_discr([-1] * 3, [1] * 3, (n, n + 1, n + 2), dtype="float32")
    views, detector = odl.uniform_partition(0, np.pi, 3), odl.uniform_partition([-2, -2], [2, 2], (5, 6))
    return space, tomo.Parallel3dAxisGeometry(views, detector)


def test_bad_arguments(monkeypatch):
    @contextlib.contextmanager
    def usable():
        with monkeypatch.context() as m:
            m.setattr(astra, "use_cuda", lambda: True)
            yield

    space, geometry = parallel(8, 5)
    call = ray_transform
    with pytest.raises(TypeError, match=r"`space` must be made by odl\.uniform_discr, got NumpyTensorSpace"):
        call(odl.rn((8, 8)), geometry)
    with pytest.raises(TypeError, match=r"`geometry` must be a geometry of .*, got str"):
        call(space, "parallel")
    with pytest.raises(ValueError, match=r"`method` must be one of .*, got 'gpu'"):
        call(space, geometry, method="gpu")
    for memory, error in ((-1, ValueError), (float("nan"), ValueError), ("2G", TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"`max_memory` must be (non-negative|a number)"):
            call(space, geometry, max_memory=memory)
    with pytest.raises(ValueError, match="`space` must have the 2 dimensions of `geometry`, got 1"):
        call(odl.uniform_discr(-1, 1, 8, dtype="float32"), geometry)
    with pytest.raises(ValueError, match="`space` must be of floating type, got int32"):
        call(odl.uniform_discr([-1, -1], [1, 1], (8, 8), dtype="int32"), geometry)
    uneven = odl.DiscretizedSpace(odl.nonuniform_partition([0, 1, 3], [0, 1, 2]), odl.rn((3, 3)))
    with pytest.raises(ValueError, match="`space` must have pixels of the same sides, got a partition"):
        call(uneven, geometry)
    oblong = odl.uniform_discr([-1, -1], [1, 1], (8, 9), dtype="float32")
    with (
        pytest.raises(ValueError, match=r"`method='cuda'` needs square pixels, got .*: take \"matrix\""),
        usable(),
    ):
        call(oblong, geometry, method="cuda")
    with pytest.raises(ValueError, match="`space` must be weighted by its cell volume or not at all"):
        call(odl.uniform_discr([-1, -1], [1, 1], (8, 8), dtype="float32", weighting=3.0), geometry)
    detector = odl.uniform_partition(-1, 1, 12)
    curved = tomo.FanBeamGeometry(geometry.motion_partition, detector, 3, 2, det_curvature_radius=5)
    with pytest.raises(ValueError, match="`geometry` must have a flat detector, got CircularDetector"):
        call(space, curved)
    uneven = tomo.Parallel2dGeometry(geometry.motion_partition, odl.nonuniform_partition([-1, 0, 3]))
    with pytest.raises(ValueError, match="`geometry` must have a uniform detector"):
        call(space, uneven)
    for method in ("matrix", "astra"):
        with pytest.raises(ValueError, match="needs a two-dimensional space, got 3"):
            call(*cylinder(), method=method)


@pytest.mark.skipif(astra.use_cuda(), reason="there is a CUDA device")
def test_cuda_without_a_device():
    with pytest.raises(RuntimeError, match=r"`method='cuda'` needs a CUDA device"):
        ray_transform(*parallel(), method="cuda")
    with pytest.raises(RuntimeError, match="a three-dimensional ray transform needs a CUDA device"):
        ray_transform(*cylinder())
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        ray_direct.CudaPair(*parallel())


def test_missing_astra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "astra", None)
    with pytest.raises(ImportError, match=r"pip install 'genreg\[tomo\]'"):
        ray_transform(*parallel())


def test_stacked_geometry():
    """Slice b and row b coincide, and within the slice the rays are those of the planar geometry."""
    space, geometry = shifted()
    count = 5
    volume, projection = ray_direct.stacked_geometry(space, geometry, count)
    assert astra.geom_size(volume) == (count, *space.shape)
    assert astra.geom_size(projection) == (count, *geometry.partition.shape)
    detector = geometry.det_partition
    for view, angle in enumerate(geometry.angles):
        for i, j in ((0, 0), (3, 17), (15, 23)):
            point = [space.grid.coord_vectors[0][i], space.grid.coord_vectors[1][j]]
            position = np.dot(point, geometry.det_axis(angle))
            column = (position - detector.min_pt[0]) / detector.cell_sides[0] - 0.5
            for b in range(count):
                height = b + 0.5 - count / 2
                u, v = astra.experimental.projectPoint(projection, point[1], point[0], height, view)
                assert v == pytest.approx(b, abs=1e-9)
                assert u == pytest.approx(column, abs=1e-9)


@pytest.mark.parametrize("make", [shifted, fan])
def test_cuda_geometries_are_those_of_the_matrix(make):
    """The shadow of a pixel in the CPU's matrix lies where the CUDA geometry projects its centre to."""
    space, geometry = make()
    if make is fan:
        projection = ray_direct.astra_projection_geometry(geometry, "cuda")
    else:
        _, projection = ray_direct.stacked_geometry(space, geometry, 1)
    dense = ray_matrix.ray_pair(space, geometry, torch.float64).T.matrix.to_dense()
    for i, j in ((3, 9), (8, 5)):
        shadow = dense[i * space.shape[1] + j].reshape(geometry.partition.shape).numpy()
        point = [space.grid.coord_vectors[0][i], space.grid.coord_vectors[1][j]]
        for view in range(len(geometry.angles)):
            u, v = astra.experimental.projectPoint(projection, point[1], point[0], 0.0, view)
            middle = shadow[view] @ np.arange(len(shadow[view])) / shadow[view].sum()
            assert middle == pytest.approx(u, abs=0.6) and v == pytest.approx(0, abs=1e-9)


class FakeCuda:
    """A substitute for ASTRA's CUDA projectors: checks shapes, and projects planar slices by the matrix."""

    def __init__(self, monkeypatch, space, geometry):
        self.calls, self.space, self.geometry = [], space, geometry
        self.pair = ray_matrix.ray_pair(space, geometry, torch.float32) if space.ndim == 2 else None
        monkeypatch.setattr(astra, "use_cuda", lambda: True)
        fake = self
        monkeypatch.setattr(
            ray_direct.CudaPair, "_call", lambda self, *args: fake.call(self._transposed, *args)
        )

    def call(self, transposed, volume, projection, kernel, source, target):
        self.calls.append((len(source), kernel, projection["type"]))
        images, rays = (target, source) if transposed else (source, target)
        assert tuple(images.shape) == astra.geom_size(volume) and images.is_contiguous()
        assert tuple(rays.shape) == astra.geom_size(projection) and rays.is_contiguous()
        assert source.dtype == target.dtype == torch.float32
        if self.pair is not None:
            pair = self.pair.T if transposed else self.pair
            target.copy_(pair(source.flatten(1)).reshape(target.shape))
        else:  # any linear map that treats all entries differently will do
            weights = torch.arange(1.0, 1 + images[0].numel() * len(images)).reshape(images.shape)
            scale = torch.arange(1.0, 1 + rays.numel()).reshape(rays.shape)
            if transposed:
                target.copy_(weights * (scale * rays).sum())
            else:
                target.copy_(scale * (weights * images).sum())


@pytest.mark.parametrize("make", [shifted, fan])
@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
def test_cuda_batches_without_a_device(make, batch, monkeypatch):
    space, geometry = make()
    fake = FakeCuda(monkeypatch, space, geometry)
    monkeypatch.setattr(ray_direct, "_SLICES", 3)
    A = ray_transform(space, geometry, method="cuda")
    T, M = to_torch(A), to_torch(ray_transform(space, geometry, method="matrix"))
    x, y = torch.rand(*batch, *space.shape), torch.rand(*batch, *A.range.shape)
    torch.testing.assert_close(T(x), M(x))
    torch.testing.assert_close(T.adjoint(y), M.adjoint(y))
    x.requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad((T(x) * y).sum(), x), torch.autograd.grad((M(x) * y).sum(), x)
    )
    count = int(np.prod(batch))
    if make is fan:  # one slice at a time
        assert fake.calls == [(1, "2d_weighting", "cone_vec")] * (4 * count)
    else:
        sizes = [min(3, count - start) for start in range(0, count, 3)]
        assert fake.calls == [(size, "default", "parallel3d_vec") for size in sizes] * 4


def test_cuda_order_of_axes_without_a_device(monkeypatch):
    space, geometry = cylinder()
    FakeCuda(monkeypatch, space, geometry)
    A = ray_transform(space, geometry)
    assert A.method == "cuda" and A.range.shape == (3, 5, 6)
    T = to_torch(A)
    x, y = torch.rand(2, *space.shape), torch.rand(2, 3, 5, 6)
    # ASTRA's (row, angle, column) in ODL's order
    scale = torch.arange(1.0, 91).reshape(5, 3, 6).transpose(0, 1)
    weights = torch.arange(1.0, 1 + space.size).reshape(space.shape)
    sums = (x * weights).sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(T(x), scale * sums)
    ratio = A.range.weighting.const / space.weighting.const
    torch.testing.assert_close(T.adjoint(y), ratio * weights * (y * scale).sum((1, 2, 3), keepdim=True))


@pytest.mark.cuda
@pytest.mark.parametrize("make", ALL_GEOMETRIES)
def test_cuda_agrees_with_cpu(make):
    space, geometry = make(64, 60)
    device = odl.uniform_discr(
        space.min_pt, space.max_pt, space.shape, dtype="float32", impl="pytorch", device="cuda:0"
    )
    M = to_torch(ray_transform(space, geometry))
    A = ray_transform(device, geometry)
    assert A.method == "cuda"
    T = to_torch(A)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(5, *space.shape), 9, 1, 4)
    x, y = smooth, M(smooth)
    for got, expected in ((T(x.cuda()), M(x)), (T.adjoint(y.cuda()), M.adjoint(y))):
        assert got.is_cuda
        assert float((got.cpu() - expected).norm() / expected.norm()) < 0.02
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        busy = x.cuda() * 1.0
        torch.testing.assert_close(T(busy), T(x.cuda()))
    exact = ray_transform(device, geometry, method="matrix")
    torch.testing.assert_close(to_torch(exact)(x.cuda()).cpu(), M(x), rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
def test_cuda_volumes_agree_with_odl():
    space = odl.uniform_discr(
        [-1] * 3, [1] * 3, (20, 20, 20), dtype="float32", impl="pytorch", device="cuda:0"
    )
    views, detector = (
        odl.uniform_partition(0, 2 * np.pi, 30),
        odl.uniform_partition([-2, -2], [2, 2], (30, 28)),
    )
    for geometry in (
        tomo.Parallel3dAxisGeometry(views, detector),
        tomo.ConeBeamGeometry(views, detector, src_radius=5, det_radius=5),
    ):
        A = ray_transform(space, geometry)
        reference = tomo.RayTransform(space, geometry, impl="astra_cuda")
        x = space.element(torch.rand(space.shape, device="cuda:0"))
        torch.testing.assert_close(A(x).data, reference(x).data.contiguous())
        y = A.range.element(torch.rand(A.range.shape, device="cuda:0"))
        torch.testing.assert_close(A.adjoint(y).data, reference.adjoint(y).data.contiguous())
