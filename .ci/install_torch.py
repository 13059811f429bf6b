"""Install the torch that fits this machine into the running interpreter's environment. Needs nothing but pip.

A machine with a working NVIDIA driver gets the ordinary release. Elsewhere the CPU build is wanted: ordinary Linux
wheels of torch bring several GB of CUDA packages. pip itself is asked (``--dry-run --report``) what each candidate
would be, from whatever indexes and folders it is set up with; the first that is a CPU build is installed.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RANGE = "torch>=2.9"
CANDIDATES = (RANGE, "torch==2.13.0")  # a release whose CPU build is known to be mirrored under its plain number
INDEX_VARIABLE = "QWENFORGE_TORCH_INDEX"


def main() -> None:
    """Do nothing when torch is there; else install the best candidate."""
    if version := installed():
        print(f"torch {version} is installed")
    elif has_nvidia_gpu():
        print("NVIDIA GPU found: installing the ordinary torch")
        pip("install", RANGE)
    else:
        pip("install", *cpu_requirement())


def installed() -> str | None:
    """Version of the torch in this environment, if it is recent enough."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    return version if release >= (2, 9) else None


def has_nvidia_gpu() -> bool:
    """Whether the driver answers."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def cpu_requirement() -> list[str]:
    """Arguments for ``pip install`` that bring a CPU build, or the ordinary one where there is no other."""
    if index := os.environ.get(INDEX_VARIABLE):
        return [RANGE, "--index-url", index]
    for candidate in CANDIDATES:
        report = dry_run(candidate)
        if report and is_cpu_build(report):
            version = report["metadata"]["version"]
            print(f"installing the CPU build of torch, {version}")
            # By its full number, so that pip cannot turn to another build of the same release.
            return [f"torch=={version}"]
    print(
        "No CPU build of torch was found; installing the ordinary one, which on Linux downloads about 3 GB of CUDA "
        f"packages. To avoid that, stop here and set {INDEX_VARIABLE} to an index of CPU builds, or PIP_FIND_LINKS "
        "to a folder with a CPU wheel.",
        file=sys.stderr,
    )
    return [RANGE]


def dry_run(requirement: str) -> dict | None:
    """What pip would install for ``requirement`` alone: its entry in the installation report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--report", str(report), requirement]
        done = subprocess.run([*PIP, *command], capture_output=True, text=True)
        if done.returncode or not report.is_file():
            return None
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
        return entries[0] if entries else None


def is_cpu_build(entry: dict) -> bool:
    """Whether the wheel says ``+cpu``, or asks for no CUDA package on this platform."""
    from pip._vendor.packaging.requirements import Requirement  # knows the markers of platforms; pip is always there

    if "+cpu" in entry["metadata"]["version"]:
        return True
    requirements = [Requirement(text) for text in entry["metadata"].get("requires_dist", [])]
    wanted = [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in wanted)


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def pip(*arguments: str) -> None:
    """Run pip, leaving on failure with its exit code (pip has said why)."""
    done = subprocess.run([*PIP, *arguments])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
