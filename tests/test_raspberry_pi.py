"""A Raspberry Pi 4, emulated, as a device of a farm: what no test on this machine's CPU shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.bundle.archive import bundle
from coordinator.client import FarmClient
from coordinator.stages import StageClock
from device_agent.build import build_kernel, tool_versions
from protos.records import (
    Artifact,
    Candidate,
    EvaluatorConfig,
    JobSpec,
    JobState,
    KernelWork,
    MeasurementStatus,
    canonical_json,
    sha256_hex,
)

from . import kernels
from .emulated_board import Board, board_with
from .farm import PATIENCE_S, real_fleet
from .models import small_model
from .test_security_farm import SecureFarm, farm, until  # noqa: F401 - farm is a fixture

PI_4 = canonical_json(
    {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a72",
        "mattr": ["+neon"],
        "num-cores": 1,
    }
)
NEWER = canonical_json({**json.loads(PI_4), "mcpu": "cortex-a76"})
ROUGH = 100.0
"""The share by which canaries may be off: other tests run beside these."""

SMALL = EvaluatorConfig(number=1, repeat=2, min_repeat_ms=0, timeout_s=60.0)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("pi")
    archive = folder / "pi.tar"
    archive.write_bytes(bundle("aarch64"))
    return board_with(archive, folder)


@contextlib.contextmanager
def agent(board: Board, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent on the board. Nobody says that it is emulated: it finds out."""
    process = subprocess.Popen(
        board.command("-v", "agent", *arguments), stdin=subprocess.DEVNULL, env=board.environment
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def built(target: str, dtype: str, size: int = 16) -> Artifact:
    outcome = build_kernel(kernels.workload_json(kernels.matmul(size, dtype)), "", target)
    assert outcome.artifact is not None, outcome.error
    return outcome.artifact


def test_code_for_a_newer_core_crashes_and_the_agent_goes_on(board: Board, tmp_path: Path) -> None:
    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(
                board,
                *("--coordinator", f"127.0.0.1:{fleet.port}", "--name", "pi", "--target", PI_4),
            ):
                await fleet.devices(PI_4, 1)
                (device,) = fleet.fleet.registry.devices_for(PI_4)
                assert device.emulated
                args = kernels.matmul_args(16, "float16")
                job = fleet.job_with("matmul", args)
                reference, newer = built(PI_4, "float16"), built(NEWER, "float16")
                assert reference.sha256 != newer.sha256
                work = KernelWork("matmul", args, 1, 0, reference, SMALL, ())
                trials = [
                    (Candidate("matmul", trace), artifact, None)
                    for trace, artifact in (("1", newer), ("2", reference))
                ]
                crashed, good = await fleet.fleet.measure(
                    job, device.kind, work, trials, StageClock(), built_with=tool_versions()
                )
                assert crashed.status is MeasurementStatus.CRASHED
                assert "SIGILL" in crashed.error
                assert good.status is MeasurementStatus.OK, good.error
                statuses = {record.status for record in fleet.log.history(job).records}
                assert statuses == {MeasurementStatus.CRASHED, MeasurementStatus.OK}
                real = replace(device, emulated=False)
                assert fleet.log.best_k("matmul", device.kind, 1, cold_cache=False)
                assert not fleet.log.best_k("matmul", real.kind, 1, cold_cache=False)

    asyncio.run(run())


def test_one_job_gives_a_pi_and_an_x86_machine_a_package_each(
    board: Board,
    farm: SecureFarm,  # noqa: F811 - pytest's way to ask for a fixture
    tmp_path: Path,
) -> None:
    credentials = tmp_path / "agent.pem"
    enrolled = subprocess.run(
        board.command(
            *("agent", "enroll", "--coordinator", farm.enrolment, "--credentials", credentials)
        ),
        input=farm.token("pi-1", "agent"),
        env=board.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert enrolled.returncode == 0, enrolled.stderr
    assert "enrolled as pi-1, role agent" in enrolled.stdout
    here = kernels.target_json(1)
    other = Board(Path(sys.executable))
    with (
        agent(board, *joining(farm, "pi-1", credentials, PI_4)),
        agent(other, *joining(farm, "here", farm.enrolled("here", "agent"), here)),
        FarmClient(farm.plain) as client,
    ):
        model, targets = small_model(), (PI_4, here)
        for target in targets:
            until(lambda t=target: any(s.device.target_json == t for s in client.devices()))  # type: ignore[misc]
        asked = JobSpec("small", sha256_hex(model), "", trials=4, targets=targets)
        spec = replace(asked, canary_drift=ROUGH)
        *_, job = client.watch(client.submit(spec, model).job_id)
        assert job.state is JobState.DONE, job.error
        wheels = {}
        for part in job.parts:
            assert part.state is JobState.DONE, part.error
            assert part.result is not None
            assert part.result.max_rel_error <= 1e-4
            assert part.trials.ok > 0
            wheels[part.spec.target_json] = tmp_path / part.result.package_filename
            wheels[part.spec.target_json].write_bytes(client.package(part.job_id))
        assert set(wheels) == set(targets)
        devices = {status.device.name: status.device for status in client.devices()}
    assert (devices["pi-1"].emulated, devices["here"].emulated) == (True, False)
    assert "aarch64" in wheels[PI_4].name
    outputs = [
        run_package(board, wheels[PI_4], tmp_path / "pi"),
        run_package(other, wheels[here], tmp_path / "here"),
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)


def joining(farm: SecureFarm, name: str, credentials: Path, target: str) -> tuple[str | Path, ...]:  # noqa: F811
    return (
        *("--coordinator", farm.secure, "--credentials", credentials),
        *("--name", name, "--target", target),
    )


USE = """
import json, sys
sys.path[:0] = sys.argv[1:2]
import numpy as np
model = __import__("small").Model()
x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
print(json.dumps(model.run({"x": x})["y"].tolist()))
"""


def run_package(machine: Board, wheel: Path, folder: Path) -> np.ndarray[Any, Any]:
    """What the model in a package gives on this machine."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    done = subprocess.run(
        [str(machine.python), "-c", USE, str(folder)],
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout), np.float32)
