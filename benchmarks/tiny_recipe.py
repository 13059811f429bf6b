"""The smallest recipe of all real stages: a minute or two on two cores, from the interpreter's own library alone."""

from pathlib import Path

TINY = """
extends = "{recipes}/pocket.toml"
name = "tiny"

[ingest]
corpus = "{corpus}"

[quality]
judged_documents = 200

[synthetic]
mathematics_bytes = 30_000
code_bytes = 20_000
knowledge_bytes = 20_000
retrieval_bytes = 60_000

[mixture]
budget_bytes = 600_000

[tokenizer]
vocab_size = 1024

[scaling]
shapes = [
    { hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1 },
    { hidden_size=48, intermediate_size=96, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1 },
]
tokens = [4096, 8192]
batch_tokens = [512, 1024]
sequence_length = 64
check_tokens = 16_384

[pretrain]
tokens = 60_000
hyper_parameters = "recipe"
copying_steps = 4
learning_rate = 3e-3
batch_tokens = 2048
sequence_length = 64

[pretrain.model]
vocab_size = 1024
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64

[extend]
sequence_length = 256
tokens = 20_000
batch_tokens = 2048

[conversations]  # families that even this model gets right now and then
families = ["truth", "ordering"]
sft_per_family = 200
preference_per_family = 100
rl_per_family = 6
heldout_per_family = 6

[sft]
learning_rate = 3e-3
epochs = 4
sequence_length = 256
batch_size = 8
evaluation_prompts = 20
max_new_tokens = 16

[pairs]
samples = 4
heldout_share = 0.25
max_new_tokens = 16

[reward]
heldout_share = 0.25
prompts = 20
max_new_tokens = 16

[grpo]
steps = 2
group_size = 4
queries_per_rollout = 4
scoring_samples = 2
evaluation_prompts = 8
evaluation_samples = 2
max_new_tokens = 16

[ngram]
tokens_per_domain = 500
document_tokens = 128

[evaluate]
tokens_per_domain = 500
document_tokens = 128
tasks_per_family = 2
samples = 2
max_new_tokens = 16
passkey_lengths = [64, 256]
passkeys_per_length = 4
shown_prompts = 2

[export]
prompts = 1
generated_tokens = 8
"""

# The interpreter's own library: real text and code without any download.
CORPUS = """
[[source]]
name = "library-code"
kind = "stdlib"
members = ["json/*.py", "email/*.py", "logging/*.py", "asyncio/*.py", "http/*.py", "xml/**/*.py", "unittest/*.py"]
format = "text"
language = "code"
domain_hint = "code"
licence = "PSF-2.0"

[[source]]
name = "library-docs"
kind = "stdlib"
members = ["*.py"]
format = "docstrings"
language = "en"
domain_hint = "technology"
licence = "PSF-2.0"
"""


def write_tiny(folder: Path) -> Path:
    """Write recipe and corpus; the path of the recipe."""
    (folder / "corpus.toml").write_text(CORPUS)
    path = folder / "tiny.toml"
    recipes = Path(__file__).parents[1] / "recipes"
    path.write_text(TINY.replace("{recipes}", str(recipes)).replace("{corpus}", str(folder / "corpus.toml")))
    return path
