"""docker-compose.yml and Dockerfile, judged by Docker's own tools and beside the native stack; no engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from infra.stack.place import Place, choose_ports
from infra.stack.services import services

ROOT = Path(__file__).parents[2]


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name} here: the extra 'test' brings it for Linux on x86-64")
    return found


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def composed(request, tmp_path_factory) -> dict[str, Any]:
    """The file as Compose understands it, with .env.example filled in."""
    example = (ROOT / ".env.example").read_text()
    environment = tmp_path_factory.mktemp("compose") / ".env"
    environment.write_text(re.sub(r"^(\w+)=$", r"\1=filled", example, flags=re.M).replace("=cpu", f"={request.param}"))
    done = subprocess.run(
        [tool("docker-compose"), "--env-file", environment, "--file", ROOT / "docker-compose.yml", "config",
         "--format", "json"],
        capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"], "HOME": str(environment.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"device": request.param, **json.loads(done.stdout)}


def test_each_profile_has_all_services_pinned_restarted_and_watched(composed):
    device, found = composed["device"], composed["services"]
    suffix = "" if device == "cpu" else "-gpu"
    assert set(found) == {
        "postgres", "s3", "storage", "mlflow", "prefect", "dashboard", "watcher", f"worker{suffix}",
        f"api{suffix}",
    }  # fmt: skip
    for name, service in found.items():
        assert re.search(r":\d[\w.-]+$", service["image"]), f"{name}: {service['image']} is not pinned"
        if name != "storage":
            assert service["healthcheck"]["test"]
            assert service["restart"] == "unless-stopped"
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"
        if "build" in service:
            assert service["image"].endswith(f"-{device}")
            assert service["build"]["args"]["DEVICE"] == device
    reserved = found[f"worker{suffix}"].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    assert bool(reserved) == (device == "gpu")
    assert {"postgres", "s3", "home"} <= set(composed["volumes"])


def test_containers_run_the_commands_of_the_native_stack(composed, tmp_path):
    place = Place(tmp_path, choose_ports({}), defaultdict(str), "rl")
    native = {service.name: service.command for service in services(place)}
    for name, service in composed["services"].items():
        name = name.removesuffix("-gpu")
        if name in ("mlflow", "prefect", "dashboard", "worker", "watcher", "api"):
            assert ["python", *_without_place(service["command"])[1:]] == ["python", *_without_place(native[name])[1:]]
    weed = {option.split("=")[0] for option in native["s3"][1:]}
    inside = {option.split("=")[0] for option in composed["services"]["s3"]["command"]}
    assert inside < weed
    assert all(".port" in option or ".localSocket" in option for option in weed - inside)


def _without_place(command: list[str]) -> list[str]:
    """The command without the options that say where it listens."""
    kept, rest = [], iter(command)
    for part in rest:
        if part in ("--host", "--address", "--port"):
            next(rest)
        else:
            kept.append(part)
    return kept


def test_compose_refuses_to_start_without_secrets():
    done = subprocess.run(
        [tool("docker-compose"), "--env-file", ROOT / ".env.example", "--file", ROOT / "docker-compose.yml", "config"],
        capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_the_dockerfile_has_several_stages_no_root_and_nothing_that_hadolint_minds():
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("FROM ") == 2
    assert re.search(r"^USER [1-9]\d*$", text, flags=re.M)
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
