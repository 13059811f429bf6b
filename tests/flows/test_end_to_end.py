"""The whole recipe with all real stages, at the smallest size at which each has something to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.dashboard_browser import browser, chromium, served
from benchmarks.tiny_recipe import write_tiny
from flows.stages import PIPELINE

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # the whole recipe, beside whatever else the machine does


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


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
