"""`tunefarm ca`: the farm's own certificate authority. Run on the coordinator's machine."""

from __future__ import annotations

import argparse
import datetime
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

from coordinator.cli import options as shared
from coordinator.cli.log_tables import opened
from protos.identity import Identity, Role, check_name

AUTHORITY_ENVIRONMENT = "TUNEFARM_CA"

DEFAULT_TOKEN_S = 3600.0
LONGEST_TOKEN_S = 30 * 24 * 3600.0

_EPILOG = """\
a farm of several machines:
  tunefarm ca init
  tunefarm serve --listen-tls 0.0.0.0:7412
  tunefarm ca token pi-rack3-07 --role agent > token     # on the device: tunefarm agent enroll
  tunefarm ca token alice --role submitter > token       # on hers: tunefarm enroll
  tunefarm ca list
  tunefarm ca revoke pi-rack3-07                         # within two seconds it is out

roles: an agent serves one device and may do nothing else; a viewer may look at jobs, devices and
predictions; a submitter may also submit jobs, change or cancel their own and fetch packages; an
admin may do that with everybody's, and drain, quarantine or forget devices.
"""


def add_parser(commands: Any) -> None:
    """Add the group."""
    parser = commands.add_parser(
        "ca",
        help="who may come in from other machines: certificates, tokens, roles",
        description="The farm's certificate authority; run on the coordinator's machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def add(name: str, function: Any, what: str) -> Any:
        verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        verb.set_defaults(run=function)
        return verb

    init = add("init", _init, "make the authority, once for a farm")
    add_authority(init)
    token = add("token", _token, "a token by which somebody may enrol, once")
    token.add_argument("name", metavar="NAME", help="a device's or a user's name")
    token.add_argument(
        "--role",
        choices=[role.value for role in Role],
        required=True,
        help="what they may do then (see `tunefarm ca --help`)",
    )
    token.add_argument(
        "--valid",
        type=shared.duration,
        default=DEFAULT_TOKEN_S,
        metavar="TIME",
        help="until when it must be used, at most 720h (default: 1h)",
    )
    add_authority(token)
    listing = add("list", _list, "every certificate, and the tokens that are not used yet")
    revoke = add("revoke", _revoke, "let somebody in no more: all their certificates and tokens")
    revoke.add_argument("name", metavar="NAME", help="as `tunefarm ca list` shows it")
    for verb in (token, listing, revoke):
        shared.add_log(verb)


def add_authority(parser: argparse.ArgumentParser) -> None:
    """`--ca`."""
    given = os.environ.get(AUTHORITY_ENVIRONMENT)
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    parser.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        default=Path(given) if given else Path(data_home) / "tunefarm" / "ca.pem",
        help=f"the authority's key and certificate (default: ${AUTHORITY_ENVIRONMENT}, else "
        "~/.local/share/tunefarm/ca.pem)",
    )


def _init(options: argparse.Namespace) -> int:
    from coordinator.security.authority import Authority

    authority = Authority.create(options.ca, socket.gethostname())
    print(
        f"the farm's authority is {options.ca}, good until {authority.expires:%Y-%m-%d}. Who has "
        "this file can let in anybody: keep a copy where nobody comes"
    )
    return 0


def _token(options: argparse.Namespace) -> int:
    from coordinator.security.authority import Authority
    from coordinator.tuning_log.identities import add_token
    from protos.enrolment import SECRET_BYTES, Token
    from protos.errors import BadRequest

    who = Identity(check_name(options.name), Role(options.role))
    if options.valid > LONGEST_TOKEN_S:
        raise BadRequest("a token is valid for 720h at most")
    authority = Authority.load(options.ca)
    secret = secrets.token_bytes(SECRET_BYTES)
    with opened(options, must_exist=False) as log, log.writing() as connection:
        add_token(connection, secret, who, options.valid)
    print(Token(secret, authority.certificate_der).text)
    ends = datetime.datetime.fromtimestamp(time.time() + options.valid)
    print(
        f"for {who.name}, role {who.role.value}; good once, until {ends:%Y-%m-%d %H:%M}",
        file=sys.stderr,
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    from coordinator.cli.tables import identities_table
    from coordinator.tuning_log.identities import known, open_tokens

    with opened(options) as log, log.reading() as connection:
        identities_table(known(connection), open_tokens(connection), time.time())
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.identities import revoke

    with opened(options) as log, log.writing() as connection:
        ended = revoke(connection, options.name)
    print(f"{options.name}: {ended} certificate{'' if ended == 1 else 's'} revoked")
    return 0
