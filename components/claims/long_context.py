"""Long context (report, sections 3.3 and 5): what a raised base, extrapolation and sparse reading are worth."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.evaluation.extrapolation import both, dual_chunk, yarn
from components.evaluation.held_out import HeldOutConfig
from components.stage import StageConfig
from components.training.extend import ExtendConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from components.evaluation.held_out import HeldOutDocument
    from model.transformer import Transformer

KEYS = "pass keys found at the long length"
SHORT_KEYS = "pass keys found at the trained length"
SHORT_TEXT = "bits per byte of short texts"
LONG_TEXT = "bits per byte of long texts"


class LongConfig(StageConfig):
    """What is measured."""

    start: str = Field("pretrain", description="stage whose checkpoint is read in another way")
    factor: int = Field(4, ge=2, description="long length / trained length")
    keys: int = Field(24, ge=2, description="pass keys a seed and length")
    short_tokens: int = Field(
        2_000, ge=1, description="of a domain: beginnings of texts, as long as the trained length"
    )
    long_tokens: int = Field(
        6_000, ge=1, description="of a domain: texts of which those beyond the trained length count"
    )


class Reading:
    """A checkpoint with the held-out texts that it is measured on."""

    def __init__(self, config: LongConfig, bench: Bench) -> None:
        from components.claims import measuring
        from components.data.shard_reader import ShardReader
        from model.checkpoint import load_model
        from model.tokenizer import Tokenizer

        folder = bench.inputs[config.start].path
        self.config, self.seed = config, bench.run.seed
        self.model: Transformer = load_model(folder, bench.run.device).eval()
        self.tokenizer = Tokenizer.load(folder)
        self.eos_id = ShardReader(bench.inputs["shards"]).eos_id
        self.trained = self.model.config.max_position_embeddings
        self.short, self.long = (
            measuring.texts(
                bench.inputs["shards"], folder, HeldOutConfig(tokens_per_domain=tokens, document_tokens=most)
            )
            for tokens, most in ((config.short_tokens, self.trained), (config.long_tokens, 4 * self.trained))
        )
        self.haystack = measuring.filler(self.long, self.tokenizer)
        self.long = [document for document in self.long if len(document.tokens) > self.trained]

    def keys(self, model: "Transformer", length: int) -> list[bool]:
        from components.claims.measuring import keys_found

        return keys_found(model, self.tokenizer, self.haystack, length, self.config.keys, self.seed)

    def keys_in_prefill(self, model: "Transformer", length: int) -> list[bool]:
        """The same, with the answer at the end of the prompt: whether each of its digits was the likeliest one.

        Generation reads with all keys whatever the prompt was read with, and the first token of an answer is a space.
        """
        import torch

        from components.evaluation.passkey import passkey_problems

        problems = passkey_problems(self.tokenizer, self.haystack, [length], self.config.keys, self.seed)
        found = []
        for problem in problems:
            answer = self.tokenizer.encode(f" {problem.answer}")
            ids = torch.tensor([problem.prompt + answer], device=model.output_weight.device)
            with torch.inference_mode():
                likeliest = model.logits(model(ids)[0, -len(answer) - 1 : -1]).argmax(dim=-1)
            found.append(likeliest.tolist() == answer)
        return found

    def text(
        self, documents: "Sequence[HeldOutDocument]", treated: "Transformer", baseline: "Transformer", length: int
    ) -> Scores:  # fmt: skip
        """Bits of documents under two models that read ``length`` tokens at once."""
        from components.claims.measuring import bits

        first, second = (bits(model, documents, self.eos_id, length) for model in (treated, baseline))
        return Scores.of(first, second, weights=(d.bytes for d in documents))


# -- four times the length without training ---------------------------------------------------------------------


def extrapolation(rule: Any) -> Any:
    """A measurement: ``rule`` against the same weights without it."""

    def measure(config: LongConfig, bench: Bench) -> Measured:
        from components.claims.measuring import reshaped

        reading = Reading(config, bench)
        plain, trained = reading.model, reading.trained
        other = reshaped(plain, rule(plain.config, config.factor))
        long = config.factor * trained
        return {
            KEYS: Scores.of(reading.keys(other, long), reading.keys(plain, long)),
            SHORT_KEYS: Scores.of(reading.keys(other, trained), reading.keys(plain, trained)),
            SHORT_TEXT: reading.text(reading.short, other, plain, length=trained),
        }

    return measure


UNCHANGED = (
    Contrast(KEYS),
    Contrast(SHORT_KEYS, margin=0.05),
    Contrast(SHORT_TEXT, unit="bits/byte", better="lower", margin=0.02),
)


def _extrapolates(id: str, name: str, rule: Any, start: str = "pretrain", keys: int = 24) -> Claim:
    which = {
        "pretrain": "base checkpoint (256 tokens, base 10,000)",
        "extend": "long checkpoint (1,024, base 1,000,000)",
    }
    return Claim(
        id, "long context", f"{name[0].upper()}{name[1:]} gives four times the trained length without training, "
        "and leaves short inputs as they were", "3.3",
        f"the {which[start]} read so against the same weights without: pass keys at four times the trained length "
        "(the seed draws keys and text), pass keys and held-out texts of at most the trained length",
        (start, "shards"), LongConfig(start=start, keys=keys), extrapolation(rule), UNCHANGED,
    )  # fmt: skip


# -- what training on long texts is worth -----------------------------------------------------------------------


class ExtensionConfig(LongConfig):
    """Two ways to extend the base checkpoint at equal tokens."""

    treated: ExtendConfig
    baseline: ExtendConfig


def extension(config: ExtensionConfig, bench: Bench) -> Measured:
    """Extend twice; what each gives at the long length and at the length before."""
    from components.training.extend import extend_context
    from model.checkpoint import load_model

    reading = Reading(config, bench)
    inputs = {"base": bench.inputs["pretrain"], "shards": bench.inputs["shards"]}
    treated, baseline = (
        load_model(bench.make(extend_context, "checkpoint", way, inputs).path, bench.run.device).eval()
        for way in (config.treated, config.baseline)
    )
    long, short = config.treated.sequence_length, reading.trained
    return {
        KEYS: Scores.of(reading.keys(treated, long), reading.keys(baseline, long)),
        SHORT_KEYS: Scores.of(reading.keys(treated, short), reading.keys(baseline, short)),
        SHORT_TEXT: reading.text(reading.short, treated, baseline, length=short),
        LONG_TEXT: reading.text(reading.long, treated, baseline, length=long),
    }


EXTEND = ExtendConfig(
    sequence_length=1024, rope_theta=1_000_000.0, tokens=300_000, batch_tokens=2048, long_share=0.95,
    optimizer="muon", learning_rate=3e-3, final_learning_rate_ratio=0.02, beta2=0.98,
)  # fmt: skip


def _extends(id: str, statement: str, design: str, contrasts: tuple[Contrast, ...], **ways: ExtendConfig) -> Claim:
    config = ExtensionConfig(treated=ways.get("treated", EXTEND), baseline=ways.get("baseline", EXTEND))
    return Claim(
        id, "long context", statement, "3.3", f"the base checkpoint extended to 1,024 tokens at equal tokens: {design}",
        ("pretrain", "shards"), config, extension, contrasts,
    )  # fmt: skip


# -- sparse prefill ---------------------------------------------------------------------------------------------


class SparseConfig(LongConfig):
    """Budgets for an eighth of the query-key pairs, searched on one text and measured on others."""

    start: str = Field("extend", description="stage whose checkpoint is read sparsely")
    keys: int = Field(16, ge=2, description="pass keys a seed")
    read: float = Field(0.125, gt=0, lt=1, description="share of the query-key pairs that may be read")


PAIRS = "share of query-key pairs read"
LOCAL = "pass keys found, against a sliding window of as many pairs"


def sparse(config: SparseConfig, bench: Bench) -> Measured:
    """Pass keys read sparsely, densely, and through a window that costs as much."""
    import torch

    from components.claims.measuring import reshaped
    from components.evaluation.passkey import passkey_problems
    from model.prefill_search import search
    from model.sparse_prefill import SparsePrefill
    from model.vertical_slash import BLOCK, Budget

    reading = Reading(config, bench)
    length = config.factor * reading.trained
    model = reshaped(reading.model, dual_chunk(reading.model.config, config.factor))
    # The sample is of the kind that matters: another text, other keys.
    sample = passkey_problems(reading.tokenizer, reading.haystack, [length], 1, reading.seed + 1_000)[0]
    ids = torch.tensor(sample.prompt, device=bench.run.device)
    dense = reading.keys_in_prefill(model, length)
    candidates = [Budget(v, s) for v in (8, 16, 32, 64, 128, 256) for s in (16, 32, 64, 128, 256)]
    plan = search(
        model, ids, recall=1.0, read=config.read, candidates=candidates, min_tokens=length // 2, sinks=4, local=16
    )
    model.sparse_prefill = plan
    sparse = reading.keys_in_prefill(model, length)
    heads = model.config.num_attention_heads
    # A block of queries reads its window and the BLOCK around it; densely each reads half of the text on average.
    window = Budget(0, max(1, round(plan.read * length / 2) - BLOCK))
    model.sparse_prefill = SparsePrefill(
        budgets=((window,) * heads,) * model.config.num_hidden_layers, min_tokens=length // 2, sinks=0,
        local=window.slashes, last_queries=64,
    )  # fmt: skip
    local = reading.keys_in_prefill(model, length)
    return {
        KEYS: Scores.of(sparse, dense),
        LOCAL: Scores.of(sparse, local),
        PAIRS: Scores.of([plan.read] * config.keys, [1.0] * config.keys),
    }


CLAIMS = (
    _extends(
        "rope-base", "Raising the base of the rotary embedding helps long context",
        "base 1,000,000 against 10,000",
        (Contrast(KEYS), Contrast(LONG_TEXT, "bits/byte", "lower")),
        baseline=EXTEND.model_copy(update={"rope_theta": 10_000.0}),
    ),
    _extrapolates("yarn", "YaRN", yarn, start="extend", keys=32),
    _extrapolates("yarn-small-base", "YaRN on a model of base 10,000", yarn),
    _extrapolates("dual-chunk", "dual chunk attention", dual_chunk),
    _extrapolates("dual-chunk-yarn", "dual chunk attention with YaRN's temperature", both),
    _extends(
        "progressive-lengths", "Progressive lengths beat one jump",
        "512 and then 1,024 tokens against 1,024 from the start",
        (Contrast(KEYS), Contrast(LONG_TEXT, "bits/byte", "lower")),
        treated=EXTEND.model_copy(update={"lengths": (512,)}),
    ),
    _extends(
        "mixed-lengths", "40% long and 60% shorter sequences keep short inputs better than long ones alone",
        "40% of the windows with a document beyond 256 tokens against all of them",
        (Contrast(SHORT_TEXT, "bits/byte", "lower"), Contrast(SHORT_KEYS, margin=0.05)),
        treated=EXTEND.model_copy(update={"long_share": 0.4}),
        baseline=EXTEND.model_copy(update={"long_share": 1.0}),
    ),
    Claim(
        "sparse-prefill", "long context", "Sparse prefill keeps retrieval at an eighth of attention's compute", "3.3",
        "the long checkpoint at four times its length by dual chunk attention; budgets a head searched on another "
        "text for an eighth of the query-key pairs, against reading all and against a sliding window of as many pairs; "
        "the answer is read with the prompt, since generation attends to all keys",
        ("extend", "shards"), SparseConfig(), sparse,
        (Contrast(LOCAL), Contrast(KEYS, margin=0.1), Contrast(PAIRS, better="lower")), version=2,
    ),
)  # fmt: skip
