"""The bytes behind a lease's names: carried inline, seen before, or fetched."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from protos import errors
from protos.records import Artifact, sha256_hex

MAX_CACHED_BYTES = 128 << 20


class ArtifactCache:
    """Artifacts by SHA-256, the least recently used dropped first. Threads may share it.

    The coordinator sends some bytes only once per session, so inline artifacts are kept too.
    """

    def __init__(
        self, fetch: Callable[[Artifact], bytes], max_bytes: int = MAX_CACHED_BYTES
    ) -> None:
        self._fetch = fetch
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, artifact: Artifact) -> None:
        """Remember an inline artifact; raises ProtocolViolation if it is not what it says."""
        if artifact.data:
            check(artifact, artifact.data)
            self._keep(artifact.sha256, artifact.data)

    def has(self, artifact: Artifact) -> bool:
        """True if ``get`` need not fetch it."""
        with self._lock:
            return bool(artifact.data) or artifact.sha256 in self._kept

    def get(self, artifact: Artifact) -> bytes:
        """The bytes, checked.

        Raises ProtocolViolation if they are not what their name says, and what fetching raises.
        """
        if artifact.data:
            self.keep(artifact)
            return artifact.data
        with self._lock:
            data = self._kept.get(artifact.sha256)
            if data is not None:
                self._kept.move_to_end(artifact.sha256)
                return data
        data = self._fetch(artifact)
        check(artifact, data)
        self._keep(artifact.sha256, data)
        return data

    def _keep(self, sha256: str, data: bytes) -> None:
        with self._lock:
            self._kept[sha256] = data
            self._kept.move_to_end(sha256)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._max_bytes:
                self._kept.popitem(last=False)


def check(artifact: Artifact, data: bytes) -> None:
    """Raise ProtocolViolation unless ``data`` is the artifact."""
    if len(data) != artifact.size_bytes:
        raise errors.ProtocolViolation(
            f"artifact {artifact.sha256[:12]} has {len(data)} bytes, not {artifact.size_bytes}"
        )
    if sha256_hex(data) != artifact.sha256:
        raise errors.ProtocolViolation(
            f"the bytes of artifact {artifact.sha256[:12]} have another SHA-256"
        )
