"""Compiles a C++ file of this package once a machine, for its processor, and loads it; None where that cannot be done.

The library is kept under the user's cache folder by a digest of the source, the compiler and the processor. It calls
the OpenMP that torch has loaded, so that both share one pool of threads.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch  # loads OpenMP for all libraries after it

_SHARED = Path(__file__).with_name("vectors.h")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC")
_SECONDS = 120
_logger = logging.getLogger(__name__)


@functools.cache
def library(source: Path, purpose: str) -> ctypes.CDLL | None:
    """The compiled functions, which return nothing. Set ``QWENFORGE_NATIVE=0`` to do without."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux") or os.environ.get("QWENFORGE_NATIVE") == "0":
        return None
    try:
        path = _folder() / f"{source.stem}-{_digest(source, compiler)}.so"
        if not path.exists():
            _compile(source, compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        _logger.warning("%s goes on without its compiled part, which could not be made: %s", purpose, said)
        return None


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwenforge"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user, whose code is not to be loaded")
    return folder


def _digest(source: Path, compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=_SECONDS)
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat"))]
    content = (source.read_text(), _SHARED.read_text(), version.stdout, *_FLAGS, *processor[:1], torch.__version__)
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


def _compile(source: Path, compiler: str, path: Path) -> None:
    """In two steps: linked without -fopenmp, the library takes its functions from what torch has loaded."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        parts = Path(folder, "part.o"), Path(folder, "part.so")
        for command in (
            [compiler, *_FLAGS, "-c", str(source), "-o", str(parts[0])],
            [compiler, "-shared", str(parts[0]), "-o", str(parts[1])],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        parts[1].replace(path)
