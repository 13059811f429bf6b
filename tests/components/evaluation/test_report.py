"""The report card: whole, in part, with and without costs, the same bytes every time."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support import PlainArtifact, make_artifact, make_run

from components.evaluation.formats import cell, difference, duration, number, table_text
from components.evaluation.items import Items
from components.evaluation.report import ReportConfig, render, write_report
from components.scaling.law import SweepPoint, fit_scaling_law
from components.stage import StageError, effect
from model.config import ModelConfig
from model.hf_config import config_to_hf

QUALITY = {"base": (2.0, 0.0, 0.02), "long": (2.02, 1.0, 0.03), "sft": (2.1, 1.0, 0.45), "dpo": (2.1, 1.0, 0.6),
           "rl": (2.1, 0.98, 0.75)}  # fmt: skip
"""Checkpoint -> bits per byte, pass keys found at 1,024 tokens, share of verified answers."""
HTML_VOID = {"meta", "br", "hr", "img", "link", "path", "use", "rect", "line", "circle"}


def write_evaluation(folder: Path, bits: float, keys: float, verified: float, formatted: float) -> PlainArtifact:
    items, rng = Items(), np.random.default_rng(7)  # the same difficulties for every checkpoint
    for index in range(60):
        size = int(rng.integers(200, 900))
        spent = bits * size * rng.normal(1, 0.05)
        items.add("bits_per_byte", ("science", "code")[index % 2], f"d/{index}", spent, weight=size)
    for length in (256, 1024):
        for index in range(40):
            found = rng.random() < (keys if length == 1024 else 0.97)
            items.add("passkey", str(length), f"{length}/{index}", found)
    for index in range(120):
        ease = rng.random()
        for sample in range(4):
            right = (ease + rng.random()) / 2 < verified
            family = ("chain_sum", "json")[index % 2]
            items.add("verified_sampled", family, f"p{index}/{sample}", right, cluster=f"p{index}")
            items.add("reward", family, f"p{index}/{sample}", verified + rng.normal(0, 0.2), cluster=f"p{index}")
        items.add("format_greedy", family, f"p{index}/0", rng.random() < formatted)
    folder.mkdir(parents=True)
    items.write(folder)
    (folder / "evaluation.json").write_text(json.dumps({"metrics": items.metrics(0)}))
    sample = {"id": "p0", "task": "chain_sum", "messages": [{"role": "user", "content": "What is 2 + <b>3</b>? | x"}],
              "expected": "5", "response": f"Answer: {verified}\n<script>alert(1)</script>", "correct": verified > 0.5,
              "format": True}  # fmt: skip
    (folder / "samples.json").write_text(json.dumps([sample]))
    return make_artifact("evaluation", folder, {"effects": [effect("a measured effect", 2.0, 3.0, better="lower")]})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlainArtifact]:
    """Small files of every stage that the report reads."""
    root = tmp_path_factory.mktemp("artifacts")
    made: dict[str, PlainArtifact] = {}
    licences = {"licences": {"wiki": "CC BY-SA"}, "by_source": {"wiki": 900}, "bytes_by_source": {"wiki": 2_000_000}}
    for index, stage in enumerate(("ingest", "clean", "deduplicate", "quality", "domains", "decontaminate")):
        (root / stage).mkdir()
        summary = {"documents_out": 900 - 80 * index, "bytes_out": 2_000_000 - 90_000 * index, **licences}
        made[stage] = make_artifact("corpus", root / stage, summary)
    judged = [{"kept": bool(i % 2), "overall": i / 10, "source": "wiki", "text": f"text {i}"} for i in range(8)]
    (root / "quality" / "samples.jsonl").write_text("\n".join(map(json.dumps, judged)))
    (root / "mixture").mkdir()
    shares = {"before": {"science": 0.2, "social": 0.8}, "after": {"science": 0.7, "social": 0.3}}
    (root / "mixture" / "mixture.json").write_text(json.dumps(shares))
    made["mixture"] = make_artifact("mixture", root / "mixture", {"documents": 500, "bytes": 10**6})
    (root / "shards").mkdir()
    (root / "shards" / "shards.json").write_text(json.dumps({"vocab_size": 4096, "train": {"tokens": 3_000_000}}))
    made["shards"] = make_artifact("shards", root / "shards", {"tokens": 3_000_000, "documents": 480})
    points = [
        SweepPoint(parameters=n, tokens=d, learning_rate=r, batch_tokens=b, loss=3 + 50 / n**0.3 + abs(r - 0.003) * 20)
        for n in (200_000, 800_000) for d in (300_000, 900_000) for r in (0.001, 0.003, 0.009) for b in (2048, 4096)
    ]  # fmt: skip
    (root / "scaling").mkdir()
    fit_scaling_law(points, resamples=2).write(root / "scaling" / "law.json")
    made["scaling"] = make_artifact("scaling-law", root / "scaling")
    config = ModelConfig(vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)  # fmt: skip
    for stage in ("pretrain", "extend", "sft", "dpo", "reward", "grpo"):
        (root / stage).mkdir()
        history = [{"step": s, "loss": 5 / s, "reward": s / 9, "pass_rate": s / 10, "tokens": s} for s in range(1, 9)]
        training = {"objective": stage, "steps": 8, "tokens": 1_000, "flops": 1e9, "history": history}
        (root / stage / "training.json").write_text(json.dumps(training))
        (root / stage / "config.json").write_text(json.dumps(config_to_hf(config)))
        made[stage] = make_artifact("checkpoint", root / stage)
    made["ngram"] = write_evaluation(root / "ngram", 2.4, 0, 0, 0)
    for name, (bits, keys, verified) in QUALITY.items():
        formatted = 0.02 if name in ("base", "long") else 0.95
        made[f"evaluate-{name}"] = write_evaluation(root / f"evaluate-{name}", bits, keys, verified, formatted)
    return made


@pytest.fixture(scope="module")
def report(artifacts: dict[str, PlainArtifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = make_run(tmp_path_factory.mktemp("report"))
    return run.output, write_report(ReportConfig(title="Pocket"), artifacts, run)


class Balanced(HTMLParser):
    """Checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in HTML_VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in HTML_VOID:
            assert self.open.pop() == tag


def test_all_claims_of_a_good_run_hold(report: tuple[Path, dict]) -> None:
    claims = json.loads((report[0] / "report.json").read_text())["claims"]
    assert [claim["verdict"] for claim in claims] == ["holds"] * 5
    assert "1,024" in claims[1]["claim"]  # four times the first phase's 256
    assert claims[0]["high"] < 0 < claims[3]["low"]
    assert claims[3]["n"] == 120  # prompts
    assert report[1]["effects"][0]["value"] == 5


def test_the_page_is_one_whole_file_that_follows_the_theme(report: tuple[Path, dict]) -> None:
    page = (report[0] / "report.html").read_text()
    Balanced().feed(page)
    assert "prefers-color-scheme: dark" in page and "currentColor" in page
    assert page.count("<svg") == 8
    assert not any(mark in page for mark in ('src="', "http://www.w3.org/1999/xhtml", "<link"))
    assert "<script>alert" not in page and "&lt;script&gt;" in page
    assert "CC BY-SA" in page and "quality 0.20, too low" in page
    assert len(page) < 1_000_000


def test_markdown_tables_have_as_many_cells_in_every_row(report: tuple[Path, dict]) -> None:
    width = None
    for line in (report[0] / "report.md").read_text().splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = line.replace("\\|", "").count("|")
        width = width or cells
        assert cells == width, line


def test_the_same_artifacts_give_the_same_bytes(
    artifacts: dict[str, PlainArtifact], report: tuple[Path, dict], tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    assert write_report(ReportConfig(title="Pocket"), artifacts, run) == report[1]
    files = sorted(p.relative_to(run.output) for p in run.output.rglob("*") if p.is_file())
    assert len(files) == 11
    for file in files:
        assert (run.output / file).read_bytes() == (report[0] / file).read_bytes(), file


@pytest.mark.parametrize(
    "stages", [(), ("ingest", "clean"), ("evaluate-base",), ("ngram", "evaluate-base", "pretrain"), ("scaling",)]
)
def test_part_of_a_run_gives_a_report_that_says_what_is_missing(
    artifacts: dict[str, PlainArtifact], stages: tuple[str, ...], tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    write_report(ReportConfig(), {stage: artifacts[stage] for stage in stages}, run)
    page, text = ((run.output / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "not run" in page and "not run" in text
    Balanced().feed(page)


def test_render_adds_costs_and_leaves_the_artifact_alone(report: tuple[Path, dict], tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in report[0].rglob("*") if file.is_file()}
    costs = [
        {"stage": "ingest", "state": "done", "seconds": 12.34},
        {"stage": "pretrain", "state": "cached", "seconds": 100.0, "tokens": 4_000, "flops": 5e12, "utilisation": 0.31},
    ]
    target = render(report[0], costs, tmp_path / "out" / "card.html")
    page, text = target.read_text(), target.with_suffix(".md").read_text()
    for piece in ("12.3 s", "1 min 40 s", "5.00e10", "31.0%", "4,000", "1 min 52 s"):
        assert piece in page and piece in text, piece
    title = "Beside the report's figures"
    assert title in page and title in text and title not in (report[0] / "report.md").read_text()
    assert (tmp_path / "out" / "plots" / "passkey.svg").is_file()
    assert {file: file.read_bytes() for file in report[0].rglob("*") if file.is_file()} == before
    with pytest.raises(StageError, match="run the report stage first"):
        render(tmp_path, [], tmp_path / "x.html")


def test_numbers_are_written_for_readers() -> None:
    assert number(0.1234, "share") == "12.3%"
    assert number(None) == number(float("nan")) == "–"
    assert [number(v) for v in (3, 1.23456, 1234.56, 12_345_678.9)] == ["3", "1.235", "1,234.6", "1.23e+07"]
    assert difference(0.051, "share") == "+5.1 pp" and difference(-0.25) == "-0.250"
    assert cell({"value": 0.5, "low": 0.4, "high": 0.6}, "%") == "50.0% [40.0%, 60.0%]"
    assert [duration(s) for s in (None, 1.23, 75, 3700)] == ["–", "1.2 s", "1 min 15 s", "1 h 01 min"]
    assert table_text("a|b\nc<d") == "a\\|b ⏎ c&lt;d"
