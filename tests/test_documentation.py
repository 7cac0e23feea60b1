"""What a user can name is documented, and what the documents name is there."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.main import parser
from coordinator.tuning_log.schema import metadata
from protos import farm_pb2
from protos.records import JobState, MeasurementStatus

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("protos", "cost_model", "device_agent", "coordinator")
PUNCTUATION = "();<>|&"


def documents() -> list[Path]:
    """Every Markdown file that belongs to the project."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    try:
        listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):  # not a clone, for example a source archive
        return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def for_users() -> list[Path]:
    """Those that a user looks into."""
    return [path for path in documents() if path.name == "README.md" or "docs" in path.parts]


TEXT = "\n".join(path.read_text(encoding="utf-8") for path in for_users())


def says(word: str) -> bool:
    """True if the documents for users have the word, not as a part of a longer one."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", TEXT) is not None


# ------------------------------------------------------------------------- the command


Command = tuple[str, ...]


def commands(
    tree: argparse.ArgumentParser | None = None, names: Command = ()
) -> Iterator[tuple[Command, argparse.ArgumentParser]]:
    """Each command with its parser: () first, then ("tune",), …, ("jobs", "list"), …"""
    tree = tree or parser()
    yield names, tree
    for action in tree._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*names, name))


def options(tree: argparse.ArgumentParser) -> Iterator[str]:
    """The long options of one command that its help shows."""
    for action in tree._actions:
        if action.help is not argparse.SUPPRESS:
            yield from (name for name in action.option_strings if name.startswith("--"))


TREE = dict(commands())
KNOWN = {names: set(tree._option_string_actions) for names, tree in TREE.items()}


@pytest.mark.parametrize("names", [names for names in TREE if names])
def test_every_command_is_documented(names: Command) -> None:
    assert says(f"tunefarm {' '.join(names)}")


@pytest.mark.parametrize("names", TREE)
def test_every_option_is_in_the_reference(names: Command) -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [name for name in options(TREE[names]) if not re.search(rf"`{name}\b", reference)]
    assert not missing, f"docs/cli.md does not mention {missing} of tunefarm {' '.join(names)}"


def code(text: str) -> Iterator[str]:
    """Each line of the code blocks, then each code span, continued lines joined."""
    fence = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", text))


def invocations(line: str) -> Iterator[list[str]]:
    """The arguments of every call of `tunefarm` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # no shell, or only a piece of it
        words = line.split()
    for start, word in enumerate(words):
        if word == "tunefarm" or word.endswith("/tunefarm"):
            rest = words[start + 1 :]
            ends = [i for i, item in enumerate(rest) if item and set(item) <= set(PUNCTUATION)]
            yield rest[: ends[0]] if ends else rest


def unknown_in(arguments: list[str]) -> list[str]:
    """What of a call `tunefarm ARGUMENTS` does not exist."""
    names: Command = ()
    wrong = []
    for word in arguments:
        if word.startswith("--"):
            name = word.partition("=")[0]
            if name not in KNOWN[names]:
                wrong.append(f"{name} of tunefarm {' '.join(names)}")
        elif (*names, word) in TREE:
            names = (*names, word)
        elif not names and re.fullmatch("[a-z]+", word):
            wrong.append(f"tunefarm {word}")
    return wrong


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_call_only_what_exists(path: Path) -> None:
    lines = code(path.read_text(encoding="utf-8"))
    calls = [arguments for line in lines for arguments in invocations(line)]
    assert not [wrong for arguments in calls for wrong in unknown_in(arguments)]


@pytest.mark.parametrize("names", TREE)
def test_the_commands_help_calls_only_what_exists(names: Command) -> None:
    lines = (TREE[names].epilog or "").splitlines()
    calls = [arguments for line in lines for arguments in invocations(line)]
    assert not [wrong for arguments in calls for wrong in unknown_in(arguments)]


def test_options_in_the_reference_exist() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    everything = set().union(*KNOWN.values())
    named = {name for span in code(reference) for name in re.findall(r"(?<![\w-])--[\w-]+", span)}
    assert named <= everything


def test_the_check_itself() -> None:
    text = (
        "Run `tunefarm tune m.onnx --trails 9`:\n```sh\n$ .venv/bin/tunefarm jobs show --jsno\n```"
    )
    calls = [arguments for line in code(text) for arguments in invocations(line)]
    wrong = [wrong for arguments in calls for wrong in unknown_in(arguments)]
    assert sorted(wrong) == ["--jsno of tunefarm jobs show", "--trails of tunefarm tune"]
    assert unknown_in(["tnue", "m.onnx"]) == ["tunefarm tnue"]
    assert unknown_in(["tune", "m.onnx", "--trials=9", "--log", "x"]) == []


# ------------------------------------------------------------------------- names


def sources() -> list[str]:
    return [
        path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def environment_variables() -> list[str]:
    """Every name of ours that stands as a string of its own in the sources."""
    return sorted({name for text in sources() for name in re.findall(r'"(TUNEFARM_\w+)"', text)})


def test_there_are_environment_variables_to_document() -> None:
    assert {"TUNEFARM_LOG", "TUNEFARM_COORDINATOR"} <= set(environment_variables())


@pytest.mark.parametrize("name", environment_variables())
def test_every_environment_variable_is_documented(name: str) -> None:
    assert says(name)


@pytest.mark.parametrize(
    "name",
    [
        rpc.name
        for service in farm_pb2.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    ],
)
def test_every_rpc_is_documented(name: str) -> None:
    assert says(name)


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_every_table_and_column_is_documented(table: object) -> None:
    document = (ROOT / "docs" / "tuning-log.md").read_text(encoding="utf-8")
    assert f"`{table.name}`" in document  # type: ignore[attr-defined]
    columns = [column.name for column in table.columns]  # type: ignore[attr-defined]
    assert not [name for name in columns if f"`{name}`" not in document]


@pytest.mark.parametrize("status", MeasurementStatus, ids=lambda status: status.name)
def test_every_measurement_status_is_documented(status: MeasurementStatus) -> None:
    assert says(status.name)


@pytest.mark.parametrize("state", JobState, ids=lambda state: state.name)
def test_every_job_state_is_documented(state: JobState) -> None:
    assert says(state.name)


def test_the_json_object_is_documented_field_by_field() -> None:
    from coordinator.results.report import report_json
    from protos.records import (
        EngineResult,
        Job,
        JobSpec,
        ModelResult,
        OutputError,
        TaskProgress,
        ThreadResult,
    )

    spec = JobSpec("m", "0" * 64, "{}", trials=1)
    engines = (EngineResult("e", "1"),)
    result = ModelResult(
        *(2.0, 1.0, 0.0, 0.0, "m.whl", "0" * 64, 1),
        engines=engines,
        threads=(ThreadResult("tunefarm", 1, 1.0),),
        outputs=(OutputError("y"),),
        labels={"watts": "2"},
    )
    job = Job("j-1", spec, JobState.DONE, tasks=(TaskProgress("t", "w", 1),), result=result)
    found = {**report_json(job, None, ""), "labels": None}  # whose names are the user's own
    assert not [name for name in _paths(found) if f"`{name}`" not in TEXT]


def test_what_a_report_adds_to_the_json_object_is_documented() -> None:
    from coordinator.results.curve import tuning_json
    from protos.records import History, HistoryRecord, TaskProgress

    record = HistoryRecord(0.0, "w", "c", MeasurementStatus.OK, 1.0, 1.0, "d")
    tuning = tuning_json([TaskProgress("t", "w", 1)], History((record,)))
    tuning["trials_by_status"] = None  # its names are the statuses
    assert not [name for name in _paths({"tuning": tuning}) if f"`{name}`" not in TEXT]


def _paths(value: object, prefix: str = "") -> Iterator[str]:
    """`trials.total`, `tasks[].name`, … of a JSON object with no list but of objects."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _paths(item, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _paths(value[0], f"{prefix}[]")
    else:
        yield prefix


# ------------------------------------------------------------------------- links


def anchors(path: Path) -> set[str]:
    """The names under which a document's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def links(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^()\s]+)\)", prose)


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    dead = []
    for link in links(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        there = target.exists() and target.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_documents_that_the_sources_name_exist() -> None:
    named = {name for text in sources() for name in re.findall(r"docs/[\w./-]+\.md", text)}
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]
