"""``python -m genreg.cli``."""

from genreg.cli.commands import main

raise SystemExit(main())
