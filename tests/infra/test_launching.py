"""Watching over ranks, with ranks that need no torch. What ends them is in tests/components/training too."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from infra.errors import InfraError
from infra.launching import (
    LOST,
    RankError,
    RankFailed,
    Ranks,
    _check,
    launcher_command,
    rank_environment,
    read_host_file,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path


def begin(folder, rank: int, pid: int) -> None:
    (folder / f"rank-{rank}.pid").write_text(f"{socket.gethostname()} {pid}")
    (folder / f"rank-{rank}.beat").touch()


def test_ranks_at_work_are_left_alone(folder):
    begin(folder, 0, os.getpid())
    _check(folder, Ranks(1))


def test_a_dead_rank_is_named_with_its_last_lines_though_nobody_has_reaped_it(folder):
    process = subprocess.Popen([sys.executable, "-c", ""])
    while "Z" not in open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()[0]:  # noqa: PTH123, SIM115
        time.sleep(0.02)
    begin(folder, 3, process.pid)
    (folder / "logs" / "20260101_rank3.log").write_text("step 41\nout of memory\n")
    with pytest.raises(RankFailed, match=r"rank 3 died; its last lines: step 41 \| out of memory"):
        _check(folder, Ranks(4))
    process.wait()
    (folder / "rank-3.done").touch()
    _check(folder, Ranks(4))


def test_a_silent_rank_has_stalled(folder):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        begin(folder, 1, process.pid)
        os.utime(folder / "rank-1.beat", (time.time() - 90, time.time() - 90))
        _check(folder, Ranks(2, stall_seconds=120))
        with pytest.raises(RankFailed, match=r"rank 1 has not got on for 9\d s"):
            _check(folder, Ranks(2, stall_seconds=60))
    finally:
        process.kill()
        process.wait()


def test_the_first_error_of_a_rank_is_the_cause(folder):
    (folder / "rank-1.error").write_text(json.dumps({"kind": "StageError", "message": "the loss is not finite"}))
    with pytest.raises(RankError, match="the loss is not finite") as caught:
        _check(folder, Ranks(2))
    assert caught.value.kind == "StageError"


def test_a_rank_that_lost_another_is_not_the_cause(folder):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (folder / "rank-0.error").write_text(json.dumps({"kind": LOST, "message": "rank 0: connection reset"}))
    _check(folder, Ranks(2))  # the cause may take a moment to show
    begin(folder, 1, process.pid)
    with pytest.raises(RankFailed, match="rank 1 died"):
        _check(folder, Ranks(2))
    (folder / "rank-1.done").touch()
    os.utime(folder / "rank-0.error", (time.time() - 60, time.time() - 60))
    with pytest.raises(RankFailed, match="rank 0: connection reset"):
        _check(folder, Ranks(2))


def test_a_host_file_is_read_and_a_wrong_line_named(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# two hosts\nnode-1 slots=4\nnode-2 slots=4\n")
    assert read_host_file(hosts) == {"node-1": 4, "node-2": 4}
    command = launcher_command("flows.rank", ["x.json"], Ranks(8, host_file=hosts), tmp_path)
    assert command[command.index("--hostfile") + 1] == str(hosts)
    with pytest.raises(InfraError, match="8 slots, the world size is 6"):
        launcher_command("flows.rank", [], Ranks(6, host_file=hosts), tmp_path)
    hosts.write_text("node-1 slots=4\nnode-2 4\n")
    with pytest.raises(InfraError, match=r"line 2: expected 'host slots=N', got 'node-2 4'"):
        read_host_file(hosts)


def test_ranks_share_the_cores():
    assert rank_environment(Ranks(1000))["OMP_NUM_THREADS"] == "1"
    assert rank_environment(Ranks(2, threads=3))["OMP_NUM_THREADS"] == "3"
