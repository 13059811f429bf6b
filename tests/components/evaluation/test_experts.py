"""Balance and specialisation of experts, on loads that are known and on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
from pretraining import MODEL, tiny_inputs
from sklearn.metrics import mutual_info_score
from support import make_artifact, make_run

from components.data.shard_reader import ShardReader
from components.evaluation.experts import ExpertsConfig, measure_experts, specialisation, window_loads
from components.evaluation.report import ReportConfig, write_report
from components.stage import StageError
from flows.pipelines import pipeline_of
from flows.recipe import load_recipe
from model.checkpoint import save_model
from model.config import MoEConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

EXPERTS = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)


def saved(folder, tokenizer, moe):
    model = Transformer(MODEL.model_copy(update={"moe": moe})).init_weights(0)
    folder.mkdir()
    save_model(folder, model, Tokenizer.load(tokenizer.path))
    return make_artifact("checkpoint", folder), model.eval()


def test_specialisation_is_mutual_information():
    counts = np.array([[[30, 10, 0, 0]], [[5, 5, 20, 10]], [[10, 10, 10, 10]]])  # (domains, layers, E), 40 each
    pairs = [(d, e) for d, row in enumerate(counts[:, 0]) for e, count in enumerate(row) for _ in range(count)]
    expected = mutual_info_score(*zip(*pairs, strict=True)) / np.log(2)
    assert specialisation(counts / 40) == pytest.approx([expected])
    assert specialisation(np.full((3, 2, 4), 0.25)) == pytest.approx([0.0, 0.0])
    assert specialisation(np.eye(4)[:, None]) == pytest.approx([2.0])  # each domain its own expert


def test_a_mixture_is_measured_and_stands_on_the_card(tmp_path):
    inputs = tiny_inputs(tmp_path / "inputs")
    checkpoint, model = saved(tmp_path / "moe", inputs["tokenizer"], EXPERTS)
    domains, loads = window_loads(model, ShardReader(inputs["shards"]), 3)
    assert loads.shape == (len(domains), 2, 4)
    assert np.allclose(loads.sum(axis=-1), 1)
    run = make_run(tmp_path / "run")
    given = {"checkpoint": checkpoint, "shards": inputs["shards"]}
    summary = measure_experts(ExpertsConfig(windows=3, shuffles=2), given, run)
    content = json.loads((run.output / "experts.json").read_text())
    for index, layer in enumerate(content["layers"]):
        assert layer["busiest"] == pytest.approx(loads[:, index].mean(axis=0).max() * 4)
        assert 0 < layer["entropy"] <= 1
    report = make_run(tmp_path / "report")
    write_report(ReportConfig(), {"experts": make_artifact("evaluation", run.output, summary)}, report)
    assert (report.output / "plots" / "experts.svg").is_file()
    assert "bits that an expert tells of the domain" in (report.output / "report.md").read_text()


def test_a_dense_model_has_none(tmp_path):
    inputs = tiny_inputs(tmp_path / "inputs")
    checkpoint, _ = saved(tmp_path / "dense", inputs["tokenizer"], None)
    with pytest.raises(StageError, match="dense"):
        measure_experts(
            ExpertsConfig(), {"checkpoint": checkpoint, "shards": inputs["shards"]}, make_run(tmp_path / "run")
        )


def test_turbo_measures_its_experts():
    ids = [s.id for s in pipeline_of(load_recipe(Path(__file__).parents[3] / "recipes" / "turbo-pocket.toml"))]
    assert ids.index("long-context") < ids.index("experts") < ids.index("evaluate-sft")
