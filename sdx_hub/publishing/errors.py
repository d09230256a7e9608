"""What building and reading a release refuses.

    BadInput (400)
    └── BuildRefused        a source cannot become a payload
    TrustError (422)
    └── BundleRefused       a .sdx file is not what it claims to be

Codes of `BuildRefused`: source_missing, source_changed, archive_climbs, archive_link_escapes, archive_name_too_long,
archive_bad_name, archive_bad_entry, archive_too_large, archive_too_deep, component_type, document_twice.
Codes of `BundleRefused`: bundle_invalid, bundle_bad_entry, bundle_too_large, bundle_incomplete,
payload_digest_mismatch, decompression_bomb, metadata_too_large, archive_not_canonical, signature_invalid,
targets_changed, and the archive codes.
"""

from sdx_hub.domain.errors import BadInput, TrustError


class BuildRefused(BadInput):
    default_code = "build_refused"


class BundleRefused(TrustError):
    default_code = "bundle_invalid"
