"""An evaluation as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from genreg.evaluation import figures, sections
from genreg.evaluation.result import Measurements
from genreg.solvers.checkpoints import atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
img { max-width: 100%; display: block; margin: 1rem 0; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #e5e5e5; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px; }
.note { color: #555; }
"""


def draw(e: Measurements) -> dict[str, Any]:
    """All figures of an evaluation, by name.

    Parameters
    ----------
    e : Measurements
        What was measured.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
    """
    drawn = {
        "histograms": figures.histogram_figure(e.reconstruction),
        "deciles": figures.decile_figure(e.reconstruction),
        "earth-mover": figures.earth_mover_figure({e.name: e.earth_mover}),
        "mmd": figures.mmd_figure(e.mmd),
        "prior": figures.prior_figure(e.prior),
        "far": figures.far_figure(e.far, e.scales),
        "interpolation": figures.interpolation_figure(e.interpolation, e.corners),
        "smoothness": figures.smoothness_figure(e.smoothness),
    }
    if e.calibration is not None and e.calibration_clean is not None:
        drawn["calibration"] = figures.calibration_figure(
            {"x = G(z) + γ ε": e.calibration, "x = G(z)": e.calibration_clean}
        )
    return drawn


def write_report(e: Measurements, path: Path) -> Path:
    """Write the report.

    Parameters
    ----------
    e : Measurements
        What was measured.
    path : Path
        Name of the file, ending in .html.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    """
    check_name(path)
    text = _page(e, {name: _embedded(name, figure) for name, figure in draw(e).items()})
    atomically(path, lambda target: target.write_text(text, encoding="utf-8"))
    return path


def check_name(path: Path) -> None:
    """Raise ValueError unless a report may have this name."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the name of a report must end in .html, got {path.name!r}")


def _embedded(name: str, figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'


def _page(e: Measurements, image: dict[str, str]) -> str:
    parts = [
        ("Range: reconstruction of test images", sections.reconstruction(e, image)),
        ("Distribution: earth mover's distance and MMD", sections.distribution(e, image)),
        ("Latent space: encodings against the prior", sections.latent(e, image)),
        ("Far from the prior", sections.far(e, image)),
        ("Interpolation", sections.interpolation(image)),
        ("Smoothness of the generator", sections.smoothness(e, image)),
        ("Calibration of the encoder", sections.calibration(e, image)),
        ("Settings, times and card", sections.settings(e)),
    ]
    body = "\n".join(f"<h2>{k}. {html.escape(t)}</h2>\n{c}" for k, (t, c) in enumerate(parts, 1))
    title = f"Evaluation of {html.escape(e.name)}"
    about = html.escape(str(e.card.get("data", "")))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n<p class='note'>{about}</p>\n"
        "<p>Criteria of M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), Regularising inverse problems with "
        "generative machine learning models, arXiv:2107.11191, in our words: the range of the generator G contains "
        "all possible images and only these, the prior N(0, I) makes them as frequent as they are, G is smooth, "
        "and the area of the latent space that stands for images is known.</p>\n"
        f"{body}\n</body></html>\n"
    )
