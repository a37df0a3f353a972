"""What can go wrong without a cluster, told in one line: the cause and the remedy.

LocalFailed            exit 1
├── InvalidProject     exit 1   a manifest that the API server would refuse too, or a file that cannot be read
├── AlreadyRunning     exit 1   another `modelyard up` owns the state directory
├── NothingRuns        exit 1   no `modelyard up` to talk to
└── PortTaken          exit 1   the port that was asked for
"""

from typing import ClassVar


class LocalFailed(Exception):
    """A failure that the user can do something about."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message


class InvalidProject(LocalFailed):
    """A manifest is wrong. The message has one line for each error."""


class AlreadyRunning(LocalFailed):
    """Another instance owns the state directory."""


class NothingRuns(LocalFailed):
    """No instance owns the state directory."""


class PortTaken(LocalFailed):
    """The gateway's port belongs to somebody else."""
