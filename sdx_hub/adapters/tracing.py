"""Traces through OpenTelemetry, for a hub whose operator runs a collector (the extra `otel`).

Nothing of it is imported unless `otlp_endpoint` is set: it would cost every start 100 ms and 15 MB. Spans carry names,
templates of paths, statuses and times; no id, no query, no header and no message of an error, which may hold either.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sdx_hub.domain.errors import BadInput
from sdx_hub.observing import is_failure

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_PATH = "/v1/traces"


def check(endpoint: str) -> None:
    """Return if traces can be made, without importing what makes them.

    Raises:
        BadInput: The address is none (code `otlp_endpoint_invalid`), or the extra is missing (code `otel_missing`).
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise BadInput(
            "otlp_endpoint looks like http://collector:4318. A collector's credentials do not belong into it, but into "
            "OTEL_EXPORTER_OTLP_HEADERS.",
            "otlp_endpoint_invalid",
        )
    try:
        missing = not (find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise BadInput(
            "otlp_endpoint is set, but what sends traces is not installed. Run: pip install 'sdx-hub[otel]', or leave "
            "otlp_endpoint empty.",
            "otel_missing",
        )


class Tracing:
    """Makes spans and sends them in the background; what a collector does not take is dropped.

    Args:
        endpoint: Of the collector, for instance `http://collector:4318`. Headers and sampling come from OpenTelemetry's
            own variables: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`.
        version: Of the hub.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, StatusCode, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        base = endpoint.rstrip("/")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "sdx-hub", "service.version": version}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=base if base.endswith(_PATH) else base + _PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sdx_hub", version)
        self._propagator = TraceContextTextMapPropagator()
        self._server, self._failed, self._current = SpanKind.SERVER, StatusCode.ERROR, get_current_span

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A span below the current request; it says that something broke, and nothing of what.

        Work that nobody asked for makes none: looking for changes alone would be two a second. It is in the metrics.
        """
        if not self._current().get_span_context().is_valid:
            yield
            return
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            except BaseException as error:
                if is_failure(error):
                    span.set_status(self._failed)
                raise

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator["RequestSpan"]:
        """The span of a request, in the trace that its `traceparent` names."""
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(headers),
            kind=self._server,
            attributes={"http.request.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield RequestSpan(span, method, self._failed)

    def stop(self) -> None:
        """Send what is left. Blocks, at most as long as the exporter's own timeout."""
        self._provider.shutdown()


class RequestSpan:
    """Takes down how a request ended (OpenTelemetry semantic conventions for HTTP servers)."""

    def __init__(self, span: "Span", method: str, failed: Any) -> None:
        self._span = span
        self._method = method
        self._failed = failed

    def ended(self, status: int, template: str) -> None:
        """Note the status, and the path's template: the path itself holds ids."""
        if template:
            self._span.update_name(f"{self._method} {template}")
            self._span.set_attribute("http.route", template)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(self._failed)
