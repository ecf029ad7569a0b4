"""The package in a checkout, where `genreg.operators` and `genreg.solvers` stand beside the folder genreg.

``python`` in a checkout finds its folder genreg before any installed package, whose other two folders are inside of
it or, after ``pip install -e``, perhaps those of another checkout. So the import of this module lets the two be
found beside the first. It changes nothing for an installed package.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_FOLDERS = {f"genreg.{name}": _HERE.parent / name for name in ("operators", "solvers")}


class _Beside:
    """Finds the two packages, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification of one of the packages, None of all others."""
        if name not in _FOLDERS:
            return None
        folder = _FOLDERS[name]
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def _is_checkout() -> bool:
    metadata = _HERE.parent / "setup.cfg"
    beside = all((folder / "__init__.py").is_file() for folder in _FOLDERS.values())
    inside = (_HERE / "operators").exists()
    return beside and not inside and metadata.is_file() and "\nname = genreg\n" in metadata.read_text("utf-8")


if _is_checkout():
    sys.meta_path.insert(0, _Beside)
