"""What a Prometheus does: reads `/metrics`, and knows ports by their names in certificates."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPResponse
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families

from protos.certificates import load_credentials

PATIENCE_S = 200.0


def client(credentials: Path, authority: bytes | None = None) -> ssl.SSLContext:
    """Shows what is in the file, and trusts its authority, or another one's certificate (PEM)."""
    known = load_credentials(credentials)
    context = ssl.create_default_context(cadata=(authority or known.authority).decode())
    context.load_cert_chain(credentials)
    return context


def stranger(authority: bytes) -> ssl.SSLContext:
    """Trusts an authority and shows nothing."""
    return ssl.create_default_context(cadata=authority.decode())


def get(
    port: int,
    tls: ssl.SSLContext | None = None,
    name: str = "",
    path: str = "/metrics",
    accept: str = "text/plain",
) -> tuple[int, str]:
    """Status and body; over TLS from who has this name."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain:
        connection = tls.wrap_socket(plain, server_hostname=name) if tls else plain
        with connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode())
            with HTTPResponse(connection) as answer:
                answer.begin()
                return answer.status, answer.read().decode()


def open_metrics(port: int) -> dict[str, Metric]:
    """As Prometheus asks first, in the stricter format."""
    status, text = get(port, accept="application/openmetrics-text; version=1.0.0")
    assert status == 200, text
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def families(text: str) -> dict[str, Metric]:
    """Every metric of a scrape, by its name without a counter's ``_total``."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    """One sample; None if there is none with exactly these labels."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == dict(labels or {}):
                return float(sample.value)
    return None


def exposed(found: Mapping[str, Metric]) -> set[str]:
    """The names under which Prometheus keeps what these metrics say, whether they have a sample yet
    or not."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {name + end for name, of in found.items() for end in endings.get(of.type, ("",))}
