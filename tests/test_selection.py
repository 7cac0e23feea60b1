"""For which devices a job is: values in, values out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coordinator.selection import ANY, MAX_PARTS, Selector, parts_of
from protos.boards import canonical_target
from protos.errors import BadRequest, BadTarget, NotFound
from protos.records import Device, JobSpec
from protos.selectors import MAX_CONDITIONS, parse_condition, parse_conditions

PI4, PI5, PC = (f'{{"kind":"llvm","mcpu":"{cpu}","num-cores":4}}' for cpu in ("a72", "a76", "x86"))


def device(name: str, target: str = PI4, **labels: str) -> Device:
    return Device(name, target, "a CPU", (0,), 4, labels=labels)


LEFT = device("left", rack="3", watts="7.5")
RIGHT = device("right", rack="4")
FIVE = replace(device("five", PI5, rack="3"), board="Raspberry Pi 5 Model B Rev 1.0")
BOX = replace(device("box", PC), emulated=True)
ALL = (LEFT, RIGHT, FIVE, BOX)


def spec(target_json: str = "", **asked: object) -> JobSpec:
    return replace(JobSpec("m", "0" * 64, target_json, 9), **asked)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("condition", "matching"),
    [
        ("rack=3", "left five"),
        ("rack!=3", "right box"),
        ("watts<8", "left"),
        ("watts<7.5", ""),
        ("watts<=7.5", "left"),
        ("watts>7", "left"),
        ("watts>=1e1", ""),
        ("rack<4", "left five"),
        ("name=box", "box"),
        ("name!=box", "left right five"),
        ("board=Raspberry Pi 5 Model B Rev 1.0", "five"),
        ("cores>=4", "left right five box"),
        ("cores>4", ""),
        ("emulated=no", "left right five"),
        ("rack=a=b", ""),
    ],
)
def test_conditions(condition: str, matching: str) -> None:
    selector = Selector.of(spec(where=(condition,)))
    assert [d.name for d in ALL if selector.matches(d)] == matching.split()


def test_all_conditions_must_hold_and_those_that_do_not_are_said() -> None:
    selector = Selector.of(spec(where=("rack=3", "watts<7")))
    assert not any(selector.matches(d) for d in ALL)
    assert selector.unmet(LEFT) == "watts is 7.5"
    assert selector.unmet(RIGHT) == "rack is 4, no watts"
    assert Selector.of(spec(where=("rack<9",))).unmet(device("odd", rack="top")) == (
        "rack is top, which is no number"
    )


def test_a_label_does_not_hide_what_a_device_says_of_itself() -> None:
    liar = device("left", cores="64", board="Pi5", emulated="no")
    assert Selector.of(spec(where=("cores=64",))).unmet(liar) == "cores is 4"
    assert Selector.of(spec(where=("board=Pi5",))).unmet(liar) == "no board"
    assert Selector.of(spec(where=("emulated=yes",))).matches(replace(liar, emulated=True))


@pytest.mark.parametrize(
    "text", ["", "rack", "rack=", "=3", "Rack=3", "rack<high", "rack=\n", "a b=1", "r~3"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"no condition|no number"):
        parse_condition(text)


def test_conditions_are_bounded() -> None:
    with pytest.raises(BadRequest, match="no condition"):
        parse_condition("rack=" + "3" * 200)
    with pytest.raises(BadRequest, match="at most"):
        parse_conditions(["rack=3"] * (MAX_CONDITIONS + 1))


# ------------------------------------------------------------------------------- what it is for


def test_a_target_is_taken_as_it_is() -> None:
    asked = spec(PI4)
    assert parts_of(asked, (), ()) == [asked]


def test_several_targets_are_several_parts_each_once() -> None:
    parts = parts_of(spec(targets=(PI4, PC, PI4), where=("rack=3",)), (), ())
    assert [(part.target_json, part.targets, part.where) for part in parts] == [
        (PI4, (), ("rack=3",)),
        (PC, (), ("rack=3",)),
    ]


def test_devices_stand_for_their_kinds() -> None:
    asked = spec(devices=("left", FIVE.kind[:6], "right"))
    assert parts_of(asked, ALL[:2], ALL) == [
        spec(PI4, devices=(LEFT.kind,)),
        spec(PI5, devices=(FIVE.kind,)),
    ]
    with pytest.raises(NotFound, match="no device and no kind of device is called 'nobody'"):
        parts_of(spec(devices=("nobody",)), ALL, ())


def test_conditions_alone_choose_among_those_present_then_among_all() -> None:
    asked = spec(where=("rack=3",))
    assert [p.devices for p in parts_of(asked, (LEFT,), ALL)] == [(LEFT.kind,)]
    both = [(LEFT.kind,), (FIVE.kind,)]
    assert [p.devices for p in parts_of(asked, (RIGHT,), ALL)] == both
    assert [p.devices for p in parts_of(asked, ALL, ())] == both
    assert parts_of(spec(where=("rack=9",)), ALL, ALL) == []


def test_what_can_not_be_chosen_is_refused() -> None:
    with pytest.raises(BadRequest, match="give one"):
        parts_of(spec(PI4, devices=("left",)), ALL, ())
    with pytest.raises(BadRequest, match="needs devices"):
        parts_of(spec(), ALL, ())
    with pytest.raises(BadRequest, match="no condition"):
        parts_of(spec(PI4, where=("rack",)), ALL, ())
    with pytest.raises(BadRequest, match="at most"):
        parts_of(spec(devices=("left",) * (MAX_PARTS + 1)), ALL, ())
    many = [device(f"d{n}", f'{{"kind":"{n}"}}', rack="3") for n in range(MAX_PARTS + 1)]
    with pytest.raises(BadRequest, match=f"would be for {MAX_PARTS + 1}"):
        parts_of(spec(where=("rack=3",)), many, ())


def test_what_a_job_waits_for_names_those_that_do_not_match_and_why() -> None:
    selector = Selector(PI4, (), parse_conditions(["rack=5"]))
    assert selector.missing(ALL) == (
        "a device of its target with rack=5: left (rack is 3), right (rack is 4)"
    )
    assert selector.missing([BOX]) == "a device of its target with rack=5"
    assert Selector(PI4).missing([]) == "a device of its target"
    assert Selector(PI4, (LEFT.kind,)).missing([]) == "a device of its kind"
    assert ANY.missing([]) == "a device"
    many = [device(f"d{n}", rack="1") for n in range(20)]
    assert selector.missing(many).endswith("d7 (rack is 1) and 12 more")


def test_a_target_is_the_same_however_it_is_written() -> None:
    written = '{ "num-cores": 4,  "mcpu": "a72", "kind": "llvm" }'
    assert canonical_target(written) == PI4
    assert json.loads(canonical_target("raspberry-pi/5-aarch64"))["mcpu"] == "cortex-a76"
    for text in ("", "{", "raspberry-pi/6"):
        with pytest.raises(BadTarget, match="Copy one from `tunefarm devices`"):
            canonical_target(text)
