"""Stage ``export``: every trained checkpoint as an open-weights folder, proven to be what it claims.

Each folder is loaded back by ``transformers`` and compared with this platform's own model: tokens of text and of a
conversation, float32 logits, and greedy answers token for token. A folder that disagrees fails the stage.
"""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

ALIASES = {
    "base": "pre-trained at the first context length",
    "long": "pre-trained, context extended",
    "sft": "fine-tuned on conversations",
    "dpo": "aligned offline, on verified pairs of answers",
    "rl": "aligned online, by group relative policy optimisation",
}


class ExportConfig(StageConfig):
    """What to write and how hard to check it."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the exported weights")
    prompts: int = Field(4, ge=1, description="prompts that each checkpoint is verified on")
    generated_tokens: int = Field(32, ge=1, description="greedy tokens compared for each prompt")
    logits_tolerance: float = Field(1e-4, gt=0, description="largest allowed float32 logits difference")


@dataclass(frozen=True)
class Agreement:
    """How one folder, read by ``transformers``, compares with our model."""

    logits_difference: float
    """Largest absolute difference over prompts, positions and vocabulary, float32."""
    equal_tokens: int
    """Greedy tokens equal up to each prompt's first difference."""
    tokens: int


def export_checkpoints(config: ExportConfig, inputs: Inputs, run: Run) -> Summary:
    """Write ``<alias>/`` for those of base, long, sft, dpo and rl that there are; verify each with ``transformers``."""
    effects: list[dict[str, Any]] = []
    models: dict[str, Any] = {}
    with run.progress(len(inputs), "export", unit="checkpoint") as progress:
        for alias in (alias for alias in ALIASES if alias in inputs):
            folder = run.output / alias
            facts = _export(inputs[alias].path, folder, alias, config)
            agreement = verify(folder, config, seed=run.seed)
            _check(alias, agreement, config)
            (folder / "README.md").write_text(_model_card(alias, facts, agreement, config), encoding="utf-8")
            run.metrics({f"{alias}/logits_difference": agreement.logits_difference})
            effects += _effects(alias, agreement, config)
            models[alias] = {**facts, "bytes": (folder / "model.safetensors").stat().st_size}
            progress.advance(alias=alias)
    return {"models": models, "dtype": config.dtype, "effects": effects}


def _export(source: Path, folder: Path, alias: str, config: ExportConfig) -> dict[str, Any]:
    """Write one folder; returns the facts of its model card."""
    import torch

    from model.checkpoint import load_model, save_model
    from model.config import ModelFormatError
    from model.tokenizer import Tokenizer

    try:
        model, tokenizer = load_model(source), Tokenizer.load(source)
    except ModelFormatError as error:
        raise StageError(f"export: the {alias} checkpoint cannot be read: {error}") from error
    save_model(folder, model.to(getattr(torch, config.dtype)), tokenizer)
    shape = model.config
    training = source / "training.json"
    history = json.loads(training.read_text(encoding="utf-8")) if training.exists() else {}
    return {
        "parameters": shape.num_parameters(),
        "active_parameters": shape.num_active_parameters(),
        "non_embedding_parameters": shape.num_non_embedding_parameters(),
        "context_length": shape.max_position_embeddings,
        "rope_theta": shape.rope_theta,
        "vocab_size": shape.vocab_size,
        **{name: history[name] for name in ("objective", "steps", "tokens") if name in history},
    }


# ---- verification ---------------------------------------------------------------------------------------


def verify(folder: Path, config: ExportConfig, *, seed: int) -> Agreement:
    """Load ``folder`` with ``transformers`` and with this platform, in float32, and compare."""
    import torch

    from model.checkpoint import load_model
    from model.quantization import without_remarks
    from model.tokenizer import Tokenizer

    with without_remarks():
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()
    ours, tokenizer = load_model(folder), Tokenizer.load(folder)
    with without_remarks():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    _compare_tokenizers(folder, tokenizer, AutoTokenizer.from_pretrained(folder))
    prompts = _prompts(tokenizer, config.prompts, seed)
    difference = 0.0
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            gap = (ours.logits(ours(ids)) - theirs(input_ids=ids).logits).abs().max()
            difference = max(difference, float(gap))
    equal, total = _compare_answers(ours, theirs, tokenizer, prompts, config.generated_tokens)
    return Agreement(difference, equal, total)


def _compare_tokenizers(folder: Path, ours: "Tokenizer", theirs: Any) -> None:
    for text in _TEXTS:
        if ours.encode(text) != theirs.encode(text, add_special_tokens=False):
            raise StageError(f"export: {folder.name}: AutoTokenizer splits {text!r} differently")
    if not ours.has_conversations:
        return
    conversation = [{"role": "user", "content": text} for text in _TEXTS[:1]]
    rendered = theirs.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    if list(rendered) != ours.render_chat(conversation):
        raise StageError(f"export: {folder.name}: apply_chat_template renders a conversation differently")


def _compare_answers(
    ours: "Transformer", theirs: Any, tokenizer: "Tokenizer", prompts: list[list[int]], length: int
) -> tuple[int, int]:
    """(equal tokens, tokens) of greedy answers, each counted up to its first difference."""
    import torch

    from model.generation import generate

    stops = (tokenizer.im_end_id, tokenizer.eos_id)
    # the peer knows no end of the context, and so neither must ours
    context = max(ours.config.context_length, max(map(len, prompts)) + length)
    answers = generate(ours, prompts, max_new_tokens=length, stop_ids=stops, context=context)
    equal = total = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        output = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False
        )[0, len(prompt) :].tolist()  # fmt: skip
        same = [a == b for a, b in zip(answer.tokens, output, strict=False)]
        equal += same.index(False) if False in same else len(same)
        total += max(len(answer.tokens), len(output))
    return equal, total


_TEXTS = (
    "What is 17 + 25?",
    "The river rises in the mountains and",
    "def add(a, b):\n    return",
    "你好，世界。日本語のテスト 1234",
)


def _prompts(tokenizer: "Tokenizer", count: int, seed: int) -> list[list[int]]:
    """A conversation first, then plain texts, then random tokens of growing length."""
    source = random.Random(f"{seed}-export")
    question = [{"role": "user", "content": _TEXTS[0]}]
    prompts = [tokenizer.render_chat(question) if tokenizer.has_conversations else tokenizer.encode(_TEXTS[0])]
    prompts += [tokenizer.encode(text) for text in _TEXTS[1:]]
    while len(prompts) < count:
        length = 16 * len(prompts)
        prompts.append([source.randrange(tokenizer.regular_size) for _ in range(length)])
    return prompts[:count]


def _check(alias: str, agreement: Agreement, config: ExportConfig) -> None:
    if not agreement.logits_difference <= config.logits_tolerance:  # also true of NaN
        raise StageError(
            f"export: {alias}: logits differ from transformers' by {agreement.logits_difference:.3g}, "
            f"more than {config.logits_tolerance:g}"
        )
    if agreement.equal_tokens != agreement.tokens:
        raise StageError(
            f"export: {alias}: only {agreement.equal_tokens} of {agreement.tokens} greedy tokens equal transformers'"
        )


# ---- what is told ---------------------------------------------------------------------------------------


def _effects(alias: str, agreement: Agreement, config: ExportConfig) -> list[dict[str, Any]]:
    share = agreement.equal_tokens / agreement.tokens
    return [
        effect(
            f"{alias}: greedy tokens equal to transformers", share, 1.0,
            note=f"{agreement.equal_tokens} of {agreement.tokens} tokens over {config.prompts} prompts",
        ),
        effect(
            f"{alias}: largest logits difference to transformers", _ceiling(agreement.logits_difference),
            config.logits_tolerance, unit="logit", better="lower", note="upper bound; the baseline is the tolerance",
        ),
    ]  # fmt: skip


def _ceiling(value: float) -> float:
    """The next power of ten: the digits below it depend on the machine's matrix kernels."""
    return 0.0 if value == 0 else float(f"1e{math.ceil(math.log10(value))}")


def _model_card(alias: str, facts: dict[str, Any], agreement: Agreement, config: ExportConfig) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {alias}

A Qwen2.5-style language model, {ALIASES[alias]}. Weights in {config.dtype}.

| fact | value |
|---|---|
{rows}

Checked at export against `transformers` in float32: logits differ by at most
{_ceiling(agreement.logits_difference):g}, and all {agreement.tokens} greedy tokens over {config.prompts} prompts agree.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{alias}")
tokenizer = AutoTokenizer.from_pretrained("{alias}")
```
"""
