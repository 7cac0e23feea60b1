"""What a job asked for is heeded by a fleet with real sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.fleet.terms import Terms
from coordinator.selection import Selector
from protos.selectors import parse_conditions
from tests.farm import PATIENCE_S, RealFleet, agent, real_fleet
from tests.test_fleet_control import ARGS, LETTERS, TARGET, WORK, by_device, measure


def where(*conditions: str) -> Selector:
    return Selector(TARGET, (), parse_conditions(conditions))


def test_a_job_is_measured_where_its_conditions_hold_and_says_why_it_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            job_id = farm.job_with(WORK.workload_key, ARGS)
            farm.fleet.queue.set_terms(job_id, Terms(where("rack=2")))
            with agent(farm.port, "left", TARGET, replay="5ms", labels=["rack=1"]):
                device = await asyncio.wait_for(farm.fleet.device_for(where("rack=1")), PATIENCE_S)
                measuring = asyncio.create_task(measure(farm, job_id, LETTERS))
                await asyncio.sleep(0.3)  # time enough for the left one to take it all
                registry = farm.fleet.registry
                assert not measuring.done()
                assert registry.none_left(device.kind, where("rack=2")) == "left (rack is 1)"
                assert registry.none_left(device.kind) == ""
                assert registry.missing(where("rack=2")) == (
                    "a device of its target with rack=2: left (rack is 1)"
                )
                with agent(farm.port, "right", TARGET, replay="5ms", labels=["rack=2"]):
                    done = by_device(await asyncio.wait_for(measuring, PATIENCE_S))
                    assert done == {"right": len(LETTERS)}
                    assert registry.missing(where("rack=2")) == ""
                    assert (registry.present(device.kind), 1) == (
                        2,
                        registry.present(device.kind, where("rack=2")),
                    )

    asyncio.run(scenario())


def test_an_exclusive_job_and_another_are_never_on_a_device_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            jobs = [farm.job_with(WORK.workload_key, ARGS) for _ in range(2)]
            farm.fleet.queue.set_terms(jobs[0], Terms(exclusive=True))
            together: set[frozenset[str]] = set()
            with agent(farm.port, "left", TARGET, replay="3ms"):
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
                names = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))
                both = [asyncio.create_task(measure(farm, job_id, names)) for job_id in jobs]
                while not all(task.done() for task in both):
                    together.add(_jobs_on_the_device(farm))
                    await asyncio.sleep(0.002)
                assert [len(await task) for task in both] == [len(names)] * 2
            assert {frozenset([job_id]) for job_id in jobs} <= together
            assert frozenset(jobs) not in together

    asyncio.run(asyncio.wait_for(scenario(), 2 * PATIENCE_S))


def _jobs_on_the_device(farm: RealFleet) -> frozenset[str]:
    (session,) = farm.fleet.registry.sessions.values()
    return frozenset(lease.job_id for lease in session.leases.values())
