"""The report's own figures: the headline rows, the nearest size, and a row only where something was measured."""

import pytest

from components.evaluation.published import beside, figures, nearest_size


@pytest.mark.parametrize(("kind", "size", "name", "value"), [
    ("base", "72B", "mmlu", 86.1), ("base", "72B", "math", 62.1), ("base", "72B", "human_eval", 59.1),
    ("instruct", "72B", "mmlu-pro", 71.1), ("instruct", "72B", "math", 83.1), ("instruct", "72B", "human_eval", 86.6),
    ("instruct", "72B", "arena_hard", 81.2), ("base", "7B", "mmlu", 74.2), ("base", "7B", "math", 49.8),
    ("base", "7B", "human_eval", 57.9),
])  # fmt: skip
def test_headline_rows(kind, size: str, name: str, value: float) -> None:
    assert figures(kind, size)[name] == value


def test_every_size_and_its_order() -> None:
    sizes = ["0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"]
    for kind in ("base", "instruct"):
        math = [figures(kind, size)["math"] for size in sizes]
        assert math == sorted(math), "larger models are better at it in the report, base and instruct"
    assert figures("base", "9B") == {}
    assert [nearest_size(n) for n in (1.4e6, 0.9e9, 9e9, 40e9, 1e12)] == ["0.5B", "1.5B", "7B", "32B", "72B"]


def test_rows_are_those_that_were_measured() -> None:
    cell = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 164}
    card = {
        "base": {"human_eval": cell, "passkey/256": cell, "bits_per_byte": cell},
        "rl": {"passkey/256": cell, "passkey/1024": {**cell, "value": 1.0}},
    }
    found = beside(card, 7.6e9)
    assert found["size"] == "7B"
    code, keys = found["rows"]
    assert (code["title"], code["base"], code["instruct"]) == ("HumanEval", 0.579, 0.848)
    assert code["cells"] == {"base": cell, "rl": None}, "the table has a column for every checkpoint"
    assert keys["title"].startswith("pass keys at 1,024")
    assert [who for who, found in keys["cells"].items() if found] == ["rl"]
    assert beside({}, 1e6)["rows"] == []
