"""Everything that the hub and the `sdx` command refuse, with stable codes.

    HubError                    status
    ├── BadInput                400     the request is malformed or out of bounds
    │   └── TooLarge            413
    ├── NotAuthenticated        401     no token, or one that is unknown, expired or revoked
    ├── NotAllowed              403     the token does not reach this
    ├── NotFound                404
    ├── ConflictError           409     the state has moved on; look again
    ├── TrustError              422     a signature, a threshold, a digest or a trust rule refuses it; permanent
    └── Unavailable             503     try again later

`code` is for machines and never changes; the message is one or two sentences for people and says what to do next.
"""


class HubError(Exception):
    """Root of the tree.

    Args:
        message: What is wrong and what to do, for a person.
        code: Stable identifier, snake_case.
        extra: Further members of the problem details, JSON-ready and without secrets.
    """

    status = 500
    default_code = "internal_error"

    def __init__(self, message: str, code: str = "", **extra: object) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.extra = extra


class BadInput(HubError):
    status = 400
    default_code = "bad_input"


class TooLarge(BadInput):
    status = 413
    default_code = "too_large"


class NotAuthenticated(HubError):
    status = 401
    default_code = "not_authenticated"


class NotAllowed(HubError):
    status = 403
    default_code = "not_allowed"


class NotFound(HubError):
    status = 404
    default_code = "not_found"


class ConflictError(HubError):
    status = 409
    default_code = "conflict"


class TrustError(HubError):
    status = 422
    default_code = "trust_refused"


class Unavailable(HubError):
    status = 503
    default_code = "unavailable"
