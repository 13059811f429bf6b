"""How a model writes: one engine with continuous batching over a paged key-value cache, and what it is made of.

``generate`` answers many prompts at once; ``Engine`` serves requests that come and go. Knows torch and ``model``.
"""

from model.generation.bulk import Generation, generate
from model.generation.engine import Engine, Statistics
from model.generation.request import Event, Request

__all__ = ["Engine", "Event", "Generation", "Request", "Statistics", "generate"]
