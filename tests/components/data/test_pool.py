"""Shards in processes and on Ray: order, retries of one shard alone, killed workers, equal bytes."""

import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import shard_work
from support import make_artifact, make_run
from waiting import wait_for

from components.data.clean import CleanConfig, clean
from components.data.documents import new_document, write_documents
from components.data.pool import ATTEMPTS, map_shards
from components.data.ray_tasks import connect
from components.stage import Layout, StageError

RAY = Layout(data_engine="ray")
ENGINES = [Layout(), RAY]


@pytest.fixture(params=ENGINES, ids=["processes", "ray"])
def layout(request):
    if request.param.data_engine == "ray":
        start_ray()
    return request.param


def start_ray():
    """A machine whose processors are taken for longer than Ray waits for its own processes is no test of this."""
    if find_spec("ray") is None:  # not by importing it: that is for connect to do
        pytest.skip("needs the extra ray")
    try:
        connect("")
    except StageError as error:
        pytest.skip(f"{error}")


@pytest.fixture(scope="module", autouse=True)
def one_cluster():
    """Of two processors, whose processes find the work of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(Path(shard_work.__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        patch.setattr("components.data.ray_tasks.available_workers", lambda: 2)
        yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def test_results_have_the_order_of_the_jobs(layout):
    assert list(map_shards(shard_work.square, range(7), 2, layout)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(map_shards(shard_work.square, [], 2, layout)) == []


def test_who_stops_does_not_wait_for_shards_that_are_being_worked_on(layout):
    results = map_shards(shard_work.first_alone_is_quick, range(6), 2, layout)
    assert next(results) == 0
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < shard_work.SLOW / 2


def test_a_killed_worker_loses_nothing_and_its_shard_alone_is_done_again(tmp_path, layout):
    jobs = [(tmp_path, number, 2) for number in range(6)]
    killer = threading.Thread(target=kill_first_worker, args=(tmp_path / "attempts-2",))
    killer.start()
    assert list(map_shards(shard_work.tell_and_wait, jobs, 2, layout)) == [0, 1, 4, 9, 16, 25]
    killer.join()
    attempts = [len((tmp_path / f"attempts-{number}").read_text().split()) for number in range(6)]
    assert attempts == [1, 1, 2, 1, 1, 1]


def kill_first_worker(file):
    until = time.monotonic() + 100
    while time.monotonic() < until and not (file.exists() and file.read_text().endswith("\n")):
        time.sleep(0.02)
    os.kill(int(file.read_text().split()[0]), signal.SIGKILL)


def test_a_shard_that_the_system_failed_is_tried_again(tmp_path, layout):
    assert list(map_shards(shard_work.fail_once, [(tmp_path, number) for number in range(4)], 2, layout)) == [
        0,
        1,
        2,
        3,
    ]


def test_an_error_of_the_work_itself_comes_out_at_once(tmp_path, layout):
    with pytest.raises(ZeroDivisionError):
        list(map_shards(shard_work.wrong, [(tmp_path, 1), (tmp_path, 0)], 2, layout))
    assert (tmp_path / "asked-0").read_text() == "."


def test_a_shard_that_always_kills_its_process_fails_the_stage(layout):
    with pytest.raises(StageError, match=f"die was ended from outside, {ATTEMPTS} times"):
        list(map_shards(shard_work.die, [1, 2], 2, layout))


def test_ray_and_processes_write_the_same_bytes(tmp_path):
    start_ray()
    prose = (
        "The old mill stood at the end of the valley, and nobody had lived there for years. Children from the "
        "village dared each other to knock at its door, but few did. One evening a light was seen behind the shutters."
    )
    write_documents(
        tmp_path / "in", (new_document(f"{prose} {i} and {i * i}.", source="s", language="en") for i in range(60))
    )
    made = {}
    for layout in ENGINES:
        run = make_run(tmp_path / layout.data_engine)
        run.layout = layout
        clean(CleanConfig(shard_size=25), {"documents": make_artifact("corpus", tmp_path / "in")}, run)
        made[layout.data_engine] = {file.name: file.read_bytes() for file in run.output.iterdir()}
    assert made["ray"] == made["processes"]
    assert [node["NodeManagerAddress"] for node in sys.modules["ray"].nodes()] == ["127.0.0.1"]


def test_no_cluster_at_an_address_is_one_line():
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.shutdown()
    with pytest.raises(StageError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        list(map_shards(shard_work.square, [1], 1, Layout(data_engine="ray", ray_address="127.0.0.1:1")))


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    program = (
        "import sys, pathlib, shard_work\n"
        "from components.data.pool import map_shards\n"
        "if __name__ == '__main__':\n"
        "    files = [pathlib.Path(sys.argv[1]) / name for name in 'ab']\n"
        "    list(map_shards(shard_work.tell_and_sleep, files, 2))\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    paths = [str(Path(shard_work.__file__).parent), str(Path(__file__).parents[3])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    try:
        files = [tmp_path / "a", tmp_path / "b"]
        wait_for(lambda: all(file.is_file() for file in files))
        workers = [int(file.read_text()) for file in files]
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
