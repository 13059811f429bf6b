"""What the tests of pre-training share: tiny shards and a tokenizer, made by the real stages."""

import random
from pathlib import Path

from support import PlainArtifact, make_artifact, make_run

from components.data.documents import new_document, write_documents
from components.data.shards import ShardsConfig, tokenize
from components.data.tokenizer import TokenizerConfig, train_tokenizer
from model.config import ModelConfig

MODEL = ModelConfig(
    vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
)  # fmt: skip


def tiny_inputs(folder: Path) -> dict[str, PlainArtifact]:
    """Shards of sentences with a grammar, so that a tiny model learns something in a few steps."""
    rng = random.Random(0)
    nouns, verbs = ["miller", "river", "bridge", "farmer", "horse", "road"], ["sees", "crosses", "follows", "leaves"]
    documents = []
    for number in range(300):
        # One in four is longer than the first context of 32 tokens.
        sentences = rng.randrange(1, 4) if number % 4 else 30
        text = " ".join(
            f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}." for _ in range(sentences)
        )
        documents.append(new_document(f"{number} {text}", source="test", language="en", domain="news"))
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    write_documents(corpus, documents)
    mixture = make_artifact("mixture", corpus)
    tokenizer = make_run(folder / "tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=380), {"documents": mixture}, tokenizer)
    inputs = {"documents": mixture, "tokenizer": make_artifact("tokenizer", tokenizer.output)}
    shards = make_run(folder / "shards")
    tokenize(ShardsConfig(held_out_share=0.1, held_out_tokens=4000), inputs, shards)
    return {"tokenizer": inputs["tokenizer"], "shards": make_artifact("shards", shards.output)}
