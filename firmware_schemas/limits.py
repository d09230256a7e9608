"""Every size and count bound of the contract, each with its unit in its name.

A bound is a decision about denial of service: nothing that comes over a link or out of a file is read without one.
"""

MAX_NAME_CHARS = 64
MAX_SERIAL_CHARS = 64
MAX_TEXT_CHARS = 8_192
MAX_COMPONENTS = 32
MAX_CONSTRAINTS = 32
MAX_TAGS = 64

MAX_PAYLOAD_BYTES = 8 * 1024**3
"""One component, uncompressed."""
MAX_MANIFEST_BYTES = 256 * 1024

MAX_ROOT_BYTES = 256 * 1024
MAX_TIMESTAMP_BYTES = 16 * 1024
MAX_SNAPSHOT_BYTES = 2 * 1024**2
MAX_TARGETS_BYTES = 8 * 1024**2
MAX_ROOT_ROTATIONS = 256
MAX_DELEGATIONS = 32
"""Delegated roles that a device visits for one target; deeper trees and loops end here."""

MAX_ARCHIVE_ENTRIES = 100_000
MAX_ARCHIVE_PATH_CHARS = 4_096
MAX_ARCHIVE_DEPTH = 32
"""Folders below the root of a `directory` component."""

MAX_ENVELOPES_PER_REPORT = 64
MAX_ENVELOPE_BYTES = 64 * 1024
MAX_REPORT_BODY_BYTES = 2 * 1024**2
MAX_ENROL_BODY_BYTES = 16 * 1024
MAX_API_BODY_BYTES = 1024**2
UPLOAD_CHUNK_BYTES = 4 * 1024**2
MAX_UPLOAD_CHUNK_BYTES = 16 * 1024**2
