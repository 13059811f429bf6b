"""The page of the claims: every verdict, effect and plot in HTML, Markdown and JSON."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from components.claims.claim import Contrast, Scores
from components.claims.page import write_page
from components.claims.verdict import find


def row(id: str, verdict: str, *findings: dict, problem: str = "") -> dict:
    return {
        "id": id, "family": "data", "statement": f"Claim <{id}>", "where": "3.1", "design": "two sides",
        "verdict": verdict, "seeds": [0, 1] if findings else [], "problem": problem, "seconds": 61.0,
        "findings": list(findings),
    }  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    shares = [Scores.of([1, 1, 0, 1], [0, 1, 0, 0]), Scores.of([1, 1, 1, 1], [0, 0, 0, 1])]
    bits = [Scores.of([20.0, 9.0], [22.0, 10.0], [10.0, 5.0]), Scores.of([19.0, 9.5], [21.0, 10.0], [10.0, 5.0])]
    margin = find(Contrast("kept", margin=0.05), shares).as_dict()
    return {
        "recipe": "pocket",
        "claims": [
            row("one", "holds", find(Contrast("verified"), shares).as_dict(), margin),
            row("two", "not shown at this scale", find(Contrast("text", "bits/byte", "lower"), bits).as_dict()),
            row("three", "not measured", problem="the budget was spent"),
        ],
    }


def test_everything_is_on_the_page(result: dict, tmp_path: Path):
    html = write_page(result, tmp_path)
    text, markdown = html.read_text(), html.with_suffix(".md").read_text()
    assert json.loads((tmp_path / "claims.json").read_text()) == result
    for page in (text, markdown):
        for expected in ("two sides", "+62.5 pp", "not shown at this scale", "the budget was spent", "-0.183"):
            assert expected in page
    assert "Claim &lt;one&gt;" in text, "texts are escaped"
    assert "<svg" in text
    assert "@media" in text, "the style is inside"
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    assert {line.count("|") for line in table} == {9}


def test_plots_are_whole_and_right_speaks_for_the_claim(result: dict, tmp_path: Path):
    from components.claims.page import row_of

    write_page(result, tmp_path)
    plots = sorted((tmp_path / "plots").glob("*.svg"))
    assert [plot.name for plot in plots] == ["claims-bits-per-byte.svg", "claims-share.svg"]
    for plot in plots:
        ET.parse(plot)
    lower = row_of(result["claims"][1], result["claims"][1]["findings"][0], 0)
    assert lower["value"] > 0
    assert lower["low"] <= lower["value"] <= lower["high"]
    kept = row_of(result["claims"][0], result["claims"][0]["findings"][1], 0)
    assert kept["bound"] == -0.05
    assert kept["label"] == "one: kept"


def test_the_same_result_gives_the_same_bytes(result: dict, tmp_path: Path):
    first = write_page(result, tmp_path / "a").read_bytes()
    assert write_page(result, tmp_path / "b").read_bytes() == first
    assert not list(tmp_path.rglob("*.tmp"))
