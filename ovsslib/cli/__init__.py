"""The command `ovss`."""

import sys

from ovsslib.errors import MissingPackageError, require


def start() -> None:
    """Start the command, or say which extra it needs."""
    try:
        for module in ("typer", "rich"):
            require(module, "cli", "the command ovss")
    except MissingPackageError as error:
        sys.exit(f"ovss: {error}")
    from ovsslib.cli.main import main

    main()
