"""The scaling recipe from documents to its report card, at the smallest size at which every stage has work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tiny_recipe import CORPUS
from flows.pipelines import pipeline_of
from flows.plan import make_plan
from flows.recipe import RecipeError, StudyRecipe, load_recipe, load_whole_recipe

ROOT = Path(__file__).parents[2]
SCALING = ROOT / "recipes" / "scaling.toml"

TINY = """
extends = "{recipes}/scaling.toml"
name = "tiny-scaling"

[ingest]
corpus = "{corpus}"

[quality]
judged_documents = 200

[synthetic]
mathematics_bytes = 20_000
code_bytes = 20_000
knowledge_bytes = 20_000
retrieval_bytes = 30_000

[mixture]
budget_bytes = 300_000

[tokenizer]
vocab_size = 512

[shards]
window_lengths = [64]

[study]
tokens = [2048, 4096]
learning_rates = [3e-3, 1e-2]
batch_tokens = [128, 256]
sequence_length = 64
warmup_tokens = 512
most_widenings = 0
resamples = 3
held_out_tokens = 4096
default_batch_tokens = 512
"""


def tables(kind: str, *widths: int) -> str:
    """A shape for each width, the last of them held out."""
    text = ""
    for width in widths:
        head = f"[study.{kind}.held_out]" if width == widths[-1] else f"[[study.{kind}.shapes]]"
        text += f"""
{head}
hidden_size = {width}
intermediate_size = {2 * width}
num_hidden_layers = 1
num_attention_heads = 1
num_key_value_heads = 1
"""
        if kind == "moe":
            text += (
                f"moe = {{ num_experts = 4, num_experts_per_tok = 2, moe_intermediate_size = {width // 2}, "
                f"shared_expert_intermediate_size = {width} }}\n"
            )
    return text


def run(recipe: Path, home: Path) -> dict:
    """On one processor, so that no workers are started: they take longer to start than these runs."""
    one = min(os.sched_getaffinity(0))
    result = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}}); from flows.cli import main; main()",
         "run", str(recipe), "--json"],
        cwd=ROOT, env={**os.environ, "QWENFORGE_HOME": str(home)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


@pytest.mark.timeout(900)
def test_the_recipe_ends_with_predictions_beside_outcomes_and_a_second_run_does_nothing(tmp_path):
    (tmp_path / "corpus.toml").write_text(CORPUS)
    recipe = tmp_path / "tiny.toml"
    text = TINY + tables("dense", 8, 16, 40) + tables("moe", 8, 16, 40)
    recipe.write_text(
        text.replace("{recipes}", str(ROOT / "recipes")).replace("{corpus}", str(tmp_path / "corpus.toml"))
    )
    found = run(recipe, tmp_path / "home")
    assert list(found["stages"]) == [stage.id for stage in pipeline_of(load_recipe(recipe))]
    card = Path(found["report"]["markdown"]).read_text()
    for kind in ("Dense", "Mixture of experts"):
        assert f"{kind}: the predicted learning rate and batch size are good there" in card
    assert "came out" in card
    second = run(recipe, tmp_path / "home")
    assert second["cached"] == list(found["stages"])


def test_the_recipe_is_as_large_as_a_study_has_to_be():
    recipe = load_recipe(SCALING)
    assert isinstance(recipe, StudyRecipe)
    for sizes in recipe.study.kinds.values():
        study = recipe.study
        runs = len(sizes.shapes) * len(study.tokens) * len(study.learning_rates) * len(study.batch_tokens)
        assert len(sizes.shapes) >= 4 and runs >= 40
        assert sizes.held_out.active >= 4 * max(shape.active for shape in sizes.shapes)
    shapes = recipe.study.dense.shapes
    assert shapes[0].total <= 0.2e6 and recipe.study.dense.held_out.total >= 10e6


def test_the_plan_tells_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path))
    plan = make_plan(SCALING)
    rows = {row["stage"]: row for row in plan["stages"]}
    assert plan["hardware"]["name"] == "cpu-2"
    assert 1.5 < plan["total"]["hours"] < 2.5
    # nine families of 0.2, 0.4 and 0.8 million tokens, of which the shorter ones train their decay alone
    assert rows["sweep-dense-64x4"]["trained_tokens"] == pytest.approx(9 * (0.8e6 + 0.2 * 0.6e6))


def test_stages_of_a_study_are_pockets_up_to_the_shards():
    """So what one has made the other finds."""
    pocket, study = load_recipe(ROOT / "recipes" / "pocket.toml"), load_recipe(SCALING)
    assert pocket.seed == study.seed
    stages = {stage.id: stage for stage in pipeline_of(pocket)}
    for stage in pipeline_of(study):
        if stage.id in stages and stage.id != "report":
            assert stage == stages[stage.id]
            assert stage.config(study) == stage.config(pocket)


def test_what_needs_pre_training_refuses_a_study():
    with pytest.raises(RecipeError, match="is a scaling study"):
        load_whole_recipe(SCALING, (), "ablate")
