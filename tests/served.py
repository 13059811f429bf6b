"""A real server process on a tiny random model, for the API's tests."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
from openai import OpenAI
from waiting import wait_for

from model.checkpoint import save_model
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

ROOT = Path(__file__).parents[1]


def make_checkpoint(folder: Path, seed: int = 3, **shape) -> Path:
    tokenizer = Tokenizer.train(['a few words, {"json": 1}, and 一些文字 as well. ' * 20], vocab_size=320)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **({"max_position_embeddings": 4096} | shape),
    )  # fmt: skip
    save_model(folder, Transformer(config).init_weights(seed), tokenizer)
    return folder


class Served:
    """A running ``qwenforge serve``."""

    def __init__(self, process: subprocess.Popen, port: int, name: str, key: str) -> None:
        self.process, self.url, self.name, self.key = process, f"http://127.0.0.1:{port}", name, key
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=120)

    def metric(self, name: str, labels: str = "") -> float:
        text = httpx.get(f"{self.url}/metrics").text
        return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name}{labels} ")))


@contextmanager
def serving(checkpoint: str, home: Path, *options: str, key: str = "", log: Path | None = None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "QWENFORGE_HOME": str(home), "QWENFORGE_API_KEYS": key, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "QWENFORGE_DEVICE": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-m", "flows.cli", "serve", checkpoint, "--port", str(port), *options]
    with log.open("w") if log else nullcontext() as output:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        served = Served(process, port, Path(checkpoint).name, key)
        wait_for(lambda: process.poll() is not None or _answers(served.url), 180)
        assert process.poll() is None, "the server ended"
        yield served
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
