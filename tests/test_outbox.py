"""The agent's outbox: results outlive the process, and a broken file stops no agent."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.agent import outbox_file
from device_agent.outbox import Outbox
from protos.errors import Unavailable
from protos.records import Acknowledgement, Measurement, MeasurementStatus

OK = MeasurementStatus.OK


def result(number: int, lease_id: str = "l1") -> Measurement:
    return Measurement("w", f"c{number}", OK, lease_id=lease_id, repeats_s=(1e-3 * number,))


def test_what_was_not_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "new" / "board.outbox"
    code = (
        "import os, pathlib, sys\n"
        "from device_agent.outbox import Outbox\n"
        "from protos.records import Acknowledgement, Measurement, MeasurementStatus\n"
        "outbox = Outbox(pathlib.Path(sys.argv[1]))\n"
        "for number in (1, 2, 3):\n"
        "    outbox.add(Measurement('w', f'c{number}', MeasurementStatus.OK, 'l1',"
        " repeats_s=(1e-3 * number,)))\n"
        "outbox.acknowledge(Acknowledgement('l1', 'c2'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -9
    outbox = Outbox(path)
    assert outbox.pending() == [result(1), result(3)]
    assert path.stat().st_mode & 0o777 == 0o600
    outbox.drop("l1")
    outbox.close()
    again = Outbox(path)
    assert again.pending() == []
    again.close()


def test_a_result_that_is_made_twice_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "board.outbox"
    outbox = Outbox(path)
    outbox.add(result(1))
    outbox.add(result(1))
    outbox.close()
    again = Outbox(path)
    assert len(again) == 1
    again.close()


def test_two_agents_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "board.outbox"
    first = Outbox(path)
    with pytest.raises(Unavailable, match="another agent of this name"):
        Outbox(path)
    first.close()
    Outbox(path).close()


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "board.outbox"
    path.write_bytes(b"no database " * 500)
    outbox = Outbox(path)
    outbox.add(result(1))
    outbox.close()
    assert path.with_suffix(".damaged").read_bytes().startswith(b"no database")
    assert "is damaged" in caplog.text
    again = Outbox(path)
    assert again.pending() == [result(1)]
    again.close()


def test_a_folder_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unavailable, match="--state"):
        Outbox(tmp_path / "file" / "board.outbox")


def test_a_full_disk_is_said_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path / "board.outbox")
    assert outbox._file is not None
    (pages,) = outbox._file.execute("PRAGMA page_count").fetchone()
    outbox._file.execute(f"PRAGMA max_page_count = {pages}")  # as if the disk were full
    many = [result(number, "l" * 900) for number in range(1, 30)]
    with caplog.at_level(logging.WARNING):
        for one in many:
            outbox.add(one)
    assert outbox.pending() == many
    assert caplog.text.count("kept in memory only") == 1
    outbox.acknowledge(Acknowledgement("l" * 900, "c1"))
    assert outbox.pending() == many[1:]
    outbox.close()


def test_a_result_that_another_version_wrote_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "board.outbox"
    outbox = Outbox(path)
    outbox.add(result(1))
    outbox.add(result(2, "l2"))
    assert outbox._file is not None
    with outbox._file:
        outbox._file.execute("UPDATE results SET message = x'ffff' WHERE lease_id = 'l1'")
    outbox.close()
    for _ in range(2):
        again = Outbox(path)
        assert again.pending() == [result(2, "l2")]
        again.close()
    assert caplog.text.count("can't be read") == 1


def test_no_name_leaves_the_folder(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "a/b", "..", "ü", ""):
        assert outbox_file(tmp_path, name).parent == tmp_path
