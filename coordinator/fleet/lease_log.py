"""Leases in the tuning log: written before they are sent, so that a result finds its job and its
candidate even if the coordinator was restarted meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordinator.fleet.answers import check_measurement
from coordinator.fleet.leases import Outstanding
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log import leases as rows
from coordinator.tuning_log.group_commit import GroupCommit, Work
from protos.records import Candidate, Measurement

KEPT_S = 24 * 3600.0
"""A lease whose end was never heard of is forgotten after this long, and with it its results."""

MAX_ENDED = 4096
"""Ended leases that are dropped in one transaction."""

LOSSES_OF_POISON = 3
"""A program that was on so many devices when they vanished is sent to none again."""


class LeaseLog:
    """What the log knows of leases. Every method but ``ended`` is one transaction, and raises
    LogUnavailable."""

    def __init__(self, tuning_log: TuningLog, commits: GroupCommit | None = None) -> None:
        """``commits`` writes for others as well (default: for nobody else)."""
        self._log = tuning_log
        self._commits = commits or GroupCommit(tuning_log)
        self._ended: set[tuple[str, str]] = set()

    async def keep(self, held: Outstanding) -> None:
        """A lease is about to be sent; durable on return. Whole models are measured anew instead,
        and so is what is not kept."""
        if held.lease.kernel is None or not held.batch.kept:
            return
        device = held.session.device
        trials = {
            key: rows.LeasedTrial(trial.candidate, trial.artifact.sha256, trial.predicted_score)
            for key, trial in held.trials.items()
        }
        record = rows.LeaseRecord(
            *(held.lease.lease_id, held.lease.job_id, device.name, device.kind),
            *(held.lease.kernel.workload_key, trials, held.batch.built_with),
        )

        await self._write(lambda connection: rows.add(connection, record))

    def ended(self, lease_id: str, device: str) -> None:
        """The device said that nothing more will come of this lease. Of a device that says so of
        ever more leases, not all are noted: those that it had go when they are old."""
        if len(self._ended) < MAX_ENDED:
            self._ended.add((lease_id, device))

    async def drop_old(self) -> None:
        """Drop what has ended, and what nobody will ask for any more."""

        await self._write(lambda connection: rows.delete_older(connection, KEPT_S))

    async def _write(self, work: Work) -> None:
        """Do this in a transaction that also drops the leases which have ended."""
        ended, self._ended = self._ended, set()

        def both(connection: Any) -> None:
            if ended:
                rows.delete(connection, ended)
            work(connection)

        try:
            await self._commits.write(both)
        except BaseException:
            self._ended |= ended  # once more is no harm
            raise

    async def devices_with(self, job_id: str) -> set[str]:
        """The devices with leases of a job whose end was not heard of."""

        def read() -> set[str]:
            with self._log.reading() as connection:
                return rows.devices_with(connection, job_id)

        return await asyncio.to_thread(read)

    async def record_late(
        self, lease_id: str, device: str, results: Sequence[Measurement]
    ) -> tuple[str, list[tuple[Candidate, Measurement]]] | None:
        """Keep results of a lease that no job of this coordinator waits for; returns whose job they
        are and what was kept. None if this device never had it, or had it too long ago. What the
        lease does not name is left out. Raises ProtocolViolation, with nothing kept, for what can't
        be of the lease."""
        return await asyncio.to_thread(self._record_late, lease_id, device, results)

    def _record_late(
        self, lease_id: str, device: str, results: Sequence[Measurement]
    ) -> tuple[str, list[tuple[Candidate, Measurement]]] | None:
        with self._log.reading() as connection:
            lease = rows.get(connection, lease_id)
        if lease is None or lease.device != device:
            return None
        found = []
        for result in results:
            trial = lease.trials.get(result.candidate_key)
            if trial is not None:
                check_measurement(device, trial.artifact_sha256, result)
                kept = with_tools(result, lease.built_with)
                found.append(
                    (
                        *(lease.job_id, lease.device_kind, trial.candidate, kept),
                        trial.predicted_score,
                    )
                )
        self._log.record_many(found)
        return lease.job_id, [(candidate, kept) for _, _, candidate, kept, _ in found]

    async def lost(self, held: Outstanding, artifacts: Collection[str]) -> dict[str, int]:
        """A device vanished with this lease while these programs were on it; how often that has
        happened to each."""
        return await asyncio.to_thread(self._lost, held, sorted(artifacts))

    def _lost(self, held: Outstanding, artifacts: Sequence[str]) -> dict[str, int]:
        device = held.session.device
        with self._log.writing() as connection:
            rows.add_losses(connection, device.name, device.kind, held.lease.lease_id, artifacts)
            return rows.times_lost(connection, device.kind, artifacts)

    async def absolve(self, lease_ids: Collection[str]) -> None:
        """The device had not vanished: it was the network."""

        def write() -> None:
            with self._log.writing() as connection:
                rows.absolve(connection, lease_ids)

        await asyncio.to_thread(write)

    async def poisonous(self, device_kind: str, artifacts: Collection[str]) -> dict[str, int]:
        """Those of these programs that are sent to no device of this kind again, and how many each
        has taken down."""

        def read() -> dict[str, int]:
            with self._log.reading() as connection:
                return rows.times_lost(connection, device_kind, artifacts)

        times = await asyncio.to_thread(read)
        return {sha256: count for sha256, count in times.items() if count >= LOSSES_OF_POISON}


def with_tools(measurement: Measurement, built_with: Mapping[str, str]) -> Measurement:
    """With the builder's tools among its circumstances; an agent knows only its own."""
    circumstances = measurement.circumstances
    if circumstances is None or not built_with:
        return measurement
    versions = {**circumstances.tool_versions, **built_with}
    return replace(measurement, circumstances=replace(circumstances, tool_versions=versions))
