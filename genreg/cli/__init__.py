"""The command line, and the files that it reads."""

from genreg.cli.commands import main

__all__ = ["main"]
