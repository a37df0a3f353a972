"""Free ports, and where a listener is reached."""

import contextlib
import errno
import socket

from modelyard.local.errors import PortTaken


def free(address: str, count: int) -> list[int]:
    """Returns ports that nobody listens on at this moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(_family(address))) for _ in range(count)]
        for one in sockets:
            one.bind((address, 0))
        return [one.getsockname()[1] for one in sockets]


def for_gateway(address: str, wanted: int | None, usual: int) -> int:
    """Returns the wanted port, else the usual one, else, when that is taken, 0 for any; raises PortTaken for a wanted one."""
    if wanted is None:
        return 0 if _is_taken(address, usual) else usual
    if wanted and _is_taken(address, wanted):
        raise PortTaken(f"port {wanted} of {address} is taken", "Choose another with --port, or leave --port out to get a free one")
    return wanted


def reached(address: str) -> str:
    """Returns where clients on this machine reach who listens at ``address``: nobody can call the one that means all of them."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


def _is_taken(address: str, port: int) -> bool:
    """Says whether somebody has the port; what else keeps a server from listening, as an address of another machine, it says itself."""
    with socket.socket(_family(address)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as problem:
            return problem.errno == errno.EADDRINUSE
        return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
