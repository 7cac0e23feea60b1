"""The command `tunefarm`: its groups, its exit codes, its errors.

Exit codes: 0 done, 2 bad request, 3 the job or the farm failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import sys
from collections.abc import Sequence

from coordinator.cli import (
    agent,
    ca,
    devices,
    enroll,
    jobs,
    measure,
    predict,
    report,
    serve,
    submit,
    tune,
    tuning_log,
    users,
)
from protos.errors import BadRequest, Conflict, FarmError, Forbidden, NotFound
from protos.plain_text import harmless, indented

EXIT_OK, EXIT_BAD_REQUEST, EXIT_FAILED, EXIT_INTERRUPTED = 0, 2, 3, 130

_EPILOG = """\
one machine, one command:
  tunefarm tune model.onnx --time-limit 10m

a farm: a coordinator, an agent on every device, and clients
  tunefarm serve
  tunefarm agent --coordinator 127.0.0.1:7411
  tunefarm submit model.onnx --watch

on several machines, which know each other by the farm's own certificates
  tunefarm ca init
  tunefarm serve --listen-tls 0.0.0.0:7412
  tunefarm ca token pi-rack3-07 --role agent      # then there: tunefarm agent enroll

how fast would it be? without a device, then on it
  tunefarm predict model.onnx --device pi-rack3-07
  tunefarm measure model.onnx --device pi-rack3-07

Run `tunefarm COMMAND --help` for each command's options and examples.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="tunefarm",
        description="Gives back, for each device, the fastest verified program of a trained model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = importlib.metadata.version("tunefarm")
    root.add_argument("--version", action="version", version=f"tunefarm {version}")
    root.add_argument(
        "-v", "--verbose", action="count", default=0, help="log what happens; twice for more"
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    groups = (tune, serve, agent, submit, jobs, report, predict, measure, devices, tuning_log)
    for group in (*groups, users, ca, enroll):
        group.add_parser(commands)
    return root


class _LogFormatter(logging.Formatter):
    """What is logged may hold what others said: none of it looks like a line of ours."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (of logging)
        record.message = indented(record.message)
        return super().formatMessage(record)


def _configure_logging(verbose: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, handlers=[handler])
    # A message that can't be read ends its call with a status, which is said where it is used.
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    for chatty in ("wheel", "alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    _configure_logging(options.verbose)
    try:
        return int(options.run(options))
    except (BadRequest, Forbidden, NotFound, Conflict) as error:
        print(f"tunefarm: {harmless(error)}", file=sys.stderr)
        return EXIT_BAD_REQUEST
    except FarmError as error:
        print(f"tunefarm: {harmless(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("tunefarm: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does. Nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
