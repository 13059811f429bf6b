"""Pre-training data (report, section 3.1): the same small model on two corpora at equal tokens.

Both models of a seed start from the same weights; bits per byte of the same held-out documents are compared in pairs.
"""

from collections.abc import Sequence

from pydantic import Field

from components.claims.claim import Bench, Claim, Contrast, Measure, Measured, Scores
from components.claims.mixtures import WATCHED_SHARE, CorpusConfig, held_out, make_corpus
from components.data.shards import ShardsConfig
from components.scaling.sweep import SweepShape
from components.stage import StageConfig, StageError
from components.training.pretrain import PretrainConfig

SHAPE = SweepShape(
    hidden_size=96, intermediate_size=288, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1
)
SHARDS = ShardsConfig(
    held_out_share=WATCHED_SHARE, held_out_tokens=8_000, fill_in_the_middle_share=0, window_lengths=(256,)
)


class CorporaConfig(StageConfig):
    """Two or more corpora, and the small model that is trained on each."""

    corpora: tuple[CorpusConfig, ...] = Field(description="the treated one first")
    tokens: tuple[int, ...] = Field(description="training tokens on each corpus")
    shape: SweepShape = SHAPE
    sequence_length: int = Field(256, ge=8)
    batch_tokens: int = Field(2_048, ge=8)
    learning_rate: float = Field(8e-3, gt=0)
    tokens_per_domain: int = Field(6_000, ge=1, description="most held-out tokens scored of a domain")
    test: tuple[str, ...] = Field(("domains",), description="stages whose held-out documents are scored")


def compared(config: CorporaConfig, bench: Bench) -> "dict[str, list[list[float]]]":
    """Bits of every held-out document under the model of each corpus, by domain; the bytes stand in the last row."""
    import numpy as np

    from components.claims.measuring import bits
    from components.data.documents import write_documents
    from components.data.shards import tokenize
    from components.evaluation.ablation import AblationConfig, held_out_documents
    from components.training.pretrain import pretrain
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    tokenizer = bench.inputs["tokenizer"]
    encoder = Tokenizer.load(tokenizer.path)
    folder = bench.run.state / "held-out"
    write_documents(folder, (d for stage in config.test for d in held_out(bench.inputs[stage].path)))
    documents = held_out_documents(
        (folder,), tokenizer.path, AblationConfig(tokens_per_domain=config.tokens_per_domain)
    )
    rows = []
    for corpus, tokens in zip(config.corpora, config.tokens, strict=True):
        sources = {"documents": "domains", "heuristics": "deduplicate", "synthetic": "synthetic"}
        inputs = {name: bench.inputs[stage] for name, stage in sources.items() if stage in bench.inputs}
        mixture = bench.make(make_corpus, "mixture", corpus, inputs)
        shards = bench.make(tokenize, "shards", SHARDS, {"documents": mixture, "tokenizer": tokenizer})
        trained = bench.make(
            pretrain, "checkpoint", small_model(config, tokens, encoder.vocab_size),
            {"shards": shards, "tokenizer": tokenizer, "scaling": bench.inputs["scaling"]},
        )  # fmt: skip
        model = load_model(trained.path, bench.run.device).eval()
        rows.append(bits(model, documents, encoder.eos_id, config.sequence_length))
    rows.append(np.array([float(document.bytes) for document in documents]))
    table = np.array(rows)
    domains = np.array([document.domain or "other" for document in documents])
    return {str(name): table[:, domains == name].tolist() for name in np.unique(domains)}


def small_model(config: CorporaConfig, tokens: int, vocab_size: int) -> PretrainConfig:
    """The stage's settings for one corpus."""
    from model.config import ModelConfig

    model = ModelConfig(
        vocab_size=vocab_size, max_position_embeddings=config.sequence_length,
        tie_word_embeddings=True, **config.shape.model_dump(),
    )  # fmt: skip
    return PretrainConfig(
        model=model, tokens=tokens, sequence_length=config.sequence_length, hyper_parameters="recipe",
        batch_tokens=config.batch_tokens, learning_rate=config.learning_rate, optimizer="muon", schedule="wsd",
        decay_ratio=0.4, final_learning_rate_ratio=0.02, beta2=0.98,
    )  # fmt: skip


def _scores(found: "dict[str, list[list[float]]]", domains: Sequence[str], treated: int, baseline: int) -> Scores:
    """Of some domains, between two of the corpora; StageError where nothing is held out of them."""
    if missing := [name for name in domains if name not in found] or not domains:
        raise StageError(f"no held-out documents of {missing or 'the domains'}; raise tokens_per_domain")
    rows = [[value for name in domains for value in found[name][row]] for row in (treated, baseline, -1)]
    return Scores.of(*rows)


TEXT = "bits per byte of held-out text"
KNOWLEDGE = "bits per byte of technology, science and academic text"
MATHEMATICS = "bits per byte of worked exercises"
CODE = "bits per byte of code"
UNFILTERED = "bits per byte of worked exercises, against unfiltered ones"
BUDGET = 400_000
"""Training tokens of a side."""
FAVOURED = ("academic", "science", "technology")


def all_text(config: CorporaConfig, bench: Bench) -> Measured:
    """All held-out documents but synthetic ones."""
    found = compared(config, bench)
    return {TEXT: _scores(found, [name for name in found if not name.startswith("synthetic")], 0, 1)}


def favoured(config: CorporaConfig, bench: Bench) -> Measured:
    """The domains that re-balancing favours."""
    found = compared(config, bench)
    return {KNOWLEDGE: _scores(found, [name for name in found if name in FAVOURED], 0, 1)}


def added(config: CorporaConfig, bench: Bench) -> Measured:
    """Mathematics, code and text apart."""
    found = compared(config, bench)
    text = [name for name in found if name not in ("code", "mathematics") and not name.startswith("synthetic")]
    return {
        MATHEMATICS: _scores(found, ["synthetic-math"], 0, 1),
        CODE: _scores(found, ["code"], 0, 1),
        TEXT: _scores(found, text, 0, 1),
    }


def exercises(config: CorporaConfig, bench: Bench) -> Measured:
    """Worked exercises, all of them right: after filtered ones, after none, and after unfiltered ones."""
    found = compared(config, bench)
    return {
        MATHEMATICS: _scores(found, ["synthetic-math"], 0, 1),
        UNFILTERED: _scores(found, ["synthetic-math"], 0, 2),
    }


def _claim(
    id: str, statement: str, design: str, config: CorporaConfig, measure: Measure, *contrasts: Contrast,
    needs: tuple[str, ...] = (),
) -> Claim:  # fmt: skip
    return Claim(
        id, "data", statement, "3.1",
        f"a model of {SHAPE.num_hidden_layers} layers, {SHAPE.hidden_size} wide: {design}",
        ("domains", *needs, "tokenizer", "scaling"), config, measure, contrasts,
    )  # fmt: skip


def _sides(*corpora: CorpusConfig, test: tuple[str, ...] = ("domains",)) -> CorporaConfig:
    return CorporaConfig(corpora=corpora, tokens=(BUDGET,) * len(corpora), test=test)


CLAIMS = (
    _claim(
        "judged-filtering", "Filtering by a judge beats heuristics at equal tokens",
        f"{BUDGET:,} tokens each: of the same documents that passed the heuristics, the half of every source and "
        "language that the judge rates best, and any half",
        _sides(CorpusConfig(recipe="best half"), CorpusConfig(recipe="any half")), all_text,
        Contrast(TEXT, "bits/byte", "lower"), needs=("deduplicate",),
    ),
    _claim(
        "rebalancing", "Re-balancing domains helps technology and science",
        f"{BUDGET:,} tokens each: e-commerce, social media and entertainment down, technology, science and academic "
        "texts up, and natural shares",
        _sides(CorpusConfig(recipe="rebalanced"), CorpusConfig(recipe="natural shares")), favoured,
        Contrast(KNOWLEDGE, "bits/byte", "lower"),
    ),
    _claim(
        "mathematics-and-code", "Adding mathematics and code helps both without hurting text",
        f"{BUDGET:,} tokens of text, and as many with {BUDGET // 2:,} of exercises and code added",
        CorporaConfig(
            corpora=(
                CorpusConfig(recipe="text, mathematics and code", added=650_000), CorpusConfig(recipe="text"),
            ),
            tokens=(3 * BUDGET // 2, BUDGET), test=("domains", "synthetic"),
        ), added,
        Contrast(MATHEMATICS, "bits/byte", "lower"), Contrast(CODE, "bits/byte", "lower"),
        Contrast(TEXT, "bits/byte", "lower", margin=0.02), needs=("synthetic",),
    ),
    _claim(
        "synthetic-data", "Filtered synthetic data helps",
        f"{BUDGET:,} tokens each: text with worked exercises that verify, text alone, and text with exercises of which "
        "30% hold a planted error; scored on verified exercises",
        _sides(
            CorpusConfig(recipe="text and filtered synthetic", size=650_000, added=650_000),
            CorpusConfig(recipe="text"),
            CorpusConfig(recipe="text and unfiltered synthetic", size=650_000, added=650_000),
            test=("domains", "synthetic"),
        ), exercises,
        Contrast(MATHEMATICS, "bits/byte", "lower"), Contrast(UNFILTERED, "bits/byte", "lower"), needs=("synthetic",),
    ),
)  # fmt: skip
