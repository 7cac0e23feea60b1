"""Keys, requests and certificates of the farm's own authority (X.509, ECDSA over P-256).

Whoever is to be known to a farm keeps one PEM file: its private key, its certificate, and the
authority's. The key is made where it is used, and never leaves.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from .errors import BadRequest
from .identity import Identity, from_uri
from .private_files import read_private, write_private

RENEW_AFTER = 2 / 3
"""A certificate that has lived this share of its life is to be renewed."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What an authority needs to certify a key (DER). It says no name: the authority decides."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.DER)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request is for; raises BadRequest unless it is one of ours, signed with that
    key."""
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise BadRequest(f"not a request for a certificate: {error}") from error
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadRequest("a certificate is given for an ECDSA key, and to who has it")
    if not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest(f"keys are on the curve P-256, not {key.curve.name}")
    return key


def serial_of(certificate: x509.Certificate) -> str:
    """Its serial number, in hexadecimal."""
    return f"{certificate.serial_number:x}"


def identity_of(pem: bytes) -> Identity | None:
    """Whom a certificate is about; None if it is none of a farm."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return from_uri(uris[0], serial_of(certificate)) if len(uris) == 1 else None


@dataclass(frozen=True)
class Credentials:
    """What somebody shows a coordinator, and knows it by. Each is PEM."""

    key: bytes
    certificate: bytes
    authority: bytes

    def __repr__(self) -> str:
        return f"Credentials({self.identity})"  # never the key

    @property
    def identity(self) -> Identity | None:
        """Whose they are."""
        return identity_of(self.certificate)

    @property
    def expires(self) -> datetime.datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    @property
    def for_servers(self) -> bool:
        """Whether a port may show them; an agent's that was enrolled long ago may not."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        try:
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        except x509.ExtensionNotFound:
            return False
        return ExtendedKeyUsageOID.SERVER_AUTH in usage.value

    def due(self, now: datetime.datetime) -> bool:
        """Whether they are to be renewed."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now >= begins + (ends - begins) * RENEW_AFTER

    def save(self, path: Path) -> None:
        """Into one file that nobody else may read, in place of what is there."""
        write_private(path, self.key + self.certificate + self.authority)


def load_credentials(path: Path) -> Credentials:
    """Of a file that ``Credentials.save`` wrote; raises BadRequest."""
    if not path.exists():
        raise BadRequest(
            f"there are no credentials in {path}. Get a token from the farm's administrator "
            "(`tunefarm ca token`), and enrol: `tunefarm enroll`, or `tunefarm agent enroll` on a "
            "device"
        )
    data = read_private(path)
    try:
        serialization.load_pem_private_key(data, None)
        certificates = x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"{path} holds no credentials: {error}") from error
    if len(certificates) != 2:
        raise BadRequest(f"{path} holds {len(certificates)} certificates; expected two")
    key = data[: data.index(b"-----BEGIN CERTIFICATE-----")]
    own, authority = (certificate_pem(certificate) for certificate in certificates)
    return Credentials(key, own, authority)
