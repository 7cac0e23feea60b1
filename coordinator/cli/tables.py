"""Tables for people, on standard output."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cli.log_tables import plain
from coordinator.parts import asked_for
from protos.labels import labels_text
from protos.records import DeviceEvent, DeviceStatus, Job

if TYPE_CHECKING:
    from coordinator.tuning_log.identities import KnownCertificate, OpenToken
    from coordinator.tuning_log.users import User


def _print(table: Table, nothing: str) -> None:
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print(nothing)


_NARROW = ("state", "kind", "measurements")
"""Columns that are never folded."""


def _table(name: str, *columns: str) -> Table:
    """``name`` is what people copy: it is never folded."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _NARROW)
    return table


def jobs_table(jobs: Sequence[Job]) -> None:
    """One line a job, and one for each part below it. What users typed is shown as it is, never as
    markup."""
    chosen = any(asked_for(job.spec) for job in jobs)
    table = _table(
        *("job", "model", "state", "submitted", "by", "project", "priority", "trials"),
        *("untuned", "tuned", *(("for",) if chosen else ()), "note"),
    )
    for job in jobs:
        table.add_row(*_job_row(job, job.job_id, chosen))
        for part in job.parts:
            table.add_row(*_job_row(part, f"  {part.job_id}", chosen))
    _print(table, "no jobs yet; submit one: tunefarm submit MODEL.onnx")


def _job_row(job: Job, name: str, chosen: bool) -> list[Text]:
    when = datetime.datetime.fromtimestamp(job.submitted_at).isoformat(" ", "minutes")
    result = job.result
    cells = [
        *(name, job.spec.model_name, job.state.name.lower(), when, job.spec.submitted_by),
        *(job.spec.project, job.spec.priority.name.lower()),
        f"{job.trials.total} ({job.trials.failed} failed)",
        f"{result.untuned_ms:.3f} ms" if result else "",
        f"{result.tuned_ms:.3f} ms" if result else "",
        *((asked_for(job.spec),) if chosen else ()),
        "" if job.parts else job.error or job.stage,
    ]
    return [plain(cell) for cell in cells]


def identities_table(
    certificates: Sequence[KnownCertificate], tokens: Sequence[OpenToken], now: float
) -> None:
    """One line a certificate or token; ``now`` in seconds since 1970."""
    table = _table("name", "role", "state", "until", "since", "serial")
    for token in tokens:
        table.add_row(
            plain(token.name), token.role.value, "token not used", _when(token.expires_at)
        )
    for found in certificates:
        state = "good" if found.expires_at > now else "ended"
        if found.revoked_at is not None:
            state = f"revoked {_when(found.revoked_at)}"
        table.add_row(
            plain(found.identity.name),
            found.identity.role.value,
            state,
            _when(found.expires_at),
            _when(found.issued_at),
            found.identity.serial,
        )
    _print(table, "nobody is known yet; let somebody in: tunefarm ca token NAME --role agent")


def users_table(users: Sequence[User]) -> None:
    """One line a user."""
    table = _table("user", "jobs", "running at a time", "highest priority")
    for user in users:
        most, highest = user.quota.max_running, user.quota.highest_priority
        table.add_row(
            plain(user.name),
            str(user.jobs),
            "any" if most is None else str(most),
            "any" if highest is None else highest.name.lower(),
        )
    _print(table, "no user yet: whoever submits a job becomes one")


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "minutes")


def events_table(events: Sequence[DeviceEvent]) -> None:
    """One line an event, newest first."""
    table = _table("when", "device", "what", "why")
    for event in events:
        when = datetime.datetime.fromtimestamp(event.happened_at).isoformat(" ", "seconds")
        table.add_row(when, plain(event.device), plain(event.step), plain(event.text))
    _print(table, "no device has failed")


def _canary(status: DeviceStatus) -> str:
    """What the canary takes on the device, and usually on its kind."""
    if status.canary_s is None:
        return ""
    own = f"{status.canary_s * 1e3:.3f} ms"
    return own if status.siblings_s is None else f"{own} (usually {status.siblings_s * 1e3:.3f})"


def devices_table(statuses: Sequence[DeviceStatus]) -> None:
    """One line a device; then what is to be said of some of them, and what those of one kind have
    in common."""
    shown: list[tuple[str, Callable[[DeviceStatus], str]]] = [
        ("state", _state),
        ("kind", lambda status: status.kind[:8]),
        ("CPUs", lambda status: ",".join(map(str, status.device.cpus))),
        ("measurements", lambda status: str(status.measurements)),
        ("labels", lambda status: labels_text(status.device.labels)),
        ("canary", _canary),
    ]
    shown = [(name, tell) for name, tell in shown if any(map(tell, statuses))]
    table = _table("device", *(name for name, _ in shown))
    for status in statuses:
        table.add_row(plain(status.device.name), *(plain(tell(status)) for _, tell in shown))
    _print(table, "no device has connected yet; start one: tunefarm agent")
    for heading, tell in (
        ("last error", lambda status: status.last_error),
        ("kernels not kept from", lambda status: ", ".join(status.device.not_enforced)),
    ):
        told = [(status.device.name, tell(status)) for status in statuses if tell(status)]
        if told:
            table = _table("device", heading)
            for name, text in told:
                table.add_row(plain(name), plain(text))
            print()
            _print(table, "")
    if statuses:
        print()
        _print(_kinds_table(statuses), "")


def _state(status: DeviceStatus) -> str:
    return status.state.name.lower() + (" (emulated)" if status.device.emulated else "")


def _kinds_table(statuses: Sequence[DeviceStatus]) -> Table:
    table = _table("kind", "devices", "CPU", "threads", "target")
    of_kind = Counter(status.kind for status in statuses)
    for kind, device in {status.kind: status.device for status in statuses}.items():
        table.add_row(
            plain(kind[:8]),
            str(of_kind[kind]),
            plain(", ".join(dict.fromkeys(filter(None, (device.board, device.cpu_model))))),
            str(device.num_threads),
            plain(device.target_json),
        )
    return table
