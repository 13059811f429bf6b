"""Finds the strongest isolation that this host offers, by trying it, and writes its command line."""

import json
import marshal
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from components.sandbox.seccomp import filter_program

Isolation = Literal["bubblewrap", "namespaces", "limits"]
"""``limits`` is no isolation, only resource limits: for code that this project composed itself."""

TMP_MB = 96
"""The writable folder; what is written there is memory."""
TMP_FILES = 20_000
_LAUNCHER = Path(__file__).with_name("launcher.py")
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_LOADER = "import marshal, sys; exec(marshal.load(sys.stdin.buffer), {'__name__': '__main__'})"
_PYTHON = os.path.realpath(sys.executable)
_USERS = range(60_001, 64_000)
"""Users that no distribution gives out; each sandbox of root takes one by lot."""


@cache
def available_isolation() -> Isolation:
    """``bubblewrap``, ``namespaces`` or ``limits``, the first in which a sandbox becomes ready."""
    candidates: tuple[Isolation, ...] = ("bubblewrap", "namespaces")
    for isolation in candidates:
        if isolation == "bubblewrap" and shutil.which("bwrap") is None:
            continue
        try:
            done = subprocess.run(
                sandbox_command(isolation),
                input=supervisor_code(),
                capture_output=True,
                timeout=60,
                env={},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout == b"ready\n":
            return isolation
    return "limits"


def sandbox_command(isolation: Isolation) -> list[str]:
    """The command of one sandbox that reads ``supervisor_code()`` and then its job on standard input."""
    root = os.geteuid() == 0
    facts = [
        str(secrets.choice(_USERS) if root else 0),
        "new" if root else "own",  # a user is in a namespace of its own already
        filter_program().hex() if isolation != "limits" else "",
    ]
    return [*_prefix(isolation, root), _PYTHON, "-I", "-S", "-c", _LOADER, *facts]


@cache
def supervisor_code() -> bytes:
    """The supervisor, compiled once for all sandboxes: they run on the interpreter that runs this."""
    return marshal.dumps(compile(_SUPERVISOR.read_text(encoding="utf-8"), "supervisor", "exec"))


def _prefix(isolation: Isolation, root: bool) -> list[str]:
    if isolation == "limits":
        return []
    folders = read_only_folders()
    if isolation == "namespaces":
        facts = {"read_only": folders, "tmp_mb": TMP_MB, "tmp_files": TMP_FILES, "root": str(_LAUNCHER.parent)}
        return [_PYTHON, "-I", "-S", str(_LAUNCHER), json.dumps(facts)]
    # Root needs no user namespace to build the sandbox, and in one it would still be root to the files outside. So
    # the supervisor becomes somebody else first and makes the namespace then.
    rights = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    rights += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [
        "bwrap", *(rights if root else ["--unshare-all", "--cap-drop", "ALL"]),
        "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox",
        *(part for folder in folders for part in _parents(folder)),
        *(part for folder in folders for part in _bind(folder)),
        "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(4 << 20), "--tmpfs", "/dev/shm",
        "--perms", "1777", "--size", str(TMP_MB << 20), "--tmpfs", "/tmp",
        "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--",
    ]  # fmt: skip


def _parents(folder: str) -> tuple[str, ...]:
    """Folders on the way, for anyone to pass; bubblewrap would make them passable for root only."""
    ways = [str(parent) for parent in Path(folder).parents][-2::-1]
    return tuple(part for way in ways if way != "/usr" for part in ("--perms", "0755", "--dir", way))


def _bind(folder: str) -> tuple[str, ...]:
    if Path(folder).is_symlink():  # /lib -> usr/lib on merged systems
        return ("--symlink", str(Path(folder).readlink()), folder)
    return ("--ro-bind", folder, folder)


@cache
def read_only_folders() -> list[str]:
    """The interpreter, toolchains, what they are linked with and configured by, and nothing else of the host."""
    from components.sandbox.toolchains import toolchain_folders

    wanted: Sequence[str] = (
        "/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, str(Path(_PYTHON).parent),
        *toolchain_folders(),
    )  # fmt: skip
    folders: list[str] = []
    for folder in wanted:
        inside = any(folder == known or folder.startswith(known + "/") for known in folders)
        if Path(folder).exists() and not inside:
            folders.append(folder)
    return folders
