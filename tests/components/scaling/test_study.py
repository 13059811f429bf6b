"""A scaling study on tiny shards: shared training, laws with experts, a prediction and what became of it."""

import json
import math

import numpy as np
import pytest
from pretraining import tiny_inputs
from support import make_artifact, make_run

from components.scaling import study
from components.scaling.family import Family, run_family
from components.scaling.law import SweepPoint
from components.scaling.prediction import Cells, predict_loss
from components.scaling.shapes import StudyShape
from components.scaling.study import Sizes, StudyConfig
from components.scaling.study_runs import beyond
from components.stage import StageError
from components.training.config import TrainingConfig
from model.config import MoEConfig
from model.transformer import Transformer

SMALL = StudyShape(
    hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
)
LARGER = SMALL.model_copy(update={"hidden_size": 16, "intermediate_size": 32})
GOAL = LARGER.model_copy(update={"hidden_size": 32, "intermediate_size": 80})
EXPERTS = MoEConfig(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8,
)  # fmt: skip
STUDY = StudyConfig(
    tokens=(1024, 2048), learning_rates=(3e-3, 1e-2), batch_tokens=(64, 128), sequence_length=32, warmup_tokens=128,
    held_out_tokens=2048, resamples=3, most_widenings=1, default_batch_tokens=256,
    dense=Sizes(shapes=(SMALL, LARGER), held_out=GOAL),
    moe=Sizes(shapes=tuple(s.model_copy(update={"moe": EXPERTS}) for s in (SMALL, LARGER)),
              held_out=GOAL.model_copy(update={"moe": EXPERTS, "num_hidden_layers": 2})),
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_inputs(tmp_path_factory.mktemp("inputs"))["shards"]


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    """In this process: quick, and countable."""
    monkeypatch.setattr("components.scaling.study_runs.available_workers", lambda: 1)


def make_family(shards, folder, tokens, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    training = TrainingConfig(learning_rate=1e-2, decay_ratio=0.25, checkpoint_every=7)
    return Family(**({
        "shards": shards.path, "state": folder, "seed": 0, "device": "cpu", "threads": 1, "vocab_size": 384,
        "sequence_length": 32, "shape": LARGER, "tokens": tokens, "batch_tokens": 64, "warmup_tokens": 128,
        "training": training,
    } | changes))  # fmt: skip


def test_runs_that_share_their_training_end_where_they_end_alone(shards, tmp_path, monkeypatch):
    made, losses = [], []
    import components.training.loop as loop

    step = loop._Training._step
    monkeypatch.setattr(loop._Training, "_step", lambda self, *a: made.append(self.name) or step(self, *a))
    together = run_family(make_family(shards, tmp_path / "together", (1280, 2560, 5120)))
    updates = len(made)
    for tokens in (5120, 2560, 1280):
        losses += run_family(make_family(shards, tmp_path / str(tokens), (tokens,)))
    assert together == losses
    assert all(math.isfinite(point.loss) for point in together)
    assert updates == 80 + 10 + 5  # of 80 + 40 + 20: of the shorter ones the decays alone
    assert not list((tmp_path / "together").glob("*.work"))


def test_a_killed_family_goes_on_from_where_it_was(shards, tmp_path, monkeypatch):
    import components.training.loop as loop

    expected = run_family(make_family(shards, tmp_path / "whole", (1280, 2560)))
    step, made = loop._Training._step, []

    def dies(self, number, telemetry):
        made.append((self.name, number))
        if self.name == "1280" and len(made) == 40 + 2:  # in the second update of the branch
            raise KeyboardInterrupt
        return step(self, number, telemetry)

    monkeypatch.setattr(loop._Training, "_step", dies)
    family = make_family(shards, tmp_path / "killed", (1280, 2560))
    with pytest.raises(KeyboardInterrupt):
        run_family(family)
    made.clear()
    assert run_family(family) == expected
    assert {name for name, _ in made} == {"1280"}  # the trunk is not trained again
    assert made[0] == ("1280", 15)
    assert run_family(family) == expected and len(made) == 5


def test_a_run_that_diverges_is_an_infinite_loss(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("components.training.loop.train", lambda *_, **__: (_ for _ in ()).throw(StageError("NaN")))
    assert [point.loss for point in run_family(make_family(shards, tmp_path, (1280, 2560)))] == [math.inf] * 2


def test_sizes_are_those_of_the_model_without_embeddings():
    shape = GOAL.model_copy(update={"moe": EXPERTS})
    model = Transformer(shape.model(64, 32))
    inner = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    assert shape.total == inner
    assert shape.active == inner - 2 * 3 * 32 * 8  # two of four experts stay idle
    assert GOAL.active == GOAL.total


def test_a_held_out_model_must_be_four_times_as_large():
    with pytest.raises(ValueError, match="at least 4 times"):
        Sizes(shapes=(SMALL, LARGER), held_out=LARGER)


def points(losses):
    """(rate, batch) -> loss, at one D."""
    return [
        SweepPoint(parameters=1, tokens=1000, learning_rate=rate, batch_tokens=batch, loss=loss)
        for (rate, batch), loss in losses.items()
    ]


def test_the_grid_grows_beyond_the_edge_that_does_best():
    inside = {(r, b): 3.0 + (r != 0.02) + (b != 64) for r in (0.01, 0.02, 0.04) for b in (32, 64, 128)}
    assert beyond(points(inside), 32) == []
    rates = inside | {(0.04, 64): 1.0}
    assert beyond(points(rates), 32) == [(0.08, 64)]
    batches = {key: loss - (key == (0.02, 128)) * 2 for key, loss in inside.items()}
    assert beyond(points(batches), 32) == [(0.01, 256), (0.02, 256), (0.04, 256)]
    smallest = {key: loss - (key == (0.02, 32)) * 2 for key, loss in inside.items()}
    assert beyond(points(smallest), 32) == []  # no batch is smaller than a sequence
    larger = [point.model_copy(update={"tokens": 2000}) for point in points(inside)]
    assert beyond(points(batches) + larger, 32) == []  # of the largest D alone
    assert beyond(points(rates) + larger, 32) == [(0.08, 64)]


def test_the_worth_of_experts_and_the_loss_of_a_larger_model_are_found_again():
    """On cells of a law that is known: E = 2, A / N^0.3, B / D^0.4, g = 0.4, and a thousandth of noise."""
    rng = np.random.default_rng(0)
    rows = [(a, a * r, d) for a in (2e5, 5e5, 1.2e6, 2.5e6) for r in (1, 2.2) for d in (2e5, 4e5, 8e5)]
    active, total, tokens = (np.array(column) for column in zip(*rows, strict=True))

    def truth(active, total, tokens):
        return 2 + 60 * (active**0.6 * total**0.4) ** -0.3 + 200 * tokens**-0.4

    cells = Cells(active, total, tokens, truth(active, total, tokens) * rng.normal(1, 1e-3, len(rows)))
    loss, exponent, _ = predict_loss(cells, 1e7, 2.2e7, 1e6, seed=0, resamples=8)
    assert loss["value"] == pytest.approx(truth(1e7, 2.2e7, 1e6), rel=0.01)
    assert loss["low"] <= loss["value"] <= loss["high"] < 1.05 * loss["low"]
    assert exponent["value"] == pytest.approx(0.4, abs=0.1)
    assert exponent["low"] <= 0.42 and exponent["high"] >= 0.38

    alone = active == total
    dense = Cells(*(column[alone] for column in (cells.active, cells.total, cells.tokens, cells.loss)))
    assert predict_loss(dense, 1e7, 1e7, 1e6, seed=0, resamples=2)[1] is None


def test_a_study_predicts_before_it_trains_and_says_what_came_out(shards, tmp_path, monkeypatch):
    stages: dict[str, object] = {}

    def do(name, function, config, inputs):
        run = make_run(tmp_path / name)
        stages[name] = make_artifact("scaling-law", run.output, function(config, inputs, run))
        return stages[name], run

    for kind, sizes in STUDY.kinds.items():
        own = [
            do(f"sweep-{kind}-{shape.label}", study.sweep_shape, STUDY.sweep_of(kind, index), {"shards": shards})[0]
            for index, shape in enumerate(sizes.shapes)
        ]
        inputs = {f"own-{number}": artifact for number, artifact in enumerate(own)}
        if kind == "moe":
            inputs |= {f"dense-{i}": stages[f"sweep-dense-{s.label}"] for i, s in enumerate(STUDY.dense.shapes)}
        law, _ = do(f"law-{kind}", study.predict, STUDY.prediction_of(kind), inputs)
        prediction = json.loads((law.path / "prediction.json").read_text())
        assert (prediction["expert_exponent"] is None) == (kind == "dense")
        held_out, run = do(f"held-out-{kind}", study.hold_out, STUDY.held_out_of(kind), {"shards": shards, "law": law})
        outcome = json.loads((held_out.path / "outcome.json").read_text())
        assert outcome["prediction"] == prediction
        assert outcome["learning_rate"] == prediction["learning_rate"]["value"]
        assert len(outcome["points"]) >= 4
        assert outcome["gap_to_best"] >= 0
        assert outcome["best"]["loss"] == min(point["loss"] for point in outcome["points"])
        # a second start trains nothing
        monkeypatch.setattr("components.training.loop.train", lambda *_, **__: pytest.fail("a run was repeated"))
        (held_out.path / "outcome.json").unlink()
        assert study.hold_out(STUDY.held_out_of(kind), {"shards": shards, "law": law}, run) == held_out.summary
        monkeypatch.undo()
        monkeypatch.setattr("components.scaling.study_runs.available_workers", lambda: 1)

    from components.evaluation.report import ReportConfig, write_report

    run = make_run(tmp_path / "report")
    summary = write_report(ReportConfig(title="Study"), {"shards": shards, **stages}, run)
    assert len(summary["claims"]) == 4
    page, text = ((run.output / f"report.{kind}").read_text() for kind in ("html", "md"))
    for kind in ("dense", "moe"):
        assert (run.output / "plots" / f"study-{kind}.svg").is_file()
        assert f"plots/study-{kind}.svg" in text
    assert page.count("Direct sweep of the held-out model") == 2
    assert "Mixture of experts: the loss of a model" in text and "predicted from" in text
