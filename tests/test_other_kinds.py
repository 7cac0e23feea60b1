"""What a tuning log says of the kinds of device that a job does not run on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.other_kinds import OtherKind, other_kinds


def _target(cpu: str) -> str:
    return json.dumps({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu, "num-cores": 1})


def test_what_vectors_other_kinds_have(caplog: pytest.LogCaptureFixture) -> None:
    targets = {
        "narrow": _target("x86-64-v2"),
        "own": _target("x86-64-v4"),
        "of an import": "",
        "of a later TVM": '{"kind": "no-such-kind"}',
        "wide": _target("x86-64-v4"),
    }
    log = SimpleNamespace(kinds=lambda: list(targets), target_of=targets.__getitem__)
    lab = SimpleNamespace(tuning_log=log, device=SimpleNamespace(kind="own"))
    assert other_kinds(cast(Any, lab)) == [
        OtherKind("narrow", 4),
        OtherKind("of an import", None),
        OtherKind("of a later TVM", None),
        OtherKind("wide", 16),
    ]
    assert "no-such-kind" in caplog.text
