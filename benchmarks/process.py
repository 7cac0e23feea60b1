"""Child processes of a benchmark: quiet while they work, and heard when they fail."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

QUOTED_CHARACTERS = 4000


class ProcessFailed(Exception):
    """A child ended with a status other than 0; the message ends with what it said."""


def run_quietly(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The child's standard output; raises ProcessFailed with the end of its standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
        if done.returncode:
            errors.seek(0)
            said = errors.read()[-QUOTED_CHARACTERS:]
            raise ProcessFailed(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done.stdout


def progress(text: str) -> None:
    """Say what is being done, on standard error."""
    print(text, file=sys.stderr, flush=True)
