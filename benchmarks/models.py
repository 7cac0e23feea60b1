"""Whole models: the farm's package beside ONNX Runtime, OpenVINO and torch.compile.

``python -m benchmarks.models [--quick] [--models NAME…] [--time-limit TIME] [--log FILE]
[--from-log] [--cache-dir DIR]``

Each model (``benchmarks.model_zoo``) is tuned by ``tunefarm tune`` as a user runs it, with a budget
of time; then the package that it wrote and the peers are timed in turn, in one run, by the part of
the device agent that times packages: each in a process of its own on the same CPUs with the same
number of threads, the caches warm, stopped while it is not its turn. Every output is compared with
ONNX Runtime's on five seeded examples; what is wrong has no time. Latencies are medians over the
rounds.

``latency_ratio`` is the best peer's time over the package's: 1 or more means that nothing else is
faster. A package that is an engine's is timed once, as that peer, so that no noise makes it faster
than itself. ``own_only_ratio`` is the same with the farm's code alone. Where the package is not
that, the farm's code is compiled again from the log with each choice of records that the job had;
the choices are timed in a run of their own, and the fastest goes into the run with the peers, so
that it gains nothing from having been chosen. ``own_time_share`` and ``own_operator_share`` say how
much of the packages is the farm's code, in the mean over the models.

OpenVINO is asked for float32. By itself it computes in bfloat16 where the CPU can, which is another
answer: it differs from the float32 model's by more than a package of the farm's may. PyTorch
(TorchInductor, ``benchmarks.torch_peer``) has no module of the models that come as ONNX files; for
those the engines are the peers. oneDNN, a library that reads no models, runs them by the farm's
programs: its times are shown, and it may be what a package runs in, but it is no peer.

The log keeps every measurement: a second run with the same budget, or any with ``--from-log``,
tunes nothing and only packages and times again. ``--quick`` is two models, a minute each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model_packages import (
    engine_packages,
    own_packages,
    own_share,
    packaged_manifest,
)
from benchmarks.model_report import (
    OWN_ONLY,
    PACKAGE,
    TORCH,
    Verdict,
    figures,
    ratios_table,
    times_table,
)
from benchmarks.model_zoo import (
    ModelFiles,
    ModelMissing,
    ZooModel,
    cache_folder,
    choose,
    files,
)
from benchmarks.process import ProcessFailed, progress, run_quietly
from benchmarks.result import last_line
from benchmarks.torch_peer import torch_package
from coordinator.cli.options import duration
from coordinator.frontend.target import resolve_target
from coordinator.results.verify import make_examples
from device_agent.devices.cpu import describe_cpu
from device_agent.model_runner import ModelRunner
from protos.errors import FarmError
from protos.records import (
    OWN,
    Artifact,
    Device,
    EvaluatorConfig,
    ModelVariant,
    ModelWork,
    VariantResult,
)

TIME_LIMIT, QUICK_TIME_LIMIT = "5m", "60s"
TRIALS = 100_000
"""More than the time allows."""

QUICK_MODELS = ("squeezenet", "magika")

EXAMPLES = 5
ROUNDS, MIN_REPEAT_MS = 40, 40
"""In each everybody has a turn of some runs."""

TIMEOUT_S = 120.0
"""Of one run; torch.compile has as much for each example to compile in."""


def tune(model: ZooModel, onnx: Path, limits: Sequence[str], log: str, out: Path) -> dict[str, Any]:
    """The report of ``tunefarm tune``; raises ProcessFailed with the end of its output."""
    shapes = [
        word
        for name, shape in model.shapes.items()
        for word in ("--shape", f"{name}={','.join(map(str, shape.dims))}")
    ]
    output = run_quietly(
        [
            *(sys.executable, "-m", "coordinator.cli.main", "tune", str(onnx), *shapes, *limits),
            *("--log", log, "--out", str(out), "--json"),
        ],
        os.environ,
    )
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return report


def time_in_turn(
    packages: Mapping[str, bytes], examples: bytes, device: Device, rounds: int = ROUNDS
) -> dict[str, VariantResult]:
    """All of them in one run, by name."""
    evaluator = EvaluatorConfig(
        number=1, repeat=rounds, min_repeat_ms=MIN_REPEAT_MS, timeout_s=TIMEOUT_S
    )
    variants = tuple(ModelVariant(name, Artifact.of(data)) for name, data in packages.items())
    work = ModelWork(variants, Artifact.of(examples), evaluator, device.num_threads)
    measured = ModelRunner(device).run(work, lambda artifact: artifact.data)
    return {result.name: result for result in measured.variants}


def fastest(results: Mapping[str, VariantResult]) -> str:
    """The name of the fastest; raises RuntimeError if none was timed."""
    timed = {name: ms for name, one in results.items() if (ms := one.latency_ms) is not None}
    if not timed:
        raise RuntimeError(f"nothing was timed: {[one.error for one in results.values()]}")
    return min(timed, key=timed.__getitem__)


def judge(
    model: ZooModel,
    made: ModelFiles,
    report: Mapping[str, Any],
    device: Device,
    log: str,
    rounds: int = ROUNDS,
) -> Verdict:
    """Time what the job packaged beside the peers; raises RuntimeError if nothing of ours runs."""
    data, wheel = made.onnx.read_bytes(), Path(report["package"]).read_bytes()
    manifest = packaged_manifest(wheel)
    engines = [part["engine"] for part in manifest["parts"]]
    examples = make_examples(data, model.shapes, EXAMPLES)
    packages = engine_packages(manifest, data, model.shapes, device)
    if made.weights is not None:
        packages[TORCH] = torch_package(model.name, made.weights)
    package = engines[0] if len(engines) == 1 and engines[0] != OWN else PACKAGE
    if package == PACKAGE:
        packages[PACKAGE] = wheel
    own_only = PACKAGE
    if any(engine != OWN for engine in engines):
        progress(f"{model.name}: packaged for {', '.join(engines)}; compiling our own code as well")
        choices = own_packages(manifest, data, model.shapes, device, log)
        packages[own_only := OWN_ONLY] = _chosen(choices, examples, device)
    progress(f"{model.name}: timing {', '.join(packages)} in turn")
    variants = time_in_turn(packages, examples, device, rounds)
    named = {**variants, PACKAGE: variants[package], OWN_ONLY: variants[own_only]}
    share = own_share(wheel, data)
    return Verdict(model.name, report["engine"], report["trials"]["total"], share, named)


def _chosen(packages: Sequence[bytes], examples: bytes, device: Device) -> bytes:
    """The fastest, by a run of its own if there are several."""
    if len(packages) == 1:
        return packages[0]
    named = {str(number): package for number, package in enumerate(packages)}
    return named[fastest(time_in_turn(named, examples, device))]


def run(
    models: Sequence[ZooModel], limits: Sequence[str], log: str, cache: Path
) -> tuple[list[Verdict], list[str]]:
    """Each model's verdict, and what became of those that failed."""
    verdicts: list[Verdict] = []
    failed: list[str] = []
    device = describe_cpu("benchmark", resolve_target("auto", None), None, emulated=False)
    made = {model.name: files(model, cache) for model in models}  # before hours are spent
    for model in models:
        progress(f"{model.name}: tuning with {' '.join(limits)}")
        try:
            report = tune(model, made[model.name].onnx, limits, log, cache / "packages")
            verdict = judge(model, made[model.name], report, device, log)
            progress(f"{ratios_table([verdict])}\n{times_table([verdict])}")
        except (ProcessFailed, FarmError, RuntimeError) as error:  # others are not lost
            progress(f"{model.name}: {error}")
            failed.append(f"{model.name}: {error}")
        else:
            verdicts.append(verdict)
    return verdicts, failed


def _options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{' and '.join(QUICK_MODELS)}, {QUICK_TIME_LIMIT} each",
    )
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME", help="some of them (default: all)"
    )
    parser.add_argument(
        "--time-limit",
        type=_checked(duration),
        metavar="TIME",
        help=f"of each model's tuning (default: {TIME_LIMIT})",
    )
    parser.add_argument(
        "--log", metavar="FILE", help="the tuning log (default: models.db in the cache folder)"
    )
    parser.add_argument(
        "--from-log", action="store_true", help="tune nothing: package what the log knows"
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=cache_folder() / "benchmarks",
        metavar="DIR",
        help="model files, packages and the log (default: %(default)s)",
    )
    return parser.parse_args()


def _checked(read: Callable[[str], object]) -> Callable[[str], str]:
    """The text itself, if it can be read."""

    def text(value: str) -> str:
        read(value)
        return value

    return text


def main() -> int:
    """Print the tables and, as the last line, one JSON object; returns 1 if a model failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    options = _options(parser)
    try:
        models = choose(options.models or (QUICK_MODELS if options.quick else ()))
    except LookupError as error:
        parser.error(str(error))
    log = options.log or str(options.cache_dir / "models.db")
    if options.from_log and "://" not in log and not Path(log).exists():
        parser.error(f"--from-log: there is no tuning log {log}")
    limit = options.time_limit or (QUICK_TIME_LIMIT if options.quick else TIME_LIMIT)
    limits = (
        ("--trials", "1") if options.from_log else ("--time-limit", limit, "--trials", str(TRIALS))
    )
    try:
        verdicts, failed = run(models, limits, log, options.cache_dir)
    except ModelMissing as error:
        parser.error(str(error))
    if verdicts:
        print(times_table(verdicts), ratios_table(verdicts), sep="\n\n")
    notes = [f"{v.name}: {failure}" for v in verdicts for failure in v.failures]
    print("\n".join([*notes, *failed]))
    if verdicts:
        found = {**figures(verdicts), "failed": len(failed)}
        print(last_line("models", found, resolve_target("auto", None)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
