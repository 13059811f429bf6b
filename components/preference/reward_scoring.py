"""The reward model itself: a decoder with a scalar head, its folder, and scoring conversations with it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.sft.problems import Message
from components.sft.sequences import PackedSequences, pack
from components.stage import Run
from components.training.saving import save_trained
from model.checkpoint import load_config
from model.tokenizer import Tokenizer
from model.transformer import Transformer

WEIGHTS, NORMALISATION = "model.safetensors", "reward.json"


class RewardModel(nn.Module):
    """Decoder and head; the score of a conversation is read at its last token.

    ``outputs`` > 1: as many scores of each (``components.preference.criterion_heads``).
    """

    mean, std = 0.0, 1.0
    """Of the scores of held-out pairs: what normalises a score for a mixed reward."""

    def __init__(self, decoder: Transformer, outputs: int = 1) -> None:
        super().__init__()
        self.decoder = decoder
        self.score = nn.Linear(decoder.config.hidden_size, outputs, bias=False)

    def init_head(self, seed: int) -> "RewardModel":
        """A small seeded head: all scores start near zero."""
        generator = torch.Generator().manual_seed(seed)
        size = self.score.weight.shape[1]
        with torch.no_grad():
            self.score.weight.normal_(0.0, 1.0 / size, generator=generator)
        return self

    def forward(self, batch: PackedSequences) -> Tensor:
        """Scores (sequences,), or (sequences, outputs) of several."""
        hidden = self.decoder(batch.input_ids, document_ids=batch.document_ids)
        return self.score(hidden.flatten(0, 1)[batch.ends]).squeeze(1).float()


def score(
    model: RewardModel, tokenizer: Tokenizer, conversations: list[list[Message]], *, batch: int = 128
) -> list[float]:
    """Normalised scores of whole conversations, which end with the assistant's answer: about mean 0, deviation 1."""
    device = str(model.score.weight.device)
    scores: list[float] = []
    with torch.no_grad():
        for start in range(0, len(conversations), batch):
            part = [tokenizer.render_chat_with_mask(messages) for messages in conversations[start : start + batch]]
            length = max(256, max(len(ids) for ids, _ in part))
            scores += model(pack(part, length, tokenizer.eos_id).to(device)).tolist()
    return [(value - model.mean) / model.std for value in scores]


def save_reward_model(
    run: Run, model: RewardModel, tokenizer: Tokenizer, history: list[dict[str, float]], sequence_length: int,
    *, mean: float, std: float,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder: decoder tensors without the output matrix, ``score.weight`` (1, hidden), normalisation."""
    facts = save_trained(run, model.decoder, tokenizer, "reward", history, sequence_length)
    tensors = {name: t.contiguous() for name, t in model.decoder.state_dict().items() if name != "lm_head.weight"}
    tensors["score.weight"] = model.score.weight.detach().cpu().contiguous()
    save_file(dict(sorted(tensors.items())), run.output / WEIGHTS, metadata={"format": "pt"})
    (run.output / "generation_config.json").unlink(missing_ok=True)
    config_file = run.output / "config.json"
    values = json.loads(config_file.read_text(encoding="utf-8"))
    values |= {
        "architectures": [values["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "num_labels": 1,
        "pad_token_id": tokenizer.eos_id,
    }
    config_file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (run.output / NORMALISATION).write_text(json.dumps({"mean": mean, "std": std}) + "\n", encoding="utf-8")
    return facts


def load_reward_model(folder: Path, device: str = "cpu") -> tuple[RewardModel, Tokenizer]:
    """Read what ``save_reward_model`` wrote, with its tokenizer."""
    model = RewardModel(Transformer(load_config(folder)))
    tensors = load_file(Path(folder) / WEIGHTS)
    model.score.weight.data.copy_(tensors.pop("score.weight"))
    missing, unexpected = model.decoder.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"{folder}: not a reward model: missing {missing}, unexpected {unexpected}")
    statistics = json.loads((Path(folder) / NORMALISATION).read_text(encoding="utf-8"))
    model.mean, model.std = statistics["mean"], statistics["std"]
    return model.to(device).eval(), Tokenizer.load(folder)
