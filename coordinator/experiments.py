"""Experiments of one job: candidates in, measurements out, each of them in the log.

The same bytes are never measured twice on a kind of device: the log, or the twin in the same batch,
answers instead. What does not compile is a measurement too.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.canary import build_canary
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.registry import Session
from coordinator.search.proposer import Proposal
from coordinator.selection import ANY, Selector
from coordinator.stages import StageClock
from coordinator.task_run import TaskRun
from coordinator.tuning_log import TuningLog
from device_agent.build import BuildOutcome
from protos.errors import JobFailed
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    Candidate,
    Device,
    EvaluatorConfig,
    JobSpec,
    KernelWork,
    Measurement,
    MeasurementStatus,
)

EVALUATOR = EvaluatorConfig(
    repeat=2,
    min_repeat_ms=1,
    hopeless_ratio=1.5,
    max_repeat=12,
    max_timing_ms=40,
    contender_ratio=1.1,
    precision=0.02,
    looks=2,
    canary_every=16,
    canary_drift=0.15,
)
"""How a candidate is timed. Two samples, and two more when all others of the lease had theirs,
tell who is no contender: not even the fastest of them is close to the best. A contender gets at
least six, the fewest whose median has a 95 % interval."""


def evaluator_of(spec: JobSpec, device: Device) -> EvaluatorConfig:
    """How the candidates of a job are timed on this device.

    No canary runs on an emulated CPU: it would take seconds, and differ by more than any drift.
    """
    drift = EVALUATOR.canary_drift if spec.canary_drift is None else spec.canary_drift
    computes = bool(device.cpus)  # a replay device only says that it is busy
    return replace(
        EVALUATOR,
        cold_cache=spec.cold_cache,
        canary_drift=drift,
        canary_every=0 if device.emulated and computes else EVALUATOR.canary_every,
    )


@dataclass(frozen=True)
class Lab:
    """What an experiment needs: whose it is, where it is done, and by what.

    ``built_with`` are the versions of the builders' tools, ``selector`` says which devices the job
    asked for.
    """

    job_id: str
    seed: int
    device: Device
    tuning_log: TuningLog
    fleet: Fleet
    builders: Builders
    clock: StageClock
    evaluator: EvaluatorConfig
    built_with: Mapping[str, str] = field(default_factory=dict)
    selector: Selector = ANY

    @property
    def devices_present(self) -> int:
        """How many devices are connected that the job may have."""
        return self.fleet.registry.present(self.device.kind, self.selector)

    @property
    def toolchains(self) -> list[dict[str, str]]:
        """See Registry.toolchains."""
        return self.fleet.registry.toolchains(self.device.kind, self.built_with)

    @property
    def learning_kind(self) -> str:
        """Whose cost model is used and trained: what is fast in warm caches may not be in cold."""
        return self.device.kind + ("-cold" if self.evaluator.cold_cache else "")


class Experiments:
    """Builds and measures candidates. Lives on the coordinator's event loop."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._canary: asyncio.Task[Artifact] | None = None

    async def baseline(self, run: TaskRun) -> Measurement:
        """Measure the task's untuned program."""
        reference = await self.reference(run)
        candidate = Candidate(run.task.workload_key, UNTUNED_TRACE)
        (measurement,) = await self._measure(run, [(candidate, reference, None)])
        return measurement

    async def run(self, run: TaskRun, proposals: Sequence[Proposal]) -> list[Measurement]:
        """Build and measure a batch; the measurements are in the order of the proposals.

        A device that builds what it measures gets the batch; the coordinator's builders do what
        that can't.
        """
        lab = self._lab
        builder = lab.fleet.own_builds.builder(lab.device.kind, lab.selector, lab.built_with)
        results: dict[str, Measurement] = {}
        if builder is not None:
            built = await self._built_by(builder, run, proposals)
            results = await self._experiment(run, built, builder)
        left = [proposal for proposal in proposals if proposal.candidate.key not in results]
        if left:
            with lab.clock.stage("build"):
                outcomes = await asyncio.gather(*(self.build(run, p.candidate) for p in left))
            results |= await self._experiment(run, list(zip(left, outcomes, strict=True)))
        return [results[proposal.candidate.key] for proposal in proposals]

    async def _built_by(
        self, builder: Session, run: TaskRun, proposals: Sequence[Proposal]
    ) -> list[tuple[Proposal, BuildOutcome]]:
        """What a device makes of a batch; without what it does not build."""
        candidates = [proposal.candidate for proposal in proposals]
        with self._lab.clock.stage("build"):
            outcomes = await self._lab.fleet.own_builds.build(
                *(builder, self._lab.job_id, run.task, candidates)
            )
        return [(p, outcomes[p.candidate.key]) for p in proposals if p.candidate.key in outcomes]

    async def _experiment(
        self,
        run: TaskRun,
        built: Sequence[tuple[Proposal, BuildOutcome]],
        builder: Session | None = None,
    ) -> dict[str, Measurement]:
        """Measure what was built, by the candidates' keys. Where ``builder`` built it, that alone
        measures it, and what it can't any more is left out."""
        results: dict[str, Measurement] = {}
        first: dict[str, tuple[Proposal, Artifact]] = {}
        twins: list[tuple[Proposal, str]] = []
        poisonous = await self._lab.fleet.lease_log.poisonous(
            self._lab.device.kind,
            {outcome.artifact.sha256 for _, outcome in built if outcome.artifact is not None},
        )
        for proposal, outcome in built:
            known = await self._known(proposal, outcome, poisonous)
            if known is not None:
                results[proposal.candidate.key] = await self._keep(proposal, known)
            elif outcome.artifact is not None and outcome.artifact.sha256 in first:
                twins.append((proposal, outcome.artifact.sha256))
            elif outcome.artifact is not None:
                first[outcome.artifact.sha256] = (proposal, outcome.artifact)
        trials = [(p.candidate, artifact, p.score) for p, artifact in first.values()]
        made = await self._measure(run, trials, builder=builder) if trials else []
        measured = {measurement.candidate_key: measurement for measurement in made}
        results |= measured
        if builder is not None:
            await self._keep_best(
                run, [(c, measured[c.key]) for c, *_ in trials if c.key in measured]
            )
        else:
            for candidate, artifact, _ in trials:
                run.keep(artifact, measured[candidate.key])
        for proposal, sha256 in twins:
            key = first[sha256][0].candidate.key
            if key in measured:
                twin = _renamed(measured[key], proposal.candidate)
                results[proposal.candidate.key] = await self._keep(proposal, twin)
        return results

    async def _keep_best(
        self, run: TaskRun, measured: Sequence[tuple[Candidate, Measurement]]
    ) -> None:
        """Build here what a device built, if it is its task's best: all devices have to run it."""
        timed = [(made.latency_us, c, made) for c, made in measured if made.latency_us is not None]
        if not timed:
            return
        latency_us, candidate, measurement = min(timed, key=lambda one: one[0])
        if run.best_us is not None and latency_us >= run.best_us:
            return
        outcome = await self.build(run, candidate)
        if outcome.artifact is not None:
            run.keep(outcome.artifact, measurement)

    async def again(
        self,
        run: TaskRun,
        trials: Sequence[tuple[Candidate, Artifact]],
        evaluator: EvaluatorConfig,
    ) -> list[Measurement]:
        """Measure what the log knows once more, under this policy."""
        return await self._measure(run, [(c, artifact, None) for c, artifact in trials], evaluator)

    async def _known(
        self, proposal: Proposal, outcome: BuildOutcome, poisonous: Mapping[str, int]
    ) -> Measurement | None:
        """The measurement that needs no device: a failed build, bytes that the log knows, or such
        as took down too many devices already."""
        if outcome.artifact is None:
            return Measurement(
                proposal.candidate.workload_key,
                proposal.candidate.key,
                outcome.status,
                lease_id=f"build-{uuid.uuid4().hex[:12]}",
                error=outcome.error,
            )
        times = poisonous.get(outcome.artifact.sha256)
        if times is not None:
            return Measurement(
                proposal.candidate.workload_key,
                proposal.candidate.key,
                MeasurementStatus.DEVICE_LOST,
                lease_id=f"poison-{uuid.uuid4().hex[:12]}",
                artifact_sha256=outcome.artifact.sha256,
                error=f"{times} devices vanished with this program; no more of this kind get it",
            )
        lab = self._lab
        known = await asyncio.to_thread(
            lab.tuning_log.measured,
            lab.device.kind,
            outcome.artifact.sha256,
            lab.toolchains,
            lab.evaluator.cold_cache,
        )
        return None if known is None else _renamed(known, proposal.candidate)

    async def build(self, run: TaskRun, candidate: Candidate) -> BuildOutcome:
        """Build a candidate; what the compiler refuses is in the outcome."""
        return await self._lab.builders.build(run.task, candidate, self._lab.device.target_json)

    async def reference(self, run: TaskRun) -> Artifact:
        """The task's untuned program, built once; raises JobFailed if it can't be built."""
        if run.reference is None or run.reference.cancelled():
            run.reference = asyncio.create_task(self._build_reference(run))
        return await run.reference

    async def _build_reference(self, run: TaskRun) -> Artifact:
        with self._lab.clock.stage("build"):
            outcome = await self.build(run, Candidate(run.task.workload_key, UNTUNED_TRACE))
        if outcome.artifact is None:
            raise JobFailed(f"the untuned program of {run.task.name}: {outcome.error}")
        return outcome.artifact

    async def _measure(
        self,
        run: TaskRun,
        trials: Sequence[tuple[Candidate, Artifact, float | None]],
        evaluator: EvaluatorConfig | None = None,
        builder: Session | None = None,
    ) -> list[Measurement]:
        """In the trials' order; if ``builder`` built them, without what that can't measure any
        more."""
        lab = self._lab
        work = KernelWork(
            run.task.workload_key,
            run.task.args,
            run.task.num_outputs,
            lab.seed,
            await self.reference(run),
            evaluator or lab.evaluator,
            (),
            run.best_us or 0.0,
            await self._watcher(),
            run.pacemaker(),
        )
        with lab.clock.stage("measure"):
            if builder is not None:
                measurements = await lab.fleet.measure_own(
                    *(lab.job_id, builder, work, trials, lab.clock, lab.built_with)
                )
            else:
                measurements = await lab.fleet.measure(
                    *(lab.job_id, lab.device.kind, work, trials, lab.clock),
                    built_with=lab.built_with,
                )
        for measurement in measurements:
            if measurement.circumstances is not None:
                lab.clock.add("device busy", measurement.circumstances.busy_s)
        return measurements

    async def _watcher(self) -> Artifact | None:
        """The job's canary, built once; None if the policy asks for none."""
        lab = self._lab
        if not lab.evaluator.canary_every:
            return None
        if self._canary is None or self._canary.cancelled():
            build = build_canary(lab.builders, lab.device.target_json)
            self._canary = asyncio.create_task(build)
        return await self._canary

    async def _keep(self, proposal: Proposal, measurement: Measurement) -> Measurement:
        lab = self._lab
        await asyncio.to_thread(
            lab.tuning_log.record,
            lab.job_id,
            lab.device.kind,
            proposal.candidate,
            measurement,
            proposal.score,
        )
        return measurement


def _renamed(known: Measurement, candidate: Candidate) -> Measurement:
    """What is known of some bytes, under the name of another candidate that builds to them."""
    return replace(
        known,
        workload_key=candidate.workload_key,
        candidate_key=candidate.key,
        lease_id=f"same-{uuid.uuid4().hex[:12]}",
    )
