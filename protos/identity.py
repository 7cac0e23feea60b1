"""Who calls: a name and a role, as the farm's certificates carry them."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from .errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_SCHEME = "tunefarm"


class Role(enum.Enum):
    """What somebody may do. An agent serves one device; the others are people or their programs,
    each of whom may do what those above may, too."""

    AGENT = "agent"
    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"

    @property
    def is_user(self) -> bool:
        """True for people and their programs."""
        return self is not Role.AGENT


@dataclass(frozen=True)
class Identity:
    """Somebody whom the farm knows. ``serial`` is the certificate's serial number in hexadecimal;
    empty on loopback, where nobody shows one."""

    name: str
    role: Role
    serial: str = ""

    @property
    def uri(self) -> str:
        """As a certificate's subject alternative name has it: ``tunefarm:agent/pi-rack3-07``."""
        return f"{_SCHEME}:{self.role.value}/{self.name}"


def check_name(name: str) -> str:
    """A name that a certificate may carry; raises BadRequest."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} is no name for a certificate: write letters, digits, dots, dashes and "
            "underscores, at most 64, the first a letter or digit"
        )
    return name


def from_uri(uri: str, serial: str) -> Identity | None:
    """The identity that a subject alternative name says; None if it says none."""
    scheme, _, rest = uri.partition(":")
    role, _, name = rest.partition("/")
    if scheme != _SCHEME or not _NAME.fullmatch(name):
        return None
    try:
        return Identity(name, Role(role), serial)
    except ValueError:
        return None
