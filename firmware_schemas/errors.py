"""Errors of the shared contract.

    SchemaError                 code
    ├── InvalidName             invalid_name
    ├── InvalidManifest         invalid_manifest
    └── LimitExceeded           limit_exceeded

Every error of this project carries a stable `code` for machines and a sentence that says what to do for people.
"""


class SchemaError(Exception):
    """Something that was read does not follow the contract."""

    code = "schema_error"


class InvalidName(SchemaError):
    code = "invalid_name"


class InvalidManifest(SchemaError):
    code = "invalid_manifest"


class LimitExceeded(SchemaError):
    code = "limit_exceeded"
