"""Models and packages: bytes by their SHA-256, and packages by what they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import LogUnavailable, NotFound
from protos.records import ModelResult, sha256_hex

from .database import insert
from .schema import blob_chunks, blobs, now, packages
from .values import from_json, to_json

CHUNK_BYTES = 8 << 20
"""How much of a blob is one row."""


def put(connection: sa.Connection, data: bytes) -> str:
    """Store the bytes unless they are there already; returns their name."""
    sha256 = sha256_hex(data)
    statement = (
        insert(connection, blobs)
        .values(sha256=sha256, size_bytes=len(data), stored_at=now())
        .on_conflict_do_nothing()
        .returning(blobs.c.sha256)
    )
    if connection.execute(statement).first() is not None:
        for position, start in enumerate(range(0, len(data), CHUNK_BYTES)):
            chunk = data[start : start + CHUNK_BYTES]
            connection.execute(
                sa.insert(blob_chunks).values(sha256=sha256, position=position, data=chunk)
            )
    return sha256


def has(connection: sa.Connection, sha256: str) -> bool:
    """True if the bytes are there."""
    found = connection.execute(sa.select(blobs.c.sha256).where(blobs.c.sha256 == sha256))
    return found.first() is not None


def get(connection: sa.Connection, sha256: str) -> bytes:
    """The bytes; raises NotFound, or LogUnavailable if they are not what their name says."""
    if not has(connection, sha256):
        raise NotFound(f"no file {sha256!r} in the tuning log; submit the model again")
    chunks = connection.execute(
        sa.select(blob_chunks.c.data)
        .where(blob_chunks.c.sha256 == sha256)
        .order_by(blob_chunks.c.position)
    )
    data = b"".join(chunks.scalars())
    if sha256_hex(data) != sha256:
        raise LogUnavailable(f"the file {sha256} in the tuning log is damaged; restore a backup")
    return data


@dataclass(frozen=True)
class PackageRef:
    """A package without its bytes."""

    result: ModelResult
    sha256: str


def put_package(
    connection: sa.Connection, key: str, job_id: str, result: ModelResult, data: bytes
) -> None:
    """Store a package under the hash of what it was made of; a second one replaces the first."""
    row = {
        "job_id": job_id,
        "result_json": to_json(result),
        "sha256": put(connection, data),
        "packaged_at": now(),
    }
    statement = insert(connection, packages).values(key=key, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=row))


def find_package(connection: sa.Connection, key: str) -> PackageRef | None:
    """The package made of just this, if there is one."""
    row = connection.execute(sa.select(packages).where(packages.c.key == key)).first()
    return None if row is None else PackageRef(from_json(ModelResult, row.result_json), row.sha256)
