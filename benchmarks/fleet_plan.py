"""What the fleet's benchmark does, for all of its processes: how many devices, and what they
answer.

A replay device takes as long for a measurement as a real one did: what it answers is a row, drawn
at random, of ``benchmarks/records``, 8,000 measurements of 67 operators that the farm made on two
CPUs. The times may be multiplied: by eight, for smaller boards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.records import Device, MeasurementStatus

RECORDS = Path(__file__).with_name("records")
CPU_MODEL = "replay of the log"
TARGET = '{"keys":["cpu"],"kind":"llvm","num-cores":2}'
TOOLS = {
    "kernel": "6.18.44",
    "orcjit": "0.1.3",
    "python": "3.11.7",
    "replay": "1",
    "tvm-ffi": "0.1.14.post1",
    "tvm-runtime": "43544bbeaea3cd3f",
}
"""As many as a real device names."""

_ANSWERS = ("OK", "SUSPECT", "TIMED_OUT")
"""What a device said itself."""


@dataclass(frozen=True)
class Answer:
    """What became of a candidate: how long it kept its device busy, and what was said."""

    status: int
    busy_s: float
    load_s: float
    check_s: float
    time_s: float
    repeats_s: tuple[float, ...]
    max_abs_error: float


@dataclass(frozen=True)
class Plan:
    """``url`` is of the tuning log, ``folder`` where all leave their files.

    ``answers`` are drawn from by each device in an order of its own.
    """

    url: str
    folder: str
    devices: int
    answers: tuple[Answer, ...]

    def save(self, path: Path) -> None:
        """As JSON, for the processes."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """What ``save`` wrote."""
        saved = json.loads(path.read_text())
        rows = saved.pop("answers")
        answers = tuple(Answer(**{**row, "repeats_s": tuple(row["repeats_s"])}) for row in rows)
        return cls(**saved, answers=answers)

    def drawn(self, number: int) -> Iterator[Answer]:
        """What a device answers, one after the other, without end."""
        chance = random.Random(number)
        while True:
            yield chance.choice(self.answers)

    @property
    def authority(self) -> Path:
        """The file of the farm's certificate authority."""
        return Path(self.folder) / "ca.pem"

    def credentials(self, number: int) -> Path:
        """The file of a device's key and certificate."""
        return Path(self.folder) / f"{device(number).name}.pem"


def device(number: int) -> Device:
    """A replay device; all are of one kind."""
    return Device(
        name=f"replay-{number:04d}",
        target_json=TARGET,
        cpu_model=CPU_MODEL,
        cpus=(),
        num_threads=2,
        emulated=True,
        tool_versions=TOOLS,
    )


def recorded_answers(slower: float) -> tuple[Answer, ...]:
    """What real devices answered, as if they were so many times slower."""
    import pyarrow.parquet as pq

    columns = ["status", "busy_s", "load_s", "check_s", "time_s", "repeats_s", "max_abs_error"]
    rows = pq.read_table(RECORDS / "measurements.parquet", columns=columns).to_pylist()
    return tuple(
        Answer(
            MeasurementStatus[row["status"]],
            *(slower * row[column] for column in ("busy_s", "load_s", "check_s", "time_s")),
            tuple(slower * repeat_s for repeat_s in row["repeats_s"]),
            row["max_abs_error"] or 0.0,
        )
        for row in rows
        if row["status"] in _ANSWERS and row["busy_s"] is not None
    )


def recorded_traces(count: int) -> list[str]:
    """Traces of real candidates, of different lengths."""
    import pyarrow.parquet as pq

    traces = pq.read_table(RECORDS / "candidates.parquet", columns=["trace_json"]).column(0)
    every = [trace for trace in traces.to_pylist() if len(trace) > 2]
    return every[:: max(1, len(every) // count)][:count]
