"""How somebody becomes known to a farm: a token for a certificate, once; then renewals.

A token is a secret that is good for one certificate, and the authority's certificate, so that the
secret is said to nobody but the farm that gave it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bounds, errors, farm_pb2, rpc
from .farm_pb2_grpc import CertificatesStub, EnrolmentStub
from .identity import Identity

log = logging.getLogger(__name__)

SECRET_BYTES = 32
DEADLINE_S = 30.0
RESERVED_BYTES = 8192
"""More than credentials take."""

_PREFIX = "tunefarm1."


@dataclass(frozen=True)
class Token:
    """A secret of ``SECRET_BYTES`` bytes, and the authority's certificate as DER."""

    secret: bytes
    authority: bytes

    def __repr__(self) -> str:
        return "Token(…)"  # never the secret

    @property
    def text(self) -> str:
        """As people hand it on."""
        return _PREFIX + base64.urlsafe_b64encode(self.secret + self.authority).decode()


def parse_token(text: str) -> Token:
    """Of what ``Token.text`` gave; raises BadRequest, which never repeats it."""
    text = text.strip()
    try:
        data = base64.b64decode(text.removeprefix(_PREFIX), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not text.startswith(_PREFIX) or len(data) <= SECRET_BYTES:
        raise errors.BadRequest(
            f"that is no whole token: one begins with {_PREFIX} and is some hundred letters long. "
            "`tunefarm ca token` on the coordinator's machine gives one"
        )
    return Token(data[:SECRET_BYTES], data[SECRET_BYTES:])


def enrol(address: str, token: Token, path: Path, replace: bool = False) -> Identity:
    """Make a key, have it certified, and keep both in ``path``; returns whom the farm knows now.

    ``address`` is the coordinator's port for enrolments. Raises BadRequest, Conflict if there is
    something in ``path`` already, Forbidden for a token that is not good (any more), Unavailable.
    """
    from . import certificates
    from .private_files import write_private

    if path.exists() and not replace:
        raise errors.Conflict(
            f"{path} is there already; --replace puts the new credentials in its place"
        )
    authority = ssl.DER_cert_to_PEM_cert(token.authority).encode()
    key = certificates.new_key()
    request = farm_pb2.EnrolRequest(
        secret=token.secret, signing_request=certificates.signing_request(key)
    )
    reserved = path.with_name(path.name + ".new")
    write_private(reserved, bytes(RESERVED_BYTES))  # says what is wrong before the token is spent
    try:
        with (
            rpc.secure_channel(address, authority) as channel,
            rpc.client_errors("enrolling", address),
        ):
            stub: Any = EnrolmentStub(channel)  # type: ignore[no-untyped-call]
            answer = stub.Enrol(request, timeout=DEADLINE_S)
        return _keep(path, certificates.key_pem(key), answer, authority)
    finally:
        reserved.unlink()


def renew_if_due(address: str, path: Path, now: datetime.datetime | None = None) -> bool:
    """Renew the credentials in ``path`` if most of their life is over; whether they were.

    That a coordinator does not answer is logged: there is still time. Raises BadRequest if there
    are no credentials, or Forbidden if they have ended or were revoked.
    """
    from . import certificates

    now = now or datetime.datetime.now(datetime.UTC)
    known = certificates.load_credentials(path)
    if not known.due(now):
        return False
    if now >= known.expires:
        raise errors.Forbidden(
            f"the certificate in {path} ended on {known.expires:%Y-%m-%d}; enrol again with a new "
            "token of `tunefarm ca token` and --replace"
        )
    key = certificates.new_key()
    request = farm_pb2.RenewRequest(signing_request=certificates.signing_request(key))
    try:
        with rpc.channel(address, path) as channel, rpc.client_errors("renewing", address):
            stub: Any = CertificatesStub(channel)  # type: ignore[no-untyped-call]
            answer = stub.Renew(request, timeout=DEADLINE_S)
    except errors.Unavailable as error:
        log.warning("the certificate in %s, which ends at %s: %s", path, known.expires, error)
        return False
    _keep(path, certificates.key_pem(key), answer, known.authority)
    log.info("the certificate in %s was renewed", path)
    return True


def _keep(path: Path, key: bytes, answer: farm_pb2.Certificate, authority: bytes) -> Identity:
    from .certificates import Credentials

    bounds.check(answer)
    made = Credentials(key, answer.certificate, authority)
    identity = made.identity
    if identity is None:
        raise errors.ProtocolViolation(
            "the coordinator answered with something that is no identity"
        )
    made.save(path)
    return identity
