"""Real attacks against the sandbox. Each must end in time, typed, and leave the host as it was."""

import time
from pathlib import Path

import pytest

from components.sandbox import run as sandbox
from components.sandbox.isolation import available_isolation
from components.sandbox.run import run_many, run_python
from components.stage import StageError

isolated = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")


@isolated
def test_code_that_runs_to_its_end_passes() -> None:
    result = run_python("print('out'); import sys; print('err', file=sys.stderr); assert 1 + 1 == 2")
    assert (result.status, result.stdout, result.stderr) == ("passed", "out\n", "err\n")


@isolated
@pytest.mark.parametrize(
    "code", ["assert 1 == 2", "raise SystemExit(0)", "import os; os._exit(0)", "def f(:", "import sys; sys.exit()"]
)
def test_code_that_does_not_reach_its_end_fails(code: str) -> None:
    assert run_python(code).status == "failed"


@isolated
def test_the_network_is_out_of_reach() -> None:
    code = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=2)"
    assert run_python(code).status == "blocked"


@isolated
def test_a_fork_bomb_runs_into_the_process_limit() -> None:
    code = "import os\nwhile True:\n    if os.fork() == 0:\n        while True: pass"
    started = time.monotonic()
    assert run_python(code, timeout=2).status in ("blocked", "timeout")
    assert time.monotonic() - started < 10


@isolated
def test_memory_is_limited() -> None:
    assert run_python("x = bytearray(1 << 33)", memory_mb=256).status == "out-of-memory"
    assert run_python("x = []\nwhile True: x.append(bytearray(1 << 20))", memory_mb=256).status == "out-of-memory"


@isolated
def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    result = run_python("import os; print(dict(os.environ).get('OPENAI_API_KEY'), len(os.listdir('/')))")
    assert "sk-secret" not in result.stdout


@isolated
@pytest.mark.parametrize("path", ["/etc/passwd", "/var/lib", "/home", "/proc/1/environ", str(Path(__file__).resolve())])
def test_the_files_of_the_host_are_not_there(path: str) -> None:
    assert run_python(f"import os; assert not os.path.exists({path!r})").status == "passed"


@isolated
def test_nothing_outside_its_folder_can_be_written() -> None:
    result = run_python("import sys; open(sys.base_prefix + '/evil', 'w')")
    assert result.status == "blocked"


@isolated
def test_endless_output_is_cut_off() -> None:
    result = run_python("while True: print('x' * 1000)", output_bytes=20_000)
    assert result.status == "failed"
    assert len(result.stdout) <= 20_000


@isolated
def test_ignoring_signals_does_not_outlive_the_timeout() -> None:
    code = "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    code += "    except OSError: pass\nwhile True: time.sleep(1)"
    started = time.monotonic()
    assert run_python(code, timeout=0.5).status == "timeout"
    assert time.monotonic() - started < 5


@isolated
def test_a_detached_child_cannot_reach_the_next_snippet() -> None:
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(0.3)\n    open('/tmp/late', 'w')\n"
    daemon += "    while True: pass"
    after = "import os, time; time.sleep(0.6); assert not os.path.exists('/tmp/late')"
    assert [result.status for result in run_many([daemon, after])] == ["passed", "passed"]


@isolated
def test_killing_everything_ends_only_the_snippet() -> None:
    results = run_many(["import os, signal; os.kill(-1, signal.SIGKILL)", "print('alive')"])
    assert results[1].stdout == "alive\n"


def test_without_isolation_only_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available_isolation", lambda: "limits")
    with pytest.raises(StageError, match="bubblewrap"):
        run_python("print(1)")
    assert [result.status for result in run_many(["assert True", "assert False"], own_code=True)] == [
        "passed",
        "failed",
    ]
