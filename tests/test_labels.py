"""Labels of a device: what they may be, that they arrive, and what reports reckon with them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

import grpc
import pytest

from coordinator.cli.tables import devices_table
from coordinator.results.efficiency import efficiencies
from coordinator.results.html_report import html_report
from coordinator.results.page.section import ReportData
from coordinator.results.report import report_json, report_text
from protos import convert
from protos.errors import BadRequest
from protos.labels import check_label, check_labels
from protos.records import (
    MIXED,
    PROTOCOL_VERSION,
    Device,
    DeviceState,
    DeviceStatus,
    History,
    Job,
    Registration,
)
from tests.farm import agent, real_fleet
from tests.kernels import target_json
from tests.test_fleet import FakeAgent
from tests.test_html_report import Reader
from tests.test_results_report import JOB

TARGET = target_json()
LABELS = {"price-per-hour": "0.36", "rack": "3", "watts": "7.5"}


# ------------------------------------------------------------------------- what they may be


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rack", "3"),
        ("a", "b"),
        ("k" * 63, "v" * 63),
        ("site.floor-2", "Zurich/HB:4_west+1"),
        ("price-per-hour", "0.35"),
        ("price-per-hour", "1e-6"),
        ("watts", ".5"),
        ("watts", "15"),
        ("fragile", "yes"),
        ("fragile", "no"),
    ],
)
def test_a_label(key: str, value: str) -> None:
    check_label(key, value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("", "3", "no key of a label"),
        ("Rack", "3", "no key of a label"),
        ("3rack", "3", "no key of a label"),
        ("rack-", "3", "no key of a label"),
        ("price_per_hour", "3", "for example price-per-hour"),
        ("rack\n", "3", "no key of a label"),
        ("k" * 64, "3", "up to 63 small letters"),
        ("rack", "", "the label rack is ''"),
        ("rack", "3,4", "letters, digits and characters of"),
        ("rack", "<b>", "letters, digits and characters of"),
        ("rack", "é", "letters, digits and characters of"),
        ("rack", "v" * 64, "up to 63 letters"),
        ("fragile", "1", "write yes or no"),
        *(
            (key, value, f"the label {key} is .* no positive number")
            for key in ("price-per-hour", "watts")
            for value in ("0", "-1", "nan", "inf", "1e999", "1e-9", "1_0", "free", "", "1" * 64)
        ),
    ],
)
def test_what_is_no_label(key: str, value: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        check_label(key, value)
    assert len(str(caught.value)) < 300


def test_a_device_has_so_many_labels_and_no_more() -> None:
    labels = {f"label-{i}": "x" for i in range(16)}
    check_labels(labels)
    with pytest.raises(BadRequest, match="16 labels at most, these are 17"):
        check_labels({**labels, "one-more": "x"})


def test_labels_are_no_part_of_the_kind() -> None:
    device = Device("d", TARGET, "a CPU", (0,), 1)
    assert replace(device, labels=LABELS).kind == device.kind


# ------------------------------------------------------------------------- that they arrive


def test_an_agents_labels_are_kept_with_its_device(tmp_path: Path) -> None:
    given = [f"{key}={value}" for key, value in LABELS.items()]

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(fleet.port, "labelled", TARGET, replay="10ms", labels=given):
                await fleet.devices(TARGET, 1)
                assert fleet.fleet.registry.labels("labelled") == LABELS
                while not (known := fleet.log.devices()):
                    await asyncio.sleep(0.02)
            assert [device.labels for device in known] == [LABELS]
            assert fleet.fleet.registry.labels("labelled") == LABELS, "it is gone, and still known"
            assert fleet.fleet.registry.labels("another") == {}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"price-per-hour": "free"}, "the label price-per-hour is 'free'"),
        ({"rack": "x" * 1_000_000}, "may have 256"),
        ({f"label-{i}": "x" for i in range(1000)}, "may have 64"),
    ],
)
def test_a_registration_with_other_labels_is_refused(
    tmp_path: Path, labels: dict[str, str], words: str
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            fake = FakeAgent(fleet.port)
            message = convert.to_agent_message(Registration(PROTOCOL_VERSION, fake.device))
            message.registration.device.labels.update(labels)
            await fake.send_message(message)
            code, details = await fake.refusal()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert words in details
            assert len(details) < 300
            assert fleet.log.devices() == []

    asyncio.run(scenario())


def test_devices_are_listed_with_their_labels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    device = Device("d", TARGET, "a CPU", (0,), 1, labels=LABELS)
    devices_table([DeviceStatus(device, DeviceState.IDLE, device.kind)])
    assert "price-per-hour=0.36, rack=3, watts=7.5" in capsys.readouterr().out


def test_what_devices_of_a_kind_have_in_common_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    target = '{"kind":"llvm","mcpu":"cortex-a72","num-cores":4}'
    first, second = (Device(name, target, "a CPU", (0,), 4) for name in ("d1", "d2"))
    other = Device("d3", target, "another CPU", (0,), 4, not_enforced=("memory",))
    states = [DeviceStatus(d, DeviceState.IDLE, d.kind) for d in (first, second, other)]
    states[1] = replace(states[1], last_error="its disk is full")
    devices_table(states)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["d1", "idle", first.kind[:8], "0", "0"] in lines
    assert ["d2", "its", "disk", "is", "full"] in lines
    assert ["d3", "memory"] in lines
    assert [line[:2] for line in lines if line and line[-1].startswith('{"kind"')] == [
        [first.kind[:8], "2"],
        [other.kind[:8], "1"],
    ]


# ------------------------------------------------------------------------- what is reckoned


def job(**labels: str) -> Job:
    assert JOB.result is not None
    return replace(JOB, result=replace(JOB.result, labels=labels))


def page(of: Job) -> str:
    return Reader(html_report(ReportData(of, "log", History()), 0.0)).text


def test_what_an_inference_costs_in_each_engine() -> None:
    labelled = job(**{"price-per-hour": "0.36", "watts": "7.5"})
    assert labelled.result is not None
    tuned, onnxruntime = efficiencies(labelled.result)  # the third was not timed: it crashed
    assert (tuned.name, tuned.packaged) == ("tunefarm", False)
    assert (onnxruntime.name, onnxruntime.packaged) == ("onnxruntime", True)
    assert tuned.inferences_per_price == pytest.approx(1000 * 3600 / 0.36), "1 ms each"
    assert onnxruntime.inferences_per_price == pytest.approx(3600 / 0.9e-3 / 0.36)
    assert tuned.energy_mj == pytest.approx(7.5)
    assert onnxruntime.energy_mj == pytest.approx(7.5 * 0.9)
    mixed = replace(labelled.result, engine=MIXED, mixed_ms=0.5)
    last = efficiencies(mixed)[-1]
    assert (last.name, last.packaged, last.energy_mj) == (MIXED, True, pytest.approx(3.75))


def test_the_reports_say_what_an_inference_costs() -> None:
    labelled = job(**LABELS)
    assert labelled.result is not None
    text = " ".join(report_text(labelled, None, "log").split())
    cost = "11,100,000 inferences per unit of price, 6.75 mJ per inference"
    assert f"ONNX Runtime, packaged: {cost} (at the label's watts, not metered)" in text
    assert "labels price-per-hour=0.36, rack=3, watts=7.5" in text
    found = report_json(labelled, None, "log")
    assert found["labels"] == LABELS
    assert found["efficiency"] == [asdict(one) for one in efficiencies(labelled.result)]
    shown = page(labelled)
    assert f"What is packaged: {cost} (at the label's watts, not metered)." in shown
    assert "Tuned1.00010,000,0007.50" in shown
    assert "(price-per-hour=0.36, rack=3, watts=7.5)" in shown


def test_what_has_no_label_is_not_shown() -> None:
    (priced, *_), (powered, *_) = (
        report_json(job(**{key: "2"}), None, "log")["efficiency"]
        for key in ("price-per-hour", "watts")
    )
    assert (priced["inferences_per_price"], priced["energy_mj"]) == (1_800_000.0, None)
    assert (powered["inferences_per_price"], powered["energy_mj"]) == (None, 2.0)
    for label, there, absent in (
        ("price-per-hour", "inferences per unit of price", "mJ per inference"),
        ("watts", "mJ per inference", "inferences per unit of price"),
    ):
        for said in (report_text(job(**{label: "2"}), None, "log"), page(job(**{label: "2"}))):
            assert there in said
            assert absent not in said
    for unlabelled in (job(), job(rack="3")):
        assert report_json(unlabelled, None, "log")["efficiency"] == []
        for said in (report_text(unlabelled, None, "log"), page(unlabelled)):
            assert "unit of price" not in said
            assert "metered" not in said
