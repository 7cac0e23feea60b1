"""Live progress of a job: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coordinator.cli.log_tables import plain
from protos.records import Job, TaskProgress

LINE_INTERVAL_S = 5.0
MAX_TASKS_SHOWN = 12


def model_us(tasks: tuple[TaskProgress, ...]) -> tuple[float, float]:
    """The sum over the operators, weighted: untuned and best so far, microseconds."""
    untuned = sum(t.weight * (t.untuned_us or 0.0) for t in tasks)
    tuned = sum(t.weight * (t.tuned_us or t.untuned_us or 0.0) for t in tasks)
    return untuned, tuned


def summary(job: Job) -> str:
    """One line: trials, best so far, ranking quality, time left."""
    parts = [f"{job.job_id} {job.stage or job.state.name.lower()}"]
    trials = job.trials
    if trials.total:
        of_log = f", {trials.from_log} from the log" if trials.from_log else ""
        parts.append(f"{trials.total} trials ({trials.failed} failed{of_log})")
    untuned, tuned = model_us(job.tasks)
    if tuned:
        parts.append(f"operators {untuned:,.0f} → {tuned:,.0f} µs ({untuned / tuned:.1f}×)")
    if job.ranking is not None:
        quality = job.ranking
        parts.append(
            f"ranking {quality.pairwise:.2f} pairwise, {quality.peak_at_1:.2f} peak@1, "
            f"{quality.peak_at_5:.2f} peak@5"
        )
    if job.remaining_s is not None:
        parts.append(f"{job.remaining_s:.0f} s left")
    return " · ".join(parts)


def _tasks_table(job: Job) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("operator", overflow="ellipsis", max_width=48, no_wrap=True)
    for name in ("weight", "untuned µs", "best µs", "gain", "trials"):
        table.add_column(name, justify="right")

    def cost(task: TaskProgress) -> float:
        return task.weight * (task.tuned_us or task.untuned_us or 0.0)

    for task in sorted(job.tasks, key=cost, reverse=True)[:MAX_TASKS_SHOWN]:
        untuned, best = task.untuned_us, task.tuned_us
        table.add_row(
            plain(task.name),
            str(task.weight),
            f"{untuned:.1f}" if untuned else "…",
            f"{best:.1f}" if best else "…",
            f"{untuned / best:.1f}×" if untuned and best else "",
            str(task.trials),
        )
    if len(job.tasks) > MAX_TASKS_SHOWN:
        table.add_row(Text(f"… and {len(job.tasks) - MAX_TASKS_SHOWN} more"), style="dim")
    return table


class Progress:
    """Use as a context manager; ``update`` with every new state of the job."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._last_line = ""
        self._last_time = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, job: Job) -> None:
        """Show the job as it is now."""
        if self._live is not None:
            body = [plain(summary(one)) for one in job.parts or (job,)]
            if job.tasks:
                self._live.update(Group(*body, _tasks_table(job)), refresh=True)
            else:
                self._live.update(Group(*body), refresh=True)
            return
        line = "\n".join(summary(one) for one in job.parts or (job,))
        due = time.monotonic() - self._last_time >= LINE_INTERVAL_S
        if line != self._last_line and (due or job.state.ended):
            self._console.print(plain(line), soft_wrap=True)
            self._last_line, self._last_time = line, time.monotonic()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(plain(text), soft_wrap=True)
