"""Structured logs: one line an event on stderr, as text for people or JSON for machines; never a secret.

Secrets are kept out twice: nobody hands them in, and a processor that is last before the renderer blacks out whatever
looks like one of our tokens, or is named like a secret.
"""

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_TOKEN = re.compile(r"\bsdx[de]?_[A-Za-z0-9_-]{6,}")
_SECRET_NAMES = re.compile(r"token|secret|passphrase|password|authorization|enrol_string|cookie", re.IGNORECASE)
_HARMLESS = frozenset({"token_id"})


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Black out what must not be in a log, wherever in the event it is."""
    return {name: _clean(name, value) for name, value in event.items()}


def configure(level: str, *, as_json: bool) -> None:
    """Set up structlog, and route the standard library's loggers (granian, alembic) through it.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        as_json: One JSON object a line instead of text.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("alembic", "_granian", "granian", "httpx", "sqlalchemy", "tuf", "securesystemslib"):
        quiet = logging.getLogger(name)
        quiet.handlers.clear()
        quiet.propagate = True
        quiet.setLevel(logging.WARNING)


def _clean(name: str, value: Any) -> Any:
    if name not in _HARMLESS and _SECRET_NAMES.search(name) and isinstance(value, str | bytes):
        return "***"
    if isinstance(value, str):
        return _TOKEN.sub("sdx***", value)
    if isinstance(value, dict):
        return {key: _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", item) for item in value]
    return value
