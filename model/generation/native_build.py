"""Compiles ``decoder.cpp`` once a machine, for its processor, and loads it; None where that cannot be done.

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

_SOURCE = Path(__file__).with_name("decoder.cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC")
_SECONDS = 120
_logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions. Set ``QWENFORGE_NATIVE=0`` to do without."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux") or os.environ.get("QWENFORGE_NATIVE") == "0":
        return None
    try:
        path = _folder() / f"decoder-{_digest(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        return _declared(ctypes.CDLL(str(path)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        _logger.warning("generation goes on without its compiled decoder, which could not be made: %s", said)
        return None


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwenforge"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user, whose code is not to be loaded")
    return folder


def _digest(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=_SECONDS)
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat"))]
    content = (_SOURCE.read_text(), version.stdout, *_FLAGS, *processor[:1], torch.__version__)
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    """In two steps: linked without -fopenmp, the library takes its functions from what torch has loaded."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        parts = Path(folder, "decoder.o"), Path(folder, "decoder.so")
        for command in (
            [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(parts[0])],
            [compiler, "-shared", str(parts[0]), "-o", str(parts[1])],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        parts[1].replace(path)


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    found.forward.argtypes = (pointer,) * 6 + (size, number, pointer)
    found.normalise.argtypes = (pointer, size, size, ctypes.c_float, pointer)
    found.multiply.argtypes = (pointer, size, size, pointer, size, number, pointer)
    for function in (found.forward, found.normalise, found.multiply):
        function.restype = None
    return found
