"""Training that goes wrong: what is noticed, what is done about it, what is written down."""

import json

import pytest
import torch
from support import make_run
from torch import nn

from components.stage import StageError
from components.training.config import TrainingConfig, WatchConfig
from components.training.loop import train
from components.training.watch import Watch

POISONED = 33
STEPS = 60


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batch_at(step: int) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def poisoned_at(step: int) -> torch.Tensor:
    return batch_at(step) * (float("nan") if step == POISONED else 1.0)


def objective(model: nn.Module, batch: torch.Tensor):
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean(), {"tokens": float(len(batch))}


def spiking(model: nn.Module, batch: torch.Tensor):
    loss, metrics = objective(model, batch)
    return loss * (1000 if torch.equal(batch, batch_at(POISONED)) else 1), metrics


def go(folder, batches=batch_at, goal=objective, steps=STEPS, **watch):
    """History, weights and run of a training with these settings of the watch."""
    config = TrainingConfig(
        learning_rate=0.02, checkpoint_every=10, log_every=5,
        watch=WatchConfig(**{"spike_window": 16, "spike_deviations": 20.0, **watch}),
    )  # fmt: skip
    run, model = make_run(folder), network()
    history = train(
        model, goal, batches, config=config, steps=steps, run=run, documents_at=lambda step: [f"document-{step}"]
    )
    return history, torch.cat([p.detach().flatten() for p in model.parameters()]), run


def test_a_poisoned_batch_stops_the_stage_and_its_documents_are_on_record(tmp_path):
    with pytest.raises(StageError, match=rf"at step {POISONED} are not finite.*flight.json"):
        go(tmp_path, poisoned_at)
    record = json.loads((tmp_path / "state" / "training" / "flight.json").read_text())
    assert len(record["steps"]) == POISONED + 1
    assert record["steps"][-1]["documents"] == [f"document-{POISONED}"]
    assert record["steps"][-1]["loss"] == "nan"
    assert record["steps"][-2]["grad_norm"] > 0
    assert record["incidents"][0]["kind"] == "not finite"


def test_a_poisoned_batch_can_be_skipped(tmp_path):
    history, weights, run = go(tmp_path, poisoned_at, not_finite="skip")
    assert torch.isfinite(weights).all()
    assert history[-1]["loss"] < history[0]["loss"]
    assert any(message.endswith("-> skip") for message in run.messages)
    assert json.loads((run.output / "flight.json").read_text())["incidents"][0]["step"] == POISONED


def test_a_rollback_leaves_out_the_span_since_the_checkpoint(tmp_path):
    """From the checkpoint of step 30 on it is as if batches 30 to 33 did not exist."""
    _, weights, _ = go(tmp_path / "a", poisoned_at, not_finite="rollback")
    _, expected, _ = go(tmp_path / "b", lambda step: batch_at(step if step < 30 else step + 4))
    assert torch.equal(weights, expected)


def test_a_rollback_survives_a_kill(tmp_path):
    _, expected, _ = go(tmp_path / "a", poisoned_at, not_finite="rollback")

    def killing(step: int) -> torch.Tensor:
        if step == 36:
            raise KeyboardInterrupt
        return poisoned_at(step)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", killing, not_finite="rollback")
    _, weights, run = go(tmp_path / "b", poisoned_at, not_finite="rollback")
    assert "resuming after step 30" in run.messages[0]
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("action", ["skip", "rollback", "lower"])
def test_a_spike_is_kept_from_the_weights(tmp_path, action):
    history, weights, run = go(tmp_path / "a", goal=spiking, spike=action)
    assert any("is above" in message and message.endswith(f"-> {action}") for message in run.messages)
    assert history[-1]["loss"] < 2 * go(tmp_path / "b")[0][-1]["loss"]
    assert torch.isfinite(weights).all()
    if action == "lower":
        assert history[-1]["learning_rate"] == pytest.approx(0.5 * go(tmp_path / "c")[0][-1]["learning_rate"])


def test_a_spike_is_only_told_by_default(tmp_path):
    _, weights, run = go(tmp_path / "a", goal=spiking)
    assert any(message.endswith("-> warn") for message in run.messages)
    assert not torch.equal(weights, go(tmp_path / "b")[1])


def test_incidents_without_end_stop_the_stage(tmp_path):
    always = lambda step: batch_at(step) * float("nan")  # noqa: E731
    with pytest.raises(StageError, match="4 incidents: no more are passed over"):
        go(tmp_path, always, not_finite="skip", most_incidents=3)


def test_a_dead_flat_loss_is_noticed_once(tmp_path):
    def dead(model, batch):
        return 0.0 * model(batch).mean() + 5.0, {}

    _, _, run = go(tmp_path / "a", goal=dead, flat_window=20)
    assert sum("nothing is learnt" in message for message in run.messages) == 1
    with pytest.raises(StageError, match="has stayed at 5 for 20 steps"):
        go(tmp_path / "b", goal=dead, flat_window=20, flat="stop")


def test_an_unbalanced_router_is_noticed():
    watch = Watch(WatchConfig(router="stop"))
    assert watch.judge(0, 0, 2.0, 1.0, {"router_top_share": 0.4}, 1e-3) is None
    incident = watch.judge(1, 1, 2.0, 1.0, {"router_top_share": 0.8}, 1e-3)
    assert incident is not None
    assert (incident.kind, incident.action) == ("router", "stop")


def test_noise_is_no_spike():
    watch = Watch(WatchConfig())
    draw = torch.Generator().manual_seed(0)
    for step in range(2000):
        loss = 3.0 + 0.1 * float(torch.randn((), generator=draw))
        assert watch.judge(step, step, loss, 1.0, {}, 1e-3) is None
