"""The demonstration at its quick size, with half the angles."""

import math

import pytest

from genreg.cli.demo import demo

from ...refusals import refuses


@pytest.fixture(scope="module", name="result")
def quick_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREG_CACHE", str(folder))
        return demo(quick=True, angles=20, output=folder / "figure.png"), folder


def test_table(result):
    """Seven lines; Morozov's are at the noise level; the generative prior is far better than TV."""
    table, _ = result
    scores = {(row["method"], row["lam"].split(":")[0]): row for row in table}
    assert len(scores) == len(table) == 7
    for row in table:
        assert all(math.isfinite(row[key]) for key in ("psnr", "psnr_std", "ssim", "discrepancy", "seconds"))
        if row["lam"].startswith("Morozov"):
            assert row["discrepancy"] == pytest.approx(1.0, abs=0.03)
    best = {
        method: max(row["psnr"] for row in table if row["method"] == method)
        for method in ("FBP (Hann filter)", "Tikhonov", "TV", "VAE, hard constraint")
    }
    assert best["TV"] > best["Tikhonov"] and best["TV"] > best["FBP (Hann filter)"]
    assert best["VAE, hard constraint"] > best["TV"] + 5


def test_figure(result):
    _, folder = result
    content = (folder / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000
    assert [path.name for path in folder.glob("*figure*")] == ["figure.png"]  # no temporary file


@refuses(
    ({"images": 0}, "images must be a positive integer, got 0"),
    ({"images": -1}, "images must be a positive integer, got -1"),
    ({"angles": -4}, "angles must be a positive integer, got -4"),
    ({"noise": 0.0}, "noise must be positive and finite, got 0.0"),
    ({"noise": math.nan}, "noise must be positive and finite, got nan"),
    ({"output": "figure.jpeg"}, "output must end in .png or .pdf, got 'figure.jpeg'"),
    error=ValueError,
)
def test_wrong_arguments(options):
    demo(quick=True, **options)
