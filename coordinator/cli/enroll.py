"""`tunefarm enroll` and `tunefarm agent enroll`: get a certificate for a token, once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from coordinator.cli import options as shared
from protos.errors import BadRequest

DEFAULT_ENROL_ADDRESS = "127.0.0.1:7413"

_EPILOG = """\
examples:
  tunefarm {command} --coordinator farm.example:7413 --token-file token
  ssh coordinator tunefarm ca token {name} --role {role} | tunefarm {command} \\
      --coordinator farm.example:7413

The private key is made here and never leaves; the farm certifies it for the name and the role that
the token was given for. The certificate is renewed by itself before it ends. The token says which
farm is meant: no other one is told it.
"""


def add_parser(commands: Any) -> None:
    """Add the command for users."""
    add_verb(commands, "user", "make yourself known to a farm on another machine")


def add_verb(commands: Any, who: str, what: str) -> None:
    """Add the command for a ``user`` or an ``agent``."""
    command = "enroll" if who == "user" else "agent enroll"
    name, role = ("alice", "submitter") if who == "user" else ("pi-rack3-07", "agent")
    parser = commands.add_parser(
        "enroll",
        help=what,
        description=f"{what[0].upper()}{what[1:]}: a certificate for a token of `tunefarm ca "
        "token`.",
        epilog=_EPILOG.format(command=command, name=name, role=role),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        default=DEFAULT_ENROL_ADDRESS,
        help=f"the coordinator's port for enrolments (default: {DEFAULT_ENROL_ADDRESS})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="a file with the token (default: it is read from standard input; an argument would be "
        "seen by everybody on the machine)",
    )
    parser.add_argument(
        "--credentials",
        metavar="FILE",
        type=Path,
        help="where key and certificate go (default: $TUNEFARM_CREDENTIALS, else "
        f"~/.config/tunefarm/{who}.pem)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="in place of credentials that are there already"
    )
    parser.set_defaults(run=run, who=who)


def run(options: argparse.Namespace) -> int:
    """Enrol, and say as whom."""
    from protos.enrolment import enrol, parse_token

    path = options.credentials or shared.credentials_file(options.who)
    token = parse_token(_read_token(options.token_file))
    identity = enrol(options.coordinator, token, path, options.replace)
    print(f"enrolled as {identity.name}, role {identity.role.value}; credentials in {path}")
    if identity.role.is_user == (options.who == "agent"):
        print(
            f"tunefarm: the token was for the role {identity.role.value}; use these credentials as "
            "such, or ask for another token",
            file=sys.stderr,
        )
    return 0


def _read_token(path: Path | None) -> str:
    if path is None:
        if sys.stdin.isatty():
            print("paste the token, then Enter:", file=sys.stderr)
            return sys.stdin.readline()
        return sys.stdin.read()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the token can't be read from {path}: {error}") from error
