"""OpenAI's error shape, written by the gateway and the runtime alike.

    ApiError                       status  type                    code
    ├── InvalidRequest             400     invalid_request_error   (given)
    ├── AuthenticationFailed       401     authentication_error    invalid_api_key
    ├── Forbidden                  403     permission_error        not_allowed
    ├── ModelNotFound              404     invalid_request_error   model_not_found
    ├── UnknownPath                404     invalid_request_error   unknown_url
    ├── MethodNotAllowed           405     invalid_request_error   method_not_allowed
    ├── RequestTimeout             408     invalid_request_error   request_timeout
    ├── PayloadTooLarge            413     invalid_request_error   request_too_large
    ├── TooManyRequests            429     rate_limit_error        queue_full
    ├── InternalError              500     server_error            internal_error
    ├── BadGateway                 502     server_error            upstream_failed
    ├── Unavailable                503     server_error            (given)
    └── Timeout                    504     timeout_error           timeout

Shape: https://platform.openai.com/docs/guides/error-codes
"""

import json
from typing import Any, ClassVar


class ApiError(Exception):
    """An error that a client sees. ``message`` says what is wrong and what to do; ``param`` names the field."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """Returns the body that OpenAI clients parse."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def to_json(self) -> bytes:
        """Returns the body as JSON."""
        return json.dumps(self.to_dict()).encode()

    def headers(self) -> dict[str, str]:
        """Returns the headers that belong to the error, such as `retry-after`, in seconds."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class InvalidRequest(ApiError):
    """The request cannot be served as it is."""

    status, type, default_code = 400, "invalid_request_error", None


class AuthenticationFailed(ApiError):
    """The API key is missing or wrong."""

    status, type, default_code = 401, "authentication_error", "invalid_api_key"


class Forbidden(ApiError):
    """The server's settings, or its kind, do not allow it."""

    status, type, default_code = 403, "permission_error", "not_allowed"


class ModelNotFound(ApiError):
    """No model has that name."""

    status, type, default_code = 404, "invalid_request_error", "model_not_found"


class UnknownPath(ApiError):
    """There is no such path."""

    status, type, default_code = 404, "invalid_request_error", "unknown_url"


class MethodNotAllowed(ApiError):
    """The path exists, not for this method. ``allowed`` are the methods that it takes, as in the header `allow` (RFC 9110, 15.5.6)."""

    status, type, default_code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, message: str, allowed: str):
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        """Returns `allow`."""
        return {"allow": self.allowed}


class RequestTimeout(ApiError):
    """The client took too long to send its request."""

    status, type, default_code = 408, "invalid_request_error", "request_timeout"


class PayloadTooLarge(ApiError):
    """The body exceeds the bound."""

    status, type, default_code = 413, "invalid_request_error", "request_too_large"


class TooManyRequests(ApiError):
    """The queue is full: try again later."""

    status, type, default_code = 429, "rate_limit_error", "queue_full"


class InternalError(ApiError):
    """A defect of ours; the log has the cause under the request id."""

    status, type, default_code = 500, "server_error", "internal_error"


class BadGateway(ApiError):
    """The runtime broke off or answered nonsense."""

    status, type, default_code = 502, "server_error", "upstream_failed"


class Unavailable(ApiError):
    """No replica can answer now."""

    status, type, default_code = 503, "server_error", "unavailable"


class Timeout(ApiError):
    """No answer within the bound."""

    status, type, default_code = 504, "timeout_error", "timeout"
