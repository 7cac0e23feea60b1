"""A device that is not like others of its kind is shown and, if it is known to be it, set aside."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.cli.tables import devices_table
from coordinator.fleet.registry import Registry
from coordinator.fleet.set_aside import SIBLINGS, Standing, after_lease
from coordinator.fleet.siblings import Level, Siblings, odd_ones
from device_agent.canary import REFERENCE_RUNS, Reference
from protos.records import DeviceState, DeviceStatus, LeaseFinished, Measurement
from tests.farm import PATIENCE_S, real_fleet
from tests.test_fleet import FakeAgent, circumstances
from tests.test_set_aside import WORKLOAD, Status, _measure, _next_lease

BOARD = FakeAgent.describe("board")


def levels(*now_s: float, first_s: tuple[float, ...] = ()) -> dict[str, Level]:
    before = first_s or now_s
    return {
        name: Level(now, first) for name, now, first in zip("abcdefg", now_s, before, strict=False)
    }


# ------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("now_s", "odd"),
    [
        ((), ""),
        ((1.0,), ""),
        ((1.0, 1.1, 0.95), ""),
        ((1.0, 1.0, 1.5), "c"),
        ((0.7, 1.0, 1.0), "a"),
        ((1.0, 1.05, 1.5, 0.5, 1.0), "cd"),
        ((1.0, 1.0, 1.5, 1.5), ""),
        ((1.0, 1.3, 1.7), ""),
    ],
    ids=str,
)
def test_of_several_the_few_that_are_unlike_the_many_are_odd(
    now_s: tuple[float, ...], odd: str
) -> None:
    assert "".join(odd_ones(levels(*now_s))) == odd


def test_of_two_the_one_that_has_changed_is_odd_and_otherwise_nobody_knows() -> None:
    assert odd_ones(levels(1.0, 1.5)) == {}
    assert odd_ones(levels(1.0, 1.5, first_s=(1.0, 1.05))) == {"b": 1.5}
    assert odd_ones(levels(1.5, 1.0, first_s=(1.0, 1.0))) == {"a": 1.5}
    assert odd_ones(levels(1.0, 1.5, first_s=(1.0, 3.0))) == {}, "it was never like the other"
    assert odd_ones(levels(1.5, 1.5, first_s=(1.0, 1.0))) == {}, "both have changed alike"


def test_only_the_same_canary_on_the_same_kind_is_compared() -> None:
    siblings = Siblings()
    other = replace(BOARD, cpu_model="another")
    for name in "ab":
        assert siblings.note(replace(BOARD, name=name), "canary", 1.0) is None
    assert siblings.note(replace(other, name="c"), "canary", 2.0) is None
    assert siblings.note(replace(BOARD, name="d"), "its successor", 2.0) is None
    assert siblings.shown()["c"] == (2.0, None)
    assert siblings.note(replace(BOARD, name="d"), "canary", 2.0) == 2.0
    assert {name: usual_s for name, (_, usual_s) in siblings.shown().items()} == {
        **dict.fromkeys("abd", 1.0),
        "c": None,
    }
    siblings.forget("a")
    siblings.forget("a")
    assert siblings.shown() == {"b": (1.0, 2.0), "c": (2.0, None), "d": (2.0, 1.0)}
    assert siblings.note(replace(BOARD, name="d"), "canary", 2.0) is None, "one other is too few"
    assert siblings.note(replace(BOARD, name="d"), "canary", 1.0) is None, "it is like the other"


def test_what_is_no_time_is_not_taken() -> None:
    async def scenario() -> None:
        registry = Registry()
        for seconds in (0.0, -1.0, math.nan, math.inf):
            assert registry.canary_took(BOARD, "canary", seconds) is None
        registry.join(BOARD)
        (status,) = registry.statuses({})
        assert (status.canary_s, status.siblings_s) == (None, None)

    asyncio.run(scenario())


def test_a_reason_says_what_the_canary_was_compared_with() -> None:
    standing = after_lease(Standing(), 1.3, True, 0.0)
    for _ in range(3):
        standing = after_lease(standing, 1.5, True, 0.0, SIBLINGS)
    assert standing.reason(0.0).startswith(
        "canary drifts: 1.50, 1.50, 1.50 of what it takes on other devices of this kind;"
    ), "the lease before it was off something else"


def test_an_agent_knows_what_its_canary_takes_after_some_runs() -> None:
    runs = (2.0, 1.0, 3.0)
    assert [Reference(runs[:count]).seconds for count in range(REFERENCE_RUNS + 1)] == [
        *[None] * REFERENCE_RUNS,
        2.0,
    ]


def test_devices_are_shown_with_their_siblings(capsys: pytest.CaptureFixture[str]) -> None:
    status = DeviceStatus(BOARD, DeviceState.IDLE, BOARD.kind, canary_s=0.0015, siblings_s=0.001)
    devices_table([status, replace(status, canary_s=None, siblings_s=None)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "1.500" in shown
    assert "1.000" in shown
    devices_table([replace(status, canary_s=None, siblings_s=None)])
    assert "canary" not in capsys.readouterr().out


# ------------------------------------------------------------------------------- the fleet


async def _serve(agent: FakeAgent, canary_s: float) -> None:
    """Measure for ever, with a canary that never drifts."""
    while True:
        lease = await _next_lease(agent)
        assert lease.kernel is not None
        for trial in lease.kernel.trials:
            result = Measurement(
                *(WORKLOAD, trial.candidate_key, Status.OK, lease.lease_id, "", (1e-3,)),
                circumstances=circumstances(agent.device.name),
            )
            await agent.send(result)
        await agent.send(LeaseFinished(lease.lease_id, "", 1.0, canary_s))


def test_the_odd_one_of_three_is_set_aside_and_the_others_work_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            agents = {name: FakeAgent(farm.port, name) for name in ("left", "right", "slow")}
            for agent in agents.values():
                await agent.register()
            serving = [
                asyncio.create_task(_serve(agent, 1.6e-3 if name == "slow" else 1e-3))
                for name, agent in agents.items()
            ]

            def states() -> dict[str, DeviceStatus]:
                return {s.device.name: s for s in farm.fleet.registry.statuses({})}

            for _ in range(9):  # each has a lease of every round; the first tells nothing yet
                await _measure(farm, 6)
                if states()["slow"].state is DeviceState.SET_ASIDE:
                    break
            slow = states()["slow"]
            assert slow.state is DeviceState.SET_ASIDE
            assert "1.60, 1.60, 1.60 of what it takes on other devices" in slow.last_error
            assert (slow.canary_s, slow.siblings_s) == (1.6e-3, 1e-3)
            assert {states()[name].state for name in ("left", "right")} <= {
                DeviceState.IDLE,
                DeviceState.BUSY,
            }
            assert all(m.ok for m in await _measure(farm, 6)), "the others work on"
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            for agent in agents.values():
                await agent.vanish()

    asyncio.run(asyncio.wait_for(scenario(), 2 * PATIENCE_S))
