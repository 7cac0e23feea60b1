"""Candidates through the real compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device_agent import build
from protos import errors
from protos.records import MeasurementStatus, TensorSpec

from . import kernels

WORKLOAD = kernels.workload_json(kernels.matmul())


def test_an_untuned_and_a_scheduled_candidate_are_built() -> None:
    untuned = build.build_kernel(WORKLOAD, "", kernels.target_json())
    tuned = build.build_kernel(WORKLOAD, kernels.matmul_trace(), kernels.target_json())
    for outcome in (untuned, tuned):
        assert outcome.status is MeasurementStatus.OK, outcome.error
        assert outcome.artifact is not None
        assert outcome.artifact.data.startswith(b"\x7fELF")
        assert outcome.args == (TensorSpec((64, 64), "float32"),) * 3
    assert untuned.artifact != tuned.artifact


@pytest.mark.parametrize(
    ("workload", "trace"),
    [
        (WORKLOAD, '[[["GetSBlock", [], ["nobody", "main"], ["b0"]]], []]'),
        (WORKLOAD, "no trace"),
        ("no workload", ""),
    ],
)
def test_what_does_not_build_is_an_outcome(workload: str, trace: str) -> None:
    outcome = build.build_kernel(workload, trace, kernels.target_json())
    assert outcome.status is MeasurementStatus.BUILD_ERROR
    assert outcome.artifact is None
    assert outcome.error
    assert "\n" not in outcome.error
    assert len(outcome.error) <= build.MAX_ERROR_CHARACTERS + 40


def test_a_full_disk_is_not_the_candidates_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(errors.Unavailable, match=r"can.t build: .*gone"):
        build.build_kernel(WORKLOAD, "", kernels.target_json())


@pytest.mark.parametrize(
    "target",
    ['{"kind": "abacus"}', '{"kind": "llvm", "beads": 3}', '{"kind": "llvm"}', "llvm", "[1]"],
)
def test_unusable_targets_are_refused(target: str) -> None:
    with pytest.raises(errors.BadTarget):
        build.build_kernel(WORKLOAD, "", target)


@pytest.mark.parametrize(
    ("target", "family"),
    [
        ('{"kind": "llvm", "mtriple": "x86_64-linux-gnu"}', "x86"),
        ('{"kind": "llvm", "mtriple": "aarch64-linux-gnu"}', "arm"),
        ('{"kind": "llvm", "mtriple": "riscv64-linux-gnu"}', "riscv64"),
    ],
)
def test_a_target_has_a_family(target: str, family: str) -> None:
    assert build.cpu_family(target) == family


def test_only_the_intrinsics_of_the_target_are_imported() -> None:
    """Importing all of them takes 26 s of CPU in every builder."""
    script = f"""
import sys
from device_agent import build
build.build_kernel({WORKLOAD!r}, "", {kernels.target_json()!r})
print(*sorted(name.rpartition(".")[2] for name in sys.modules if ".tensor_intrin." in name))
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cuda" not in done.stdout
    assert set(done.stdout.split()) & {"x86", "arm_cpu"}


def test_versions_are_told() -> None:
    assert set(build.tool_versions()) == {"tvm", "tvm-ffi", "llvm", "codegen"}
