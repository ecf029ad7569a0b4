"""The names that `genreg.operators.bridge.caller_data` had before; nothing new should use them."""

from genreg.operators.bridge.caller_data import Batch as Door
from genreg.operators.bridge.caller_data import Kind, is_element, kind_of, per_sample_number
from genreg.operators.bridge.caller_data import as_kind as given_back
from genreg.operators.bridge.caller_data import finite_or_zero as usable
from genreg.operators.bridge.caller_data import to_batch as enter

__all__ = ["Door", "Kind", "enter", "given_back", "is_element", "kind_of", "per_sample_number", "usable"]
