"""Shared fixtures: seeds, the device option, the folder of measured data, and how many cases are drawn."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, configuration, settings

# torch is imported where it is needed: the process that hands out the tests imports this file and runs none.

# Random cases (see tests/operators/strategies.py): about 560, the same in every run, or with GENREG_FUZZ=n
# about n new ones for all tests together. `make fuzz` draws 5,000. Nothing is kept in the checkout.
CASES = int(os.environ.get("GENREG_FUZZ") or 0)
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "genreg-hypothesis")
options = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("bounded", max_examples=70, derandomize=True, **options)
settings.register_profile("fuzz", max_examples=max(CASES // 8, 1), print_blob=True, **options)
settings.load_profile("fuzz" if CASES else "bounded")

gc.disable()  # nothing that is made in the collection of the tests is garbage, and it took a third of the time


# a shell ignores it for what it runs in the background
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device the tests marked cuda run on: cpu or cuda")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.name != "test_wheel")  # the longest first, or the others wait for it
    if not config.getoption("--device").startswith("cuda"):
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --device cuda"))


def pytest_collection_finish():
    gc.enable()
    gc.freeze()  # a million objects of torch and ODL that stay anyway: no need to look through them again


@pytest.fixture(autouse=True)
def seeded(request):
    import torch

    if request.config.getoption("--device").startswith("cuda"):
        torch.manual_seed(0)
    else:  # the same for the CPU, without a note for every device that there might be
        torch.default_generator.manual_seed(0)
    torch.set_num_threads(1)  # the arrays are tiny; more threads only wait for each other


@pytest.fixture
def data_dir():
    """Folder named by GENREG_DATA; tests that need measured data are skipped without it."""
    folder = os.environ.get("GENREG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GENREG_DATA does not name a folder of measured data")
    return Path(folder)
