"""Wrong configurations: one clear exception for every wrong entry, and nothing is written."""

import numpy as np
import pytest

from genreg.cli.configuration import reconstruct_file

WRONG = [
    ("data__noise_std", "0.05", ValueError, r"data.noise_std must be a positive number, got '0.05'"),
    ("data__noise_std", 0, ValueError, "data.noise_std must be a positive number, got 0"),
    ("data__noise_std", True, ValueError, "data.noise_std must be a positive number, got True"),
    ("data__file", 3, ValueError, "data.file must be a string, got 3"),
    ("data__file", "no.npy", FileNotFoundError, "data.file must exist, got .*no.npy"),
    ("data__file", "data.tif", ValueError, r"data.file must end in .npy, .npz, .*, got 'data.tif'"),
    ("data__slice", -1, ValueError, "data.slice must be a non-negative integer, got -1"),
    ("data__angles_every", 0, ValueError, "data.angles_every must be a positive integer, got 0"),
    ("data__bin", 1.5, ValueError, "data.bin must be a positive integer, got 1.5"),
    ("data__dark", "k", ValueError, "data.dark needs data.white"),
    ("data__nosie", 1, ValueError, r"table \[data\] may have the entries .*, got 'nosie'"),
    ("picture__x", 1, ValueError, r"configuration may have the tables .*, got 'picture'"),
    ("image__shape", [16], ValueError, r"image.shape must be two positive integers, got \[16\]"),
    ("image__shape", [16, 0], ValueError, r"image.shape must be two positive integers"),
    (
        "image__min",
        [1.0, 1.0],
        ValueError,
        "image.max must be larger than image.min, got pixels with sides of",
    ),
    ("image__max", "1", ValueError, "image.max must be two numbers, got '1'"),
    ("geometry__kind", "cone", ValueError, "geometry.kind must be 'parallel' or 'fan', got 'cone'"),
    ("geometry__kind", "fan", ValueError, r"must have the entry 'source_distance' in \[geometry\]"),
    ("geometry__source_distance", 3.0, ValueError, "geometry.source_distance is for kind 'fan', got kind"),
    ("geometry__angles", {"start": 0, "end": 1, "count": 20}, ValueError, "geometry.angles must be a list"),
    (
        "geometry__angles",
        {"start": 0, "stop": 1, "count": "20"},
        ValueError,
        "geometry.angles must be a list",
    ),
    ("geometry__angles", [], ValueError, "geometry.angles must be at least one finite angle"),
    (
        "geometry__angles",
        {"start": 0, "stop": 180, "count": 19},
        ValueError,
        r"shape \(19, 32\).* got \(20, 32\)",
    ),
    ("geometry__detector", {"pixels": 32}, ValueError, r"geometry.detector must be \{pixels, size\}"),
    ("geometry__detector", {"pixels": 31, "size": 4}, ValueError, r"shape \(20, 31\).*got \(20, 32\) in"),
    ("geometry__centre", "middle", ValueError, "geometry.centre must be a finite number, got 'middle'"),
    (
        "prior__kind",
        "wavelet",
        ValueError,
        "prior.kind must be 'hard' or 'joint' or 'relaxed' or .*, got 'wavelet'",
    ),
    ("prior__kind", "hard", ValueError, r"must have the entry 'weights' in \[prior\]"),
    ("prior__kind", "sparse", ValueError, r"must have the entry 'weights' in \[prior\]"),
    (
        "prior__mu",
        0.1,
        ValueError,
        "prior.mu is for kind 'relaxed' or 'sparse' or 'sparse-tv', got kind 'tikhonov'",
    ),
    ("prior__mu", -1.0, ValueError, "prior.mu must be a positive number"),
    (
        "prior__weights",
        "shapes-vae",
        ValueError,
        "prior.weights is for kind 'hard' or .*, got kind 'tikhonov'",
    ),
    ("prior__lower", 0.0, ValueError, "prior.lower is for kind 'tv', got kind 'tikhonov'"),
    ("prior__scale", 0.0, ValueError, "prior.scale must be a positive number, got 0.0"),
    (
        "solve__lam",
        "morozow",
        ValueError,
        "solve.lam must be 'morozov', 'l-curve' or a non-negative number, got 'morozow'",
    ),
    ("solve__lam", -1, ValueError, "solve.lam must be 'morozov', 'l-curve' or a non-negative number, got -1"),
    ("solve__max_iter", "500", ValueError, "solve.max_iter must be a positive integer, got '500'"),
    ("solve__restarts", 0, ValueError, "solve.restarts must be a positive integer, got 0"),
    ("solve__tol", 0, ValueError, "solve.tol must be a positive number, got 0"),
    ("solve__init", "encoder", ValueError, "init must be 'zero', 'rough'"),
    ("output__file", "image.png", ValueError, "output.file must end in .npy, got 'image.png'"),
]


@pytest.mark.parametrize(("entry", "value", "error", "message"), WRONG)
def test_wrong_entry(case, entry, value, error, message):
    before = {p.name for p in case.folder.iterdir()}
    with pytest.raises(error, match=message):
        case.run(**{entry: value})
    assert {p.name for p in case.folder.iterdir()} - before <= {"config.toml", "cache"}


@pytest.mark.parametrize(
    ("table", "entry"),
    [
        ("data", "file"), ("data", "noise_std"), ("image", "shape"), ("image", "min"), ("geometry", "kind"),
        ("geometry", "angles"), ("geometry", "detector"), ("prior", "kind"),
    ],
)  # fmt: skip
def test_missing_entry(case, table, entry):
    del case.settings[table][entry]
    with pytest.raises(ValueError, match=rf"must have the entry '{entry}' in \[{table}\], got "):
        case.run()


def test_unknown_weights(case):
    with pytest.raises((ValueError, FileNotFoundError), match="nothing-vae"):
        case.run(prior__kind="hard", prior__weights="nothing-vae")
    with pytest.raises(FileNotFoundError, match=str(case.folder)):
        case.run(prior__weights="mine.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite(case, bad):
    case.y[3, 4] = bad
    np.save(case.folder / "data.npy", case.y)
    with pytest.raises(ValueError, match=r"data must be finite, got 1 NaN or infinite values in .*data.npy"):
        case.run()


def test_slices_have_to_be_picked(case):
    np.save(case.folder / "data.npy", np.stack([case.y] * 3, axis=1))
    with pytest.raises(ValueError, match=r"got the shape \(20, 3, 32\); data.slice picks one"):
        case.run()
    with pytest.raises(
        ValueError,
        match=r"data.slice must be an index of the second axis .* got 3 of the shape \(20, 3, 32\)",
    ):
        case.run(data__slice=3)
    rec, _ = case.run(data__slice=1)
    assert np.allclose(rec.data.asarray(), case.y)


def test_slice_of_data_without_slices(case):
    with pytest.raises(ValueError, match=r"data.slice must be an index .* got 0 of the shape \(20, 32\)"):
        case.run(data__slice=0)


def test_axes_the_other_way_round(case):
    np.save(case.folder / "data.npy", case.y.T)
    with pytest.raises(ValueError, match=r"got \(32, 20\) in .*; its axes are the other way round"):
        case.run()


def test_counts_taken_for_a_sinogram(case):
    np.save(case.folder / "data.npy", (100 * case.y).astype("int16"))
    with pytest.warns(
        UserWarning, match=r"are integers, int16, as raw projections are, and are taken for a sinogram"
    ):
        case.run(data__noise_std=1.0, solve__max_iter=1)


def test_output_is_looked_at_before_the_work(case, monkeypatch):
    monkeypatch.setattr("genreg.cli.configuration.reconstruct", None)
    (case.folder / "folder.npy").mkdir()
    (case.folder / "file").write_text("")
    for target in ("folder.npy", "file/image.npy"):
        with pytest.raises(
            ValueError, match=f"output.file must be a file that can be written, got .*{target}"
        ):
            case.run(output__file=target)
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    with pytest.raises(
        ValueError, match=r"output.file must be a file that can be written, got .*deep/image.npy"
    ):
        case.run(output__file="deep/image.npy")


def test_byte_order_mark(case):
    """As some editors write it."""
    config = case.write(solve__max_iter=1)
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    reconstruct_file(config, progress=False)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"configuration must exist, got .*no.toml"):
        reconstruct_file(tmp_path / "no.toml")
    for content in (b"[data\nfile = 3", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"configuration must be TOML, got .*bad.toml"):
            reconstruct_file(tmp_path / "bad.toml")
    (tmp_path / "flat.toml").write_text("data = 3")
    with pytest.raises(ValueError, match="configuration may have the tables"):
        reconstruct_file(tmp_path / "flat.toml")


def test_failed_write_leaves_nothing(make_case, monkeypatch):
    case = make_case()

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        reconstruct_file(case.write(), progress=False)
    assert {p.name for p in case.folder.iterdir()} - {"cache"} == {"config.toml", "data.npy"}
