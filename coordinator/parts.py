"""A job for several kinds of device as one (pure): its state is that of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protos.records import Job, JobSpec, JobState, TrialCounts

_GOING_ON = (JobState.RUNNING, JobState.QUEUED, JobState.PAUSED)
_ENDED = (JobState.FAILED, JobState.INTERRUPTED, JobState.CANCELLED, JobState.DONE)


def joint_state(states: Sequence[JobState]) -> JobState:
    """The first of: some run, wait or are paused; some failed, were interrupted or cancelled; all
    are done."""
    return next(state for state in (*_GOING_ON, *_ENDED) if state in states)


def title(part: Job) -> str:
    """What a part is called among the others: its id and the kind of device that it is for."""
    return f"{part.job_id} ({kind_title(part)})"


def kind_title(job: Job) -> str:
    """The kind of device, or the target, in a few letters."""
    return f"kind {job.spec.devices[0][:8]}" if job.spec.devices else job.spec.target_json


def asked_for(spec: JobSpec) -> str:
    """Which devices a job asked for beside its target, in a line for people."""
    kinds = [f"kind {kind[:8]}" for kind in spec.devices]
    targets = [f"{len(spec.targets)} targets"] if spec.targets else []
    alone = ["exclusive"] if spec.exclusive else []
    return ", ".join((*kinds, *targets, *spec.where, *alone))


def whole(job: Job, parts: Sequence[Job]) -> Job:
    """A job with its parts as they are now, and what follows from them for the whole."""
    if not parts:
        return job
    state = joint_state([part.state for part in parts])
    left = [part.remaining_s for part in parts if not part.state.ended]
    known = [seconds for seconds in left if seconds is not None]
    return replace(
        job,
        parts=tuple(parts),
        state=state,
        stage="" if state.ended else _stage(parts),
        error="; ".join(f"{title(part)}: {part.error}" for part in parts if part.error),
        trials=TrialCounts(
            total=sum(part.trials.total for part in parts),
            ok=sum(part.trials.ok for part in parts),
            failed=sum(part.trials.failed for part in parts),
            from_log=sum(part.trials.from_log for part in parts),
        ),
        elapsed_s=max(part.elapsed_s for part in parts),
        remaining_s=max(known) if known and len(known) == len(left) else None,
    )


def _stage(parts: Sequence[Job]) -> str:
    return "; ".join(f"{title(part)}: {part.stage or part.state.name.lower()}" for part in parts)
