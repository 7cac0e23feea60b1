"""A model, or a part of one, as a program of oneDNN's primitives.

oneDNN is a library of kernels and reads no model. What its user does is done here: nodes become
calls of primitives (``primitive_steps``), a function of each number behind a convolution or a
product becomes a part of that, and so does a residual that is added. Which layouts the data has,
and where it changes, is left to the library and found out where the program is loaded
(``coordinator/package/primitives_part.py``).
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections import Counter
from typing import Any

import numpy as np

from .onnx_model import fold, graph_inputs
from .parts import values_of
from .primitive_steps import NotInOneDNN, Step, Steps

__all__ = ["NotInOneDNN", "onednn_program"]

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Equal content must give equal bytes."""

_COMPUTED = ("convolution", "deconvolution", "matmul")
"""What may be followed by more before it writes its result."""

_NEAR = 1e-5
"""Relative difference of constants that say the same."""


def onednn_program(data: bytes) -> bytes:
    """An ``.npz`` with the program as JSON, ``program``, and its constants, of an ONNX file whose
    shapes are fixed.

    Raises NotInOneDNN for what oneDNN can't do, naming the first such node, and BadModel, see
    ``fold``.
    """
    import onnx

    model = fold(onnx.load_from_string(data))
    inputs = [value.name for value in graph_inputs(model.graph)]
    outputs = [value.name for value in model.graph.output]
    steps = _translated(model)
    for name in (*inputs, *outputs):
        if name not in steps.shapes:
            raise NotInOneDNN(f"oneDNN's program would read or write {name!r}, not of float32")
        if name in outputs and name in (*inputs, *steps.constants):
            raise NotInOneDNN(f"oneDNN would have nothing to do for the output {name!r}")
    fused = _Fusion(steps, outputs).fused()
    if (lone := next((step for step in fused if step.get("alg") == "erf"), None)) is not None:
        raise NotInOneDNN(f"oneDNN has no primitive for Erf ({lone['out']!r})")
    used = {name for step in fused for name in _reads(step)} & steps.constants.keys()
    names = {name: f"c{number}" for number, name in enumerate(sorted(used))}
    shaped = {name for step in fused for name in (step["out"], *_reads(step))} | set(inputs)
    program = {
        "shapes": {name: list(steps.shapes[name]) for name in sorted(shaped)},
        "constants": names,
        "steps": fused,
    }
    text = np.frombuffer(json.dumps(program).encode(), np.uint8)
    arrays = {key: steps.constants[name].astype(np.float32) for name, key in names.items()}
    return _packed({"program": text, **arrays})


def _translated(model: Any) -> Steps:
    import onnx

    float32 = onnx.TensorProto.FLOAT
    shapes = {
        name: value.shape
        for name, value in values_of(model).items()
        if value.is_fixed and value.info.type.tensor_type.elem_type == float32
    }
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    shapes |= {name: array.shape for name, array in constants.items() if array.dtype == np.float32}
    steps = Steps(shapes, constants)
    for node in model.graph.node:
        steps.add_node(node)
    return steps


def _reads(step: Step) -> list[str]:
    """All tensors that a step reads, constants included."""
    named = [step.get(key) for key in ("weights", "bias", "scale", "shift")]
    posts = [post["in"] for post in step.get("post", ()) if "in" in post]
    return [*step["in"], *(name for name in named if name), *posts]


class _Fusion:
    """Puts steps together that one primitive can do."""

    def __init__(self, steps: Steps, outputs: list[str]) -> None:
        self._steps = list(steps.steps)
        self._shapes = steps.shapes
        self._outputs = outputs

    def fused(self) -> list[Step]:
        """The steps that are left, in an order in which they can run."""
        self._activations()
        self._reshapes_behind_functions()
        self._post_operations()
        return self._steps

    def _index(self) -> None:
        """Who makes each tensor, and how often it is read."""
        self._maker = {step["out"]: step for step in self._steps}
        self._read = Counter(name for step in self._steps for name in _reads(step))
        self._read.update(self._outputs)

    def _made_for_one(self, name: str, alg: str) -> Step | None:
        """The elementwise step that makes this, if nothing else reads it."""
        step = self._maker.get(name)
        found = step is not None and step["op"] == "eltwise" and step["alg"] == alg
        return step if found and self._read[name] == 1 else None

    # ---------------------------------------------------------------- x · f(x), a single function

    def _activations(self) -> None:
        """Swish, hard swish and GELU, as exporters write them."""
        self._index()
        for step in list(self._steps):
            if step["op"] == "binary" and step["alg"] == "mul":
                for source, factor in (step["in"], step["in"][::-1]):
                    found = self._function_of(source, factor)
                    if found is not None:
                        alg, alpha, beta, gone = found
                        self._replace(step, gone, source, alg, alpha, beta)
                        break
        self._halves()

    def _function_of(self, source: str, factor: str) -> tuple[str, float, float, list[Step]] | None:
        """What source · factor is of source, if it is a function that oneDNN has."""
        for alg, product in (("logistic", "swish"), ("hardsigmoid", "hardswish")):
            step = self._made_for_one(factor, alg)
            if step is not None and step["in"] == [source]:
                alpha = 1.0 if alg == "logistic" else step["alpha"]
                return product, alpha, step["beta"], [step]
        clip = self._made_for_one(factor, "clip")
        moved = self._made_for_one(clip["in"][0], "linear") if clip is not None else None
        if (
            clip is not None
            and moved is not None
            and moved["in"] == [source]
            and clip["alpha"] == 0 < clip["beta"]
        ):
            # x · min(max(a x + b, 0), h) is h times the hard swish of a / h and b / h.
            high = clip["beta"]
            return (
                f"{high} hardswish",
                moved["alpha"] / high,
                moved["beta"] / high,
                [clip, moved],
            )
        plus = self._made_for_one(factor, "linear")
        erf = self._made_for_one(plus["in"][0], "erf") if plus is not None else None
        scaled = self._made_for_one(erf["in"][0], "linear") if erf is not None else None
        if plus is not None and erf is not None and scaled is not None:
            one = plus["alpha"] == plus["beta"] == 1 and scaled["beta"] == 0
            if scaled["in"] == [source] and one and _near(scaled["alpha"], math.sqrt(0.5)):
                return "2 gelu_erf", 0.0, 0.0, [plus, erf, scaled]
        return None

    def _replace(
        self, step: Step, gone: list[Step], source: str, alg: str, alpha: float, beta: float
    ) -> None:
        """The product becomes a function of ``source``, of which there may be a multiple."""
        times, _, name = alg.rpartition(" ")
        made = {"op": "eltwise", "in": [source], "alg": name, "alpha": alpha, "beta": beta}
        result = step["out"]
        new = [{**made, "out": result}]
        if times:
            inner = f"{result}*"
            self._shapes[inner] = self._shapes[result]
            scaled = {"op": "eltwise", "in": [inner], "out": result, "alg": "linear"}
            new = [{**made, "out": inner}, {**scaled, "alpha": float(times), "beta": 0.0}]
        at = self._steps.index(step)
        self._steps[at : at + 1] = new
        for other in gone:
            self._steps.remove(other)
        self._index()

    def _halves(self) -> None:
        """Two multiplications by a number are one; one by 1 is none."""
        for step in list(self._steps):
            if step["op"] != "eltwise" or step["alg"] != "linear":
                continue
            before = self._made_for_one(step["in"][0], "linear")
            if before is not None and before["beta"] == 0:
                step["in"] = before["in"]
                step["alpha"] *= before["alpha"]
                self._steps.remove(before)
                self._index()
            if _near(step["alpha"], 1.0) and step["beta"] == 0:
                maker = self._maker.get(step["in"][0])
                if maker is not None and self._read[step["in"][0]] == 1:
                    maker["out"] = step["out"]
                    self._steps.remove(step)
                    self._index()

    # ---------------------------------------------------------------- into what computes the input

    def _reshapes_behind_functions(self) -> None:
        """A function of what was only given another shape is one of what it was before."""
        self._index()
        for step in self._steps:
            maker = self._maker.get(step["in"][0])
            if step["op"] != "eltwise" or maker is None or maker["op"] != "reshape":
                continue
            if self._read[maker["out"]] > 1:
                continue
            middle = f"{step['out']}*"
            self._shapes[middle] = self._shapes[maker["in"][0]]
            function = {**step, "in": maker["in"], "out": middle}
            view = {**maker, "in": [middle], "out": step["out"]}
            maker.clear()
            maker.update(function)
            step.clear()
            step.update(view)
            self._index()

    def _post_operations(self) -> None:
        """Functions and residuals behind convolutions and products."""
        self._index()
        for step in [one for one in self._steps if one["op"] in _COMPUTED]:
            while (after := self._only_reader(step)) is not None:
                post = self._post(step, after)
                if post is None:
                    break
                # Whatever it reads beside is there where the later one stood.
                step["post"].append(post)
                step["out"] = after["out"]
                self._steps.remove(step)
                self._steps[self._steps.index(after)] = step
                self._index()

    def _only_reader(self, step: Step) -> Step | None:
        if self._read[step["out"]] != 1 or step["out"] in self._outputs:
            return None
        return next((one for one in self._steps if step["out"] in _reads(one)), None)

    def _post(self, step: Step, after: Step) -> dict[str, Any] | None:
        """``after`` as a part of ``step``, which alone makes its operand; None if it is none."""
        if after["op"] == "eltwise" and after["alg"] != "erf":
            return {key: after[key] for key in ("alg", "alpha", "beta")}
        if after["op"] != "binary" or self._shapes[after["out"]] != self._shapes[step["out"]]:
            return None
        left, right = after["in"]
        if left == step["out"] and right != left:
            return {"alg": after["alg"], "in": right}
        if right == step["out"] and after["alg"] in ("add", "mul", "max", "min"):
            same = self._shapes[left] == self._shapes[right]
            return {"alg": after["alg"], "in": left} if same else None
        return None


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_NEAR)


def _packed(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME), "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()
