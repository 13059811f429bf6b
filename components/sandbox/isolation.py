"""Finds the strongest isolation that this host offers, by trying it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

Isolation = Literal["bubblewrap", "namespaces", "limits"]
"""``limits`` is no isolation, only resource limits: for code that this project composed itself."""

PROCESSES = 8
TMP_MB = 32
_LAUNCHER = Path(__file__).with_name("launcher.py")
_PYTHON = os.path.realpath(sys.executable)


@cache
def available_isolation() -> Isolation:
    """``bubblewrap``, ``namespaces`` or ``limits``, the first in which a trivial program runs."""
    candidates: tuple[Isolation, ...] = ("bubblewrap", "namespaces")
    for isolation in candidates:
        if isolation == "bubblewrap" and shutil.which("bwrap") is None:
            continue
        command = [*command_prefix(isolation), _PYTHON, "-I", "-S", "-c", "print(40 + 2)"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=20, env={}, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout == b"42\n":
            return isolation
    return "limits"


def isolated_command(isolation: Isolation, program: str) -> list[str]:
    """The command that runs a Python ``program`` (source text) under the isolation."""
    return [*command_prefix(isolation), _PYTHON, "-I", "-S", "-c", program]


def command_prefix(isolation: Isolation) -> list[str]:
    """What stands before the interpreter. With ``namespaces`` the launcher receives the rest as one JSON request."""
    folders = _read_only_folders()
    if isolation == "limits":
        return []
    if isolation == "bubblewrap":
        return [
            "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
            "--clearenv", *(part for folder in folders for part in ("--ro-bind", folder, folder)),
            "--dev", "/dev", "--size", str(TMP_MB << 20), "--tmpfs", "/tmp", "--chdir", "/tmp", "--",
        ]  # fmt: skip
    facts = {"read_only": folders, "tmp_mb": TMP_MB, "processes": PROCESSES, "root": _mount_point()}
    return [_PYTHON, "-I", "-S", str(_LAUNCHER), json.dumps(facts)]


def _read_only_folders() -> list[str]:
    """The interpreter, the libraries it is linked with and nothing else of the host."""
    wanted: Sequence[str] = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, str(Path(_PYTHON).parent))
    folders: list[str] = []
    for folder in wanted:
        inside = any(folder == known or folder.startswith(known + "/") for known in folders)
        if Path(folder).exists() and not inside:
            folders.append(folder)
    return folders


def _mount_point() -> str:
    """Any folder of our own will do: the mount over it is seen by the sandbox only."""
    return str(_LAUNCHER.parent)
