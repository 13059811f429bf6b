"""Ways to read a checkpoint at several times its trained length without training (report, section 3.3)."""

from collections.abc import Callable

from model.config import DualChunkConfig, ModelConfig, RopeScaling

Rule = Callable[[ModelConfig, int], ModelConfig]
"""A config and how many times its trained length is to be read -> the config to read it with."""


def plain(config: ModelConfig, factor: int) -> ModelConfig:
    """As it was trained."""
    return config


def yarn(config: ModelConfig, factor: int) -> ModelConfig:
    """YaRN's frequencies and temperature."""
    scaling = RopeScaling(factor=factor, original_max_position_embeddings=config.max_position_embeddings)
    return config.model_copy(update={"rope_scaling": scaling})


def dual_chunk(config: ModelConfig, factor: int) -> ModelConfig:
    """Dual chunk attention whose positions stay inside the trained length; neighbours keep an eighth of it."""
    trained = config.max_position_embeddings
    chunks = DualChunkConfig(chunk_size=trained, local_size=trained // 8)
    return config.model_copy(update={"dual_chunk_attention": chunks})


def both(config: ModelConfig, factor: int) -> ModelConfig:
    """Dual chunk attention with YaRN's temperature by length, as the published checkpoints for 1M tokens have it."""
    chunked = dual_chunk(config, factor)
    assert chunked.dual_chunk_attention is not None
    chunks = chunked.dual_chunk_attention.model_copy(
        update={"original_max_position_embeddings": config.max_position_embeddings}
    )
    return chunked.model_copy(update={"dual_chunk_attention": chunks})


RULES: dict[str, Rule] = {"plain RoPE": plain, "YaRN": yarn, "DCA": dual_chunk, "YaRN + DCA": both}

__all__ = ["RULES", "Rule", "both", "dual_chunk", "plain", "yarn"]
