"""A collector of traces: takes OpenTelemetry's protocol over HTTP, and keeps the spans."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What arrived.

    Attributes:
        raw: Every body, one after another.
        resources: Attributes of the senders.
    """

    url: str = ""
    raw: bytes = b""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.news:
            self.raw += body
            for sender in request.resource_spans:
                self.resources.append({item.key: item.value.string_value for item in sender.resource.attributes})
                self.spans += [span for scope in sender.scope_spans for span in scope.spans]
            self.news.notify_all()

    def wait_for(self, name: str) -> Span:
        """The first span of this name."""
        self.wait_until(lambda: any(span.name == name for span in self.spans))
        return next(span for span in self.spans if span.name == name)

    def wait_until(self, condition: Callable[[], bool], within_s: float = 30) -> None:
        """Return once this is so."""
        with self.news:
            assert self.news.wait_for(condition, within_s), sorted({span.name for span in self.spans})


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
