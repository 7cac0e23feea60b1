"""The command as a user meets it when something is wrong: real processes, exit codes, messages."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx import helper

from coordinator.cli.main import parser
from coordinator.cli.options import job_spec
from coordinator.tuning_log import TuningLog
from protos.records import UNLIMITED_TRIALS, JobSpec
from tests import models
from tests.test_documentation import Command, commands

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60.0

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `tunefarm …` in an empty folder; no outcome may be a traceback."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "coordinator.cli.main", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert "Traceback" not in result.stderr
        return result

    return call


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, every word in the last line of standard error, and nothing for a program."""
    message = result.stderr.strip().splitlines()[-1]
    assert result.returncode == code, result.stderr
    assert message.startswith("tunefarm"), result.stderr
    for word in words:
        assert word in message
    assert result.stdout == ""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(models.small_model())
    return path


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


# ------------------------------------------------------------------------- the model


def test_no_such_file(run: Run) -> None:
    refused(run("tune", "nothing.onnx"), 2, "no such file: nothing.onnx")


def test_a_directory(run: Run, tmp_path: Path) -> None:
    refused(run("tune", tmp_path), 2, "is a directory", "give the .onnx file")


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"PK\x03\x04 and so on")
    refused(run("tune", path), 2, "not an ONNX model", "zip archive", "export to ONNX")


def test_an_open_input(run: Run, tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["picture"], ["y"], "clamp")
    path = tmp_path / "open.onnx"
    path.write_bytes(models.make_model([relu], {"picture": ("n", 3, 8, 8)}, {"y": None}))
    refused(run("tune", path), 2, "'picture'", "(n,3,8,8)", "--shape picture=1,3,8,8")


def test_an_operator_that_can_not_be_imported(run: Run, tmp_path: Path) -> None:
    node = helper.make_node("Wobble", ["x"], ["y"], "wobbly", domain="org.example")
    path = tmp_path / "own.onnx"
    path.write_bytes(models.make_model([node], {"x": (1, 3)}, {"y": (1, 3)}))
    refused(run("tune", path), 2, "org.example.Wobble", "'wobbly'", "export the model without")


def test_a_shape_that_is_not_the_models(run: Run, model: Path) -> None:
    refused(run("tune", model, "--shape", "x=1,3"), 2, "--shape x=1,3", "(4,16)")


# ------------------------------------------------------------------------- reports


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("latest", "--log", "missing.db"), ("no tuning log", "missing.db", "--log")),
        (("latest",), ("no job yet", "tunefarm tune")),
        (("j-nothere",), ("no job 'j-nothere'", "tunefarm jobs list")),
        (("latest", "--html", "nowhere/page.html"), ("nowhere/page.html", "does not exist")),
        (("latest", "--html", "."), ("is a folder",)),
        (("latest", "--html", "/dev/null"), ("/dev/null is no plain file", "give a file")),
    ],
)
def test_a_report_of_what_is_not_there(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    TuningLog.open(str(tmp_path / "log.db")).close()
    refused(run("report", *arguments, TUNEFARM_LOG=str(tmp_path / "log.db")), 2, *words)
    assert not (tmp_path / "missing.db").exists()


def test_a_report_from_the_log(run: Run, tmp_path: Path) -> None:
    log = TuningLog.open(str(tmp_path / "log.db"))
    older, newer = (log.add_job(JobSpec(n, "0" * 64, "{}", 1), "", False) for n in ("old", "new"))
    log.close()
    asked = ("--log", "log.db")
    assert newer.job_id in run("report", "latest", *asked).stdout
    found = run("report", older.job_id, *asked, "--json", "--html", "page.html")
    assert found.returncode == 0
    assert "page.html" in found.stderr
    assert json.loads(found.stdout)["model"] == "old"
    assert older.job_id in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.glob("*page*")] == ["page.html"]


# ------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("raspberry-pi/4b-aarch65", ("unknown target", "raspberry-pi/4b-aarch64", "'auto'")),
        ('{"kind":"llvm","mcpu":"znver44"}', ("LLVM knows no CPU 'znver44'", "znver4")),
        ('{"kind":"cuda"}', ("not supported yet", "'llvm'")),
    ],
)
def test_an_unknown_target(run: Run, model: Path, target: str, words: tuple[str, ...]) -> None:
    refused(run("tune", model, "--target", target), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("agent --coordinatr 127.0.0.1:1", ("--coordinatr", "is it --coordinator?")),
        ("agent --threads 1", ("--threads", "see tunefarm agent --help")),
        ("-v --fast x", ("--fast", "see tunefarm --help")),
        ("agent --name enrol enrol", ("invalid choice: 'enrol'", "enroll")),
        ("-vv nonsense", ("invalid choice: 'nonsense'", "tune")),
        ("tune x.onnx --trails 3", ("unrecognized arguments: --trails 3",)),
    ],
)
def test_an_option_that_there_is_not(run: Run, arguments: str, words: tuple[str, ...]) -> None:
    refused(run(*arguments.split()), 2, *words)


@pytest.mark.parametrize(
    ("option", "value", "how"),
    [
        ("--shape", "x=1,three", "write name=1,3,48,192"),
        ("--shape", "1,3,48,192", "write name=1,3,48,192"),
        ("--shape", "x=1,99999999999999999999", "write name=1,3,48,192"),
        ("--time-limit", "5 minutes", "write 90s, 10m or 1h30m"),
        ("--time-limit", "0s", "longer than nothing"),
        ("--target-latency", "20", "is no latency; write 20ms or 1.5ms"),
        ("--until-flat", "0", "percentage above 0"),
        ("--until-flat", "half", "percentage above 0"),
        ("--canary-drift", "0", "percentage above 0"),
        ("--trials", "0", "whole number from 1"),
        ("--trials", "99999999999", "whole number from 1 to"),
        ("--threads", "-1", "whole number from 1"),
        ("--seed", "-1", "whole number from 0"),
        ("--label", "rack", "is no label; write price-per-hour=0.35"),
        ("--label", "price_per_hour=1", "is no key of a label"),
        ("--label", "rack=3, left", "write up to 63 letters, digits"),
        ("--label", "price-per-hour=free", "no positive number"),
        ("--label", "watts=-7", "no positive number"),
        ("--label", "watts=inf", "no positive number"),
    ],
)
def test_a_malformed_option(
    capsys: pytest.CaptureFixture[str], option: str, value: str, how: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["tune", "model.onnx", f"{option}={value}"])
    message = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert option in message
    assert how in message


@pytest.mark.parametrize("command", [("tune", "model.onnx"), ("agent",)])
def test_labels_are_collected_and_none_is_given_twice(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    given = ("--label", "rack=3", "--label", "watts=7.5")
    assert parser().parse_args(command).label == {}
    assert parser().parse_args([*command, *given]).label == {"rack": "3", "watts": "7.5"}
    assert parser().parse_args(command).label == {}
    many = [part for i in range(17) for part in ("--label", f"l{i}=x")]
    for arguments, words in (((*given, "--label", "rack=4"), "rack is given twice"), (many, "16")):
        with pytest.raises(SystemExit):
            parser().parse_args([*command, *arguments])
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_what_ends_a_job() -> None:
    def spec(*arguments: str) -> JobSpec:
        return job_spec(parser().parse_args(["tune", "m.onnx", *arguments]), b"", "{}")

    assert spec().trials == 1000
    assert spec("--target-latency", "1.5ms").target_latency_ms == 1.5
    assert spec("--until-flat").trials == UNLIMITED_TRIALS
    assert spec("--until-flat").flat_share == 0.01
    both = spec("--until-flat", "0.5%", "--trials", "50")
    assert (both.flat_share, both.trials) == (0.005, 50)


def test_a_malformed_option_in_a_process(run: Run) -> None:
    result = run("tune", "model.onnx", "--time-limit", "soon")
    refused(result, 2, "--time-limit", "'soon' is no duration; write 90s, 10m or 1h30m")
    assert result.stderr.startswith("usage: tunefarm tune")


def test_no_command(run: Run) -> None:
    refused(run(), 2, "COMMAND")


@pytest.mark.parametrize(
    "arguments",
    [
        ("agent", "--coordinator", "192.0.2.1:7411"),
        ("devices", "--coordinator", "192.0.2.1:7411"),
        ("jobs", "--coordinator", "192.0.2.1:7411", "list"),
    ],
)
def test_other_machines_need_mutual_tls(run: Run, arguments: tuple[str, ...]) -> None:
    address = arguments[2].partition(":")[0]
    refused(run(*arguments), 2, address, "mutual TLS", "tunefarm enroll", "ssh -L")


def test_there_is_no_plain_text_port_for_other_machines(run: Run) -> None:
    arguments = ("serve", "--listen", "0.0.0.0:7411")
    refused(run(*arguments), 2, "0.0.0.0", "not a loopback address", "--listen-tls")


def test_an_address_that_is_none(run: Run) -> None:
    refused(run("devices", "--coordinator", "here"), 2, "'here'", "127.0.0.1:7411")


def test_an_agent_whose_cpus_do_not_exist(run: Run) -> None:
    refused(run("agent", "--cpus", "4000"), 2, "4000", "not among those this process may use")


def test_a_target_to_submit_for_that_is_no_json(run: Run, model: Path, closed_port: str) -> None:
    result = run("submit", model, "--target", "{'kind'", "--coordinator", closed_port)
    refused(result, 2, "not valid JSON", "--device")


# ------------------------------------------------------------------------- the farm


@pytest.mark.parametrize("arguments", [("jobs", "list"), ("jobs", "show", "j-1"), ("devices",)])
def test_no_coordinator(run: Run, closed_port: str, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--coordinator", closed_port)
    refused(result, 3, "no coordinator answers", closed_port, "tunefarm serve")


def test_the_coordinators_address_from_the_environment(run: Run, closed_port: str) -> None:
    refused(run("jobs", TUNEFARM_COORDINATOR=closed_port), 3, closed_port)


def test_the_coordinators_address_before_the_verb(run: Run, closed_port: str) -> None:
    refused(run("jobs", "--coordinator", closed_port, "list"), 3, closed_port)


# ------------------------------------------------------------------------- the log


@pytest.mark.parametrize("command", [("tune", "small.onnx"), ("serve",), ("log", "upgrade")])
def test_a_log_that_is_no_database(
    run: Run, tmp_path: Path, model: Path, command: tuple[str, ...]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    refused(run(*command, "--log", path), 3, "notes.txt", "not a database")
    assert path.read_text() == "no database " * 100


def test_a_log_on_a_server_of_another_kind(run: Run, model: Path) -> None:
    result = run("tune", model, "--log", "mysql://me:secret@db/farm")
    refused(result, 2, "'mysql'", "postgresql://")
    assert "secret" not in result.stderr


def test_upgrading_a_log_that_is_current(run: Run, tmp_path: Path) -> None:
    result = run("log", "upgrade", TUNEFARM_LOG=str(tmp_path / "new" / "log.db"))
    assert result.returncode == 0, result.stderr
    assert "log.db is at this version's schema" in result.stdout


# ------------------------------------------------------------------------- help


@pytest.mark.parametrize("names", [names for names, _ in commands()], ids=" ".join)
def test_help(names: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*names, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    usage, _, rest = shown.partition("\n\n")
    assert usage.startswith(f"usage: {' '.join(('tunefarm', *names))}")
    assert not rest.startswith(("options:", "positional arguments:")), "no description"


def test_help_and_version_in_a_process(run: Run) -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert "tunefarm tune model.onnx" in shown.stdout
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("tunefarm 0.")
