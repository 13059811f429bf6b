"""Sequences shared by two processes: slices, and losses and gradients against one process that holds all."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ranks import EXPERTS, SHAPE, tokens_at

from components.stage import Layout, StageError
from components.training.language_modelling import next_token_loss
from components.training.sequence_parallel import Slice, parallelise, parts_of, slices
from components.training.sharding import split_windows
from flows.distributed import layout_of
from flows.errors import UsageError
from infra.settings import load_settings
from model.transformer import Transformer

SHAPES = {
    "grouped": SHAPE,
    "one key head": SHAPE.model_copy(update={"num_key_value_heads": 1}),
    "experts": SHAPE.model_copy(update={"moe": EXPERTS}),
}
TIMES = 2  # micro-batches


def gradients(model, parts):
    """Loss and gradients of weighted parts, summed over the ranks where there are any."""
    total = torch.zeros(())
    for part, weight in parts:
        loss, _ = next_token_loss(model, part)
        (loss * weight).backward()
        total = total + loss.detach() * weight
    values = [total, *(parameter.grad for parameter in model.parameters())]
    if dist.is_initialized():
        for value in values:
            dist.all_reduce(value)
    return values


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    layout = Layout(engine="deepspeed", world_size=2, rank=rank, sequence_parallel=2)
    for name, shape in SHAPES.items():
        model = Transformer(shape).init_weights(0)
        undo = parallelise(model, layout)
        batch = list(tokens_at(3, 6).split(6 // TIMES))
        found = gradients(model, parts_of(batch, split_windows, layout))
        undo()
        if rank == 0:
            torch.save([*found, model(batch[0][:, :-1].clamp(min=0)).detach()], f"{folder}/{name}.pt")
    with pytest.raises(StageError, match="cannot be shared evenly"):
        parallelise(Transformer(SHAPE.model_copy(update={"num_attention_heads": 1, "num_key_value_heads": 1})), layout)
    dist.destroy_process_group()


@pytest.mark.timeout(600)
def test_loss_and_gradients_are_those_of_one_process(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    for name, shape in SHAPES.items():
        model = Transformer(shape).init_weights(0)
        batch = list(tokens_at(3, 6).split(6 // TIMES))
        expected = gradients(model, [(windows, 1 / TIMES) for windows in batch])
        expected.append(model(batch[0][:, :-1].clamp(min=0)).detach())  # after undo: whole texts again
        for ours, theirs in zip(torch.load(tmp_path / f"{name}.pt"), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_slices_hold_every_label_once_and_weigh_what_they_hold():
    windows = tokens_at(1, 5)
    found = slices(windows, 4)
    assert torch.equal(torch.cat([part.tokens[:, 1:] for part, _ in found], dim=1), windows[:, 1:])
    assert [part.positions.tolist() for part, _ in found] == [[list(range(i, i + 4))] for i in range(0, 16, 4)]
    assert sum(weight for _, weight in found) == pytest.approx(1.0)
    for part, weight in found:
        assert weight == int((part.tokens[:, 1:] >= 0).sum()) / int((windows[:, 1:] >= 0).sum())
    with pytest.raises(StageError, match="3 processes cannot share sequences of 16 tokens"):
        slices(windows, 3)


def test_four_ranks_share_rows_by_pairs():
    batch = tokens_at(2, 4)
    parts = [
        parts_of(batch, split_windows, Layout(engine="deepspeed", world_size=4, rank=rank, sequence_parallel=2))
        for rank in range(4)
    ]
    slices_of = [part for ((part, _),) in parts]
    assert all(isinstance(part, Slice) for part in slices_of)
    assert torch.equal(slices_of[0].tokens[:, 1:], batch[:2, 1:9])
    assert torch.equal(slices_of[1].tokens[:, 1:], batch[:2, 9:])
    assert torch.equal(slices_of[3].tokens[:, 1:], batch[2:, 9:])
    assert sum(weight for ((_, weight),) in parts) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"engine": "torch"}, "needs --engine deepspeed"), ({"engine": "deepspeed", "world_size": 3}, "does not divide")],
)
def test_what_does_not_fit_is_a_users_mistake(changes, message):
    for shared in ("sequence_parallel", "expert_parallel"):
        settings = load_settings().model_copy(update={shared: 2, "world_size": 0, **changes})
        with pytest.raises(UsageError, match=f"--{shared.replace('_', '-')}.*{message}"):
            layout_of(settings)
