"""The ports for other machines. There the coordinator shows a certificate of the farm's authority,
which is made anew while it runs."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc

from coordinator.security.authority import Authority
from coordinator.security.enrolment import Certificates, Enrolment
from coordinator.security.guard import Guard
from coordinator.tuning_log import TuningLog
from protos import farm_pb2_grpc
from protos.bounds import MAX_REQUEST_BYTES
from protos.certificates import Credentials
from protos.rpc import SERVER_OPTIONS

ENROLMENT_OPTIONS = (
    *SERVER_OPTIONS,
    ("grpc.max_receive_message_length", 4 * MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_connection_age_ms", 60_000),
)
"""Of the server for enrolments: whoever calls there is not known."""

MAX_ENROLMENTS = 64
"""At a time; more are told to come again."""

ANEW_AFTER_S = 30 * 24 * 3600.0
"""So often the coordinator's own certificate is made anew."""


class OwnCertificate:
    """What a coordinator shows at all of its ports; any thread may ask."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self._lock = threading.Lock()
        self._made_at = 0.0
        self._credentials: Credentials | None = None

    def current(self) -> Credentials:
        """A key and its certificate, made anew when it is time."""
        with self._lock:
            now = time.monotonic()
            if self._credentials is None or now - self._made_at >= ANEW_AFTER_S:
                key, certificate = self.authority.for_coordinator()
                self._credentials = Credentials(key, certificate, self.authority.certificate)
                self._made_at = now
            return self._credentials


def add_secure_port(
    server: grpc.aio.Server,
    own: OwnCertificate,
    tuning_log: TuningLog,
    guard: Guard,
    address: str,
) -> int:
    """Serve all of a server's services there, to who shows a certificate of the authority."""
    add: Any = farm_pb2_grpc.add_CertificatesServicer_to_server
    add(Certificates(own.authority, tuning_log, guard), server)
    return int(server.add_secure_port(address, _credentials(own, asks_clients=True)))


def add_enrolment_port(
    server: grpc.aio.Server, own: OwnCertificate, tuning_log: TuningLog, address: str
) -> int:
    """Serve there what gives certificates for tokens."""
    add: Any = farm_pb2_grpc.add_EnrolmentServicer_to_server
    add(Enrolment(own.authority, tuning_log), server)
    return int(server.add_secure_port(address, _credentials(own, asks_clients=False)))


def _credentials(own: OwnCertificate, asks_clients: bool) -> grpc.ServerCredentials:
    shown = own.current()

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(shown.key, shown.certificate)], root_certificates=shown.authority
        )

    def fetch() -> Any:  # at every handshake
        nonlocal shown
        current = own.current()
        if current is shown:
            return None
        shown = current
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, asks_clients)
