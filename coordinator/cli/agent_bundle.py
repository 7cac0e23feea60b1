"""`tunefarm agent bundle`: what a device without the compiler needs, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from protos.errors import BadRequest

_EPILOG = """\
examples:
  tunefarm agent bundle --arch aarch64 -o pi.tar     # a Raspberry Pi with a 64-bit system
  scp pi.tar pi-rack3-07:
  ssh pi-rack3-07 'tar xf pi.tar && sudo tunefarm-agent-aarch64/install.sh farm.example:7412'

It holds tunefarm, the pinned wheels of what the agent needs for Python 3.11, TVM's runtime library,
the unit of systemd and a script that installs all that without a network. The wheels are downloaded
once, checked by their SHA-256, and kept in the cache of the user.
"""


def add_verb(verbs: Any) -> None:
    """Add the command."""
    parser = verbs.add_parser(
        "bundle",
        help="write one file with all that a device without the compiler needs",
        description="Writes one file with all that a device without the compiler needs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch",
        default="aarch64",
        metavar="ARCHITECTURE",
        help="of the device, as `uname -m` says it there: aarch64 or x86_64 (default: aarch64)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the file to write (default: tunefarm-agent-ARCHITECTURE.tar)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write it, and say what to do with it."""
    from coordinator.bundle.archive import bundle, folder_name

    folder = folder_name(options.arch)
    path: Path = options.output or Path(f"{folder}.tar")
    data = bundle(options.arch)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BadRequest(f"{path} can't be written: {error.strerror}") from error
    print(f"{path}: {len(data) / 1e6:.0f} MB for {options.arch}")
    print(f"on the device: tar xf {path.name} && sudo {folder}/install.sh HOST:7412")
    return 0
