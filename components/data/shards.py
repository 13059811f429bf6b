"""Stage ``shards``: documents to token files, with a held-out part by domain.

Layout (read it through ``components.data.shard_reader``): ``train.bin`` holds token ids, each document followed by
``<|endoftext|>``, in a seeded order with ``copies`` honoured; ``validation/<domain>.bin`` holds held-out documents.
Part of the code is re-ordered for fill-in-the-middle, as Qwen2.5-Coder's data is (arXiv 2409.12186, section 3.2).
"""

from pydantic import Field

from components.stage import Inputs, Run, StageConfig, Summary


class ShardsConfig(StageConfig):
    """What is held out and how code is arranged."""

    held_out_share: float = Field(0.04, ge=0, lt=1, description="share of documents kept out of training")
    held_out_tokens: int = Field(
        20_000, ge=1, description="most held-out tokens of a domain; what is beyond goes to training"
    )
    fill_in_the_middle_share: float = Field(
        0.1, ge=0, le=1, description="share of code documents written as prefix, suffix, middle"
    )
    documents_per_part: int = Field(
        10_000, ge=1, description="documents encoded between two points that a killed run resumes from"
    )
    window_lengths: tuple[int, ...] = Field(
        (256, 1024), description="training lengths (tokens) at which packing is measured"
    )


def tokenize(config: ShardsConfig, inputs: Inputs, run: Run) -> Summary:
    """Encode ``documents`` with ``tokenizer`` into ``train`` and ``validation`` token files."""
    from components.data.shard_writer import write_shards

    return write_shards(config, inputs, run)
