"""The command line: exit codes, one clear message for each mistake, nothing started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def qwenforge(tmp_path):
    def qwenforge(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, "QWENFORGE_HOME": str(tmp_path / "home"), "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return qwenforge


def check(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """Exit code, no traceback, and the message (one line) holds all ``words``."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_help_lists_the_commands(qwenforge):
    result = qwenforge("--help")
    assert result.returncode == 0
    for command in ("run", "plan", "report", "eval", "chat", "import", "export", "sparse", "artifacts"):
        assert command in result.stdout


def test_help_imports_nothing_heavy():
    program = "import sys, flows.cli\nassert not {'torch', 'prefect', 'mlflow', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_folder_that_is_no_model_is_not_made_sparse(qwenforge, tmp_path):
    check(qwenforge("sparse", str(tmp_path), "README.md"), 2, "no config.json", "qwenforge export")


def test_ablation_says_what_must_run_first(qwenforge):
    check(qwenforge("ablate"), 2, "ingest, domains, tokenizer", "recipes/pocket.toml --until tokenizer")


def test_the_judge_report_says_what_must_run_first(qwenforge):
    check(qwenforge("judge"), 2, "ingest, deduplicate", "recipes/pocket.toml --until deduplicate")


def test_ablation_of_one_mixture(qwenforge):
    check(qwenforge("ablate", "recipes/pocket.toml", "--first", "raw", "--second", "raw"), 2, "both sides are raw")


def test_absent_recipe(qwenforge):
    check(qwenforge("run", "recipes/poket.toml"), 2, "no such recipe", "did you mean 'recipes/pocket.toml'?")


def test_wrong_key(qwenforge):
    result = qwenforge("run", "recipes/pocket.toml", "--set", "sft.epoch=3")
    check(result, 2, "sft.epoch: unknown key; did you mean 'epochs'?")


def test_wrong_type(qwenforge):
    check(qwenforge("run", "recipes/pocket.toml", "--set", "sft.epochs=many"), 2, "sft.epochs", "integer", "'many'")


def test_stages_that_disagree(qwenforge):
    result = qwenforge("run", "recipes/pocket.toml", "--set", "shards.held_out_share=0.2")
    check(result, 2, "tokenizer.held_out_share: expected 0.2")


def test_missing_corpus_file(qwenforge):
    check(qwenforge("run", "recipes/pocket.toml", "--set", "ingest.corpus=nowhere.toml"), 2, "nowhere.toml")


def test_missing_corpus_path(qwenforge, tmp_path):
    corpus = tmp_path / "corpus.toml"
    corpus.write_text(
        '[[source]]\nname = "mine"\nkind = "path"\npath = "absent"\nformat = "text"\nlicence = "CC0-1.0"\n'
    )
    result = qwenforge("run", "recipes/pocket.toml", "--set", f"ingest.corpus={corpus}")
    check(result, 2, "absent")


def test_unknown_stage(qwenforge):
    check(qwenforge("run", "recipes/pocket.toml", "--until", "everything"), 2, "--until everything", "pretrain")


def test_unwritable_store(qwenforge, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    check(qwenforge("run", "recipes/pocket.toml", QWENFORGE_STORE_URI=str(file / "store")), 2, str(file))


def test_unwritable_home(qwenforge, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    check(qwenforge("run", "recipes/pocket.toml", QWENFORGE_HOME=str(file / "home")), 2, "QWENFORGE_HOME")


def test_nothing_is_left_behind_by_a_bad_recipe(qwenforge, tmp_path):
    qwenforge("run", "recipes/pocket.toml", "--set", "sft.epoch=3")
    assert not (tmp_path / "home").exists()


def test_unknown_checkpoint(qwenforge):
    check(qwenforge("chat", "nobody"), 2, "nobody is no alias")


def test_folder_without_a_model(qwenforge, tmp_path):
    check(qwenforge("chat", str(tmp_path)), 2, "no config.json")


def test_report_before_any_run(qwenforge):
    check(qwenforge("report"), 2, "no run yet")


def test_plan_for_programs(qwenforge):
    result = qwenforge("plan", "recipes/pocket.toml", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["recipe"] == "pocket"


def test_artifacts_of_an_empty_store(qwenforge):
    assert json.loads(qwenforge("artifacts", "ls", "--json").stdout) == []
    assert "0 artifacts read, 0 damaged" in qwenforge("artifacts", "verify").stdout


def test_usage_error_is_code_2(qwenforge):
    assert qwenforge("run").returncode == 2
    assert qwenforge("plan", "recipes/pocket.toml", "--gpus", "none").returncode == 2
