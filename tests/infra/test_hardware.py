"""Hardware facts and measurement."""

import pytest
import torch

from infra import hardware
from infra.errors import InfraError
from infra.hardware import ACCELERATORS, accelerator, match_accelerator, measure_matmul_ceiling


def test_facts_are_those_of_the_data_sheets():
    h100 = accelerator("h100-sxm")
    assert (h100.peak_flops, h100.memory_bytes, h100.bandwidth) == (989e12, 80e9, 3350e9)
    assert (accelerator("a100-80gb").peak_flops, accelerator("h200").memory_bytes) == (312e12, 141e9)
    assert all(0.2 < device.utilisation < 0.6 for device in ACCELERATORS.values())


def test_unknown_hardware_is_an_error_that_lists_the_known():
    with pytest.raises(InfraError, match=r"unknown hardware 'h1000'; known are b200, h200, h100-sxm"):
        accelerator("h1000")


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_driver_name_is_matched(driver_name, name):
    assert match_accelerator(driver_name) == accelerator(name)


def test_an_unknown_driver_name_is_not_guessed():
    assert match_accelerator("NVIDIA GeForce GTX 1050") is None


def test_the_measured_ceiling_bounds_what_a_product_reaches():
    ceiling = measure_matmul_ceiling(seconds=0.1, device="cpu", size=256)
    assert 1e8 < ceiling < 1e14
    assert hardware.describe_host()["cores"] >= 1


def test_asking_for_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (hardware.resolve_device("auto"), hardware.resolve_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(InfraError, match="QWENFORGE_DEVICE is cuda but PyTorch sees no GPU"):
        hardware.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.resolve_device("auto") == "cuda"


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", None), ("150000 100000", 1), ("400000 100000", 4), ("50000 100000", 1)]
)
def test_a_container_quota_limits_the_threads(tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    assert hardware._cpu_quota(tmp_path / "cpu.max") == cores
    assert hardware._cpu_quota(tmp_path / "absent") is None
    assert hardware.resolve_threads(3) == 3


def test_a_host_is_priced_by_its_gpus_or_its_cores():
    gpu = {"name": "NVIDIA H100 80GB HBM3"}
    price = hardware.estimated_price_per_hour
    assert price({"gpus": [gpu, gpu], "cores": 32}) == 2 * hardware.accelerator("h100-sxm").estimated_price_per_hour
    assert price({"gpus": [], "cores": 8}) == 4 * hardware.accelerator("cpu-2").estimated_price_per_hour
    assert price({"gpus": [gpu, {"name": "of a maker that is not in the table"}], "cores": 32}) is None
