"""What came from outside: it runs no code, reads no file, and does nothing to a terminal."""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from coordinator.cli import predict, progress, tables
from coordinator.cli.jobs import headline
from coordinator.cli.main import _LogFormatter
from coordinator.frontend.onnx_model import inspect_model
from coordinator.package.manifest import Manifest
from coordinator.package.wheel import _metadata
from coordinator.results.report import report_text
from protos.errors import BadModel
from protos.plain_text import harmless, indented, one_line
from protos.records import (
    DeviceState,
    DeviceStatus,
    PredictedOperator,
    Prediction,
    PredictionSource,
    TaskProgress,
)
from tests.test_protos import DEVICE
from tests.test_results_report import JOB

ROOT = Path(__file__).resolve().parent.parent
EVIL = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e\u2066[red]evil[/red]\x00\x7f"
SHOWN = "[red]evil[/red]"

# ------------------------------------------------------------------------------- no code

RUN_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
CALLED = {"eval", "exec", "compile", "__import__"}
METHODS = {"extractall", "system", "popen", "unpack_archive"}

CHECKED = {"device_agent/model_child.py": ["calls extractall"]}
"""It looks at every name in the wheel first (test_device_agent_models.py)."""


def _sources() -> Iterator[Path]:
    for folder in ("protos", "cost_model", "device_agent", "coordinator"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def _dangers(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"imports {n}" for n in names if n.split(".")[0] in RUN_CODE)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLED:
                yield f"calls {called.id}"
            if isinstance(called, ast.Attribute) and called.attr in METHODS:
                yield f"calls {called.attr}"
            for keyword in node.keywords:
                on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if on and keyword.arg in ("shell", "allow_pickle"):
                    yield f"says {keyword.arg}=True"
            loads = isinstance(called, ast.Attribute) and ast.unparse(called) == "np.load"
            if loads and not any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                yield "calls np.load without allow_pickle=False"


def test_nothing_that_is_read_can_run() -> None:
    found = {
        str(path.relative_to(ROOT)): dangers
        for path in _sources()
        if (dangers := list(_dangers(path.read_text())))
    }
    assert found == CHECKED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "archive.extractall(folder)",
        "subprocess.run(x, shell=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_it_finds(source: str) -> None:
    assert list(_dangers(source))


# ------------------------------------------------------------------------------- no file


def _outside() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def _model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "y"))
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), ir_version=9)


def _in_a_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=_outside())
    return _model(constant, helper.make_node("Add", ["x", "w"], ["y"]))


def _in_a_branch() -> onnx.ModelProto:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])
    add = helper.make_node("Add", ["x", "w"], ["b"])
    branch = helper.make_graph([add], "branch", [], [out], [_outside()])
    choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    return _model(choice)


def _sparse() -> onnx.ModelProto:
    model = _model(helper.make_node("Add", ["x", "w"], ["y"]))
    model.graph.sparse_initializer.add().values.CopyFrom(_outside())
    return model


def _in_a_function() -> onnx.ModelProto:
    model = _model(helper.make_node("Mine", ["x"], ["y"], domain="mine"))
    constant = helper.make_node("Constant", [], ["y"], value=_outside())
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Mine", ["x"], ["y"], [constant], opset))
    return model


def _without_a_location() -> onnx.ModelProto:
    """Some readers look at the names only."""
    model = _in_a_constant()
    model.graph.node[0].attribute[0].t.data_location = TensorProto.DEFAULT
    return model


@pytest.mark.parametrize(
    "make",
    [_in_a_constant, _in_a_branch, _sparse, _in_a_function, _without_a_location],
    ids=lambda make: make.__name__,
)
def test_a_model_that_names_files_is_refused_wherever_it_does(
    make: Callable[[], onnx.ModelProto],
) -> None:
    with pytest.raises(BadModel, match="outside of its file"):
        inspect_model(make().SerializeToString(), {})


def test_a_models_name_is_no_line_of_a_packages_metadata() -> None:
    name = "x.onnx\nRequires-Dist: evil\n\nbody"
    manifest = Manifest(name, "0" * 64, "{}", (), (), ())
    lines = _metadata("x", "1", manifest, (), {}).splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist")] == [
        "Requires-Dist: numpy>=1.23"
    ]


# ------------------------------------------------------------------------------- no terminal


def _is_harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_harmless() -> None:
    assert harmless("Zürich – 東京 ✓\n\tµs") == "Zürich – 東京 ✓\n\tµs"
    assert harmless(None) == ""
    assert _is_harmless(harmless(EVIL))
    assert SHOWN in harmless(EVIL)
    assert one_line(" a\nb\t c ") == "a b c"
    assert indented("said\n2026-01-01 ERROR forged") == "said\n    2026-01-01 ERROR forged"


def _devices() -> None:
    device = replace(
        DEVICE, name=f"n{EVIL}", cpu_model=EVIL, target_json=EVIL, not_enforced=(EVIL,)
    )
    tables.devices_table([DeviceStatus(device, DeviceState.GONE, EVIL, 1, EVIL)])


def _job() -> Any:
    spec = replace(JOB.spec, model_name=EVIL, project=EVIL, submitted_by=EVIL)
    task = TaskProgress(EVIL, "w", 1, 2.0, 1.0, 3)
    assert JOB.result is not None
    result = replace(
        JOB.result,
        left_to_engine=(EVIL,),
        engines=(replace(JOB.result.engines[0], version=EVIL, latency_ms=None, error=EVIL),),
        labels={},
    )
    return replace(
        JOB,
        job_id=f"j{EVIL}",
        spec=spec,
        stage=EVIL,
        error=EVIL,
        tasks=(task,),
        tuning_ended=EVIL,
        result=result,
    )


def _progress() -> None:
    with progress.Progress() as shown:
        shown.update(_job())
        shown.note(EVIL)


def _prediction() -> None:
    operator = PredictedOperator(EVIL, "dense", 1.0)
    found = Prediction(
        *(1.0, 0.5, 1.5, 0.9, PredictionSource.PREDICTED, EVIL, EVIL), operators=(operator,)
    )
    sys.stdout.write(predict._text(EVIL, found))


@pytest.mark.parametrize(
    "show",
    [
        _devices,
        lambda: tables.jobs_table([_job()]),
        lambda: sys.stdout.write(headline(_job())),
        lambda: sys.stdout.write(report_text(_job(), None, EVIL)),
        _progress,
        _prediction,
    ],
    ids=["devices", "jobs", "headline", "report", "progress", "prediction"],
)
def test_foreign_text_is_shown_and_does_nothing_to_the_terminal(
    show: Callable[[], object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "1000")
    show()
    printed = capsys.readouterr()
    shown = printed.out + printed.err
    assert SHOWN in shown
    assert _is_harmless(shown), repr(shown)


def test_foreign_text_is_no_line_of_the_log() -> None:
    record = logging.LogRecord(
        "n", logging.INFO, "p", 1, "%s left", (f"device\n2026 ERROR {EVIL}",), None
    )
    said = _LogFormatter("%(levelname)s: %(message)s").format(record)
    assert said.splitlines()[0] == "INFO: device"
    assert said.splitlines()[1].startswith("    2026 ERROR")
    assert _is_harmless(said)
