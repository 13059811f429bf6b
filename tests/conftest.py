"""Makes ``tests/support.py`` importable as ``support`` under importlib mode, and sets up hypothesis."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# Tests share a machine with other work: how long an example takes says nothing about it.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def main_module():
    """Streamlit's AppTest leaves the page as ``__main__``, which processes spawned later would run."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before
