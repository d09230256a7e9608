"""One file with everything that a hub is, whatever it stores it in; and back, into the same or another kind of store.

The file is a tar archive, every entry a plain file of mode 0600, in this order:

    backup.json                     first: the version of this form, of the schema, the time, and each table's columns
    tables/NAME/00000001.jsonl.zst  the rows of a table: one JSON array a line, values in the order of its columns
    online/NAME                     the hub's own keys: whoever has this file can sign as the hub
    hub.toml                        settings, where they are in a file
    blobs/AB/SHA256[.zst]           payloads, as `sdx_hub.adapters.blobs` names them
    index.json                      last: SHA-256 and size of every other entry, and the number of rows of each table

A value is what its column's kind says: `text`, `integer` (64 bits), `boolean`, `time` (RFC 3339 in UTC, microseconds),
`bytes` (base64); or null. Tables come in an order in which foreign keys are satisfied, and each `.zst` is one zstd
frame of about 256 KiB of lines: `cat tables/device/* | zstd -d | jq` reads a table, and nobody ever holds a whole one.

All rows are read in one snapshot while the hub goes on writing. Keys and payloads are read after it: neither changes or
goes away while a row names it. Uploads under way are not part of it; a restored hub continues them at byte 0.

A restore first compares every byte with the index. Then payloads, then keys, then all rows in one transaction: what
was put before that counts for nothing, so an interrupted restore is run again as it is.
"""

from sdx_hub.services.backup.form import Place, Progress, Summary
from sdx_hub.services.backup.reading import opened, read_backup, require_free
from sdx_hub.services.backup.writing import write_backup

__all__ = ["Place", "Progress", "Summary", "opened", "read_backup", "require_free", "write_backup"]
