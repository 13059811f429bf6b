"""Process 1 of one sandbox: gives up its rights, waits for one job, runs its steps, reports. A program.

``isolation.py`` starts it with ``UID NAMESPACE FILTER`` as arguments. It writes a line ``ready``, reads one job
(``components/sandbox/job.py``, marshalled) from standard input and writes the outcomes: a line with their length in
bytes, then for each a line of facts and the two outputs. It is started ahead of time, so a job finds it warm, and it
serves one job only, so no job can prepare a trap for the next.

Its start is most of what a run costs, so it imports only what starts at once: json and signal, with re and enum
behind them, would take as long as the interpreter itself. Nobody unmarshals what comes out of a sandbox.
"""

# ruff: noqa: PTH100, PTH102, PTH103, PTH108, PTH118, PTH120, PTH123, PTH208, SIM105

import _signal as signal
import ctypes
import marshal
import os
import resource
import select
import sys
import time

REPLIES, REQUESTS = 200, 201
"""File descriptors of the reply and of the request; no step inherits them."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CLONE_NEWUSER = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def main() -> None:
    uid, namespace, rules = int(sys.argv[1]), sys.argv[2] == "new", bytes.fromhex(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # process 1 gets from inside only signals that it handles
    os.dup2(1, REPLIES)
    os.write(REPLIES, (give_up_rights(uid, namespace) + "\n").encode())
    try:
        job = marshal.load(sys.stdin.buffer)
    except EOFError:
        return
    os.dup2(0, REQUESTS)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    folder = own_folder()
    os.chdir(folder)
    for name, text in job["files"].items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    outcomes = []
    for step in job["steps"]:
        outcomes.append(run(step, rules))
        if outcomes[-1]["status"] or outcomes[-1]["timeout"] or outcomes[-1]["memory"]:
            break
    if os.getpid() != 1:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    reply = b"".join(map(written, outcomes))
    view = memoryview(b"%d\n%b" % (len(reply), reply))
    while view:
        view = view[os.write(REPLIES, view) :]


def written(outcome: dict) -> bytes:
    """``status timeout memory marks seconds length length``, a line's end, standard output, standard error."""
    out, error = outcome["stdout"], outcome["stderr"]
    facts = [outcome["status"], int(outcome["timeout"]), int(outcome["memory"]), outcome["marks"] or "-",
             outcome["seconds"], len(out), len(error)]  # fmt: skip
    return " ".join(map(str, facts)).encode() + b"\n" + out + error


def own_folder() -> str:
    """``/tmp/work``; without isolation, where ``/tmp`` is everybody's, a folder of a new name."""
    if os.getpid() != 1:
        import tempfile

        return tempfile.mkdtemp()
    os.mkdir("work")
    return os.path.abspath("work")


def give_up_rights(user: int, namespace: bool) -> str:
    """Become an ordinary user without capabilities in a user namespace of its own; ``ready`` or what failed."""
    if os.getpid() != 1:
        return "ready"  # resource limits only: this project's own code
    if os.geteuid() == 0 and user:
        os.setgroups([])
        os.setresgid(*[user] * 3)
        os.setresuid(*[user] * 3)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc/self is ours again, for the maps below
    uid, gid = os.geteuid(), os.getegid()
    # The kernel counts processes per user namespace, so the limit is this sandbox's own.
    if namespace and libc.unshare(CLONE_NEWUSER) == 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return "cannot give up rights"
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user has cleared it
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody inside looks into this process or at its files
    return "ready"


def run(step: dict, rules: bytes) -> dict:
    """Run one step in a child, then end whatever it left behind."""
    files = []
    for name in (".stdin", ".stdout", ".stderr"):
        files.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        os.unlink(name)
    reading, writing = os.pipe()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            be_child(step, rules, files, writing)
        finally:
            os._exit(121)
    os.close(writing)
    status, timed_out, too_large = wait(child, begin + step["timeout"], step["tree_mb"])
    seconds = time.monotonic() - begin
    end_everything()
    os.set_blocking(reading, False)
    try:
        marks = "".join(mark for mark in os.read(reading, 2).decode("ascii", "ignore") if mark in "c+")
    except BlockingIOError:
        marks = ""
    os.close(reading)
    texts = []
    for output in files[1:]:
        texts.append(os.pread(output, step["output_bytes"], 0))
    for file in files:
        os.close(file)
    return {
        "status": status, "timeout": timed_out, "memory": too_large, "marks": marks, "seconds": seconds,
        "stdout": texts[0], "stderr": texts[1],
    }  # fmt: skip


def be_child(step: dict, rules: bytes, files: "list[int]", marks: int) -> None:
    os.setsid()
    os.write(files[0], step["stdin"].encode("utf-8", "surrogatepass"))
    os.lseek(files[0], 0, os.SEEK_SET)
    for standard, file in enumerate(files):
        os.dup2(file, standard)
    os.dup2(marks, 3)
    os.closerange(4, 256)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    megabytes = step["memory_mb"] << 20
    limits = {
        resource.RLIMIT_CPU: int(step["timeout"]) + 1,
        resource.RLIMIT_AS if step["address_space"] else resource.RLIMIT_DATA: megabytes,
        resource.RLIMIT_FSIZE: step["file_bytes"],
        resource.RLIMIT_NPROC: step["processes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 65536,
        resource.RLIMIT_SIGPENDING: 256,
    }
    for kind, value in limits.items():
        if kind == resource.RLIMIT_NPROC and rules == b"":
            continue  # without a namespace the limit would count all processes of this user
        resource.setrlimit(kind, (value, value))
    if rules:
        prepared = Filter(len(rules) // 8, rules)
        if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(prepared), 0, 0):
            os._exit(122)
    if "python" not in step:
        os.closerange(3, 4)
        try:
            os.execve(step["command"][0], step["command"], step["environment"])
        except OSError as error:
            os.write(2, f"{step['command'][0]}: {error.strerror}\n".encode())
            os._exit(127)
    run_python(step)


def run_python(step: dict) -> None:
    """Execute source text in this process, which has an interpreter running: ``c`` compiled, ``+`` came to its end."""
    os.environ.clear()
    os.environ.update(step["environment"])
    sys.argv = [step["name"]]
    sys.modules["__main__"] = main_module = type(sys)("__main__")
    try:
        code = compile(step["python"], step["name"], "exec", dont_inherit=True)
        os.write(3, b"c")
        exec(code, main_module.__dict__)
        sys.stdout.flush()
        os.write(3, b"+")
    except BaseException as error:
        try:
            sys.stdout.flush()
            frames = error.__traceback__.tb_next if error.__traceback__ else None  # without this file's own frame
            sys.__excepthook__(
                type(error), error.with_traceback(frames), frames
            )  # built in: the traceback module would take longer
            sys.stderr.flush()
        except BaseException:
            pass
        os._exit(1)
    os._exit(0)


def wait(child: int, end: float, tree_mb: int) -> "tuple[int, bool, bool]":
    """Wait status, and whether the child had to be ended for its time or for the memory of all processes."""
    pause, look = 0.0002, time.monotonic() + 0.02
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)  # -1: orphans that were handed to process 1 are reaped too
        if ended == child:
            return status, False, False
        now = time.monotonic()
        if now >= look:
            look = now + 0.02
            if abandoned():
                os._exit(1)
            if os.getpid() == 1 and tree_megabytes() > tree_mb:
                return 0, False, True
        if now > end:
            if os.getpid() != 1:
                os.killpg(child, signal.SIGKILL)
            return 0, True, False
        if not ended:
            time.sleep(pause)
            pause = min(0.005, pause * 1.5)


def abandoned() -> bool:
    """Whether nobody holds the other end of the request any more: whoever waited for this job is gone."""
    poll = select.poll()
    poll.register(REQUESTS, 0)
    return bool(poll.poll(0))


def tree_megabytes() -> float:
    """Resident memory of all processes of the sandbox but this one; files of ``/tmp`` have a limit of their own."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/status", "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith((b"RssAnon:", b"RssShmem:")))
    return total / 1024


def end_everything() -> None:
    """Kill and reap all that is left, in one sweep that no fork escapes."""
    if os.getpid() == 1:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
