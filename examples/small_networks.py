"""Small convolutional networks in NumPy: trained on textures in noise, written as ONNX.

Enough of a network to have a real accuracy without a framework: convolutions of 3 × 3 with ReLU,
the mean over the picture, and a linear layer, trained with Adam (Kingma and Ba, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]

SIZE = 24
CLASSES = 8
_KERNEL = 3
_WARM_UP = 20
"""Steps in which the rate of training rises."""


@dataclass(frozen=True)
class Variant:
    """A design: the channels of each convolution and its stride."""

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]


VARIANTS = (
    Variant("tiny", (4, 8), (2, 2)),
    Variant("small", (8, 16), (2, 2)),
    Variant("medium", (16, 32, 32), (2, 2, 1)),
    Variant("large", (32, 64, 64), (1, 2, 1)),
    Variant("huge", (48, 96, 96), (1, 2, 1)),
)


def textures(count: int, seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Pictures of shape (``count``, 1, 24, 24) and their classes: a grating of one of four
    directions and two widths, at any place, in noise that is stronger than it."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    angle = np.pi * (labels % 4) / 4 + random.normal(0, 0.12, count)
    pace = np.where(labels < CLASSES // 2, 0.75, 1.15) + random.normal(0, 0.06, count)
    y, x = np.mgrid[:SIZE, :SIZE]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase = random.uniform(0, 2 * np.pi, (count, 1, 1))
    pictures = np.sin(pace[:, None, None] * along + phase)
    pictures = pictures + random.normal(0, 1.8, pictures.shape)
    return pictures[:, None].astype(np.float32), labels


class Network:
    """A variant with its weights."""

    def __init__(self, variant: Variant, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.variant = variant
        self.weights: list[Array] = []
        before = 1
        for channels in variant.channels:
            fan_in = before * _KERNEL**2
            scale = np.sqrt(2 / fan_in)
            self.weights.append((random.standard_normal((channels, fan_in)) * scale).astype("f4"))
            self.weights.append(np.zeros(channels, np.float32))
            before = channels
        scale = np.sqrt(1 / before)
        self.weights.append((random.standard_normal((CLASSES, before)) * scale).astype("f4"))
        self.weights.append(np.zeros(CLASSES, np.float32))

    def __call__(self, x: Array) -> Array:
        """Scores of shape (pictures, classes)."""
        return self._forward(x)[0]

    def _forward(self, x: Array) -> tuple[Array, list[Any], Array]:
        """Scores, what the way back needs of each convolution, and the means."""
        kept = []
        for layer, stride in enumerate(self.variant.strides):
            weight, bias = self.weights[2 * layer : 2 * layer + 2]
            columns, high, wide = _columns(x, stride)
            y = np.maximum(columns @ weight.T + bias, 0)
            kept.append((x.shape, columns, y))
            x = y.reshape(-1, high, wide, len(bias)).transpose(0, 3, 1, 2)
        means = x.mean(axis=(2, 3))
        return means @ self.weights[-2].T + self.weights[-1], kept, means

    def gradients(self, x: Array, labels: npt.NDArray[np.int64]) -> list[Array]:
        """Of the cross entropy, for each of ``weights``."""
        scores, kept, means = self._forward(x)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        chances[np.arange(len(labels)), labels] -= 1
        back = chances / len(labels)
        found = [back.sum(axis=0), back.T @ means]
        pixels = len(kept[-1][2]) // len(x)
        back = np.repeat(back @ self.weights[-2] / pixels, pixels, axis=0)
        for layer in reversed(range(len(kept))):
            shape, columns, y = kept[layer]
            back = back * (y > 0)
            found += [back.sum(axis=0), back.T @ columns]
            if layer:
                inner = _pictures(
                    back @ self.weights[2 * layer], shape, self.variant.strides[layer]
                )
                back = inner.transpose(0, 2, 3, 1).reshape(-1, shape[1])
        return found[::-1]

    def train(self, steps: int, seed: int = 1, batch: int = 32, rate: float = 3e-3) -> None:
        """Adam on fresh pictures at every step; the rate rises, and falls to nothing."""
        mean = [np.zeros_like(weight) for weight in self.weights]
        square = [np.zeros_like(weight) for weight in self.weights]
        for step in range(1, steps + 1):
            gradients = self.gradients(*textures(batch, seed * 100_000 + step))
            for i, gradient in enumerate(gradients):
                mean[i] = 0.9 * mean[i] + 0.1 * gradient
                square[i] = 0.99 * square[i] + 0.01 * gradient**2
                scaled = mean[i] / (1 - 0.9**step)
                scaled /= np.sqrt(square[i] / (1 - 0.99**step)) + 1e-8
                change = rate * min(step / _WARM_UP, 1 - step / (steps + 1)) * scaled
                self.weights[i] = (self.weights[i] - change).astype(np.float32)

    def accuracy(self, count: int = 1000, seed: int = 7) -> float:
        """The share of new pictures whose class has the highest score."""
        pictures, labels = textures(count, seed)
        right = [
            self(pictures[start : start + 100]).argmax(axis=1) == labels[start : start + 100]
            for start in range(0, count, 100)
        ]
        return float(np.concatenate(right).mean())

    def onnx(self, batch: int) -> bytes:
        """An ONNX file for so many pictures at once: ``x`` to ``scores``."""
        nodes, weights, tensor, before = [], {}, "x", 1
        for layer, stride in enumerate(self.variant.strides):
            weight, bias = self.weights[2 * layer : 2 * layer + 2]
            weights[f"w{layer}"] = weight.reshape(len(bias), before, _KERNEL, _KERNEL)
            weights[f"b{layer}"] = bias
            inputs = [tensor, f"w{layer}", f"b{layer}"]
            pads, strides = [1, 1, 1, 1], [stride, stride]
            name = f"conv{layer}"
            nodes.append(helper.make_node("Conv", inputs, [name], name, pads=pads, strides=strides))
            nodes.append(helper.make_node("Relu", [name], [f"relu{layer}"], f"relu{layer}"))
            tensor, before = f"relu{layer}", len(bias)
        nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], "pool"))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["means"], "flatten"))
        weights |= {"w": self.weights[-2], "b": self.weights[-1]}
        nodes.append(helper.make_node("Gemm", ["means", "w", "b"], ["scores"], "head", transB=1))
        return _file(nodes, weights, batch, self.variant.name)


def _columns(x: Array, stride: int) -> tuple[Array, int, int]:
    """The windows of padded pictures, one a row, and how many there are down and across."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_KERNEL, _KERNEL), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    _, channels, high, wide = windows.shape[:4]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * _KERNEL**2)
    return np.ascontiguousarray(rows), high, wide


def _pictures(columns: Array, shape: Sequence[int], stride: int) -> Array:
    """The way back from ``_columns``: each window's share added to its pixels."""
    count, channels, high, wide = shape
    down, across = -(-high // stride), -(-wide // stride)
    windows = columns.reshape(count, down, across, channels, _KERNEL, _KERNEL)
    padded = np.zeros((count, channels, high + 2, wide + 2), np.float32)
    for i in range(_KERNEL):
        for j in range(_KERNEL):
            rows = slice(i, i + (down - 1) * stride + 1, stride)
            cells = slice(j, j + (across - 1) * stride + 1, stride)
            padded[:, :, rows, cells] += windows[..., i, j].transpose(0, 3, 1, 2)
    return padded[:, :, 1:-1, 1:-1]


def _file(nodes: list[Any], weights: dict[str, Array], batch: int, name: str) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])
    initializers = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, [x], [scores], initializers)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())
