"""Tables for people, on standard output."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
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


def _table(name: str, *columns: str) -> Table:
    """``name`` is what people copy: it is never folded."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "state")
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
    """One line a device."""
    watched = any(s.canary_s for s in statuses)
    table = _table(
        *("device", "state", "CPU", "threads", "CPUs", "measurements", "kind", "target"),
        *("labels", *(("canary",) if watched else ()), "last error"),
        *(("kernels not kept from",) if any(s.device.not_enforced for s in statuses) else ()),
    )
    for status in statuses:
        device = status.device
        table.add_row(
            plain(device.name),
            status.state.name.lower() + (" (emulated)" if device.emulated else ""),
            plain(", ".join(dict.fromkeys(filter(None, (device.board, device.cpu_model))))),
            str(device.num_threads),
            ",".join(map(str, device.cpus)),
            str(status.measurements),
            plain(status.kind[:8]),
            plain(device.target_json),
            plain(labels_text(device.labels)),
            *((_canary(status),) if watched else ()),
            plain(status.last_error),
            *((plain(", ".join(device.not_enforced)),) if device.not_enforced else ()),
        )
    _print(table, "no device has connected yet; start one: tunefarm agent")
