"""`/metrics` for Prometheus over HTTP: in plain text on loopback, elsewhere with mutual TLS.

prometheus_client makes what is said. Its server can't say who asks, keeps the certificate that it
began with, and waits for a slow handshake before it hears anybody else, so the port is ours.
"""

from __future__ import annotations

import datetime
import functools
import logging
import os
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from protos.errors import FarmError, Forbidden, Unavailable
from protos.identity import Identity
from protos.rpc import Address

if TYPE_CHECKING:
    from protos.certificates import Credentials

log = logging.getLogger(__name__)

PATH = "/metrics"

MAX_CONNECTIONS = 8
"""At a time; a Prometheus needs one. Whoever comes beyond that is not heard."""

CONNECTION_S = 10.0
"""The longest that one may take, handshake and answer together."""


@dataclass(frozen=True)
class MutualTls:
    """``credentials`` are shown, asked for anew with every connection, so that renewed ones are
    used at once. ``admit`` raises Forbidden for those of the farm who may not read metrics."""

    credentials: Callable[[], Credentials]
    admit: Callable[[Identity], None]


class MetricsPort:
    """Serves a registry from threads of its own until it is closed."""

    def __init__(
        self, address: Address, registry: CollectorRegistry, tls: MutualTls | None = None
    ) -> None:
        """In plain text unless there is ``tls``; the caller has checked that the address is on
        loopback then. Raises Unavailable if the address can't be listened on, and what
        ``tls.credentials`` raises."""
        if tls is not None:
            _context(_unexpired(tls.credentials()))  # what is wrong with them is said at once
        try:
            self._server = _Server(address, registry, tls)
        except OSError as error:
            raise Unavailable(
                f"can't listen on {address} for metrics: {error.strerror}. Choose another port "
                "with --metrics"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """A bounded number of connections, each in a thread."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(
        self, address: Address, registry: CollectorRegistry, tls: MutualTls | None
    ) -> None:
        self.registry = registry
        self.tls = tls
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        host = address.host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, address.port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection, before its handshake; an OSError drops it."""
        connection, peer = super().get_request()
        assert isinstance(connection, socket.socket)
        if self.tls is None:
            return connection, peer
        try:
            context = _context(_unexpired(self.tls.credentials()))
        except FarmError as error:
            connection.close()
            log.error("metrics can't be shown: %s", error)
            raise OSError(str(error)) from error
        return (
            context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False),
            peer,
        )

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            log.warning("%d ask for metrics at a time; one is not heard", MAX_CONNECTIONS + 1)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A socket's time-out is for a piece of what is read; this one is for all of them together.
        deadline = threading.Timer(CONNECTION_S, _cut, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            request.settimeout(CONNECTION_S)
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Strangers that show no certificate come through here, too."""
        log.info("a connection for metrics from %s: %s", client_address[0], sys.exc_info()[1])


def _cut(connection: socket.socket) -> None:
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # an SSLSocket's would forget its keys
    except OSError as error:
        log.debug("a connection for metrics had ended: %s", error)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version, sys_version = "tunefarm", ""
    timeout = CONNECTION_S

    def do_GET(self) -> None:
        """Answer with the metrics, or with why not."""
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}\n".encode())
            return
        try:
            self._admit()
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            text = encode(self.server.registry)
        except Forbidden as error:
            log.warning("%s refused: %s", PATH, error)
            self._answer(HTTPStatus.FORBIDDEN, f"{error}\n".encode())
        except Exception:
            log.exception("the metrics could not be read")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log of this process\n")
        else:
            self._answer(HTTPStatus.OK, text, content_type)

    def _admit(self) -> None:
        if self.server.tls is None:
            return
        from protos.certificates import identity_of

        shown = self.connection.getpeercert(binary_form=True)
        identity = identity_of(ssl.DER_cert_to_PEM_cert(shown).encode())
        if identity is None:
            raise Forbidden("this certificate carries no identity of a farm")
        self.server.tls.admit(identity)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s: %s", self.client_address[0], format % args)


def _unexpired(credentials: Credentials) -> Credentials:
    if credentials.expires <= datetime.datetime.now(datetime.UTC):
        raise Forbidden(f"the certificate ended on {credentials.expires:%Y-%m-%d}")
    return credentials


@functools.lru_cache(maxsize=2)
def _context(credentials: Credentials) -> ssl.SSLContext:
    """Shows these, and hears nobody whom their authority did not certify. Nothing is resumed: every
    connection shows its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=credentials.authority.decode())
    # OpenSSL reads a key from a file only; this one is in memory.
    with os.fdopen(os.memfd_create("credentials"), "wb") as file:
        file.write(credentials.key + credentials.certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
