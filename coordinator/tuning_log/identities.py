"""Whom the farm knows: tokens that were given, and certificates that were issued or revoked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import Forbidden, NotFound
from protos.identity import Identity, Role

from .schema import certificates, now, tokens


@dataclass(frozen=True)
class KnownCertificate:
    """A certificate that was issued; times in seconds since 1970, ``revoked_at`` None if it was
    not."""

    identity: Identity
    issued_at: float
    expires_at: float
    revoked_at: float | None


@dataclass(frozen=True)
class OpenToken:
    """A token that is still good, until ``expires_at``."""

    name: str
    role: Role
    expires_at: float


def add_token(connection: sa.Connection, secret: bytes, who: Identity, valid_s: float) -> None:
    """A secret that somebody may use once, within so many seconds. Only its hash is kept."""
    connection.execute(
        sa.insert(tokens).values(
            secret_sha256=_hash(secret),
            name=who.name,
            role=who.role.value,
            created_at=now(),
            expires_at=now() + valid_s,
        )
    )


def use_token(connection: sa.Connection, secret: bytes) -> Identity:
    """For whom a secret was given; it is used up now. Raises Forbidden if it is not good, without
    saying why: whoever guesses is told nothing."""
    t = tokens.c
    row = connection.execute(
        sa.update(tokens)
        .where(t.secret_sha256 == _hash(secret), t.used_at.is_(None), t.expires_at > now())
        .values(used_at=now())
        .returning(t.name, t.role)
    ).one_or_none()
    if row is None:
        raise Forbidden(
            "this token is not good: it was used, has expired, was revoked, or is another farm's. "
            "`tunefarm ca token` gives a new one"
        )
    return Identity(row.name, Role(row.role))


def add_certificate(connection: sa.Connection, who: Identity, expires_at: float) -> None:
    """A certificate was issued, with this serial number."""
    connection.execute(
        sa.insert(certificates).values(
            serial=who.serial,
            name=who.name,
            role=who.role.value,
            issued_at=now(),
            expires_at=expires_at,
        )
    )


def revoke(connection: sa.Connection, name: str) -> int:
    """All certificates and tokens of a name are not good any more; how many certificates that
    ended. Raises NotFound if there is nothing of this name that is still good."""
    c, t = certificates.c, tokens.c
    # First those that are being renewed or used, so that the next statement sees what they became.
    connection.execute(sa.select(c.serial).where(c.name == name).with_for_update()).all()
    connection.execute(sa.select(t.secret_sha256).where(t.name == name).with_for_update()).all()
    ended = connection.execute(
        sa.update(certificates)
        .where(c.name == name, c.revoked_at.is_(None), c.expires_at > now())
        .values(revoked_at=now())
    ).rowcount
    dropped = connection.execute(
        sa.delete(tokens).where(t.name == name, t.used_at.is_(None))
    ).rowcount
    if not ended and not dropped:
        raise NotFound(f"nobody named {name!r} has a certificate or a token that is still good")
    return int(ended)


def renew(connection: sa.Connection, old: Identity, new: Identity, expires_at: float) -> None:
    """Another certificate for who has ``old``; raises Forbidden if that is not good any more, even
    if it was when the request came in."""
    c = certificates.c
    # Locks the row: who revokes at this moment does it before, or sees the new certificate, too.
    statement = sa.update(certificates).where(
        c.serial == old.serial, c.revoked_at.is_(None), c.expires_at > now()
    )
    if connection.execute(statement.values(revoked_at=None)).rowcount == 0:
        raise Forbidden(f"the certificate of {old.name} has ended or was revoked")
    add_certificate(connection, new, expires_at)


def good_serials(connection: sa.Connection) -> frozenset[str]:
    """Of the certificates that were issued, have not ended and were not revoked."""
    c = certificates.c
    query = sa.select(c.serial).where(c.revoked_at.is_(None), c.expires_at > now())
    return frozenset(connection.execute(query).scalars())


def known(connection: sa.Connection) -> list[KnownCertificate]:
    """Every certificate ever issued, by name, the newest of each first."""
    c = certificates.c
    query = sa.select(certificates).order_by(c.name, c.issued_at.desc(), c.serial)
    return [
        KnownCertificate(
            Identity(row.name, Role(row.role), row.serial),
            row.issued_at,
            row.expires_at,
            row.revoked_at,
        )
        for row in connection.execute(query)
    ]


def open_tokens(connection: sa.Connection) -> list[OpenToken]:
    """Tokens that are still good, by name."""
    t = tokens.c
    query = sa.select(t.name, t.role, t.expires_at).where(t.used_at.is_(None), t.expires_at > now())
    return [
        OpenToken(row.name, Role(row.role), row.expires_at)
        for row in connection.execute(query.order_by(t.name))
    ]


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
