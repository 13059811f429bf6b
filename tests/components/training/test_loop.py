"""The loop: resume to the bit, accumulation, and stopping on what is not finite."""

import pytest
import torch
from support import make_run
from torch import nn

from components.stage import StageError
from components.training.checkpoint import load_state, save_state
from components.training.config import TrainingConfig
from components.training.loop import train
from components.training.optimizer import MuonWithAdamW, build_optimizer

STEPS = 23


class Killed(Exception):
    """Stands for the end of the process."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batch_at(step: int) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def objective(model: nn.Module, batch: torch.Tensor):
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean(), {"tokens": float(len(batch))}


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def config(**values) -> TrainingConfig:
    return TrainingConfig(**{"learning_rate": 0.02, "checkpoint_every": 5, "log_every": 5, **values})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("killed_at", [0, 4, 5, 12, STEPS - 1])
def test_resumes_to_identical_weights_and_history(tmp_path, optimizer, killed_at):
    settings = config(optimizer=optimizer)
    undisturbed = network()
    expected = train(undisturbed, objective, batch_at, config=settings, steps=STEPS, run=make_run(tmp_path / "a"))

    def killing(step: int) -> torch.Tensor:
        if step == killed_at:
            raise Killed
        return batch_at(step)

    run = make_run(tmp_path / "b")
    with pytest.raises(Killed):
        train(network(), objective, killing, config=settings, steps=STEPS, run=run)
    resumed = network()
    with torch.no_grad():  # whatever a new process starts from must not matter once there is a checkpoint
        if killed_at >= 5:
            resumed[0].weight.fill_(9.0)
    history = train(resumed, objective, batch_at, config=settings, steps=STEPS, run=run)
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert history == expected


def test_micro_batches_accumulate_to_the_gradient_of_the_whole(tmp_path):
    whole, parts = network(), network()
    train(whole, objective, batch_at, config=config(), steps=8, run=make_run(tmp_path / "a"))
    split = lambda step: list(batch_at(step).split(4))  # noqa: E731
    history = train(parts, objective, split, config=config(), steps=8, run=make_run(tmp_path / "b"))
    assert torch.allclose(weights(whole), weights(parts), atol=1e-5)
    assert history[-1]["tokens"] == 8 * 16


def test_lowers_the_loss(tmp_path):
    history = train(network(), objective, batch_at, config=config(), steps=200, run=make_run(tmp_path))
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    def poisoned(model, batch):
        loss, metrics = objective(model, batch)
        return loss * float("nan"), metrics

    with pytest.raises(StageError, match="at step 0 are not finite"):
        train(network(), poisoned, batch_at, config=config(), steps=5, run=make_run(tmp_path))


def test_norms_and_biases_do_not_decay():
    groups = build_optimizer(network(), config(weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(parameter.ndim < 2 for parameter in groups[1]["params"])


def test_muon_leaves_embeddings_and_vectors_to_adamw():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens, self.mixer = nn.Embedding(5, 4), nn.Linear(4, 4)

    muon, adamw = MuonWithAdamW(Model(), config(optimizer="muon")).parts
    assert [tuple(p.shape) for group in muon.param_groups for p in group["params"]] == [(4, 4)]
    assert [tuple(p.shape) for group in adamw.param_groups for p in group["params"]] == [(5, 4), (4,)]


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"step": step, "weight": torch.full((3,), float(step))})
    assert len(list(tmp_path.glob("*.pt"))) == 2
    newest = tmp_path / "step-00000003.pt"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(bytes(damaged))
    assert load_state(tmp_path)["step"] == 2


def test_a_state_without_its_marker_does_not_exist(tmp_path):
    save_state(tmp_path, 7, {"step": 7})
    (tmp_path / "step-00000007.json").unlink()
    assert load_state(tmp_path) is None
