"""A job on six agents while something breaks every few seconds.

``python -m benchmarks.chaos [--minutes 5] [--seed N] [--without-undisturbed] [--keep FOLDER]``

Four agents are in network namespaces of their own and speak mutual TLS over links that are cut,
delayed and made lossy. All six time real kernels: they are one-core devices of one kind. The four
have the last CPU and a host lock of their own, as other machines have; the other two share the
first CPU and its lock with the builders. An agent is killed, frozen, has its clock moved or its
disk filled; the coordinator is killed and started again; PostgreSQL crashes and is restarted; Ray
workers are killed. A sixth of the candidates is miscompiled all the time
(``benchmarks/chaos/miscompiler.py``): they crash, hang, or are fast and wrong. The same seed has
the same faults at the same moments.

In the end the job must be done, and of these nothing must be there:

lost         what was acknowledged to an agent, and is not in the log
doubled      a measurement that is in the log twice
wrong_wins   a miscompiled program that counts as right
left_behind  a process, or a port on which somebody listens, after all was stopped

``quality_ratio`` is what the operators take after an undisturbed job with as many trials, over what
they take after this one: 1 is as good, and 0.9 a tenth slower. Needs Linux, root, ``ip``,
PostgreSQL and, for the clocks, a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import postgres_server
from benchmarks.chaos import clock, farm, job, ledger
from benchmarks.chaos.disk import NoDisk
from benchmarks.chaos.farm import AGENTS, LINKED, DidNotStart, Surroundings
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.links import NoNamespaces
from benchmarks.chaos.processes import left_behind, marked
from benchmarks.chaos.schedule import Fault, Kind, schedule
from benchmarks.postgres_server import NoPostgres
from benchmarks.process import progress
from benchmarks.result import last_line
from coordinator import ray_runtime
from coordinator.frontend.target import resolve_target
from protos.records import UNLIMITED_TRIALS, Job, JobState

DATABASE = {"fsync": "on", "max_connections": "200"}
EXIT_GRACE_S = 20.0
"""Ray's helpers look for their parent now and then."""

CANT_RUN = 4
"""The exit status where this machine or this user can't do what is needed."""


@dataclass(frozen=True)
class Found:
    """What became of a run. ``left`` is what was left behind; ``calm`` is the undisturbed job."""

    job: Job | None
    faults: dict[str, int]
    ledger: Ledger
    left: tuple[str, ...]
    calm: Job | None


class Diary:
    """What happened when, in seconds since the job was submitted."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.counts: Counter[str] = Counter()

    def say(self, text: str) -> None:
        """Say it now; a fault is counted."""
        progress(f"{time.monotonic() - self.began:7.1f} s  {text}")
        kind = text.partition(":")[0]
        if kind in {kind.value for kind in Kind}:
            self.counts[kind] += 1


@contextlib.contextmanager
def surroundings(
    folder: Path, seed: int, diary: Diary
) -> Iterator[tuple[Surroundings, list[Kind]]]:
    """All that the farm stands on, and the faults that can't be had here."""
    os.environ.update(farm.lock_folder(folder, "coordinator"))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, cpus[:-1] or cpus)  # and so of all that is started from here
        # First, while this process has no gRPC yet.
        stack.enter_context(ray_runtime.running(len(os.sched_getaffinity(0))))
        import ray

        address = str(ray.get_runtime_context().gcs_address)
        without, library = [], None
        try:
            library = clock.build(folder)
        except clock.NoCompiler as error:
            diary.say(f"no clock is moved: {error}")
            without.append(Kind.CLOCK_MOVED)
        made_links, disks = stack.enter_context(farm.machines(folder, seed))
        database = stack.enter_context(postgres_server.running(settings=DATABASE))
        yield (
            Surroundings(
                *(folder, cpus[0], cpus[-1], made_links, disks, database, address, library)
            ),
            without,
        )


def disturbed(
    around: Surroundings, target: str, faults: list[Fault], seconds: float, diary: Diary
) -> tuple[Job | None, Ledger, list[str]]:
    """The job under fire, its ledger, and what could not be stopped."""
    with farm.running(around, "disturbed", target, True, diary.say) as up:
        limit_s = job.TUNING_SHARE * seconds
        job_id = job.submit(up, target, UNLIMITED_TRIALS, limit_s)
        diary.began = time.monotonic()
        ended: Job | None = None
        try:
            ended = job.follow(up, job_id, faults, diary.say)
            diary.say(f"    job: {ended.state.name} {ended.error}")
        except job.DidNotEnd as error:
            diary.say(str(error))
    logs = [agent.process.said for agent in up.agents]
    settled = ledger.settle(ledger.acknowledged(logs), ledger.rows(up.log_url))
    return ended, settled, [*up.not_stopped, *farm.open_ports(up.ports)]


def undisturbed(around: Surroundings, target: str, trials: int, diary: Diary) -> Job:
    """The same job on the same farm, without a fault."""
    with farm.running(around, "undisturbed", target, False, diary.say) as up:
        diary.began = time.monotonic()
        return job.follow(up, job.submit(up, target, trials, None), [], diary.say)


def run(folder: Path, seed: int, seconds: float, compare: bool) -> Found:
    """The benchmark itself."""
    diary = Diary()
    calm: Job | None = None
    with marked() as mark:
        with surroundings(folder, seed, diary) as (around, without):
            target = resolve_target("auto", threads=1)
            faults = schedule(seed, seconds, AGENTS, LINKED, without)
            ended, settled, left = disturbed(around, target, faults, seconds, diary)
            if compare and ended is not None and ended.state is JobState.DONE:
                diary.say("the same job, undisturbed")
                calm = undisturbed(around, target, ended.trials.total, diary)
        left += left_behind(mark, EXIT_GRACE_S)
    return Found(ended, dict(diary.counts), settled, tuple(left), calm)


def operators_us(ended: Job, both: set[str]) -> float:
    """What these operators take together, by their finals."""
    return sum(
        task.weight * task.tuned_us
        for task in ended.tasks
        if task.workload_key in both and task.tuned_us is not None
    )


def quality_ratio(ended: Job, calm: Job) -> float:
    """See the module's docstring; over the operators that both have a time of."""
    timed = [{t.workload_key for t in one.tasks if t.tuned_us is not None} for one in (ended, calm)]
    both = timed[0] & timed[1]
    return operators_us(calm, both) / operators_us(ended, both) if both else 0.0


def figures(found: Found) -> dict[str, float]:
    """The ledger, and what there was of everything."""
    done = found.job is not None and found.job.state is JobState.DONE
    numbers = {
        "lost": len(found.ledger.lost),
        "doubled": len(found.ledger.doubled),
        "wrong_wins": len(found.ledger.wrong_wins),
        "left_behind": len(found.left),
        "not_done": 0 if done else 1,
        "acknowledged": found.ledger.acknowledged,
        "measurements": found.ledger.measurements,
        "faults": sum(found.faults.values()),
    }
    ratio = {}
    if found.job is not None and found.calm is not None:
        ratio = {"quality_ratio": quality_ratio(found.job, found.calm)}
    return {**numbers, **ratio}


MUST_BE_ZERO = ("lost", "doubled", "wrong_wins", "left_behind", "not_done")


def show(found: Found) -> int:
    """Print it; the exit status."""
    numbers = figures(found)
    print("faults: " + ", ".join(f"{kind} {n}" for kind, n in sorted(found.faults.items())))
    print("miscompiled: " + ", ".join(f"{kind} {n}" for kind, n in found.ledger.defects.items()))
    for name, what in (
        ("lost", found.ledger.lost),
        ("doubled", found.ledger.doubled),
        ("wrong win", found.ledger.wrong_wins),
        ("left behind", found.left),
    ):
        for one in what:
            print(f"{name}: {one}")
    if found.job is not None and found.job.state is not JobState.DONE:
        print(f"the job: {found.job.state.name}: {found.job.error}")
    print(last_line("chaos", numbers))
    return int(any(numbers[name] for name in MUST_BE_ZERO))


@contextlib.contextmanager
def working_folder(kept: Path | None) -> Iterator[Path]:
    """A folder for the run's logs and files: this one, which stays, or one that goes."""
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="tunefarm-chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Print what happened and, as the last line, one JSON object; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="in which faults happen (default: 5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument(
        "--without-undisturbed", action="store_true", help="compare with no undisturbed job"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs in a new folder")
    options = parser.parse_args()
    try:
        with working_folder(options.keep) as folder:
            found = run(folder, options.seed, 60 * options.minutes, not options.without_undisturbed)
    except (NoNamespaces, NoDisk, NoPostgres) as error:
        progress(f"this can't be run here: {error}")
        return CANT_RUN
    except DidNotStart as error:
        progress(str(error))
        return 1
    return show(found)


if __name__ == "__main__":
    sys.exit(main())
