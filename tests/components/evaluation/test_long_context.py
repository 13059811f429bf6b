"""Long context: what is measured on two tiny checkpoints, what the card makes of it, and which recipes have it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import MODEL, tiny_inputs
from support import make_artifact, make_run

from components.data.shard_reader import ShardReader
from components.evaluation.extrapolation import RULES
from components.evaluation.long_context import LongContextConfig, loss_by_position, measure_long_context
from components.evaluation.long_context_card import long_context_claims
from components.evaluation.passkey import passkey_problems
from components.evaluation.report import ReportConfig, write_report
from components.training.language_modelling import mark_padding
from flows.pipelines import pipeline_of
from flows.recipe import load_recipe
from model.checkpoint import save_model
from model.tokenizer import Tokenizer
from model.transformer import Transformer

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A base checkpoint of 32 tokens and one of 64 and 128 from it, neither of which has learnt anything."""
    folder = tmp_path_factory.mktemp("inputs")
    made = tiny_inputs(folder)
    tokenizer = Tokenizer.load(made["tokenizer"].path)
    facts = {"base": {}, "long": {"old_length": 32, "lengths": [64, 128]}}
    for name, length, theta in (("base", 32, 1e4), ("long", 128, 1e6)):
        config = MODEL.model_copy(update={"max_position_embeddings": length, "rope_theta": theta})
        (folder / name).mkdir()
        save_model(folder / name, Transformer(config).init_weights(0), tokenizer)
        made[name] = make_artifact("checkpoint", folder / name, facts[name])
    return made


def test_every_length_and_way_is_measured_and_stands_on_the_card(inputs, tmp_path):
    run = make_run(tmp_path / "measured")
    config = LongContextConfig(keys=3, stretched_keys=2, needle_texts=1, needles=2, windows=1, tokens_per_domain=600)
    summary = measure_long_context(config, inputs, run)
    content = json.loads((run.output / "long.json").read_text())
    measured = [(row["way"], row["length"], row["n"]) for row in content["passkeys"]]
    assert measured == [
        *((way, length, 3) for way in ("base", "long") for length in (32, 64, 128)), *((way, 512, 2) for way in RULES)
    ]  # fmt: skip
    assert set(content["loss_by_position"]["losses"]) == {"base", "long", *(f"{way}, 512 tokens" for way in RULES)}
    assert content["bits_per_byte"]["value"] == pytest.approx(
        content["bits_per_byte"]["after"] - content["bits_per_byte"]["before"]
    )
    report = make_run(tmp_path / "report")
    artifact = make_artifact("evaluation", run.output, summary)
    claims = write_report(ReportConfig(), {"long-context": artifact}, report)["claims"]
    assert sum("512 tokens" in claim for claim in claims) == 2
    assert sum("trained length" in claim for claim in claims) == 1
    assert (report.output / "plots" / "long-context.svg").is_file()
    assert "| YaRN + DCA | 512 |" in (report.output / "report.md").read_text()
    assert "Long context" in (report.output / "report.html").read_text()


def test_loss_by_position_is_the_frameworks(inputs):
    reader = ShardReader(inputs["shards"])
    model = Transformer(MODEL).init_weights(1).eval()
    edges = [0, 5, 32, 64]
    found = loss_by_position(model, reader, 32, edges, 2)
    losses: list[list[float]] = [[] for _ in edges[1:]]
    for domain in reader.validation:
        for row in np.concatenate(list(reader.validation_batches(domain, 32, 1)))[:2]:
            window = mark_padding(row[None], reader.eos_id)
            with torch.no_grad():
                logits = model.logits(model(window[:, :-1].clamp(min=0)))[0]
            for position, label in enumerate(window[0, 1:].tolist()):
                if label >= 0:
                    loss = F.cross_entropy(logits[position], torch.tensor(label)).item()
                    losses[np.searchsorted(edges, position, side="right") - 1].append(loss)
    assert found[:2] == pytest.approx([np.mean(band) for band in losses[:2]], rel=1e-5)
    assert found[2] is None


def measured(trained=1.0, plain=0.0, stretched=1.0, after=2.0):
    rows = [("base", 32, 1.0), ("base", 64, 0.1), ("long", 32, 1.0), ("long", 64, trained)]
    rows += [("plain RoPE", 256, plain), ("YaRN + DCA", 256, stretched)]
    return {
        "old_length": 32, "lengths": [32, 64], "stretched": 256,
        "passkeys": [{"way": way, "length": length, "found": found, "n": 20} for way, length, found in rows],
        "bits_per_byte": {"before": 2.0, "after": after, "value": after - 2.0, "low": -1.0, "high": 1.0, "n": 9},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "failing"),
    [({}, None), ({"trained": 0.95}, 0), ({"stretched": 0.9}, 1), ({"plain": 0.2}, 2), ({"after": 2.011}, 3),
     ({"trained": 0.96, "stretched": 0.91, "plain": 0.19, "after": 2.009}, None)],
)  # fmt: skip
def test_each_demand_has_a_verdict(changes, failing):
    verdicts = [row["verdict"] for row in long_context_claims(measured(**changes))]
    assert verdicts == ["does not hold" if number == failing else "holds" for number in range(4)]


def test_several_keys_lie_in_a_text_of_which_one_is_asked_for(inputs):
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    filler = [f"The miller sees the river {number}." for number in range(50)]
    problems = passkey_problems(tokenizer, filler, [800], 4, seed=0, needles=3)
    for problem in problems:
        text = tokenizer.decode(problem.prompt)
        keys = [part.split(".")[0].split(" is ")[1] for part in text.split("The pass key of ")[1:-1]]
        assert len(set(keys)) == 3
        assert problem.answer in keys
        assert len(problem.prompt) <= 800


def test_recipes_that_ask_for_it_have_the_stage():
    turbo, pocket = (load_recipe(RECIPES / f"{name}.toml") for name in ("turbo-pocket", "pocket"))
    ids = [stage.id for stage in pipeline_of(turbo)]
    assert ids.index("long-context") == ids.index("evaluate-long") + 1
    assert "long-context" in pipeline_of(turbo)[-1].inputs
    assert [stage.id for stage in pipeline_of(pocket)] == [id for id in ids if id not in ("long-context", "experts")]
