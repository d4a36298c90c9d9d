"""What went wrong with a call of the API (RFC 9457). Never holds what was sent: it may be a secret, or pixels."""

from __future__ import annotations

from sfumato.schemas.part import Part

TYPES = "urn:sfumato:problem:"
KINDS: dict[int, str] = {
    400: "bad-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "timeout",
    409: "conflict",
    410: "gone",
    411: "length-required",
    412: "precondition-failed",
    413: "too-large",
    414: "address-too-long",
    415: "unsupported-media-type",
    416: "range-not-satisfiable",
    421: "wrong-host",
    422: "invalid",
    423: "locked",
    424: "failed-dependency",
    428: "precondition-required",
    429: "too-many-requests",
    431: "headers-too-large",
    460: "checksum-mismatch",
    500: "internal",
    501: "not-implemented",
    502: "bad-gateway",
    503: "unavailable",
    504: "gateway-timeout",
    507: "out-of-space",
}
"""By status, the end of the problem's ``type``."""


class Fault(Part):
    """A field at fault. ``pointer``: where in the body (RFC 6901); null: a parameter or header."""

    field: str
    pointer: str | None = None
    detail: str
    remedy: str


class Problem(Part):
    """``type`` says which kind of problem, ``detail`` what to do about this one; ``instance`` names the request, as the
    header X-Request-Id does. ``errors``: each field at fault, where a body or parameter is not valid."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: tuple[Fault, ...] = ()
