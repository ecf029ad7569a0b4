"""The benchmark of measured limited-angle tomography on a training disc."""

import htc2022 as benchmark
import pytest

from genreg import datasets


@pytest.mark.usefixtures("data_dir")
def test_a_training_disc_is_reconstructed_from_30_degrees():
    settings = benchmark.Settings(tv_size=64, tv_iterations=200, iterations=30, deviation_iterations=20)
    data = datasets.htc2022("td").subset(20, 30, step=2.0)
    found = benchmark.generative(data, settings, progress=False)
    tv = benchmark.total_variation(data, found.gain, settings, progress=False)
    assert found.gain == pytest.approx(1.033, abs=0.01)
    assert found.residual < 0.8
    assert found.score(data.reference) > 0.95 > tv.score(data.reference)
