"""Devices that fail often: set aside, restarted, power-cycled, looked at again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.fleet import leases
from coordinator.fleet import medic as medic_module
from coordinator.fleet.health import (
    CYCLE_S,
    CYCLES,
    FAILURES,
    FIRST_PAUSE_S,
    GONE_S,
    LONGEST_PAUSE_S,
    WITHIN_S,
    Failure,
    Health,
)
from coordinator.fleet.medic import Medic, parse_command
from coordinator.fleet.registry import Registry, Session
from coordinator.tuning_log import TuningLog, device_events
from coordinator.tuning_log.devices import Hold
from protos.errors import BadRequest
from protos.records import (
    Acknowledgement,
    Device,
    DeviceAction,
    DeviceState,
    Lease,
    LeaseFinished,
    Measurement,
    RestartAgent,
)
from tests.farm import PATIENCE_S, real_fleet
from tests.test_fleet import WORKLOAD, FakeAgent, Status, _measure, circumstances
from tests.test_fleet_losses import refuse

BOARD = Device("board", "{}", "a CPU", (0,), 1, host="pi-7", labels={"poe-port": "3"})


def failing(*moments: float) -> Health:
    health = Health()
    for moment in moments:
        health = health.failed(Failure(moment, f"l{moment:g}", "no answer"))
    return health


def test_a_device_that_fails_often_is_set_aside() -> None:
    assert not failing(0.0, 1.0).aside
    assert not failing(0.0, WITHIN_S, 2 * WITHIN_S).aside, "that is not often"
    health = failing(0.0, 1.0, 2.0)
    assert health.aside
    assert health.reason(2.0) == f"failed {FAILURES} times: no answer; health check in 60 s"
    assert not health.check_due(2.0 + FIRST_PAUSE_S - 0.1)
    assert health.check_due(2.0 + FIRST_PAUSE_S)
    assert health.reason(1e6).endswith("health check due")


def test_each_failed_check_makes_the_pause_longer() -> None:
    health, now, pauses = failing(0.0, 1.0, 2.0), 2.0, []
    for _ in range(12):
        now = health.until
        health = health.check_failed(Failure(now, "", "its canary failed"))
        pauses.append(health.until - now)
    assert pauses[:3] == [2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert len(health.failures) == 2 * FAILURES, "what is shown is bounded"


def test_what_was_not_its_fault_does_not_count() -> None:
    assert failing(0.0, 1.0, 2.0).absolved(["l1"]) == failing(0.0, 2.0)
    checked = failing(0.0, 1.0, 2.0).check_failed(Failure(99.0, "", "no answer"))
    assert checked.absolved(["l0", "l1", "l2"]).aside, "a health check has failed since"


def test_power_is_cycled_a_few_times_and_not_at_once() -> None:
    health, now = Health(), 0.0
    for _ in range(CYCLES):
        assert health.may_be_cycled(now)
        health = health.cycled_at(now)
        assert not health.may_be_cycled(now + CYCLE_S - 1)
        now += CYCLE_S + 1
    assert not health.may_be_cycled(now)


class Ward:
    """A medic with a clock that the test moves, and devices whose health check says ``wrong``."""

    def __init__(self, directory: Path, command: tuple[str, ...] = ()) -> None:
        self.now = 1000.0
        self.wrong = ""
        self.log = TuningLog.open(str(directory / "log.db"))
        self.registry = Registry(lambda: self.now)
        self.medic = Medic(self.log, self.registry, self.check, command, lambda: self.now)
        self.session = self.registry.join(BOARD, restartable=True)

    async def check(self, _session: Session) -> str:
        return self.wrong

    async def fail(self) -> None:
        for number in range(FAILURES):
            await self.medic.failed(self.session, f"l{number}", "no answer")

    async def look(self) -> None:
        """Look, and return when what was begun is done."""
        self.medic.look()
        await asyncio.gather(*self.medic._busy.values())

    def steps(self) -> list[str]:
        with self.log.reading() as connection:
            return [event.step for event in device_events.newest(connection, "board", 99)][::-1]

    def state(self) -> DeviceState:
        (status,) = self.registry.statuses({})
        return status.state


def in_a_ward(
    tmp_path: Path, scenario: Callable[[Ward], Awaitable[None]], command: tuple[str, ...] = ()
) -> None:
    async def run() -> None:
        ward = Ward(tmp_path, command)
        with contextlib.closing(ward.log):
            await scenario(ward)
            await ward.medic.stop()

    asyncio.run(run())


def test_its_agent_is_restarted_and_it_works_again_after_its_health_check(tmp_path: Path) -> None:
    async def scenario(ward: Ward) -> None:
        await ward.fail()
        assert ward.state() is DeviceState.SET_ASIDE
        assert ward.session.outbox.get_nowait() == RestartAgent("no answer")
        await ward.look()
        assert ward.state() is DeviceState.SET_ASIDE, "not yet"
        ward.now += FIRST_PAUSE_S
        ward.wrong = "health check: CRASHED"
        await ward.look()
        assert ward.state() is DeviceState.SET_ASIDE
        assert ward.registry.withheld("board").endswith("CRASHED; health check in 120 s")
        ward.now += 2 * FIRST_PAUSE_S
        ward.wrong = ""
        await ward.look()
        assert ward.state() is DeviceState.IDLE
        assert ward.steps() == [
            *("failed", "failed", "failed", "set aside", "restart"),
            *("health check failed", "well"),
        ]

    in_a_ward(tmp_path, scenario)


SCRIPT = """\
import json, os, sys
told = {key: value for key, value in os.environ.items() if key.startswith("TUNEFARM_LABEL")}
told["device"], told["host"] = os.environ["TUNEFARM_DEVICE"], os.environ["TUNEFARM_HOST"]
open(sys.argv[1], "a").write(json.dumps(told) + "\\n")
print("switched")
"""


def test_a_device_that_does_not_come_back_has_its_power_cycled(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def scenario(ward: Ward) -> None:
        ward.registry.leave(ward.session)
        ward.medic.vanished(BOARD)
        for _ in range(CYCLES + 1):
            ward.now += max(GONE_S, CYCLE_S) + 1
            await ward.look()
            await ward.look()
        assert told.read_text().count("\n") == CYCLES
        expected = '{"TUNEFARM_LABEL_POE_PORT": "3", "device": "board", "host": "pi-7"}'
        assert told.read_text().splitlines()[0] == expected
        assert ward.steps() == ["power cycle", "power cycle done"] * CYCLES
        with ward.log.reading() as connection:
            done = device_events.newest(connection, "", 1)[0]
        assert done.text == f"{sys.executable} ended with 0: switched"

    in_a_ward(tmp_path, scenario, (sys.executable, "-c", SCRIPT, str(told)))


def test_nobody_cycles_what_came_back_or_what_people_have_in_hand(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def scenario(ward: Ward) -> None:
        ward.medic.vanished(BOARD)
        ward.medic.joined("board")
        ward.now += 2 * GONE_S
        await ward.look()
        ward.medic.vanished(BOARD)
        ward.registry.decide("board", Hold(DeviceState.DRAINED, "at the bench", "alice"))
        ward.now += 2 * GONE_S
        await ward.look()
        assert not told.exists()

    in_a_ward(tmp_path, scenario, (sys.executable, "-c", SCRIPT, str(told)))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("/no/such/command",), "can't be run"),
        ((sys.executable, "-c", "import time; time.sleep(99)"), "was ended after 1 s"),
        ((sys.executable, "-c", "import sys; sys.exit('no such port')"), "with 1: no such port"),
    ],
)
def test_a_command_that_fails_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(medic_module, "COMMAND_TIMEOUT_S", 1.0)

    async def scenario(ward: Ward) -> None:
        ward.medic.vanished(BOARD)
        ward.now += GONE_S + 1
        await ward.look()
        with ward.log.reading() as connection:
            (event, *_) = device_events.newest(connection, "board", 1)
        assert said in event.text

    in_a_ward(tmp_path, scenario, command)


def test_a_command_is_words_and_no_shell(tmp_path: Path) -> None:
    assert parse_command("poe 'port 7' $HOME; rm") == ("poe", "port 7", "$HOME;", "rm")
    for text in ("", "  ", "unbalanced '"):
        with pytest.raises(BadRequest, match="--power-cycle"):
            parse_command(text)


def test_a_device_that_refuses_its_leases_is_checked_before_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REST_S", 0.0)

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            fake = FakeAgent(fleet.port)
            await fake.register()
            registry = fleet.fleet.registry
            said: Any
            for _ in range(FAILURES):
                await refuse(fleet, fake, await fake.receive())
            while not registry.health("fake").aside:
                await asyncio.sleep(0.01)
            other = FakeAgent(fleet.port, "other")  # what waits goes to one that is well
            await other.register()
            health = registry.health("fake")
            registry.set_health("fake", replace(health, until=0.0))  # as if the time had come
            said = await fake.receive()
            assert isinstance(said, Lease)
            assert said.job_id == "health check"
            (trial,) = said.kernel.trials  # type: ignore[union-attr]
            await fake.send(
                Measurement(
                    *(WORKLOAD, trial.candidate_key, Status.OK, said.lease_id),
                    repeats_s=(1e-3,),
                    circumstances=circumstances("fake"),
                )
            )
            assert isinstance(await fake.receive(), Acknowledgement)
            await fake.send(LeaseFinished(said.lease_id))
            while registry.health("fake").aside:
                await asyncio.sleep(0.01)
            measuring.cancel()
            logged = [outcome.status for outcome in fleet.log.outcomes(WORKLOAD, fake.device.kind)]
            assert logged == [Status.DEVICE_LOST], "leased three times; a check is no experiment"
            await fake.vanish()
            await other.vanish()

    asyncio.run(asyncio.wait_for(scenario(), 2 * PATIENCE_S))


def test_resume_makes_a_device_work_again_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            fake = FakeAgent(fleet.port)
            await fake.register()
            fleet.fleet.registry.set_health("fake", failing(0.0, 1.0, 2.0))
            assert "failed 3 times" in fleet.fleet.registry.withheld("fake")
            await fleet.fleet.control("fake", DeviceAction.RESUME, "", "alice")
            assert not fleet.fleet.registry.withheld("fake")
            await fake.vanish()

    asyncio.run(scenario())
