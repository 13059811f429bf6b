"""Work pools whose runs are containers: base job templates for Prefect's docker and kubernetes workers.

They are the workers' own templates with our image, what a run needs to know of the place, one accelerator where wanted,
and no secret: docker's come from Prefect's Secret blocks, a pod's from the cluster's secret ``qwenforge``.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from flows.errors import UsageError
from infra.settings import Settings

KINDS = ("docker", "kubernetes")
HOME = "/data"  # QWENFORGE_HOME in the image
PLACE = ("store_uri", "s3_endpoint_url", "s3_region", "s3_access_key_id", "s3_secret_access_key", "database_url",
         "mlflow_uri")  # fmt: skip
"""The settings that a run shares with everybody else; the others describe the machine that it is started from."""
LOOPBACKS = ("127.0.0.1", "localhost", "[::1]")


def base_job_template(kind: str, settings: Settings, accelerators: int) -> dict[str, Any]:
    """The template of a pool of type ``kind``, checked as its worker will check it. ``accelerators``: GPUs of a run.

    UsageError where the worker's package is missing, or a setting cannot be reached from a container.
    """
    if find_spec(f"prefect_{kind}") is None:
        raise UsageError(f"--pool {kind} needs Prefect's package for it: pip install -e '.[{kind}]'")
    template = docker(settings, accelerators) if kind == "docker" else kubernetes(settings, accelerators)
    check(kind, template)
    return template


def docker(settings: Settings, accelerators: int) -> dict[str, Any]:
    from prefect_docker.worker import DockerWorker

    template = DockerWorker.get_default_base_job_template()
    place = environment(settings)
    for name in secret_names(settings):
        place[f"QWENFORGE_{name.upper()}"] = f"{{{{ prefect.blocks.secret.{block_name(name)} }}}}"
    container: dict[str, Any] = {"shm_size": "1g", "init": True}
    if accelerators:
        requests = {"driver": "nvidia", "count": accelerators, "capabilities": [["gpu"]]}
        container["device_requests"] = [requests]
    defaults: dict[str, Any] = {
        "image": image(accelerators), "image_pull_policy": "IfNotPresent", "env": place, "auto_remove": True,
        "volumes": [f"qwenforge_home:{HOME}"], "container_create_kwargs": container,
    }  # fmt: skip
    # a stack of this machine listens on its loopback alone, and that is the host's only where the network is
    defaults |= {"network_mode": "host"} if on_loopback(settings) else {"networks": ["qwenforge_default"]}
    return with_defaults(template, defaults)


def kubernetes(settings: Settings, accelerators: int) -> dict[str, Any]:
    from prefect_kubernetes.worker import KubernetesWorker

    if names := on_loopback(settings):
        raise UsageError(
            f"--pool kubernetes: QWENFORGE_{names[0].upper()} is this machine's loopback; no pod reaches it"
        )
    template = KubernetesWorker.get_default_base_job_template()
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    pod["securityContext"] = {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001}
    pod["volumes"] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": "qwenforge"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},  # PyTorch's workers share memory
    ]
    container = pod["containers"][0]
    container["volumeMounts"] = [{"name": "home", "mountPath": HOME}, {"name": "shm", "mountPath": "/dev/shm"}]
    container["envFrom"] = [{"secretRef": {"name": "qwenforge", "optional": True}}]
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpus }}"
    template["variables"]["properties"]["gpus"] = {
        "type": "integer", "minimum": 0, "title": "GPUs", "description": "Of the container.", "default": accelerators,
    }  # fmt: skip
    defaults = {
        "image": image(accelerators), "image_pull_policy": "IfNotPresent", "env": environment(settings),
        "namespace": "qwenforge", "finished_job_ttl": 86400,
        # an evicted pod's run is scheduled again and goes on from its last checkpoint
        "backoff_limit": 0,
    }  # fmt: skip
    return with_defaults(template, defaults)


def image(accelerators: int) -> str:
    """As docker-compose.yml builds it."""
    return f"qwenforge:0.1.0-{'gpu' if accelerators else 'cpu'}"


def environment(settings: Settings) -> dict[str, str]:
    """The place as variables, without its secrets."""
    shared = {
        f"QWENFORGE_{name.upper()}": str(getattr(settings, name))
        for name in PLACE
        if name in settings.model_fields_set and not is_secret(name)
    }
    return {"QWENFORGE_HOME": HOME, **shared}


def secret_names(settings: Settings) -> list[str]:
    return [name for name in PLACE if name in settings.model_fields_set and is_secret(name)]


def is_secret(name: str) -> bool:
    annotation = Settings.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def block_name(name: str) -> str:
    """Of the Secret block that holds a setting."""
    return f"qwenforge-{name.replace('_', '-')}"


def save_secrets(settings: Settings) -> list[str]:
    """Put the place's secrets into Prefect's Secret blocks, which its server encrypts; their names."""
    from prefect.blocks.system import Secret

    saved = []
    for name in secret_names(settings):
        value: SecretStr = getattr(settings, name)
        Secret(value=value.get_secret_value()).save(block_name(name), overwrite=True)
        saved.append(block_name(name))
    return saved


def on_loopback(settings: Settings) -> list[str]:
    """Settings that name this machine's loopback."""
    found = []
    for name in PLACE:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
        if any(f"//{host}" in text or f"@{host}" in text for host in LOOPBACKS):
            found.append(name)
    return found


def with_defaults(template: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    properties = template["variables"]["properties"]
    for name, value in defaults.items():
        properties[name]["default"] = value  # a KeyError: the worker has renamed it
    return template


def check(kind: str, template: dict[str, Any]) -> None:
    """As Prefect checks it: the variables are a JSON schema, and the defaults make a job that the worker accepts."""
    from prefect.utilities.schema_tools.validation import is_valid_schema

    is_valid_schema(template["variables"])
    try:
        rendered(kind, template)
    except (ValidationError, ValueError) as error:
        raise UsageError(f"the template of {kind} makes no job: {error}") from None


def rendered(kind: str, template: dict[str, Any], **values: Any) -> Any:
    """The worker's job configuration for these values of the variables; secrets stay references, no server is asked."""
    if kind == "docker":
        from prefect_docker.worker import DockerWorkerJobConfiguration as Configuration
    else:
        from prefect_kubernetes.worker import (
            KubernetesWorkerJobConfiguration as Configuration,  # type: ignore[assignment]
        )
    from prefect.utilities.templating import apply_values

    text = re.sub(r"\{\{ (prefect\.blocks\.[\w.-]+) \}\}", r"\1", json.dumps(template))
    content = json.loads(text)
    properties = content["variables"]["properties"]
    defaults = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    # what Configuration.from_template_and_values does after it has asked a server for the blocks
    return Configuration(**apply_values(template=content["job_configuration"], values={**defaults, **values}))


def write_template(kind: str, template: dict[str, Any], home: Path) -> Path:
    """For ``prefect work-pool create --base-job-template``, and for a review."""
    folder = home / "pools"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}.json"
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(template, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
    return file


def ensure_pool(client: Any, kind: str, template: dict[str, Any]) -> None:
    """The pool ``kind`` with this template, made or brought up to date. UsageError where it is of another type."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        pool = client.read_work_pool(kind)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=kind, type=kind, base_job_template=template))
        return
    if pool.type != kind:
        raise UsageError(f"--pool {kind}: the work pool of that name is of type {pool.type}")
    client.update_work_pool(kind, WorkPoolUpdate(base_job_template=template))


__all__ = ["KINDS", "base_job_template", "ensure_pool", "rendered", "save_secrets", "write_template"]
