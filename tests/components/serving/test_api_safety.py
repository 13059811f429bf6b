"""What a server keeps to itself, whom it listens to, and how it ends."""

import signal

import httpx
import openai
import pytest
from served import make_checkpoint, serving
from waiting import wait_for

SECRET, KEY = "zanzibarquokka", "sk-hippopotamus"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("served") / "tiny")


def test_without_keys_only_loopbacks_own_names_are_answered_and_a_drain_shows(checkpoint, tmp_path):
    """A page that leads a browser here by a name of its own (DNS rebinding) brings that name along."""
    with serving(str(checkpoint), tmp_path) as served:
        port = served.url.rpartition(":")[2]
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:80"):
            assert httpx.get(f"{served.url}/v1/models", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            assert httpx.get(f"{served.url}/v1/models", headers={"Host": host}).status_code == 400, host
        fields = {"model": "tiny", "prompt": "a"}
        stream = served.client.completions.create(
            **fields, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{served.url}/health").status_code == 503)
        assert httpx.get(f"{served.url}/health").json()["status"] == "draining"
        with pytest.raises(openai.InternalServerError) as refused:
            served.client.completions.create(**fields, max_tokens=1)
        assert refused.value.status_code == 503
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert served.process.wait(30) == 0


def test_with_keys_any_name_may_lead_here_and_nothing_said_is_logged(checkpoint, tmp_path):
    log = tmp_path / "log"
    with serving(str(checkpoint), tmp_path / "home", key=KEY, log=log) as served:
        good = {"Authorization": f"Bearer {KEY}", "Host": "api.example"}
        fields = {"model": "tiny", "prompt": SECRET, "max_tokens": 2}
        said = [
            (good, "completions", fields, 200),
            (good, "completions", fields | {"nonsense": SECRET}, 400),
            (good, "completions", fields | {"prompt": SECRET * 9000}, 400),
            (good, "embeddings", {"model": "tiny", "input": SECRET}, 200),
            (good, "chat/completions", {"model": SECRET, "messages": [{"role": "user", "content": SECRET}]}, 404),
            ({"Authorization": f"Bearer {KEY}{SECRET}"}, "completions", fields, 401),
        ]
        for headers, path, body, status in said:
            assert httpx.post(f"{served.url}/v1/{path}", json=body, headers=headers).status_code == status
        assert SECRET not in httpx.get(f"{served.url}/metrics").text
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0
    text = log.read_text()
    assert "/v1" in text, "the greeting is there"
    assert SECRET not in text and KEY not in text
