"""The loop: resume to the bit, accumulation, and stopping on what is not finite."""

import errno

import pytest
import torch
from ranks import SHAPE, tokens_at
from support import make_run
from torch import nn

from components.stage import StageError
from components.training.checkpoint import clear_unfinished, load_state, save_state, steps_of
from components.training.config import TrainingConfig
from components.training.language_modelling import next_token_loss
from components.training.loop import train
from components.training.optimizer import MuonWithAdamW, build_optimizer
from components.training.schedule import learning_rate_at
from model.transformer import Transformer

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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_takes_exactly_the_steps_of_a_loop_written_out(tmp_path, optimizer):
    settings = config(optimizer=optimizer, max_grad_norm=0.5)
    model, plain = network(), network()
    train(model, objective, lambda s: list(batch_at(s).split(4)), config=settings, steps=9, run=make_run(tmp_path))
    stepper = build_optimizer(plain, settings)
    for step in range(9):
        for part in batch_at(step).split(4):
            (objective(plain, part)[0] / 4).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in stepper.param_groups:
            group["lr"] = learning_rate_at(step, 9, settings)
        stepper.step()
        stepper.zero_grad()
    assert torch.equal(weights(model), weights(plain))


def test_bfloat16_follows_float32_on_master_weights(tmp_path):
    def decoder(precision: str, **values):
        model = Transformer(SHAPE).init_weights(0)
        settings = config(precision=precision, learning_rate=3e-3, **values)
        history = train(
            model, next_token_loss, lambda step: tokens_at(step, 6), config=settings, steps=40,
            run=make_run(tmp_path / f"{precision}{len(values)}"),
        )  # fmt: skip
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        return history

    full, half = decoder("float32"), decoder("bfloat16")
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.05)
    assert half[-1]["loss"] < 0.9 * half[0]["loss"]
    recomputed = decoder("float32", recompute=True)
    assert [point["loss"] for point in recomputed] == pytest.approx([point["loss"] for point in full], rel=1e-5)


def test_a_window_is_sent_at_once_with_times_memory_and_norms_by_layer(tmp_path):
    run = make_run(tmp_path)
    run.ceiling = 1e12
    model = Transformer(SHAPE).init_weights(0)
    train(
        model, next_token_loss, lambda step: tokens_at(step, 6), config=config(), steps=10, run=run, flops_per_token=1e6
    )
    assert [step for step, _ in run.recorded] == [5, 10]
    sent = run.recorded[-1][1]
    assert {f"seconds/{p}" for p in ("data", "forward", "backward", "optimizer", "checkpoint")} <= sent.keys()
    parts = sum(value for key, value in sent.items() if key.startswith("seconds/") and key != "seconds/step")
    assert 0.5 * sent["seconds/step"] < parts <= 1.01 * sent["seconds/step"]
    assert sent["utilisation"] == pytest.approx(sent["tokens_per_second"] * 1e6 / 1e12)
    assert sent["memory_bytes"] > 1e7
    groups = ("embed", "layer.0", "layer.1", "norm")
    squares = sum(sent[f"grad_norm/{group}"] ** 2 for group in groups)
    assert squares > 0
    assert all(sent[f"update_norm/{group}"] > 0 for group in groups)


def full_disk(monkeypatch, times: int) -> list[int]:
    """The next ``times`` writes of a state find the disk full."""
    import components.training.checkpoint as checkpoint

    written, write = [], checkpoint.write_atomically

    def writing(path, data):
        written.append(len(data))
        if len(written) > 4 and len(written) <= 4 + times:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", writing)
    return written


def test_a_full_disk_stops_with_one_message_and_loses_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, times=2)
        with pytest.raises(StageError, match=r"disk of .* is full.* the one after step 10 is whole"):
            train(network(), objective, batch_at, config=config(), steps=STEPS, run=make_run(tmp_path / "a"))
    resumed, undisturbed = network(), network()
    run = make_run(tmp_path / "a")
    train(resumed, objective, batch_at, config=config(), steps=STEPS, run=run)
    assert "resuming after step 10" in run.messages[0]
    train(undisturbed, objective, batch_at, config=config(), steps=STEPS, run=make_run(tmp_path / "b"))
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_disk_that_older_states_fill_gets_room(tmp_path, monkeypatch):
    full_disk(monkeypatch, times=1)
    train(network(), objective, batch_at, config=config(), steps=STEPS, run=make_run(tmp_path))
    assert load_state(tmp_path / "state" / "training")["step"] == 20


def test_retention_keeps_the_last_the_best_and_every_so_many(tmp_path):
    losses = {step: abs(step - 30) for step in range(10, 101, 10)}
    for step, loss in losses.items():
        save_state(tmp_path, step, {"step": step}, kept=2, every=40, best=True, loss=loss)
    assert steps_of(tmp_path) == [30, 40, 80, 90, 100]


def test_parts_of_several_ranks_are_one_state_and_none_without_all(tmp_path):
    for step in (5, 10):
        for rank in range(2):
            part = {"step": step, "model": {f"weight-{rank}": torch.full((2,), float(step))}}
            save_state(tmp_path, step, part, rank=rank, world_size=2)
    assert set(load_state(tmp_path)["model"]) == {"weight-0", "weight-1"}
    (tmp_path / "step-00000010-rank-1.json").unlink()  # killed before it was whole
    assert load_state(tmp_path)["step"] == 5


def test_what_a_killed_write_has_left_is_cleared(tmp_path):
    save_state(tmp_path, 5, {"step": 5})
    for name in ("step-00000010.pt.77.tmp", "step-00000010.pt", "step-00000010-rank-1.pt"):
        (tmp_path / name).write_bytes(b"half")
    clear_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-00000005.pt", "step-00000005.json", "step-00000010-rank-1.pt",
    }  # fmt: skip
