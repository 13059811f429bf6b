"""What running a snippet answers: typed outcomes, limits, and what happens where nothing can be isolated."""

import pytest

from components.sandbox import pool as sandbox
from components.sandbox.isolation import available_isolation
from components.sandbox.pool import SandboxPool
from components.sandbox.run import run_many, run_python
from components.stage import StageError

isolated = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")


@isolated
def test_code_that_runs_to_its_end_passes() -> None:
    result = run_python("print('out'); import sys; print('err', file=sys.stderr); assert 1 + 1 == 2")
    assert (result.status, result.stdout, result.stderr) == ("passed", "out\n", "err\n")


@isolated
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("assert 1 == 2", "wrong_answer"),
        ("raise ValueError('no')", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("import os; os._exit(0)", "failed"),
        ("import sys; sys.exit()", "failed"),
        ("def f(:", "compile_error"),
        ("while True: pass", "timeout"),
        ("x = bytearray(1 << 33)", "out_of_memory"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "out_of_memory"),
        ("import socket; socket.create_connection(('1.1.1.1', 53))", "blocked"),
    ],
)
def test_every_way_to_end_has_its_status(code: str, status: str) -> None:
    assert run_python(code, timeout=5 if status != "timeout" else 1, memory_mb=128).status == status


@isolated
def test_a_snippet_is_the_main_module_with_a_traceback_of_its_own() -> None:
    result = run_python("import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: 'int' = 1\nprint(P())\n1 / 0")
    assert result.stdout == "P(x=1)\n"
    assert 'snippet.py", line 6' in result.stderr
    assert "run_python" not in result.stderr


@isolated
def test_memory_is_limited_over_all_processes_of_a_snippet() -> None:
    code = "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(b'1') * (50 << 20)\ntime.sleep(30)"
    assert run_python(code, timeout=20, memory_mb=128).status == "out_of_memory"


@isolated
def test_results_keep_the_order_of_the_snippets() -> None:
    results = run_many([f"print({number})" for number in range(12)])
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(12)]


@isolated
def test_output_is_cut_off_at_the_limit() -> None:
    result = run_python("print('x' * 500_000)", output_bytes=1000)
    assert len(result.stdout) == 1000


@isolated
def test_a_closed_pool_leaves_nothing_behind_and_takes_no_job() -> None:
    with SandboxPool(1) as pool:
        assert run_python("pass", pool=pool).status == "passed"
    with pytest.raises(StageError, match="closed"):
        run_python("pass", pool=pool)


def test_without_isolation_only_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available_isolation", lambda: "limits")
    monkeypatch.setattr(sandbox, "_shared", {})
    with pytest.raises(StageError, match="bubblewrap"):
        run_python("print(1)")
    results = run_many(["assert True", "assert False", "while True: pass"], own_code=True, timeout=1)
    assert [result.status for result in results] == ["passed", "wrong_answer", "timeout"]
