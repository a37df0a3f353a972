"""`modelyard version`."""

import modelyard


def command() -> None:
    """Print the version."""
    print(modelyard.__version__)
