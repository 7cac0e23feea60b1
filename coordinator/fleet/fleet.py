"""What a job sees of the devices: hand over trials, get measurements.

Trials wait in batches and go to devices in leases (``queue``); results come up through
``received``. A lease is in the tuning log before it is sent (``lease_log``), and every result
before it is acknowledged and before the job sees it. A device that vanishes gives its trials back,
and a suspect measurement is made again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from coordinator.fleet.answers import check_measurement, check_model_measurement
from coordinator.fleet.late_results import LateResults
from coordinator.fleet.lease_log import LOSSES_OF_POISON, LeaseLog, with_tools
from coordinator.fleet.leases import Batch, Outstanding, PendingTrial
from coordinator.fleet.medic import Medic
from coordinator.fleet.own_builds import OwnBuilds
from coordinator.fleet.queue import BuilderGoneError, Queue
from coordinator.fleet.registry import SILENCE_S, Registry, Session
from coordinator.fleet.set_aside import SIBLINGS
from coordinator.selection import Selector
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.devices import Hold, forget, hold, holds, release
from coordinator.tuning_log.group_commit import GroupCommit
from protos.errors import Conflict, JobFailed, LogUnavailable, NotFound
from protos.identity import Identity
from protos.records import (
    UNTUNED_TRACE,
    Acknowledgement,
    Artifact,
    CancelLease,
    Candidate,
    Device,
    DeviceAction,
    DeviceState,
    KernelWork,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    ModelWork,
)

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""A trial that was leased this often, and lost its device or was suspect, is not sent again."""

HEALTH_CHECK = "health check"
"""In place of a job's id. What a device measures for it is not kept."""

LOG_PAUSE_S = 1.0
"""Before a log that was away is tried again."""

CLEANING_S = 600.0
"""Between two looks for leases in the log that nobody will ask for any more."""


class Fleet:
    """The devices of this coordinator. Lives on its event loop."""

    def __init__(self, tuning_log: TuningLog, power_cycle: tuple[str, ...] = ()) -> None:
        """``power_cycle`` is the command that switches a device off and on, if there is one."""
        self.registry = Registry()
        self.medic = Medic(tuning_log, self.registry, self._check_health, power_cycle)
        self._last_work: dict[str, KernelWork] = {}  # by kind of device: for health checks
        self._log = tuning_log
        self._commits = GroupCommit(tuning_log)
        self.queue = Queue(self.registry)
        self.own_builds = OwnBuilds(self.registry)
        self.lease_log = LeaseLog(tuning_log, self._commits)
        self.late_results = LateResults(self.registry, self.lease_log)
        self._vanished: dict[str, list[Outstanding]] = {}  # by device: what was on it

    # ------------------------------------------------------------- the job's side

    async def device_for(self, wanted: Selector | str) -> Device:
        """A connected device that matches, or has just this target; waits for one."""
        selector = Selector(wanted) if isinstance(wanted, str) else wanted
        while True:
            devices = self.registry.matching(selector)
            if devices:
                return devices[0]
            await self.registry.wait_for_change()

    async def measure(
        self,
        job_id: str,
        kind: str,
        work: KernelWork,
        trials: Sequence[tuple[Candidate, Artifact, float | None]],
        clock: StageClock,
        kept: bool = True,
        built_with: Mapping[str, str] | None = None,
    ) -> list[Measurement]:
        """Measure candidates (artifact and predicted score with each) on devices of one kind.

        ``built_with`` are the tools of those who built them. What sending them takes is on
        ``clock`` as the stage ``transfer``. Measurements that are not ``kept`` are not written into
        the log.
        """
        if kept:
            self._last_work[kind] = work
        batch = Batch(
            *(job_id, kind, work, _pending(trials), clock), kept=kept, built_with=built_with or {}
        )
        results = [trial.result for trial in batch.waiting]
        batch_id = self.queue.add(batch)
        try:
            return list(await asyncio.gather(*results))
        finally:
            self.queue.drop(batch_id)

    async def measure_own(
        self,
        job_id: str,
        builder: Session,
        work: KernelWork,
        trials: Sequence[tuple[Candidate, Artifact, float | None]],
        clock: StageClock,
        built_with: Mapping[str, str],
    ) -> list[Measurement]:
        """As ``measure``, on the device that built them; without those that it can't make because
        it is gone or gets no work now."""
        batch = Batch(
            *(job_id, builder.device.kind, work, _pending(trials), clock),
            built_with=built_with,
            builder=builder,
        )
        results = [trial.result for trial in batch.waiting]
        batch_id = self.queue.add(batch)
        try:
            answers = await asyncio.gather(*results, return_exceptions=True)
        finally:
            self.queue.drop(batch_id)
        made = []
        for answer in answers:
            if isinstance(answer, Measurement):
                made.append(answer)
            elif not isinstance(answer, BuilderGoneError):
                raise answer
        return made

    async def measure_model(self, job_id: str, kind: str, work: ModelWork) -> ModelMeasurement:
        """Check and time variants of a whole model in one run on one device of this kind.

        Raises JobFailed if no device could do it.
        """
        result: asyncio.Future[ModelMeasurement] = asyncio.get_running_loop().create_future()
        batch_id = self.queue.add(Batch(job_id, kind, work, model_result=result, model_waits=True))
        try:
            return await result
        finally:
            self.queue.drop(batch_id)

    # ------------------------------------------------------------- leases

    async def keep(self, lease_id: str) -> bool:
        """A lease is about to be sent: keep it in the log, as soon as that is there; False if
        nobody waits for it any more."""
        while (held := self.queue.leases.held(lease_id)) is not None:
            try:
                await self.lease_log.keep(held)
            except LogUnavailable as error:
                log.warning("lease %s is not sent yet: %s", lease_id, error)
                await asyncio.sleep(LOG_PAUSE_S)
            else:
                return self.queue.leases.held(lease_id) is held
        return False

    async def _give_back(self, held: Outstanding, why: str, besides: Collection[str] = ()) -> None:
        """Put the trials of a lost lease, ``besides`` these, back in front, or give them up after
        MAX_ATTEMPTS."""
        if held.batch.health_check:
            for trial in held.trials.values():
                if not trial.result.done():
                    trial.result.set_result(_lost(held, trial, why))
            return
        if held.batch.model_result is not None:
            self._retry_model(held, why)
        lost = [
            trial
            for key, trial in held.trials.items()
            if key not in besides and not trial.result.done()
        ]
        held.batch.waiting[:0] = [trial for trial in lost if trial.attempts < MAX_ATTEMPTS]
        for trial in lost:
            if trial.attempts >= MAX_ATTEMPTS:
                await self._give_up(held, trial, why)

    async def _blame(self, held: Outstanding, why: str) -> None:
        """A device vanished with this lease. What was on it is leased once more, each program in a
        lease of its own so that the next loss has one culprit, unless it is poison by now."""
        suspects = {
            key: trial
            for key, trial in held.trials.items()
            if key not in held.suspect and not trial.result.done()
        }
        device = held.session.device.name
        self._vanished.setdefault(device, []).append(held)
        times: dict[str, int] = {}
        if held.batch.kept and suspects:
            programs = {trial.artifact.sha256 for trial in suspects.values()}
            try:
                times = await self.lease_log.lost(held, programs)
            except LogUnavailable as error:
                log.warning("who took down %s is not noted: %s", device, error)
        poison = False
        for trial in suspects.values():
            if trial.result.done():  # nobody waits for it any more
                continue
            trial.lost_with.append((device, held.lease.lease_id))
            count = times.get(trial.artifact.sha256, 0)
            poison = poison or count >= LOSSES_OF_POISON
            if count >= LOSSES_OF_POISON:
                for name, lease_id in trial.lost_with:
                    self.medic.absolve(name, [lease_id])
            if count >= LOSSES_OF_POISON or trial.attempts >= MAX_ATTEMPTS:
                await self._give_up(held, trial, f"{count} devices vanished with it; now: {why}")
            elif trial.alone:
                held.batch.waiting.append(trial)
            else:
                self.queue.set_apart(held.batch, trial)
        await self._give_back(held, why, besides=suspects)
        if not poison:
            await self.medic.failed(held.session, held.lease.lease_id, why)

    @staticmethod
    def _retry_model(held: Outstanding, why: str) -> None:
        result = held.batch.model_result
        if result is None or result.done():
            return
        if held.batch.model_attempts < MAX_ATTEMPTS:
            held.batch.model_waits = True
            return
        result.set_exception(JobFailed(f"the whole model could not be measured: {why}"))

    async def _give_up(self, held: Outstanding, trial: PendingTrial, why: str) -> None:
        why = f"leased {trial.attempts} times: {why}"
        try:
            await self._record(held, [(trial, _lost(held, trial, why))])
        except LogUnavailable as error:
            log.warning("candidate %s is leased once more: %s", trial.candidate.key[:12], error)
            held.batch.waiting.append(trial)

    # ------------------------------------------------------------- what agents say

    async def joined(self, session: Session) -> None:
        """A device is there."""
        await asyncio.to_thread(self._log.upsert_device, session.device)
        self.medic.joined(session.device.name)
        await self._absolve(session)
        self.queue.dispatch()

    async def _absolve(self, session: Session) -> None:
        """If it is the process that was here before, what was on it then did it no harm: it was the
        network that went."""
        before = self._vanished.get(session.device.name, [])
        same = [held for held in before if held.session.instance == session.instance]
        if same and session.instance:
            lease_ids = [held.lease.lease_id for held in same]
            await self.lease_log.absolve(lease_ids)
            self.medic.absolve(session.device.name, lease_ids)
            for held in same:
                for trial in held.trials.values():
                    trial.attempts -= not trial.result.done()
        self._vanished.pop(session.device.name, None)

    async def left(self, session: Session, why: str, blameless: bool = False) -> None:
        """A device is gone: what it held goes to others. ``blameless``: none of that was why."""
        blameless = blameless or session.said_goodbye
        self.registry.leave(session, why)
        self.own_builds.left(session)
        if not blameless:
            self.medic.vanished(session.device)
        await self._take_back(session, why, blameless)
        self.queue.dispatch()

    async def control(self, name: str, action: DeviceAction, reason: str, who: str) -> None:
        """What people do with a device; durable on return.

        Raises NotFound for one that was never seen, Conflict to forget one that is here.
        """
        known = {device.name for device in await asyncio.to_thread(self._log.devices)}
        session = self.registry.session_of(name)
        if session is None and name not in known:
            raise NotFound(f"no device named {name!r} was ever seen; see `tunefarm devices`")
        if action is DeviceAction.FORGET and session is not None:
            raise Conflict(f"{name} is connected; stop its agent before it is forgotten")
        held = None
        if action in (DeviceAction.DRAIN, DeviceAction.QUARANTINE):
            drains = action is DeviceAction.DRAIN
            state = DeviceState.DRAINED if drains else DeviceState.QUARANTINED
            held = Hold(state, reason, who)

        def write() -> None:
            with self._log.writing() as connection:
                if held is not None:
                    hold(connection, name, held)
                elif action is DeviceAction.FORGET:
                    forget(connection, name)
                else:
                    release(connection, name)

        await asyncio.to_thread(write)
        self.registry.decide(name, held)
        log.warning(
            "device %s: %s by %s: %s", name, action.name.lower(), who, reason or "no reason"
        )
        if action is DeviceAction.FORGET:
            self._vanished.pop(name, None)
            self.registry.forget(name)
            self.medic.forget(name)
        elif action is DeviceAction.QUARANTINE and session is not None:
            await self._take_back(session, f"{name} was quarantined", blameless=True)
        self.queue.dispatch()

    async def _take_back(self, session: Session, why: str, blameless: bool = False) -> None:
        """What a device holds goes to others; ``blameless``: that was no attempt."""
        for index, lease_id in enumerate(list(session.leases)):
            held = self.queue.leases.end(lease_id)
            if held is None:
                continue
            log.warning("job %s: lease %s lost: %s", held.batch.job_id, lease_id, why)
            session.outbox.put_nowait(CancelLease(lease_id))
            if blameless or index > 0:  # a device does one lease after the other
                for trial in held.trials.values():
                    trial.attempts -= 1
                await self._give_back(held, why)
            else:
                await self._blame(held, why)

    async def load_holds(self) -> None:
        """Know what was decided of devices before this coordinator was started."""

        def read() -> dict[str, Hold]:
            with self._log.reading() as connection:
                return holds(connection)

        for name, held in (await asyncio.to_thread(read)).items():
            self.registry.decide(name, held)

    async def expel(self, is_good: Callable[[Identity], bool]) -> None:
        """End the sessions of those who are not good any more; what they held goes to others."""
        for session in list(self.registry.sessions.values()):
            if session.identity is not None and not is_good(session.identity):
                session.outbox.put_nowait(None)
                await self.left(session, "its certificate has ended or was revoked", blameless=True)

    async def received(self, session: Session, measurements: Sequence[Measurement]) -> None:
        """Results from a device: into the log, then acknowledged, then to the job. Raises
        ProtocolViolation, with nothing done, for one that can't be of its lease.

        Late ones are welcome: of a lease that has expired, of a session before the present one, or
        of one that another coordinator of this log gave; but none of a device that is quarantined.
        """
        device = session.device.name
        quarantined = self.registry.is_quarantined(device)
        by_lease: dict[str, list[Measurement]] = {}
        for measurement in measurements:
            by_lease.setdefault(measurement.lease_id, []).append(measurement)
        for lease_id, results in by_lease.items():
            held = self.queue.leases.known(lease_id)
            if held is not None and held.session.device.name == device and not quarantined:
                known = [(held.trials.get(result.candidate_key), result) for result in results]
                for trial, result in known:
                    if trial is not None:
                        artifact = trial.artifact.sha256
                        check_measurement(device, artifact, result, session.device.emulated)
                await self._record(held, [(trial, result) for trial, result in known if trial])
            else:
                late = None
                if not quarantined:
                    late = await self.lease_log.record_late(lease_id, device, results)
                if late is None:
                    session.outbox.put_nowait(CancelLease(lease_id))
                    continue
                self.late_results.came(*late)
            for result in results:
                session.outbox.put_nowait(Acknowledgement(lease_id, result.candidate_key))

    async def _record(
        self, held: Outstanding, results: Sequence[tuple[PendingTrial, Measurement]]
    ) -> None:
        kind = held.session.device.kind
        results = [(trial, with_tools(result, held.batch.built_with)) for trial, result in results]
        rows = [
            (held.batch.job_id, kind, trial.candidate, result, trial.predicted_score)
            for trial, result in results
        ]
        if held.batch.kept:
            await self._commits.record(rows)
        for trial, result in results:
            again = result.status is MeasurementStatus.SUSPECT and not held.batch.health_check
            if again and self._goes_on(held, trial):
                held.suspect.add(trial.candidate.key)  # leased again when this lease ends
            elif not trial.result.done():
                trial.result.set_result(result)

    def _goes_on(self, held: Outstanding, trial: PendingTrial) -> bool:
        """Whether a trial whose measurement is suspect is, or will be, measured once more."""
        return trial.attempts < MAX_ATTEMPTS or not self.queue.leases.held(held.lease.lease_id)

    async def received_model(self, session: Session, measurement: ModelMeasurement) -> None:
        """The result of a whole-model run."""
        held = self.queue.leases.held(measurement.lease_id)
        if held is None or held.session is not session or held.batch.model_result is None:
            session.outbox.put_nowait(CancelLease(measurement.lease_id))
            return
        assert held.lease.model is not None
        check_model_measurement(session.device, held.lease.model, measurement)
        if not held.batch.model_result.done():
            held.batch.model_result.set_result(measurement)
        session.outbox.put_nowait(Acknowledgement(measurement.lease_id))

    async def finished(self, session: Session, message: LeaseFinished) -> None:
        """A device is done with a lease, or says that it can't do it; said again, it changes
        nothing."""
        if self.own_builds.finished(session, message):
            return
        self.lease_log.ended(message.lease_id, session.device.name)
        held = self.queue.leases.known(message.lease_id)
        if held is None or held.session is not session or held.said_finished:
            return
        held.said_finished = True
        self._judge(held, message)
        if self.queue.leases.end(message.lease_id) is None:  # its last result ended its batch
            return
        if message.error:
            self.registry.note_error(session.device.name, message.error)
            log.warning(
                "lease %s refused by %s: %s", message.lease_id, session.device.name, message
            )
            if message.canary_ratio is None:
                held.batch.rest(session)
        await self._give_back(held, message.error or "the lease ended without its results")
        if message.error and message.canary_ratio is None and not held.batch.health_check:
            await self.medic.failed(session, message.lease_id, message.error)
        self.queue.dispatch()

    async def _check_health(self, session: Session) -> str:
        """Have a device measure what is known to be right; what is wrong with it, or nothing."""
        work = self._last_work.get(session.device.kind)
        if work is None:  # nothing was measured since this coordinator was started
            return ""
        result: asyncio.Future[Measurement] = asyncio.get_running_loop().create_future()
        untuned = Candidate(work.workload_key, UNTUNED_TRACE)
        trial = PendingTrial(untuned, work.reference, None, result)
        batch = Batch(HEALTH_CHECK, session.device.kind, work, [trial], kept=False)
        batch.health_check = True
        self.queue.lease(batch, session, 1)
        measurement = await result
        if measurement.status is MeasurementStatus.OK:
            return ""
        return f"health check: {measurement.status.name}: {measurement.error}"

    def _judge(self, held: Outstanding, message: LeaseFinished) -> None:
        """Take in what the lease's canary said of the device."""
        kernel, ratio = held.lease.kernel, message.canary_ratio
        if kernel is None or ratio is None:
            return
        drifts = kernel.evaluator.drifts(ratio)
        device = held.session.device
        odd = None
        if kernel.canary is not None and message.canary_s is not None and not drifts:
            odd = self.registry.canary_took(device, kernel.canary.sha256, message.canary_s)
        if odd is None or not kernel.evaluator.drifts(odd):  # a job may take times to be rough
            self.registry.lease_ended(device.name, ratio, drifts)
        else:
            self.registry.lease_ended(device.name, odd, True, SIBLINGS)
        if drifts and message.error:  # a trial that was not begun has not been tried
            for key, trial in held.trials.items():
                trial.attempts -= key not in held.suspect and not trial.result.done()

    async def reap(self) -> None:
        """Once a second: end silent sessions, take back expired leases.

        Goes on when the log is unavailable for a while; nobody else would notice a lost device.
        """
        cleaned = -CLEANING_S
        while True:
            await asyncio.sleep(1.0)
            try:
                await self._reap_once()
                if time.monotonic() > cleaned + CLEANING_S:
                    cleaned = time.monotonic()
                    await self.lease_log.drop_old()
            except LogUnavailable as error:
                log.warning("while looking for lost devices: %s", error)

    async def _reap_once(self) -> None:
        for session in list(self.registry.sessions.values()):
            if session.silent:
                session.outbox.put_nowait(None)
                await self.left(session, f"nothing heard for {SILENCE_S:.0f} s")
        now = time.monotonic()
        for held in self.queue.leases:
            if now > held.deadline:
                held.session.outbox.put_nowait(CancelLease(held.lease.lease_id))
                self.queue.leases.end(held.lease.lease_id)
                why = f"no result after {held.lease.expires_s:.0f} s"
                held.batch.rest(held.session)
                await self._give_back(held, why)
                if not held.batch.health_check:
                    await self.medic.failed(held.session, held.lease.lease_id, why)
        self.medic.look()
        self.queue.abandon_builds()
        self.queue.dispatch()


def _pending(
    trials: Sequence[tuple[Candidate, Artifact, float | None]],
) -> list[PendingTrial]:
    create = asyncio.get_running_loop().create_future
    return [
        PendingTrial(candidate, artifact, score, create()) for candidate, artifact, score in trials
    ]


def _lost(held: Outstanding, trial: PendingTrial, why: str) -> Measurement:
    return Measurement(
        trial.candidate.workload_key,
        trial.candidate.key,
        MeasurementStatus.DEVICE_LOST,
        lease_id=held.lease.lease_id,
        artifact_sha256=trial.artifact.sha256,
        error=why,
    )
