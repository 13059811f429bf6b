"""Hardware facts for plans and costs, and measurement of what this machine really does.

Peak rates, memory and bandwidth are the makers' data sheets (dense, without sparsity). Prices are estimates of a
typical on-demand rent in 2026, for orders of magnitude only; a recipe's own price overrides them.
"""

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from infra.errors import InfraError


class Accelerator(BaseModel):
    """One device that trains: a GPU, or a whole CPU machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["cuda", "rocm", "cpu"]
    peak_flops: float
    """Dense matrix multiply-adds in the training type (bfloat16 on GPUs, float32 on CPUs), FLOP/s."""
    memory_bytes: float
    bandwidth: float
    """Memory bandwidth, bytes/s."""
    link_bandwidth: float
    """To the other devices of its host, one direction, bytes/s."""
    utilisation: float
    """Share of the peak that a well-tuned dense training run sustains (MFU); an estimate, except cpu-2: measured."""
    estimated_price_per_hour: float
    """US dollars, one device, on demand; an estimate."""


def _gpu(
    name: str, teraflops: float, gigabytes: float, gigabytes_per_second: float, link: float, price: float,
    *, kind: Literal["cuda", "rocm"] = "cuda", utilisation: float = 0.40,
) -> Accelerator:  # fmt: skip
    return Accelerator(
        name=name, kind=kind, peak_flops=teraflops * 1e12, memory_bytes=gigabytes * 1e9,
        bandwidth=gigabytes_per_second * 1e9, link_bandwidth=link * 1e9, utilisation=utilisation,
        estimated_price_per_hour=price,
    )  # fmt: skip


ACCELERATORS: dict[str, Accelerator] = {
    device.name: device
    for device in (
        #    name             TFLOP/s   GB    GB/s  link GB/s  $/h
        _gpu("b200", 2250, 180, 8000, 900, 5.00),
        _gpu("h200", 989, 141, 4800, 450, 3.50),
        _gpu("h100-sxm", 989, 80, 3350, 450, 2.50),
        _gpu("h100-pcie", 756, 80, 2000, 64, 2.20),
        _gpu("a100-80gb", 312, 80, 2039, 300, 1.50),
        _gpu("a100-40gb", 312, 40, 1555, 300, 1.20),
        _gpu("l40s", 362, 48, 864, 32, 1.00, utilisation=0.35),
        _gpu("rtx-4090", 165, 24, 1008, 32, 0.45, utilisation=0.35),
        _gpu("mi300x", 1307, 192, 5300, 448, 2.50, kind="rocm", utilisation=0.30),
        # A two-core cloud machine. The peak is a measured float32 matrix product, the utilisation a measured
        # forward, backward and AdamW of the pocket shape.
        Accelerator(
            name="cpu-2", kind="cpu", peak_flops=330e9, memory_bytes=16e9, bandwidth=25e9, link_bandwidth=1e9,
            utilisation=0.46, estimated_price_per_hour=0.08,
        ),
    )
}  # fmt: skip


def accelerator(name: str) -> Accelerator:
    """The table's entry, or an error that lists the names."""
    if name not in ACCELERATORS:
        raise InfraError(f"unknown hardware {name!r}; known are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def match_accelerator(device_name: str) -> Accelerator | None:
    """The table's entry for what a driver calls its device ("NVIDIA H100 80GB HBM3"), if it is there."""
    words = device_name.lower()
    patterns = {
        "b200": "b200", "h200": "h200", "h100 pcie": "h100-pcie", "h100": "h100-sxm", "a100-sxm4-40": "a100-40gb",
        "a100-pcie-40": "a100-40gb", "a100": "a100-80gb", "l40s": "l40s", "4090": "rtx-4090", "mi300x": "mi300x",
    }  # fmt: skip
    return next((ACCELERATORS[name] for pattern, name in patterns.items() if pattern in words), None)


def resolve_device(device: str = "auto") -> str:
    """``cpu`` or ``cuda`` (which is also PyTorch's name for AMD devices). Asking for what is not there is an error."""
    if device == "cpu":
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InfraError(
            "QWENFORGE_DEVICE is cuda but PyTorch sees no GPU; install a driver and a CUDA build of torch, or set it "
            "to auto"
        )
    return "cuda" if available else "cpu"


def resolve_threads(threads: int = 0) -> int:
    """``threads``, or for 0 the cores that this process may use: affinity and a container's CPU quota count."""
    if threads > 0:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cpu_quota() or cores))


def _cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Whole cores of a container's quota (control groups v2), or None without one."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


def measure_matmul_ceiling(seconds: float = 0.5, device: str = "auto", size: int | None = None) -> float:
    """Matrix products that this machine reaches, in FLOP/s: the denominator of measured utilisation.

    Square ``size`` x ``size`` products, float32 on a CPU (1024) and bfloat16 on a GPU (8192), for about ``seconds``.
    On a CPU by the default routine and by oneDNN in turns, of which the faster one counts: which one that is depends
    on the processor.
    """
    import torch

    device = resolve_device(device)
    size = size or (8192 if device == "cuda" else 1024)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    left = torch.ones(size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)
    routines: list[Callable[[], object]] = [lambda: torch.mm(left, left, out=out)]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        routines.append(lambda: torch.ops.mkldnn._linear_pointwise(left, left, None, "none", [], ""))

    def timed(product: Callable[[], object], products: int) -> float:
        start = time.perf_counter()
        for _ in range(products):
            product()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    best = float("inf")
    for product in routines:
        timed(product, 2)  # warms caches, clocks and lazily loaded kernels
        spent, products = 0.0, 1
        while spent < seconds / len(routines):
            elapsed = timed(product, products)
            spent += elapsed
            best = min(best, elapsed / products)
            products = max(1, min(100, round(seconds / 20 / best)))  # ten or so samples; the best is the ceiling
    return 2 * size**3 / best


def describe_host() -> dict[str, Any]:
    """What a report says about the machine. Not for artifacts, which must not depend on it.

    torch, which takes seconds to import, is asked only where a driver says that there is a GPU.
    """
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "cpu": _cpu_name(),
        "cores": resolve_threads(),
        "memory_bytes": _memory_bytes(),
        "gpus": [],
    }
    if shutil.which("nvidia-smi") or shutil.which("rocm-smi"):
        import torch

        if torch.cuda.is_available():
            facts["gpus"] = [
                {"name": properties.name, "memory_bytes": properties.total_memory}
                for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
            ]
    return facts


def estimated_price_per_hour(host: Mapping[str, Any]) -> float | None:
    """Dollars an hour for the rent of a ``host`` (of ``describe_host``); None for GPUs without a price here."""
    if not host["gpus"]:
        return ACCELERATORS["cpu-2"].estimated_price_per_hour * host["cores"] / 2
    found = [match_accelerator(gpu["name"]) for gpu in host["gpus"]]
    known = [gpu.estimated_price_per_hour for gpu in found if gpu is not None]
    return sum(known) if len(known) == len(found) else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


__all__ = [
    "ACCELERATORS", "Accelerator", "accelerator", "describe_host", "match_accelerator",
    "measure_matmul_ceiling", "resolve_device", "resolve_threads",
]  # fmt: skip
