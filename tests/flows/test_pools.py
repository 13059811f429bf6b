"""Base job templates of docker and kubernetes: made and checked without any server, no secret in them."""

import asyncio
import json
from pathlib import Path

import pytest
from kubernetes_asyncio.client import ApiClient

from flows import pools
from flows.deploy import deploy_command
from flows.errors import UsageError
from infra.settings import Settings

SECRET = "zanzibar-quokka"


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, store_uri="s3://forge/runs", s3_secret_access_key=SECRET, **values)


def test_a_container_gets_image_home_place_and_accelerator_and_no_secret(tmp_path):
    place = settings(
        s3_endpoint_url="http://minio:9000", database_url=f"postgresql://forge:{SECRET}@db/catalog", threads="3"
    )
    template = pools.base_job_template("docker", place, 2)
    assert SECRET not in json.dumps(template)
    job = pools.rendered("docker", template)
    assert job.image == "qwenforge:0.1.0-gpu"
    assert job.volumes == ["qwenforge_home:/data"] and job.networks == ["qwenforge_default"]
    assert job.env["QWENFORGE_S3_ENDPOINT_URL"] == "http://minio:9000"
    assert "QWENFORGE_THREADS" not in job.env, "that is this machine's"
    secrets = template["variables"]["properties"]["env"]["default"]
    assert secrets["QWENFORGE_DATABASE_URL"] == "{{ prefect.blocks.secret.qwenforge-database-url }}"
    (request,) = job.container_create_kwargs["device_requests"]
    assert (request["count"], request["capabilities"]) == (2, [["gpu"]])
    without = pools.rendered("docker", pools.base_job_template("docker", place, 0))
    assert "device_requests" not in without.container_create_kwargs

    here = pools.base_job_template("docker", settings(mlflow_uri="http://127.0.0.1:5000"), 0)
    assert pools.rendered("docker", here).network_mode == "host", "a stack on the loopback is on the host's alone"
    file = pools.write_template("docker", template, tmp_path)
    assert json.loads(file.read_text()) == template


def test_a_pod_is_one_that_kubernetes_knows_every_key_of():
    template = pools.base_job_template("kubernetes", settings(), 1)
    assert SECRET not in json.dumps(template)
    job = pools.rendered("kubernetes", template, image="registry/qwenforge:1")
    manifest = job.job_manifest
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry/qwenforge:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["env"] == {"QWENFORGE_HOME": "/data", "QWENFORGE_STORE_URI": "s3://forge/runs"}
    assert manifest["spec"]["backoffLimit"] == 0
    container["resources"]["limits"]["nvidia.com/gpu"] = "1"  # a quantity, which the client writes as text
    # what the official client makes of it has lost nothing
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    for misplaced in ("parallelism", "completions"):  # by Prefect, which insists on them
        del manifest["spec"]["template"]["spec"][misplaced]
    assert without_none(asyncio.run(through_the_client(manifest))) == without_none(manifest)


async def through_the_client(manifest: dict) -> dict:
    class Answer:
        data = json.dumps(manifest)

    async with ApiClient() as client:
        return client.sanitize_for_serialization(client.deserialize(Answer, "V1Job"))


def without_none(value):
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list) else value


def test_what_no_pod_reaches_is_refused():
    with pytest.raises(UsageError, match="QWENFORGE_MLFLOW_URI is this machine's loopback"):
        pools.base_job_template("kubernetes", settings(mlflow_uri="http://localhost:5000"), 0)


def test_without_a_server_the_template_is_written_and_the_way_on_is_said(tmp_path, monkeypatch, capsys):
    from flows.deploy import print_deployment

    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    made = deploy_command(Path("recipes/pocket.toml"), pool="kubernetes")
    assert made["deployment"] == ""
    assert json.loads((tmp_path / "pools" / "kubernetes.json").read_text())["job_configuration"]
    print_deployment(made)
    assert f"--type kubernetes --base-job-template {tmp_path}" in capsys.readouterr().out
