"""One variant of a model in a process of its own, asked in frames by ``model_runner``."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from device_agent import containment, examples, timing
from device_agent.frames import read_frame, write_frame

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
PartTimes = Callable[[Mapping[str, Array]], Sequence[float]]

MAX_UNPACKED_BYTES = 4 << 30


class LoadError(Exception):
    """The variant can't be loaded here; the message says why."""


def unzip(archive: Path, directory: Path) -> None:
    """Unpack a wheel; raises LoadError for one that would write elsewhere, or too much."""
    try:
        with zipfile.ZipFile(archive) as file:
            if sum(member.file_size for member in file.infolist()) > MAX_UNPACKED_BYTES:
                raise LoadError(f"the package is larger than {MAX_UNPACKED_BYTES >> 30} GiB")
            for member in file.infolist():
                path = PurePosixPath(member.filename)
                link = stat.S_ISLNK(member.external_attr >> 16)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename or link:
                    raise LoadError(f"the package has a file that leaves it: {member.filename!r}")
            file.extractall(directory)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise LoadError(f"the package is no wheel: {error}") from error


def load_package(archive: Path, directory: Path, num_threads: int) -> Any:
    """``Model(num_threads=…)`` of the wheel's only top-level module."""
    unzip(archive, directory)
    names = [
        name
        for path in directory.glob("*.dist-info/top_level.txt")
        for name in path.read_text().split()
    ]
    if len(names) != 1 or not names[0].isidentifier():
        raise LoadError(f"the package must have one top-level module, and has {names}")
    sys.path.insert(0, str(directory))
    return importlib.import_module(names[0]).Model(num_threads=num_threads)


def flush_caches(buffer: Array) -> None:
    """Write more than the caches hold; ``timing.FLUSH_BYTES`` of it."""
    buffer += 1


def repeat(run: Run, inputs: Mapping[str, Array], number: int, min_repeat_ms: int) -> float:
    """One repeat: seconds per run over at least ``number`` runs and ``min_repeat_ms``."""
    started = time.perf_counter()
    runs = 0
    while True:
        run(inputs)
        runs += 1
        elapsed = time.perf_counter() - started
        if runs >= number and elapsed * 1e3 >= min_repeat_ms:
            return elapsed / runs


def repeat_parts(
    part_times: PartTimes, inputs: Mapping[str, Array], number: int, min_repeat_ms: int
) -> list[float]:
    """One repeat, as in ``repeat``: seconds per run of each part."""
    total: Array = np.zeros(0)
    runs = 0
    while runs < number or total.sum() * 1e3 < min_repeat_ms:
        found = np.asarray(part_times(inputs))
        total = total + found if runs else found
        runs += 1
    times: list[float] = (total / runs).tolist()
    return times


def peak_resident_bytes(status: Path) -> int:
    """The most that a process had in memory, by its /proc/PID/status; 0 if that does not say.

    Not ``ru_maxrss``, which begins with what the parent had when it started this process.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


class ModelChild:
    """Answers ``load``, ``check`` and ``repeat`` requests."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._model: Any = None
        self._inputs: list[Mapping[str, Array]] = []
        self._last_s = 0.0
        self._flushed: Array | None = None
        self._resident_bytes = 0

    def answer(self, header: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        """The header and blobs of the answer; raises what loading or running raises."""
        if header["op"] == "load":
            self._model = self._load_package(Path(header["artifact"]), int(header["num_threads"]))
            read = examples.read_examples(Path(header["examples"]).read_bytes())
            self._inputs = [example.inputs for example in read]
            return {"op": "loaded"}, []
        assert self._model is not None, "asked to run before it was asked to load"
        run: Run = self._model.run
        if header["op"] == "check":
            return self._check(run)
        if header["cold_cache"]:
            self._flush()
            if header["time_parts"]:
                return self._repeated(self._model.part_times(self._inputs[0]))
            self._last_s = repeat(run, self._inputs[0], 1, 0)
            return self._repeated()
        if timing.needs_warm_up(self._last_s):
            run(self._inputs[0])
        how_often = int(header["number"]), int(header["min_repeat_ms"])
        if header["time_parts"]:
            return self._repeated(repeat_parts(self._model.part_times, self._inputs[0], *how_often))
        self._last_s = repeat(run, self._inputs[0], *how_often)
        return self._repeated()

    def _repeated(self, part_s: Sequence[float] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """The answer with what was timed last: all, or the parts that make it up."""
        if part_s:
            self._last_s = sum(part_s)
        return {
            "op": "repeated",
            "seconds": self._last_s,
            "part_s": list(part_s),
            "resident_bytes": self._resident_bytes,
        }, []

    def _flush(self) -> None:
        """Empty the caches."""
        if self._flushed is None:
            self._flushed = np.zeros(timing.FLUSH_BYTES // 8, dtype=np.int64)
        flush_caches(self._flushed)

    def _load_package(self, artifact: Path, num_threads: int) -> Any:
        unpacked = self._directory / "package"
        unpacked.mkdir()
        return load_package(artifact, unpacked, num_threads)

    def _check(self, run: Run) -> tuple[dict[str, Any], list[bytes]]:
        described: list[list[Any]] = []
        blobs: list[bytes] = []
        for index, inputs in enumerate(self._inputs):
            started = time.perf_counter()
            outputs = run(inputs)
            self._last_s = time.perf_counter() - started
            for name, value in outputs.items():
                array = np.ascontiguousarray(value)
                described.append([index, name, array.dtype.name, list(np.shape(value))])
                blobs.append(array.tobytes())
        # Now: what empties the caches later is none of the model's memory.
        self._resident_bytes = peak_resident_bytes(Path("/proc/self/status"))
        return {"op": "checked", "outputs": described}, blobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one ``model_runner``; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m device_agent.model_child")
    parser.add_argument("--cpus", required=True)
    parser.add_argument("--parent", required=True, type=int)
    options = parser.parse_args(arguments)
    containment.die_with_parent(options.parent)
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)  # what a model prints must not get between the frames
    os.sched_setaffinity(0, [int(cpu) for cpu in options.cpus.split(",")])
    containment.leave_network()
    containment.protect_this_process()
    child = ModelChild(Path.cwd())
    while (frame := read_frame(requests)) is not None:
        try:
            header, blobs = child.answer(frame.header)
        except Exception as error:  # whatever a model raises is data
            text = (
                str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
            )
            header, blobs = {"op": "failed", "error": " ".join(text.split())[:600]}, []
        write_frame(answers, header, blobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
