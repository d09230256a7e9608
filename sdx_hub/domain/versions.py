"""How the texts of versions compare, for people who ask "older than 3.17?".

SemVer 2.0.0 section 11, made to hold for every version that the contract allows (`firmware_schemas.ids`):

1. `MAIN[-PRE-RELEASE][+BUILD]`. A pre-release is older than what it leads to; a build breaks ties.
2. Each part is a list of numbers and words, divided at `.`, `_`, `-`, and where a digit meets a letter, so that `rc10`
   is newer than `rc9`. Numbers are older than words; words compare without case; a list is older than its continuation.
3. A leading `v` and trailing zeros of MAIN mean nothing: `v3.17` is `3.17.0`.

Devices do not compare versions but release counters: this order decides nothing on a craft.
"""

import re
from functools import lru_cache

_RUN = re.compile(r"[0-9]+|[A-Za-z]+")
_LEADING_V = re.compile(r"^[vV](?=[0-9])")
_RELEASED = (1, ())

Chunk = tuple[int, int, str]
VersionKey = tuple[tuple[Chunk, ...], tuple[int, tuple[Chunk, ...]], tuple[Chunk, ...]]


@lru_cache(4_096)
def version_key(version: str) -> VersionKey:
    """What to sort and compare versions by."""
    whole, _, build = _LEADING_V.sub("", version).partition("+")
    main, hyphen, pre = whole.partition("-")
    chunks = _chunks(main)
    while chunks and chunks[-1] == (0, 0, ""):
        chunks = chunks[:-1]
    return chunks, (0, _chunks(pre)) if hyphen else _RELEASED, _chunks(build)


def _chunks(text: str) -> tuple[Chunk, ...]:
    return tuple((0, int(run), "") if run.isdigit() else (1, 0, run.lower()) for run in _RUN.findall(text))
