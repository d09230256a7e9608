"""Which devices: a language that a fleet manager can type and read.

    hardware = quad-x4 and tag in (alpha, beta) and not version(mavsdk) < 3.17 and seen < 7d

`parse` makes a tree of a text (`terms`), `str` makes the canonical text of a tree, `expand` puts saved filters in, and
`matches` answers for one device, as the database does for all of them (`sdx_hub.services.devices.selecting`).
"""

from sdx_hub.domain.query.errors import QueryError, caret
from sdx_hub.domain.query.matching import DeviceFacts, matches
from sdx_hub.domain.query.parser import parse
from sdx_hub.domain.query.saved import expand, names_in, tests_in
from sdx_hub.domain.query.terms import Query

__all__ = ["DeviceFacts", "Query", "QueryError", "caret", "expand", "matches", "names_in", "parse", "tests_in"]
