"""The machine's GPUs, lent to pods one by one."""

import os
import shutil
import subprocess

_RESOURCE = "nvidia.com/gpu"
_TIMEOUT_SECONDS = 10.0


def visible() -> tuple[str, ...]:
    """Returns the devices that a process may be shown, as CUDA_VISIBLE_DEVICES names them; none when there is no driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name and name != "-1")
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        listed = subprocess.run(  # noqa: S603  (found on the PATH)
            [program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return ()
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())


class Devices:
    """Those that are free. What is taken must be given back."""

    def __init__(self, names: tuple[str, ...]):
        self._free = list(names)

    def shortage(self, wanted: dict[str, int]) -> str | None:
        """Returns what is missing, in the scheduler's words, or None when all can be taken."""
        missing = [resource for resource, count in wanted.items() if count > (len(self._free) if resource == _RESOURCE else 0)]
        return f"0/1 nodes are available: 1 Insufficient {', 1 Insufficient '.join(missing)}." if missing else None

    def take(self, wanted: dict[str, int]) -> tuple[str, ...]:
        """Takes the devices that `shortage` has found to be there."""
        count = sum(wanted.values())
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def give_back(self, names: tuple[str, ...]) -> None:
        """Returns devices."""
        self._free += names
