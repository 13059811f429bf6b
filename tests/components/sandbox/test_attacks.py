"""No attack succeeds, the host is unharmed, and each ends inside its limit and one second."""

import contextlib
import marshal
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from components.sandbox.isolation import available_isolation
from components.sandbox.job import STATUSES, Job, Limits, SandboxResult
from components.sandbox.languages import find_language
from components.sandbox.pool import SandboxPool, _line, _send, end, start
from components.sandbox.run import python_job, run_python
from components.sandbox.seccomp import denied_calls, filter_program
from tests.components.sandbox.attacks import PRELUDE, PROGRAM_ATTACKS, PYTHON_ATTACKS

pytestmark = pytest.mark.skipif(available_isolation() == "limits", reason="this host offers no isolation")
LIMIT = 1.0
MARGIN = 1.0
SECRET = "the secret of the host"
TYPED = {
    "tcp": "blocked", "kill the group": "failed", "sleep": "timeout", "spin": "timeout", "ignore signals": "timeout",
    "memory": "out_of_memory", "write to a toolchain": "blocked", "mount": "passed", "endless output": "failed",
}  # fmt: skip


@dataclass(frozen=True)
class Host:
    """What an attack could reach if it got out."""

    secret: Path
    victim: "subprocess.Popen[bytes]"
    connections: socket.socket
    port: int
    abstract: str

    @property
    def facts(self) -> str:
        checkout = str(Path(__file__).parents[3])
        return (
            f"secret, victim, port, abstract, checkout = "
            f"{(str(self.secret), self.victim.pid, self.port, self.abstract, checkout)!r}\n"
            f"calls = {denied_calls()!r}\n"
        )

    def job(self, name: str) -> Job:
        limits = Limits(timeout=LIMIT, memory_mb=128)
        if name in PYTHON_ATTACKS:
            return python_job(self.facts + PRELUDE + PYTHON_ATTACKS[name], limits)
        language, source = PROGRAM_ATTACKS[name]
        source = source.replace("@secret", str(self.secret)).replace("@port", str(self.port))
        job = find_language(language).job(source)
        steps = [replace(step, limits=replace(step.limits, timeout=LIMIT, processes=32)) for step in job.steps]
        return replace(job, steps=tuple(steps))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    secret = tmp_path_factory.mktemp("host") / "secret"
    secret.write_text(SECRET)
    os.environ["QWENFORGE_SECRET"] = "sk-secret"
    victim = subprocess.Popen(["sleep", "600"])
    abstract = f"qwenforge-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0" + abstract)
        local.listen()
        server.setblocking(False)
        yield Host(secret, victim, server, server.getsockname()[1], abstract)
    del os.environ["QWENFORGE_SECRET"]
    victim.kill()
    victim.wait()


@pytest.fixture(scope="module")
def results(host: Host) -> dict[str, SandboxResult]:
    """All attacks, one a processor at a time. Those that a busy machine kept waiting get another try of their own."""
    names = [*PYTHON_ATTACKS, *(name for name in PROGRAM_ATTACKS if not missing(name))]
    with SandboxPool() as pool:
        results = dict(zip(names, pool.map(host.job(name) for name in names), strict=True))
        for name, result in results.items():
            if result.wall_seconds > LIMIT / 2 and (result.wall_seconds > allowed(name) or name in TYPED):
                results[name] = pool.run(host.job(name))
        return results


def allowed(name: str) -> float:
    """Seconds until nothing of the attack may be left."""
    steps = 3 if name in PROGRAM_ATTACKS else 1  # check, compile and run have a limit each
    return steps * LIMIT + MARGIN


def missing(name: str) -> bool:
    return bool(find_language(PROGRAM_ATTACKS[name][0]).missing_tools)


@pytest.mark.parametrize("name", [*PYTHON_ATTACKS, *PROGRAM_ATTACKS])
def test_no_attack_succeeds(name: str, results: dict[str, SandboxResult]) -> None:
    if name not in results:
        pytest.skip("no toolchain here")
    result = results[name]
    assert "ESCAPED" not in result.stdout, result
    assert SECRET not in result.stdout + result.stderr
    assert "sk-secret" not in result.stdout
    assert result.status in STATUSES
    assert result.wall_seconds < allowed(name), result


def test_there_are_at_least_sixty_attacks() -> None:
    assert len(PYTHON_ATTACKS) + len(PROGRAM_ATTACKS) >= 60


@pytest.mark.parametrize(("name", "status"), TYPED.items())
def test_the_typed_result_of_some(name: str, status: str, results: dict[str, SandboxResult]) -> None:
    assert results[name].status == status, results[name]


def test_the_host_is_unharmed(host: Host, results: dict[str, SandboxResult]) -> None:
    assert len(results) >= 60
    assert host.secret.read_text() == SECRET
    assert host.victim.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, host.victim.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    with pytest.raises(BlockingIOError):
        host.connections.accept()


def test_nothing_is_left_behind() -> None:
    sandbox = start(available_isolation())
    job = python_job("import os, time\nfor _ in range(3): os.fork()\ntime.sleep(99)", Limits(timeout=9))
    request = {"files": job.files, "steps": [step.request() for step in job.steps]}
    try:
        _line(sandbox, 20)
        _send(sandbox, marshal.dumps(request))
        deadline = time.monotonic() + 8
        while len(inside := _processes_inside(sandbox.pid)) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(inside) >= 5
    finally:
        end(sandbox)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/ns/pid").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in inside)


def test_a_sandbox_ends_with_whoever_waits_for_it() -> None:
    program = "from components.sandbox.run import run_python\nrun_python('import time; time.sleep(99)', timeout=60)"
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 30
    while len(inside := _processes_inside(owner.pid)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)  # bubblewrap twice, two supervisors, one snippet
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/exe").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(inside) >= 5
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in inside)


def _processes_inside(ancestor: int) -> list[int]:
    """Processes of other process namespaces below ``ancestor``."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    below = {ancestor}
    for _ in range(8):
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sorted(below - {ancestor})


def test_one_job_cannot_prepare_a_trap_for_the_next() -> None:
    with SandboxPool(1) as pool:
        run_python("import os, builtins; builtins.print = None; open('/tmp/trap', 'w'); os.symlink('/', '/tmp/work/x')",
                   pool=pool)  # fmt: skip
        after = run_python("import os; assert os.listdir('/tmp') == ['work'] and not os.listdir('.') and print",
                           pool=pool)  # fmt: skip
    assert after.status == "passed"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_whole_program(machine: str) -> None:
    program = filter_program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096
    assert filter_program("unknown") == b""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the header of this machine")
def test_the_system_call_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    numbers = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    known = {name: number for name, number in denied_calls("x86_64").items() if f"__NR_{name}" in numbers}
    assert len(known) > 50
    assert all(numbers[f"__NR_{name}"] == str(number) for name, number in known.items())
