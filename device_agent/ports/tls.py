"""TLS that resumes: the next connection of a craft carries no certificate and checks none.

A thin link drops kept connections all the time. The session ticket of the last one (RFC 8446, 2.2) is offered on the
next: a sixth to a third fewer bytes, and with an RSA certificate up to half of the hub's work (docs/performance.md). A
hub that no longer knows it makes a full handshake, and nobody notices. The certificate was checked when the session
began, and the context, which a session belongs to, stays the same for the life of the process.
"""

import http.client
import ssl


class ResumingTls:
    """What one peer's connections share. Sessions stay in memory: they are secrets, and a file would outlive them."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context()  # Reads the certificate store: once, and not for each connection.
        self._session: ssl.SSLSession | None = None

    def connection(self, host: str, timeout_s: float) -> http.client.HTTPSConnection:
        """A connection that is not open yet."""
        return _Connection(host, timeout_s, self._context, self._session)

    def remember(self, secure: ssl.SSLSocket) -> None:
        """Keep what a later connection can resume; call it after an answer: the ticket comes behind the handshake."""
        self._session = secure.session or self._session


class _Connection(http.client.HTTPSConnection):
    def __init__(self, host: str, timeout_s: float, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        super().__init__(host, timeout=timeout_s, context=context)
        self._tls, self._session = context, session

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, session=self._session)
