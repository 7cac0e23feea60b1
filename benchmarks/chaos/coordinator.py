"""``tunefarm serve`` with a compiler that miscompiles (``miscompiler.py``); the same options."""

from __future__ import annotations

import argparse
import logging
import sys

from benchmarks.chaos.miscompiler import MiscompilingWorker
from coordinator.cli import serve
from protos.errors import FarmError


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.coordinator")
    serve.add_parser(parser.add_subparsers(required=True))
    try:
        return serve.run(parser.parse_args(["serve", *sys.argv[1:]]), MiscompilingWorker)
    except FarmError as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
