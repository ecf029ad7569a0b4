"""Importing ODL without its side effects."""

import odl  # noqa: F401
