"""Where compilers and interpreters lie on this host, as the sandbox will see them."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

SEARCH = "/usr/local/bin:/usr/bin:/bin"
"""Programs are looked up in folders that the sandbox shows, and nowhere else."""
CONFIGURATION = (
    "alternatives", "R", "php", "fpc*.cfg", "mono", "nim", "erlang", "ghc", "scala", "groovy", "java-*-openjdk",
    "clojure", "ldc2.conf", "octave.conf",
)  # fmt: skip
"""What packaged toolchains read from ``/etc``; none of it is secret."""


@cache
def rust_toolchain() -> Path | None:
    """Folder of the toolchain that rustup installed for this user, if there is one."""
    proxy = Path.home() / ".cargo" / "bin" / "rustc"
    if not os.access(proxy, os.X_OK):
        return None
    try:
        done = subprocess.run([str(proxy), "--print", "sysroot"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    folder = Path(done.stdout.strip())
    return folder if done.returncode == 0 and (folder / "bin" / "rustc").exists() else None


@cache
def find_tool(name: str) -> str | None:
    """Absolute path of a program inside the sandbox, or None. Rust's may be in the user's own folder."""
    found = shutil.which(name, path=SEARCH)
    rust = rust_toolchain() if name == "rustc" else None
    return str(rust / "bin" / name) if rust else found


def toolchain_folders() -> list[str]:
    """Folders beside ``/usr`` that toolchains need."""
    rust = rust_toolchain()
    return [
        *([str(rust)] if rust else []),
        *(str(path) for name in CONFIGURATION for path in sorted(Path("/etc").glob(name))),
    ]
