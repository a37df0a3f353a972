"""What goes wrong on the way through the gateway: what clients see beside `modelyard.api.errors`, and what upstreams do to us.

ApiError                        status
├── RequestTimeout              408
├── HeadersTooLarge             431
└── ClientClosed                499, in logs and metrics only

UpstreamFailed                  an endpoint did not answer a request
├── ConnectFailed               no connection: nothing was sent
├── ConnectionLost              the connection ended before the answer did
├── InvalidAnswer               what came back is not HTTP, or breaks our bounds
└── Draining                    the runtime is stopping and refused the request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from modelyard.api.errors import ApiError

if TYPE_CHECKING:
    from modelyard.gateway.wire import Answer


class HeadersTooLarge(ApiError):
    """The request's head passes the bound."""

    status, type, default_code = 431, "invalid_request_error", "headers_too_large"


class ClientClosed(ApiError):
    """The client left before its answer was complete; nobody reads this error."""

    status, type, default_code = 499, "invalid_request_error", "client_closed"


class UpstreamFailed(Exception):
    """An endpoint failed a request. ``kind`` is the label in metrics; ``ejection`` the shortest time, in seconds, to avoid it."""

    kind: ClassVar[str] = "failed"
    ejection: ClassVar[float] = 0.5


class ConnectFailed(UpstreamFailed):
    """No connection could be made, so nothing was sent."""

    kind = "connect"


class ConnectionLost(UpstreamFailed):
    """The connection ended before the answer was complete."""

    kind = "reset"


class InvalidAnswer(UpstreamFailed):
    """The answer is not valid HTTP/1.1, or larger than what the gateway keeps of it."""

    kind = "protocol"


class Draining(UpstreamFailed):
    """The runtime refused the request because it stops; it never comes back under this address."""

    kind = "draining"
    ejection = 10.0

    def __init__(self, answer: Answer):
        super().__init__("the replica is stopping")
        self.answer = answer
