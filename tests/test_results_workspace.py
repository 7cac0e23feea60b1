"""The pass that allocates a model's memory once: nothing is left in ``main``, nothing changes."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from tvm import relax

from coordinator.frontend.importer import import_model
from coordinator.results.workspace import WORKSPACE, pipeline
from tests.kernels import target_json
from tests.models import cls_model, small_model
from tests.test_frontend_flat_maps import bottleneck

TARGET = target_json(1)


def _lowered(data: bytes, shapes: Any = None) -> tuple[Any, Any]:
    target = tvm.target.Target(json.loads(TARGET))
    module = tvm.ir.load_json(import_model(data, shapes or {}, TARGET).parts[0].module_json)
    with target:
        return module, pipeline(target)(module)


@pytest.mark.parametrize("which", ["small", "cls"])
def test_main_allocates_nothing_any_more(which: str) -> None:
    model = cls_model()
    data, shapes = (small_model(), {}) if which == "small" else (model.data, model.shapes)
    _, lowered = _lowered(data, shapes)
    main = lowered["main"].script()
    assert "alloc" in lowered[WORKSPACE].script()
    assert "vm.alloc_" not in main
    assert not re.search(r"kill_object\((alloc|storage)", main)
    assert len(lowered["main"].params) > 1


@pytest.mark.parametrize(
    ("data", "atol"), [(small_model(), 1e-6), (bottleneck(7), 1e-3)], ids=["small", "views"]
)
def test_a_run_after_another_is_not_disturbed_by_it(data: bytes, atol: float) -> None:
    """The same memory serves every run: outputs depend on their own inputs only."""
    target = tvm.target.Target(json.loads(TARGET))
    imported = import_model(data, {}, TARGET)
    module = tvm.ir.load_json(imported.parts[0].module_json)
    with target:
        executable = relax.build(module, target, relax_pipeline=pipeline(target))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    workspace = list(machine[WORKSPACE]())
    session = onnxruntime.InferenceSession(data)
    generator = np.random.default_rng(3)
    for _ in range(3):
        x = generator.standard_normal(imported.inputs[0].spec.shape).astype(np.float32)
        output = machine["main"](tvm.runtime.tensor(x), *workspace).numpy().copy()
        (expected,) = session.run(None, {"x": x})
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=atol)
