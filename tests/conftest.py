"""Shared fixtures: seeds, the device option, and the folder of measured data."""

import gc
import os
from pathlib import Path

import pytest

# torch is imported where it is needed: the process that hands out the tests imports this file and runs none.

gc.disable()  # nothing that is made in the collection of the tests is garbage, and it took a third of the time


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
