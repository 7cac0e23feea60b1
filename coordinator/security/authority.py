"""The farm's own certificate authority: one file with its key and its certificate.

It knows no certificate by heart; the tuning log does (``tuning_log/identities.py``). A certificate
that the log does not know is not let in, so that a copy of this file alone opens nothing.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protos.certificates import certificate_pem, key_pem, new_key, serial_of
from protos.errors import BadRequest, Conflict
from protos.identity import Identity, Role, check_name
from protos.private_files import read_private, write_private
from protos.rpc import AGENT_NAME, COORDINATOR_NAME

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 90
"""Of agents and users, who renew theirs by themselves, and of the coordinator, which makes its own
anew."""

_EARLIER = datetime.timedelta(minutes=5)
"""A certificate begins this long ago: the clocks of boards are not exact."""


@dataclass(frozen=True)
class Issued:
    """A certificate (PEM), whose it is, and when it ends, seconds since 1970."""

    certificate: bytes
    identity: Identity
    expires_at: float


class Authority:
    """Signs certificates."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, path: Path, name: str) -> Authority:
        """A new one, kept in ``path``; raises Conflict if there is one already."""
        if path.exists():
            raise Conflict(f"{path} is there already; a new one would lock out all it has let in")
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tunefarm {name}")])
        builder = _builder(subject, subject, key.public_key(), key.public_key(), AUTHORITY_DAYS)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(path, key_pem(key) + certificate_pem(certificate))
        return cls(key, certificate)

    @classmethod
    def load(cls, path: Path) -> Authority:
        """The one kept in ``path``; raises BadRequest if there is none."""
        if not path.exists():
            raise BadRequest(f"there is no certificate authority in {path}; run: tunefarm ca init")
        data = read_private(path)
        try:
            key = serialization.load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
        except (ValueError, TypeError) as error:
            raise BadRequest(f"{path} holds no certificate authority: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadRequest(f"{path} holds a key that is not ECDSA")
        return cls(key, certificate)

    @property
    def certificate(self) -> bytes:
        """By which others know what it signs, PEM."""
        return certificate_pem(self._certificate)

    @property
    def certificate_der(self) -> bytes:
        """The same as DER, for tokens."""
        return self._certificate.public_bytes(serialization.Encoding.DER)

    @property
    def expires(self) -> datetime.datetime:
        """When nothing that it signed is good any more."""
        return self._certificate.not_valid_after_utc

    def issue(self, who: Identity, key: ec.EllipticCurvePublicKey) -> Issued:
        """A certificate for a key of an agent or a user. An agent's is good for its port for
        metrics, too, by a name that is not a coordinator's."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(who.name))])
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(who.uri)]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if who.role is Role.AGENT:
            names.append(x509.DNSName(AGENT_NAME))
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = self._sign(self._builder(subject, key), names, purposes)
        return Issued(
            certificate_pem(certificate),
            replace(who, serial=serial_of(certificate)),
            certificate.not_valid_after_utc.timestamp(),
        )

    def for_coordinator(self) -> tuple[bytes, bytes]:
        """A new key and certificate for a coordinator's ports, PEM."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
        certificate = self._sign(
            self._builder(subject, key.public_key()),
            [x509.DNSName(COORDINATOR_NAME)],
            [ExtendedKeyUsageOID.SERVER_AUTH],
        )
        return key_pem(key), certificate_pem(certificate)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        issuer, own = self._certificate.subject, self._key.public_key()
        return _builder(subject, issuer, key, own, CERTIFICATE_DAYS)

    def _sign(
        self,
        builder: x509.CertificateBuilder,
        names: list[x509.GeneralName],
        purposes: list[x509.ObjectIdentifier],
    ) -> x509.Certificate:
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuers_key: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key), critical=False
        )
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
