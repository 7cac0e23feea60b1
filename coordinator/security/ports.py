"""The ports for other machines. There the coordinator shows a certificate of the farm's authority,
which is made anew while it runs."""

from __future__ import annotations

import time
from typing import Any

import grpc

from coordinator.security.authority import Authority
from coordinator.security.enrolment import Certificates, Enrolment
from coordinator.security.guard import Guard
from coordinator.tuning_log import TuningLog
from protos import farm_pb2_grpc
from protos.bounds import MAX_REQUEST_BYTES
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


def add_secure_port(
    server: grpc.aio.Server, authority: Authority, tuning_log: TuningLog, guard: Guard, address: str
) -> int:
    """Serve all of a server's services there, to who shows a certificate of the authority."""
    add: Any = farm_pb2_grpc.add_CertificatesServicer_to_server
    add(Certificates(authority, tuning_log, guard), server)
    return int(server.add_secure_port(address, _credentials(authority, asks_clients=True)))


def add_enrolment_port(
    server: grpc.aio.Server, authority: Authority, tuning_log: TuningLog, address: str
) -> int:
    """Serve there what gives certificates for tokens."""
    add: Any = farm_pb2_grpc.add_EnrolmentServicer_to_server
    add(Enrolment(authority, tuning_log), server)
    return int(server.add_secure_port(address, _credentials(authority, asks_clients=False)))


def _credentials(authority: Authority, asks_clients: bool) -> grpc.ServerCredentials:
    made_at = time.monotonic()

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration(
            [authority.for_coordinator()], root_certificates=authority.certificate
        )

    def fetch() -> Any:  # at every handshake
        nonlocal made_at
        if time.monotonic() - made_at < ANEW_AFTER_S:
            return None
        made_at = time.monotonic()
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, asks_clients)
