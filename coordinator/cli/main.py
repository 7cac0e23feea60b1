"""The command `tunefarm`: its groups, its exit codes, its errors.

Exit codes: 0 done, 2 bad request, 3 the job or the farm failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from protos.errors import BadRequest, Conflict, FarmError, Forbidden, NotFound
from protos.plain_text import harmless, indented

GROUPS = {
    **{name: name for name in ("tune", "serve", "agent", "submit", "jobs", "report", "predict")},
    **{name: name for name in ("measure", "devices", "users", "ca", "enroll")},
    "log": "tuning_log",
}
"""The module of each group. Only the one that is asked for is loaded: on a device nothing is
installed but what the agent needs."""

OURS = ("coordinator", "cost_model", "device_agent", "protos")

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


class _Parser(argparse.ArgumentParser):
    """Blames an unknown option, where argparse would take its value for a command."""

    _words: tuple[str, ...] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = tuple(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument (?:VERB|COMMAND): invalid choice: '(.*?)'", message)
        if wrong and wrong[1] in self._words:
            before = self._words[: self._words.index(wrong[1])]
            names = [word.partition("=")[0] for word in before if word.startswith("--")]
            known = self._option_string_actions
            unknown = [name for name in names if not any(k.startswith(name) for k in known)]
            if unknown:
                near = difflib.get_close_matches(unknown[-1], known, n=1)
                hint = f"; is it {near[0]}?" if near else f"; see {self.prog} --help"
                message = f"unrecognized argument: {unknown[-1]}{hint}"
        super().error(message)


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line, or as much of it as these arguments ask for."""
    root = _Parser(
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
    asked = next((word for word in arguments if not word.startswith("-")), "")
    for name in [asked] if asked in GROUPS else GROUPS:
        try:
            importlib.import_module(f"coordinator.cli.{GROUPS[name]}").add_parser(commands)
        except ModuleNotFoundError as error:
            if name == asked or _is_ours(error):
                raise
    return root


class _LogFormatter(logging.Formatter):
    """What is logged may hold what others said: none of it looks like a line of ours."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (of logging)
        record.message = indented(record.message)
        return super().formatMessage(record)


def _is_ours(missing: ModuleNotFoundError) -> bool:
    """Whether it is a defect, not something that is not installed."""
    return missing.name is None or missing.name.partition(".")[0] in OURS


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
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(arguments).parse_args(arguments)
        _configure_logging(options.verbose)
        return int(options.run(options))
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        print(
            f"tunefarm: {error.name} is not installed here, which this command needs: "
            "pip install 'tunefarm[coordinator]'",
            file=sys.stderr,
        )
        return EXIT_BAD_REQUEST
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
