"""`tunefarm tune`: everything in one process tree, for this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli import jobs, report
from coordinator.cli import options as shared
from protos.errors import Unavailable
from protos.records import Job, JobSpec, JobState

if TYPE_CHECKING:
    from coordinator.server import CoordinatorConfig

EXIT_FAILED, EXIT_INTERRUPTED = 3, 130
AGENT_STOP_S = 2.0

_EPILOG = """\
examples:
  tunefarm tune model.onnx --time-limit 10m
  tunefarm tune ocr.onnx --shape x=1,3,48,192 --trials 2000 --out packages
  tunefarm tune model.onnx --target-latency 20ms --time-limit 1h
  tunefarm tune model.onnx --until-flat
  tunefarm tune model.onnx --json > result.json
  tunefarm tune model.onnx --html report.html
  tunefarm tune model.onnx --label price-per-hour=0.35 --label watts=7.5

Where ONNX Runtime, OpenVINO or oneDNN is installed and runs the model faster, the package runs
in that; operators that can't be imported run in ONNX Runtime, and the rest is tuned.
Ctrl-C keeps every measurement; the same command again continues. A second run of a finished job is
answered from the tuning log. --json prints one object on standard output:
  {"job", "model", "target", "cache", "trials": {"total","ok","failed"},
   "tasks": [{"name","workload","weight","untuned_us","tuned_us","tuned_low_us","tuned_high_us",
              "tied","trials"}],
   "latency_ms": {"untuned","tuned","tuned_interval","packaged","mixed","onnxruntime",
                  "openvino","onednn"},
   "engine", "left_to_engine", "regions": [{"first","last","engine","latency_ms","inner_ms"}],
   "engines": [{"name","version","latency_ms","low_ms","high_ms","max_abs_error","max_rel_error",
                "error"}],
   "labels", "efficiency": [{"name","latency_ms","packaged","inferences_per_price","energy_mj"}],
   "target_latency_ms", "tuning_ended", "max_abs_error", "stage_s", "package", "log"}

exit codes: 0 done, 2 bad request, 3 the job failed, 130 interrupted
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="tune a model for this machine, all in one command",
        description="Starts a coordinator and a device agent, tunes the model, verifies it, writes "
        "a package, and stops everything again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared.add_job(parser)
    parser.add_argument(
        "--target",
        default="auto",
        metavar="auto|TAG|JSON",
        help="what to build for: this machine (auto), a TVM tag, or a target as JSON that this "
        "machine can run (default: auto)",
    )
    parser.add_argument(
        "--threads",
        type=shared.positive,
        metavar="N",
        help="threads the model may use (default: all CPUs)",
    )
    shared.add_labels(parser)
    jobs.add_out(parser)
    shared.add_log(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    report.add_html(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tune one model; returns the exit code."""
    model = shared.read_model(options.model)
    jobs.check_out(Path(options.out))
    report.check_html(options.html)
    from coordinator import ray_runtime
    from coordinator.frontend.onnx_model import inspect_model
    from coordinator.frontend.target import resolve_target
    from coordinator.server import CoordinatorConfig
    from coordinator.tuning_log import TuningLog, default_url, display_url, normalise_url

    inspect_model(model, dict(options.shape))
    spec = shared.job_spec(options, model, resolve_target(options.target, options.threads))
    url = normalise_url(options.log) if options.log else default_url()
    TuningLog.open(url).close()  # a log that can't be used is said before anything is started
    cpus = len(os.sched_getaffinity(0))
    print(f"starting the farm; tuning log {display_url(url)}", file=sys.stderr, flush=True)
    with ray_runtime.running(cpus):
        config = CoordinatorConfig(url, embedded=True, num_builders=cpus)
        return asyncio.run(_interruptible(spec, model, config, options))


async def _interruptible(
    spec: JobSpec, model: bytes, config: CoordinatorConfig, options: argparse.Namespace
) -> int:
    """Run the job as a task that SIGINT and SIGTERM cancel."""
    work = asyncio.create_task(_tune(spec, model, config, options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        print(
            "\ninterrupted; every measurement is kept. The same command continues.",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


async def _tune(
    spec: JobSpec, model: bytes, config: CoordinatorConfig, options: argparse.Namespace
) -> int:
    from coordinator.cli.progress import Progress
    from coordinator.server import Coordinator
    from coordinator.tuning_log import display_url

    with Progress() as progress:
        async with Coordinator(config) as coordinator:
            with local_agent(coordinator.port, spec.target_json, options.label) as agent:
                job = await coordinator.jobs.submit(spec, model)
                watch = asyncio.create_task(_watch(coordinator, job.job_id, progress))
                lost = asyncio.create_task(_agent_lost(agent))
                try:
                    await asyncio.wait({watch, lost}, return_when=asyncio.FIRST_COMPLETED)
                    if not watch.done():
                        lost.result()
                    job = watch.result()
                finally:
                    for task in (watch, lost):
                        task.cancel()
            if job.state is not JobState.DONE:
                print(f"tunefarm: {jobs.headline(job)}", file=sys.stderr)
                return EXIT_FAILED
            _, data = await coordinator.jobs.package(job.job_id)
    path = jobs.save_package(Path(options.out), job, data).resolve()
    _report(job, path, display_url(config.log_url), options.json)
    if options.html is not None:
        # What this run's job knows beside the log: the seconds per stage.
        found = await asyncio.to_thread(report.report_of_log, config.log_url, job.job_id)
        report.write_page(options.html, replace(found, job=job))
    return 0


async def _watch(coordinator: Any, job_id: str, progress: Any) -> Job:
    async for job in coordinator.jobs.watch(job_id):
        progress.update(job)
    last: Job = job
    return last


def _report(job: Job, package: Path, log_url: str, as_json: bool) -> None:
    from coordinator.results.report import report_json, report_text

    if as_json:
        print(report_text(job, str(package), log_url), file=sys.stderr)
        print(json.dumps(report_json(job, str(package), log_url)))
    else:
        print(report_text(job, str(package), log_url))


async def _agent_lost(agent: subprocess.Popen[bytes]) -> None:
    """Raise Unavailable when the agent's process ends on its own."""
    while agent.poll() is None:
        await asyncio.sleep(0.5)
    raise Unavailable(
        f"the device agent ended with status {agent.returncode}; its message is above"
    )


@contextlib.contextmanager
def local_agent(
    port: int, target_json: str, labels: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A device agent as its own process, in its own session so that Ctrl-C is ours to handle."""
    arguments = [
        *(sys.executable, "-m", "coordinator.cli.main", "agent"),
        *("--coordinator", f"127.0.0.1:{port}", "--name", f"local-{os.getpid()}"),
        *("--target", target_json, "--die-with-parent"),
        *(part for key, value in labels.items() for part in ("--label", f"{key}={value}")),
    ]
    agent = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        yield agent
    finally:
        agent.terminate()
        try:
            agent.wait(AGENT_STOP_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
