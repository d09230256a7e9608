"""Errors to exit codes: the only place that knows both.

0 ok   1 failed   2 usage   3 nothing to do   4 not allowed   5 signature or trust refused   6 rollout halted
"""

from firmware_schemas.errors import InvalidName, SchemaError
from sdx_hub.domain.errors import BadInput, HubError, NotAllowed, NotAuthenticated, TrustError

OK, FAILED, USAGE, NOTHING_TO_DO, NOT_ALLOWED, REFUSED, HALTED = range(7)


class UsageFault(BadInput):
    """The command line, the environment or a config file does not say what is needed."""

    default_code = "usage"


class NothingToDo(HubError):
    """Everything is already as it was asked for."""

    status = 409
    default_code = "nothing_to_do"


_BY_CODE = {
    "already_published": NOTHING_TO_DO,
    "already_signed": NOTHING_TO_DO,
    "already_yanked": NOTHING_TO_DO,
    "ceremony_threshold": USAGE,
    "component_form": USAGE,
    "constraint_form": USAGE,
    "counter_missing": USAGE,
    "otel_missing": USAGE,
    "otlp_endpoint_invalid": USAGE,
    "passphrase_missing": USAGE,
    "query_invalid": USAGE,
    "release_empty": USAGE,
    "role_ambiguous": USAGE,
    "signer_unknown": USAGE,
    "public_key_missing": USAGE,
    "signature_invalid": REFUSED,
    "bad_signature": REFUSED,
    "rollout_halted": HALTED,
}
_BY_CLASS: list[tuple[type[Exception], int]] = [
    (NothingToDo, NOTHING_TO_DO),
    (UsageFault, USAGE),
    (NotAuthenticated, NOT_ALLOWED),
    (NotAllowed, NOT_ALLOWED),
    (TrustError, REFUSED),
    (InvalidName, USAGE),
]


def exit_code_of(error: Exception) -> int:
    """The exit code that stands for an error."""
    if isinstance(error, HubError | SchemaError) and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), FAILED)
