"""The tuning log: the only state that outlives a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import sqlalchemy as sa

from protos.records import (
    Candidate,
    Device,
    DeviceLimits,
    History,
    Job,
    JobSpec,
    Measurement,
    ModelResult,
    Priority,
    Task,
)

from . import blobs, cost_models, devices, jobs, limits, measurements, samples
from . import evidence as pooled
from .best import best_k
from .cost_models import CostModelRecord, RankingRecord
from .database import Database, Observer
from .evidence import Evidence
from .history import history
from .measurements import BestRecord, Outcome, Result
from .samples import SampleRow
from .upgrade import require_current, upgrade
from .urls import normalise_url
from .values import tool_versions_key


class TuningLog:
    """Every method is one transaction, durable on return, callable from any thread.

    Each raises LogUnavailable if the database refuses or vanishes, and Conflict if what is written
    refers to something that the log does not have.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.url = database.url

    @classmethod
    def open(cls, url: str, observer: Observer | None = None) -> TuningLog:
        """Open a log; an empty database becomes one. ``observer`` is told what is written.

        Raises BadRequest (no URL of ours, another program's tables), StaleSchema with the command
        that helps, or LogUnavailable.
        """
        database = Database(normalise_url(url), observer=observer)
        try:
            require_current(database)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @classmethod
    def upgrade(cls, url: str) -> None:
        """Bring an older log to this version; raises as ``open`` does."""
        upgrade(normalise_url(url))

    def close(self) -> None:
        """Close every connection; any later call raises LogUnavailable."""
        self._database.close()

    # ------------------------------------------------------------------------- transactions

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A transaction for questions that are asked beside a farm's work (``browse``)."""
        return self._database.read()

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """A transaction for work beside a farm's own (``prune``, ``exchange``), durable when the
        block has been left, or without any effect."""
        return self._database.write()

    # ------------------------------------------------------------------------- blobs

    def put_blob(self, data: bytes) -> str:
        """Keep a model or a package; returns its SHA-256."""
        with self._database.write() as connection:
            return blobs.put(connection, data)

    def get_blob(self, sha256: str) -> bytes:
        """The bytes of that name; raises NotFound."""
        with self._database.read() as connection:
            return blobs.get(connection, sha256)

    def has_blob(self, sha256: str) -> bool:
        """True if the bytes of that name are there."""
        with self._database.read() as connection:
            return blobs.has(connection, sha256)

    # ------------------------------------------------------------------------- jobs

    def add_job(
        self, spec: JobSpec, coordinator: str, embedded: bool, parts: Sequence[JobSpec] = ()
    ) -> Job:
        """Queue a job; ``embedded`` if it ends with the process that asked for it. One for several
        kinds of device has ``parts``."""
        with self._database.write() as connection:
            return jobs.get(connection, jobs.add(connection, spec, coordinator, embedded, parts))

    def settle_job(self, job_id: str, parts: Sequence[JobSpec]) -> Job:
        """For which devices a job is, once one is known that it can be for: a single part is the
        job itself. Raises NotFound."""
        with self._database.write() as connection:
            if len(parts) == 1:
                jobs.settle(connection, job_id, parts[0])
            else:
                jobs.add_parts(connection, job_id, parts)
            return jobs.get(connection, job_id)

    def job(self, job_id: str) -> Job:
        """One job, with its parts; raises NotFound."""
        with self._database.read() as connection:
            return jobs.get(connection, job_id)

    def jobs(self, limit: int = 100, project: str = "") -> list[Job]:
        """The newest jobs first; of one project if it is named."""
        with self._database.read() as connection:
            return jobs.newest(connection, limit, project)

    def save_job(self, job: Job) -> None:
        """Keep a job's state, progress and result, and its heartbeat; raises NotFound."""
        with self._database.write() as connection:
            jobs.save(connection, job)

    def touch_job(self, job_id: str) -> None:
        """The heartbeat of the coordinator that runs the job; raises NotFound."""
        with self._database.write() as connection:
            jobs.touch(connection, job_id)

    def set_priority(self, job_id: str, priority: Priority) -> None:
        """What a job gets of the devices from now on; raises NotFound."""
        with self._database.write() as connection:
            jobs.set_priority(connection, job_id, priority)

    def unfinished_jobs(self, embedded: bool | None) -> list[Job]:
        """Queued and running jobs, oldest first; None means embedded and not."""
        with self._database.read() as connection:
            return jobs.unfinished(connection, embedded)

    def mark_interrupted(self, older_than_s: float) -> int:
        """Unfinished embedded jobs silent for that long become INTERRUPTED; returns how many."""
        with self._database.write() as connection:
            return jobs.mark_interrupted(connection, older_than_s)

    def spent_s(self, identity: str, except_job: str, kinds: Sequence[str] = ()) -> float:
        """Seconds that the other jobs of ``JobSpec.identity`` took, for these kinds of device if
        some are named."""
        with self._database.read() as connection:
            return jobs.spent_s(connection, identity, except_job, kinds)

    def set_tasks(self, job_id: str, tasks: Sequence[Task]) -> None:
        """Replace a job's tasks and keep their workloads; raises NotFound."""
        with self._database.write() as connection:
            jobs.set_tasks(connection, job_id, tasks)

    def tasks(self, job_id: str) -> list[Task]:
        """A job's tasks in their order."""
        with self._database.read() as connection:
            return jobs.tasks_of(connection, job_id)

    # ------------------------------------------------------------------------- measurements

    def record(
        self,
        job_id: str,
        device_kind: str,
        candidate: Candidate,
        measurement: Measurement,
        predicted_score: float | None = None,
    ) -> bool:
        """Append a measurement; False if it is there already.

        One is known by its lease and candidate; one without a lease (it was never built) by its
        job, kind of device and candidate. The workload must be among the tasks of some job. Raises
        BadRequest if the measurement is not of this candidate.
        """
        result = (job_id, device_kind, candidate, measurement, predicted_score)
        return self.record_many([result])[0]

    def record_many(
        self, results: Sequence[Result], also: Sequence[Callable[[sa.Connection], object]] = ()
    ) -> list[bool]:
        """``record`` for each tuple of its arguments, and what is ``also`` to be written with them,
        all of them or none."""
        with self._database.write() as connection:
            new = measurements.record_many(connection, results)
            for write in also:
                write(connection)
        if (observer := self._database.observer) is not None:
            for (_, kind, _, measurement, _), is_new in zip(results, new, strict=True):
                if is_new:
                    observer.recorded(kind, measurement.status.name)
        return new

    # Each question is of one kind of device, and of times with warm or with cold caches.

    def outcomes(
        self, workload_key: str, device_kind: str, cold_cache: bool = False
    ) -> list[Outcome]:
        """Every record of a workload, oldest first: failures and the untuned program too."""
        with self._database.read() as connection:
            return measurements.outcomes(connection, workload_key, device_kind, cold_cache)

    def evidence(
        self,
        workload_key: str,
        device_kind: str,
        cold_cache: bool = False,
        toolchains: Sequence[Mapping[str, str]] | None = None,
    ) -> list[Evidence]:
        """What all records of each candidate of a workload say together, the untuned included.

        With ``toolchains`` only those count that this farm made with one of these sets of tools: no
        others say what a device would do now (``doubtful`` has them).
        """
        keys = _keys(toolchains)
        with self._database.read() as connection:
            return pooled.evidence(connection, workload_key, device_kind, cold_cache, keys)

    def doubtful(
        self,
        workload_key: str,
        device_kind: str,
        cold_cache: bool,
        toolchains: Sequence[Mapping[str, str]],
    ) -> list[Evidence]:
        """Candidates of a workload that were measured on this kind of device, but with other tools
        than these sets or by another farm only."""
        keys = {tool_versions_key(tools) for tools in toolchains}
        with self._database.read() as connection:
            return pooled.doubtful(connection, workload_key, device_kind, cold_cache, keys)

    def kinds(self) -> list[str]:
        """Every kind of device that has a record, those with none to show for it included."""
        with self._database.read() as connection:
            return measurements.device_kinds(connection)

    def target_of(self, kind: str) -> str:
        """The target of a kind of device; empty if the log does not know it."""
        with self._database.read() as connection:
            return devices.target_of(connection, kind)

    def best_k(
        self, workload_key: str, device_kind: str, k: int, cold_cache: bool = False
    ) -> list[BestRecord]:
        """The ``k`` fastest candidates of a workload, best first, the untuned one of them if it
        is."""
        with self._database.read() as connection:
            return best_k(connection, workload_key, device_kind, k, cold_cache)

    def measured(
        self,
        device_kind: str,
        artifact_sha256: str,
        toolchains: Sequence[Mapping[str, str]] | None = None,
        cold_cache: bool = False,
    ) -> Measurement | None:
        """The newest measurement of these exact bytes, if wanted only with these sets of tools.

        One that ended because the device was lost is no answer, nor is a suspect one.
        """
        with self._database.read() as connection:
            return measurements.measured(
                connection, device_kind, artifact_sha256, _keys(toolchains), cold_cache
            )

    def history(self, job_id: str) -> History:
        """What a job had measured, oldest first, and what was known before; empty if nothing."""
        with self._database.read() as connection:
            return history(connection, job_id)

    # ------------------------------------------------------------------------- devices

    def upsert_device(self, device: Device) -> None:
        """Keep what a device says of itself, in place of what it said before."""
        with self._database.write() as connection:
            devices.upsert(connection, device)

    def devices(self) -> list[Device]:
        """Every device ever seen, by name."""
        with self._database.read() as connection:
            return devices.known(connection)

    def device_measurements(self) -> dict[str, int]:
        """How many measurements each device made, by its name."""
        with self._database.read() as connection:
            return measurements.per_device(connection)

    def set_limits(self, device_kind: str, measured: DeviceLimits) -> None:
        """Keep what a kind of device can do at most."""
        with self._database.write() as connection:
            limits.keep(connection, device_kind, measured)

    def limits(self, device_kind: str) -> DeviceLimits | None:
        """What a kind of device can do at most; None if that was not measured."""
        with self._database.read() as connection:
            return limits.known(connection, device_kind)

    # ------------------------------------------------------------------------- cost models

    def keep_features(self, version: int, features: Mapping[str, bytes]) -> None:
        """Keep what a cost model sees of candidates, by their keys; another version is replaced.

        Raises Conflict if the log lacks one of the candidates.
        """
        with self._database.write() as connection:
            samples.keep(connection, version, features)

    def samples_after(
        self, device_kind: str, cold_cache: bool, version: int, measurement_id: int, limit: int
    ) -> list[SampleRow]:
        """Measurements of all jobs after this one whose candidates have such features, oldest
        first; without those that say nothing of their candidate."""
        with self._database.read() as connection:
            return samples.after(
                connection, device_kind, cold_cache, version, measurement_id, limit
            )

    def newest_samples(
        self, device_kind: str, cold_cache: bool, version: int, limit: int
    ) -> list[SampleRow]:
        """Like ``samples_after``, but the newest there are, oldest first."""
        with self._database.read() as connection:
            return samples.newest(connection, device_kind, cold_cache, version, limit)

    def add_cost_model(
        self,
        device_kind: str,
        model_text: str | None,
        trained_on: int,
        scores: Mapping[str, float],
    ) -> int:
        """Keep a model that was trained on so many measurements; returns its version.

        ``model_text`` is None of one that was refused: its scores are kept, the model is not.
        """
        with self._database.write() as connection:
            version = cost_models.add(connection, device_kind, model_text, trained_on, scores)
        if (observer := self._database.observer) is not None:
            observer.trained(model_text is not None)
        return version

    def latest_cost_model(self, device_kind: str) -> tuple[int, str] | None:
        """Version and text of the newest model that was promoted for a kind of device."""
        with self._database.read() as connection:
            return cost_models.latest(connection, device_kind)

    def cost_models(self, device_kind: str) -> list[CostModelRecord]:
        """Every model that was trained for a kind of device, oldest first."""
        with self._database.read() as connection:
            return cost_models.trained(connection, device_kind)

    def add_ranking(
        self,
        job_id: str,
        workload_key: str,
        cost_model_version: int | None,
        pairwise: float,
        peak_at_1: float,
        peak_at_5: float,
        candidates: int,
    ) -> None:
        """Keep how well a batch was ordered before it was measured (by no model: version None)."""
        ranking = RankingRecord(
            workload_key, cost_model_version, pairwise, peak_at_1, peak_at_5, candidates
        )
        with self._database.write() as connection:
            cost_models.add_ranking(connection, job_id, ranking)

    def rankings(self, job_id: str) -> list[RankingRecord]:
        """A job's batches, oldest first."""
        with self._database.read() as connection:
            return cost_models.rankings_of(connection, job_id)

    # ------------------------------------------------------------------------- packages

    def add_package(self, key: str, job_id: str, result: ModelResult, data: bytes) -> None:
        """Keep a package under the hash of what it was made of; a second replaces the first."""
        with self._database.write() as connection:
            blobs.put_package(connection, key, job_id, result, data)

    def package(self, key: str) -> tuple[ModelResult, bytes] | None:
        """The package that was made of just this."""
        with self._database.read() as connection:
            found = blobs.find_package(connection, key)
            return None if found is None else (found.result, blobs.get(connection, found.sha256))


def _keys(toolchains: Sequence[Mapping[str, str]] | None) -> set[str] | None:
    return None if toolchains is None else {tool_versions_key(tools) for tools in toolchains}
