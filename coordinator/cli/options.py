"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import getpass
import math
import os
import re
from pathlib import Path
from typing import Any

from protos.errors import BadRequest
from protos.labels import check_labels
from protos.records import (
    DEFAULT_PROJECT,
    MAX_MODEL_BYTES,
    UNKNOWN_USER,
    UNLIMITED_TRIALS,
    JobSpec,
    Shape,
    sha256_hex,
)
from protos.rpc import parse_address

DEFAULT_ADDRESS = "127.0.0.1:7411"
ADDRESS_ENVIRONMENT = "TUNEFARM_COORDINATOR"
CREDENTIALS_ENVIRONMENT = "TUNEFARM_CREDENTIALS"

MAX_NUMBER = 2**31 - 1
"""The largest count or dimension that the protocol carries, and more than any makes sense."""

DEFAULT_TRIALS = 1000

DEFAULT_FLAT_SHARE = 0.01
"""Of the operators' time, per minute: with less, an hour more would not win a half."""

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1.5h`, `1h30m` or `100ms`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smh]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 10m or 1h30m")
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be longer than nothing")
    return seconds


def latency(text: str) -> float:
    """Milliseconds of `20ms` or `1.5ms`; the unit is asked for, as 20 could be seconds."""
    if not text.endswith(("ms", "s")):
        raise argparse.ArgumentTypeError(f"{text!r} is no latency; write 20ms or 1.5ms")
    return duration(text) * 1e3


def percentage(text: str) -> float:
    """The share that `1`, `0.5` or `2%` is of a hundred."""
    number = text.removesuffix("%").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", number) or not 0 < float(number) < 100:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no percentage above 0 and below 100 (without one, put the model first)"
        )
    return float(number) / 100


def drift(text: str) -> float:
    """The share that `50` or `300%` is of a hundred: any above nothing."""
    number = text.removesuffix("%").strip()
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", number) or not float(number) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage above 0, such as 50")
    return float(number) / 100


def shape(text: str) -> tuple[str, Shape]:
    """Name and dimensions of `x=1,3,48,192`."""
    name, separator, dims = text.rpartition("=")
    try:
        sizes = tuple(int(dim) for dim in dims.split(","))
    except ValueError:
        sizes = ()
    if not separator or not name or not sizes or min(sizes) < 1 or max(sizes) > MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write name=1,3,48,192")
    return name, Shape(sizes)


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_NUMBER}")
    return int(text)


def seed(text: str) -> int:
    """A whole number, zero or above: no generator of random numbers takes less."""
    largest = MAX_NUMBER - 1  # MetaSchedule's generator counts modulo MAX_NUMBER
    if not text.isdecimal() or int(text) > largest:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {largest}")
    return int(text)


def cpus(text: str) -> tuple[int, ...]:
    """CPU numbers of `0`, `0,2` or `0-3`."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of CPUs; write 0,2 or 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > 4096:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of CPUs")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def label(text: str) -> tuple[str, str]:
    """Key and value of `rack=3`."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write price-per-hour=0.35")
    return key, value


def project(text: str) -> str:
    """A short word: letters, digits, dots, dashes and underscores."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no project; write letters, digits, dots, dashes, underscores, at most 64"
        )
    return text


class _AddLabel(argparse.Action):
    """Collects labels into one mapping, and refuses what no device may have."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        (key, value), known = values, getattr(namespace, self.dest)
        if key in known:
            raise argparse.ArgumentError(self, f"the label {key} is given twice")
        labels = {**known, key: value}
        try:
            check_labels(labels)
        except BadRequest as error:
            raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, labels)


def read_model(path: Path) -> bytes:
    """The model's bytes; raises BadRequest if there is no such file or it can't be one."""
    if path.is_dir():
        raise BadRequest(f"{path} is a directory; give the .onnx file in it")
    if not path.exists():
        raise BadRequest(f"no such file: {path}")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise BadRequest(f"{path} is larger than {MAX_MODEL_BYTES >> 30} GiB, which ONNX can't be")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error


def add_labels(parser: argparse._ActionsContainer) -> None:
    """`--label`."""
    parser.add_argument(
        "--label",
        action=_AddLabel,
        default={},
        type=label,
        metavar="KEY=VALUE",
        help="what you say of the device, e.g. rack=3; repeatable. With price-per-hour and watts, "
        "reports say what an inference costs in price and energy",
    )


def add_log(parser: argparse._ActionsContainer) -> None:
    """`--log`."""
    parser.add_argument(
        "--log",
        metavar="URL",
        help="the tuning log: a file (SQLite) or postgresql://USER@HOST/DATABASE "
        "(default: $TUNEFARM_LOG, else ~/.local/share/tunefarm/log.db)",
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """`--log` or `--coordinator`, for what reads a log and may ask a coordinator for that."""
    source = parser.add_mutually_exclusive_group()
    add_log(source)
    source.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="ask a running coordinator instead of reading a tuning log",
    )
    add_credentials(parser)


def add_coordinator(parser: argparse.ArgumentParser, inherited: bool = False) -> None:
    """`--coordinator`; ``inherited`` where the command above has it too, so as not to reset it."""
    default = os.environ.get(ADDRESS_ENVIRONMENT, DEFAULT_ADDRESS)
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        default=argparse.SUPPRESS if inherited else default,
        help=f"where the coordinator listens (default: ${ADDRESS_ENVIRONMENT}, "
        f"else {DEFAULT_ADDRESS})",
    )
    add_credentials(parser, inherited)


def add_credentials(parser: argparse.ArgumentParser, inherited: bool = False) -> None:
    """`--credentials`; ``inherited`` as in ``add_coordinator``."""
    parser.add_argument(
        "--credentials",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS if inherited else None,
        help="what enrolling wrote, for a coordinator on another machine (default: none on "
        f"loopback, else ${CREDENTIALS_ENVIRONMENT}, else ~/.config/tunefarm/user.pem, or "
        "agent.pem for an agent)",
    )


def credentials_file(who: str) -> Path:
    """Where the credentials of the ``user`` or the ``agent`` are unless others are named."""
    given = os.environ.get(CREDENTIALS_ENVIRONMENT)
    config_home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(given) if given else Path(config_home) / "tunefarm" / f"{who}.pem"


def credentials(options: argparse.Namespace, who: str = "user") -> Path | None:
    """The credentials to show at `--coordinator`; None where none are needed."""
    if options.credentials is not None:
        return Path(options.credentials)
    if parse_address(options.coordinator).loopback:
        return None
    path = credentials_file(who)
    # Without any, the address is what is complained about, and the ways to get there are named.
    return path if path.exists() or CREDENTIALS_ENVIRONMENT in os.environ else None


def job_spec(options: argparse.Namespace, model: bytes, target_json: str) -> JobSpec:
    """What `add_job`'s options ask for."""
    trials = options.trials or (UNLIMITED_TRIALS if options.until_flat else DEFAULT_TRIALS)
    return JobSpec(
        model_name=options.model.stem,
        model_sha256=sha256_hex(model),
        target_json=target_json,
        trials=trials,
        shapes=dict(options.shape),
        time_limit_s=options.time_limit,
        seed=options.seed,
        cold_cache=options.cache == "cold",
        target_latency_ms=options.target_latency,
        flat_share=options.until_flat,
        canary_drift=options.canary_drift,
        direct_convolutions=options.convolutions == "direct",
        project=options.project,
        submitted_by=user_name(),
    )


def user_name() -> str:
    """Who runs the command, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return UNKNOWN_USER


def add_job(parser: argparse.ArgumentParser) -> None:
    """What describes a job: the model, its shapes and its budget."""
    parser.add_argument("model", metavar="MODEL.onnx", type=Path, help="a trained ONNX model")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=shape,
        metavar="NAME=D,D,…",
        help="fix an input's dimensions, e.g. x=1,3,48,192; needed for dynamic ones, repeatable",
    )
    parser.add_argument(
        "--trials",
        type=positive,
        metavar="N",
        help="stop after N candidates in all; what the log knows already counts (default: "
        f"{DEFAULT_TRIALS}, or no end with --until-flat)",
    )
    parser.add_argument(
        "--time-limit",
        type=duration,
        metavar="TIME",
        help="stop tuning after this long (90s, 10m, 1h30m); earlier runs of the same job count. "
        "Importing before and packaging after come on top. Default: none",
    )
    parser.add_argument(
        "--target-latency",
        type=latency,
        metavar="TIME",
        help="stop tuning when the whole model takes no longer (20ms, 1.5ms); the report says "
        "whether it was reached. Default: none",
    )
    parser.add_argument(
        "--until-flat",
        type=percentage,
        nargs="?",
        const=DEFAULT_FLAT_SHARE,
        metavar="PERCENT",
        help="stop tuning when the last minute made the operators less than this much faster "
        f"(default: {100 * DEFAULT_FLAT_SHARE:g} %%)",
    )
    parser.add_argument(
        "--cache",
        choices=("warm", "cold"),
        default="warm",
        help="caches when times are taken: as the run before left them (warm), or emptied before "
        "every run (cold). The log keeps the two apart (default: warm)",
    )
    parser.add_argument(
        "--canary-drift",
        type=drift,
        metavar="PERCENT",
        help="what is timed while a kernel of known time is off by more than this is timed again. "
        "More is for machines that others disturb all the time; the results are as rough "
        "(default: 15)",
    )
    parser.add_argument(
        "--convolutions",
        choices=("any", "direct"),
        default="any",
        help="how convolutions are computed: by Winograd's algorithm, or two in one kernel, too, "
        "where that is faster and the model's outputs stay right (any), or none but the direct way "
        "(default: any)",
    )
    parser.add_argument(
        "--project",
        type=project,
        default=DEFAULT_PROJECT,
        metavar="NAME",
        help="what the job is for; `tunefarm jobs list --project NAME` shows such jobs only "
        "(default: default)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="of the search and the inputs (default: 0)",
    )
