"""The sections on what the package needs of memory and how far its outputs are off."""

from __future__ import annotations

from markupsafe import Markup

from coordinator.results.report import way_title
from protos.records import ModelResult

from .bars import Bar, bars
from .scale import difference as shown
from .section import Column, ReportData, Section, Table, words

_MIB = float(1 << 20)


def memory(data: ReportData) -> Section | None:
    """Weights, intermediate results and the peak of each process; None if none is known."""
    result = data.job.result
    if result is None:
        return None
    facts = _facts(result)
    most = max((one.num_threads for one in result.threads), default=0)
    peaks = [
        Bar(
            way_title(one.name),
            one.resident_bytes / _MIB,
            f"{one.resident_bytes / _MIB:,.1f} MiB",
            chosen=one.name == result.engine,
        )
        for one in result.threads
        if one.num_threads == most and one.resident_bytes
    ]
    if not facts and not peaks:
        return None
    tables = []
    if facts:
        tables.append(Table("The model's own needs", (words("what"), Column("MiB")), facts))
    pictures: tuple[Markup, ...] = ()
    if peaks:
        said = "; ".join(f"{row.label} {row.words}" for row in peaks)
        title = "Peak memory of the process that runs the model, by engine"
        pictures = (bars("memory-picture", title, said, "MiB, the whole process", peaks),)
        rows = tuple((row.label, f"{row.value:,.1f}") for row in peaks)
        columns = (words("way to run it"), Column("MiB"))
        tables.append(Table("Peak of the process", columns, rows))
    note = (
        "The peak is that of a whole process with Python, NumPy, the engine and the examples in "
        "it, after it ran each example once."
    )
    return Section("memory", "Memory", (), pictures, tuple(tables), (note,) if peaks else ())


def _facts(result: ModelResult) -> tuple[tuple[str, str], ...]:
    found = (
        ("weights", result.weights_bytes),
        ("intermediate results of the tuned model, allocated once", result.workspace_bytes),
    )
    return tuple((name, f"{size / _MIB:,.3f}") for name, size in found if size)


def difference(data: ReportData) -> Section | None:
    """How far each output of what is packaged is off; None if that is not known by output."""
    result = data.job.result
    if result is None or not result.outputs:
        return None
    columns = (words("output"), Column("absolute"), Column("relative to its range"))
    rows = tuple(
        (one.name, shown(one.max_abs_error), shown(one.max_rel_error)) for one in result.outputs
    )
    lead = (
        "On seeded inputs, no output of the package differs from ONNX Runtime's by more than "
        f"{shown(result.max_rel_error)} of its range."
    )
    return Section(
        "difference",
        "Numerical difference",
        (lead,),
        tables=(Table("The largest difference of each output", columns, rows),),
    )
