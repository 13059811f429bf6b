"""Stage ``sft``: supervised fine-tuning on ChatML, with loss on the assistant's tokens only (report, section 4.1).

Published values: 2 epochs, sequence length 32,768, learning rate 7e-6 down to 7e-7, weight decay 0.1, gradient clip 1.
"""

import operator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.stage import Inputs, Run, StageError, Summary, effect
from components.training.config import TrainingConfig
from components.training.lora import LoraConfig, adapted

if TYPE_CHECKING:
    from components.sft.sequences import PackedSequences
    from model.transformer import Transformer


class SFTConfig(TrainingConfig):
    """Defaults are the published values; ``batch_size`` is not published."""

    epochs: int = Field(2, ge=1)
    sequence_length: int = Field(32_768, ge=16, description="tokens of a packed window")
    batch_size: int = Field(32, ge=1, description="windows an update")
    evaluation_prompts: int = Field(64, ge=1, description="held-out prompts answered greedily before and after")
    max_new_tokens: int = Field(64, ge=1)
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters instead of the weights", exclude_if=operator.not_
    )


def fine_tune(config: SFTConfig, inputs: Inputs, run: Run) -> Summary:
    """Fine-tune the base on the ``sft`` split; effects on held-out loss, format and correctness.

    Inputs ``long`` (the base), ``conversations``, and perhaps ``factories`` and ``imported`` (more of the ``sft``
    split).
    """
    import torch

    from components.evaluation.statistics import paired_difference
    from components.sft.conversation_store import read_conversations
    from components.sft.sampling import measure, spread
    from components.sft.sequences import pack
    from components.training.loop import train
    from components.training.saving import save_trained
    from model.checkpoint import load_model
    from model.loss import cross_entropy
    from model.tokenizer import Tokenizer

    model = load_model(inputs["long"].path, run.device)
    tokenizer = Tokenizer.load(inputs["long"].path)
    conversations = read_conversations(inputs["conversations"], "sft")
    for more in ("factories", "imported"):
        if more in inputs:
            conversations += read_conversations(inputs[more], "sft")
    heldout = spread(read_conversations(inputs["conversations"], "heldout"), config.evaluation_prompts)
    if config.lora and run.layout.world_size > 1:
        raise StageError("sft.lora: adapters are trained by one process; leave out --engine deepspeed or [sft.lora]")
    if not conversations or not heldout:
        raise StageError("sft: the conversations hold no sft or no heldout split; raise their sizes")
    sequences = [tokenizer.render_chat_with_mask(c.messages, c.meta.get("tools")) for c in conversations]
    if (longest := max(len(ids) for ids, _ in sequences)) > config.sequence_length:
        raise StageError(f"sft.sequence_length: {config.sequence_length} tokens do not hold the longest of {longest}")
    # A held-out share of the SFT split itself: its loss, unlike its accuracy, needs reference answers.
    validation_count = max(1, len(sequences) // 20)
    validation = pack(sequences[:: len(sequences) // validation_count], config.sequence_length, tokenizer.eos_id)
    training = [s for i, s in enumerate(sequences) if i % (len(sequences) // validation_count)]
    trained_ids = [c.id for i, c in enumerate(conversations) if i % (len(sequences) // validation_count)]
    windows = pack(training, config.sequence_length, tokenizer.eos_id)
    batches = -(-len(windows) // config.batch_size)

    def rows_at(step: int) -> torch.Tensor:
        epoch, place = divmod(step, batches)
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        order = torch.randperm(len(windows), generator=generator)
        return order[place * config.batch_size : (place + 1) * config.batch_size]

    def batch_at(step: int) -> "PackedSequences":
        return windows.rows(rows_at(step)).to(run.device)

    def documents_at(step: int) -> list[str]:
        held = windows.document_ids[rows_at(step)].unique().tolist()
        return [trained_ids[index] for index in held if index >= 0]

    def objective(model: "Transformer", batch: "PackedSequences") -> tuple[Any, dict[str, float]]:
        hidden = model(batch.input_ids, document_ids=batch.document_ids)
        total, count = cross_entropy(hidden, model.output_weight, batch.labels)
        # a share of a batch may hold no answer; its weight is then 0
        return total / max(1, count), {"tokens": float((batch.document_ids >= 0).sum()), "learnt_tokens": float(count)}

    def validation_loss() -> float:
        with torch.no_grad():
            total, count = 0.0, 0
            for start in range(0, len(validation), config.batch_size):
                rows = torch.arange(start, min(start + config.batch_size, len(validation)))
                part = validation.rows(rows).to(run.device)
                loss, tokens = cross_entropy(
                    model(part.input_ids, document_ids=part.document_ids), model.output_weight, part.labels
                )
                total, count = total + loss.item(), count + tokens
        return total / count

    def answer_heldout() -> Any:
        return measure(model, tokenizer, heldout, temperature=0.0, max_new_tokens=config.max_new_tokens)

    loss_before, before = validation_loss(), answer_heldout()
    steps = batches * config.epochs
    with adapted(model, config.lora, run.seed):
        trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        history = train(
            model, objective, batch_at, config=config, steps=steps, run=run, name="sft", documents_at=documents_at,
            split=lambda batch, parts: batch.split(parts), rows=min(config.batch_size, len(windows)),
            flops_per_token=model.config.training_flops_per_token(config.sequence_length),
        )  # fmt: skip
    loss_after, after = validation_loss(), answer_heldout()
    facts = save_trained(run, model, tokenizer, "sft", history, config.sequence_length)
    form = paired_difference(after.format, before.format, seed=run.seed)
    correct = paired_difference(after.correct, before.correct, seed=run.seed)
    return {
        **facts,
        "examples": len(training),
        "windows": len(windows),
        **({"trained_parameters": trained_parameters} if config.lora else {}),
        "padding_share": float((windows.document_ids < 0).float().mean()),
        "heldout": after.summary(heldout),
        "effects": [
            effect("held-out response loss", loss_after, loss_before, unit="nats a token", better="lower"),
            effect("format following, greedy", float(after.format.mean()), float(before.format.mean()),
                   low=form.low, high=form.high, note=f"{len(heldout)} held-out prompts"),
            effect("verified answers, greedy", float(after.correct.mean()), float(before.correct.mean()),
                   low=correct.low, high=correct.high, note=f"{len(heldout)} held-out prompts"),
        ],
    }  # fmt: skip
