"""The whole recipe with all real stages, at the smallest size at which each has something to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.dashboard_browser import browser, chromium, served
from flows.stages import PIPELINE

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # the whole recipe, beside whatever else the machine does

TINY = """
extends = "{recipes}/pocket.toml"
name = "tiny"

[ingest]
corpus = "{corpus}"

[quality]
judged_documents = 200

[synthetic]
mathematics_bytes = 30_000
code_bytes = 20_000
knowledge_bytes = 20_000
retrieval_bytes = 60_000

[mixture]
budget_bytes = 600_000

[tokenizer]
vocab_size = 1024

[scaling]
shapes = [
    { hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1 },
    { hidden_size=48, intermediate_size=96, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1 },
]
tokens = [4096, 8192]
batch_tokens = [512, 1024]
sequence_length = 64
check_tokens = 16_384

[pretrain]
tokens = 60_000
hyper_parameters = "recipe"
copying_steps = 4
learning_rate = 3e-3
batch_tokens = 2048
sequence_length = 64

[pretrain.model]
vocab_size = 1024
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64

[extend]
sequence_length = 256
tokens = 20_000
batch_tokens = 2048

[conversations]  # families that even this model gets right now and then
families = ["truth", "ordering"]
sft_per_family = 200
preference_per_family = 100
rl_per_family = 6
heldout_per_family = 6

[sft]
learning_rate = 3e-3
epochs = 4
sequence_length = 256
batch_size = 8
evaluation_prompts = 20
max_new_tokens = 16

[pairs]
samples = 4
heldout_share = 0.25
max_new_tokens = 16

[reward]
heldout_share = 0.25
prompts = 20
max_new_tokens = 16

[grpo]
steps = 2
group_size = 4
queries_per_rollout = 4
scoring_samples = 2
evaluation_prompts = 8
evaluation_samples = 2
max_new_tokens = 16

[ngram]
tokens_per_domain = 500
document_tokens = 128

[evaluate]
tokens_per_domain = 500
document_tokens = 128
tasks_per_family = 2
samples = 2
max_new_tokens = 16
passkey_lengths = [64, 256]
passkeys_per_length = 4
shown_prompts = 2

[export]
prompts = 1
generated_tokens = 8
"""

# The interpreter's own library: real text and code without any download.
CORPUS = """
[[source]]
name = "library-code"
kind = "stdlib"
members = ["json/*.py", "email/*.py", "logging/*.py", "asyncio/*.py", "http/*.py", "xml/**/*.py", "unittest/*.py"]
format = "text"
language = "code"
domain_hint = "code"
licence = "PSF-2.0"

[[source]]
name = "library-docs"
kind = "stdlib"
members = ["*.py"]
format = "docstrings"
language = "en"
domain_hint = "technology"
licence = "PSF-2.0"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "corpus.toml").write_text(CORPUS)
    path = folder / "tiny.toml"
    text = TINY.replace("{recipes}", str(ROOT / "recipes")).replace("{corpus}", str(folder / "corpus.toml"))
    path.write_text(text)
    return path


def run(recipe: Path, home: Path) -> dict:
    result = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(recipe), "--json"],
        cwd=ROOT, env={**os.environ, "QWENFORGE_HOME": str(home)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(recipe, home) -> dict:
    """The finished run."""
    return run(recipe, home)


def test_whole_recipe_ends_with_a_report_card_and_a_second_run_does_nothing(recipe, home, first):
    assert list(first["stages"]) == [stage.id for stage in PIPELINE]
    card = Path(first["report"]["html"])
    assert card.read_text().count("<svg") >= 5
    assert Path(first["report"]["markdown"]).exists()

    started = time.perf_counter()
    second = run(recipe, home)
    assert time.perf_counter() - started < 15
    assert second["stages"] == first["stages"]
    assert second["cached"] == list(first["stages"])


# ---- the dashboard on that run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(home, first):
    """Where the dashboard of the run is served."""
    with served(home) as address:
        yield address


EXPECTED = {  # something that a page shows only when it has read the run
    "": "27 of 27", "training?stage=sft": "grad_norm", "data": "deduplicate", "scaling": "Fitted laws",
    "checkpoints": "Made from", "preferences": "of 32 answers", "evaluation": "Item by item", "system": "GB free",
}  # fmt: skip


def test_every_page_of_the_dashboard_shows_the_run_in_a_browser(address):
    if not chromium():
        pytest.skip("no Chromium is installed")
    with browser() as chrome:
        page = chrome.new_page()
        for path, text in EXPECTED.items():
            page.goto(f"{address}/{path}")
            page.get_by_text(text).first.wait_for(timeout=60_000)
            assert not page.locator('[data-testid="stException"]').count(), path
            assert "run=" in page.url  # the view can be linked


def test_the_dashboard_of_an_empty_home_says_how_to_start(tmp_path, monkeypatch):
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path))
    config.set_option("server.address", "127.0.0.1")  # elsewhere it asks for a login first
    page = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=60).run()
    assert not page.exception
    assert "make run" in page.info[0].value
