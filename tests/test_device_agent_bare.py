"""The agent where nothing but its tiny set is installed, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from device_agent import runtime
from protos import errors
from protos.records import Measurement

from . import kernels
from .test_device_agent_session import Farm, lease

ROOT = Path(__file__).resolve().parent.parent

BLOCKER = """
import sys
import threading

BLOCKED = ("tvm", "ray", "sqlalchemy", "lightgbm", "onnx", "onnxruntime", "openvino")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
"""

AGENT = """
import sys
import threading
from device_agent.agent import run_agent
sys.exit(run_agent(sys.argv[1], "board", sys.argv[2], None, False, True))
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment whose Pythons, and theirs, find none of the heavy packages."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    return {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        runtime.RUNTIME_ENVIRONMENT: str(runtime.find_runtime()),
    }


def own_bytes(processes: Sequence[psutil.Process]) -> int:
    """Memory that these processes have for themselves: without pages of libraries, which all
    processes share and the system takes back when it needs them."""
    return sum(m.anonymous for process in processes for m in process.memory_maps(grouped=True))


def test_an_agent_needs_only_its_tiny_set_and_less_than_100_mb(bare: dict[str, str]) -> None:
    farm = Farm()
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, farm.address, kernels.target_json(1)],
        env=bare,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        connection = farm.gateway.connection()
        connection.send(lease("one", kernels.kernel("doubled")))
        assert connection.expect(Measurement).ok
        agent = psutil.Process(process.pid)
        family = [agent, *agent.children()]
        assert len(family) == 2, "the agent and the zygote that it forks kernels from"
        assert own_bytes(family) < 100e6
        assert agent.memory_info().rss < 100e6
        assert "_multiarray_umath" not in str(agent.memory_maps()), "NumPy is the zygote's"
        process.send_signal(signal.SIGTERM)
        _out, words = process.communicate(timeout=30)
        assert process.returncode == 0, words
    finally:
        process.kill()
        process.communicate()
        farm.close()


def test_the_blocker_blocks(bare: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", "import tvm"], env=bare, capture_output=True)
    assert b"not installed here" in done.stderr


def test_a_missing_runtime_is_told_with_what_to_do(bare: dict[str, str]) -> None:
    del bare[runtime.RUNTIME_ENVIRONMENT]
    script = "from device_agent import runtime; runtime.find_runtime()"
    done = subprocess.run([sys.executable, "-c", script], env=bare, capture_output=True, text=True)
    assert "set TUNEFARM_TVM_RUNTIME" in done.stderr


def test_a_configured_runtime_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(runtime.RUNTIME_ENVIRONMENT, str(tmp_path / "none.so"))
    with pytest.raises(errors.Unavailable, match=r"none\.so is not a file"):
        runtime.find_runtime()


def test_an_agent_that_is_killed_in_mid_lease_leaves_nothing_running(bare: dict[str, str]) -> None:
    farm = Farm()
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, farm.address, kernels.target_json(1)], env=bare
    )
    try:
        farm.gateway.connection().send(lease("one", kernels.kernel("endless")))
        pause = threading.Event()
        while len(helpers := psutil.Process(process.pid).children(recursive=True)) < 2:
            pause.wait(0.01)
        process.kill()
        process.wait()
        _gone, alive = psutil.wait_procs(helpers, timeout=30)
        assert not alive
    finally:
        process.kill()
        process.wait()
        farm.close()
