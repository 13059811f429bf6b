"""A small seeded home, the dashboard on it as a user starts it, and a real browser."""

from pathlib import Path

import pytest

from benchmarks.dashboard_browser import browser, chromium, served
from benchmarks.dashboard_seed import seed

RUNS, POINTS = 12, 20_000


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    seed(home, RUNS, POINTS)
    return home


@pytest.fixture(scope="session")
def address(home):
    if not chromium():
        pytest.skip("no Chromium is installed")
    with served(home) as address:
        yield address


@pytest.fixture(scope="module")  # one that stays open keeps other files' browsers from starting
def chrome(address):
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chrome):
    context = chrome.new_context(viewport={"width": 1400, "height": 1400})
    page = context.new_page()
    page.set_default_timeout(120_000)  # the machine may be busy with other tests
    yield page
    assert not page.locator('[data-testid="stException"]').count()
    context.close()
