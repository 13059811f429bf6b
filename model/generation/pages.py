"""The paged key-value cache (after PagedAttention, arXiv 2309.06180): pages of 16 tokens, shared by reference counts.

A page that is full is published under a digest of everything up to its end, so a later text with the same beginning
finds it. A prompt that has been read whole is published with its last hidden state: an equal prompt (the other seven
answers of a GRPO query) reads nothing at all. Pages that nobody uses stay findable until their memory is needed,
least recently used first.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig

PAGE = 16
"""Tokens a page. Small enough that half-empty pages cost little, large enough that gathering copies kilobytes."""
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Ending:
    """Where a prompt that was read whole ended."""

    page: int
    tokens: int
    """How many of the page's slots belong to the prompt, 1 to PAGE."""
    hidden: Tensor
    """(H,) after the final norm, at the prompt's last token."""


class PagePool:
    """Keys and values (layers, pages, PAGE, 2 K, D), who uses them, and what they hold. Page 0 stays zero: it fills
    tables up to the span that attention reads."""

    def __init__(self, config: ModelConfig, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = 2 * config.num_key_value_heads
        self.memory = _zeros((config.num_hidden_layers, pages + 1, PAGE, heads, config.head_dim), dtype, device)
        self.total = pages
        self._references = [0] * (pages + 1)
        self._free = list(range(pages, 0, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()  # published pages without a user, oldest first
        self._pages: dict[bytes, int] = {}
        self._endings: dict[bytes, Ending] = {}
        self._digests: dict[int, list[bytes]] = {}  # under which a page is published

    @property
    def available(self) -> int:
        """Pages that ``take`` can give."""
        return len(self._free) + len(self._unused)

    @property
    def used(self) -> int:
        """Pages that some request holds."""
        return self.total - self.available

    @property
    def cached(self) -> int:
        """Pages that no request holds, kept for texts with the same beginning."""
        return len(self._unused)

    def take(self) -> int:
        """A page for new content; there must be one ``available``."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._unused.popitem(last=False)
            for digest in self._digests.pop(page):
                if self._pages.get(digest) == page:
                    del self._pages[digest]
                self._endings.pop(digest, None)
        self._references[page] = 1
        return page

    def retain(self, page: int) -> None:
        """One more user of a page."""
        self._references[page] += 1
        self._unused.pop(page, None)

    def release(self, page: int) -> None:
        """One user less; the last one leaves the page to be found again, or free."""
        self._references[page] -= 1
        if self._references[page] == 0:
            if page in self._digests:
                self._unused[page] = None
            else:
                self._free.append(page)

    def publish(self, digest: bytes, page: int) -> None:
        """``page`` is full and will not change."""
        if digest not in self._pages:
            self._pages[digest] = page
            self._digests.setdefault(page, []).append(digest)

    def publish_ending(self, digest: bytes, ending: Ending) -> None:
        """The slots of ``ending`` will not change, those after them may."""
        if digest not in self._endings:
            self._endings[digest] = ending
            self._digests.setdefault(ending.page, []).append(digest)

    def find(self, digest: bytes) -> int | None:
        return self._pages.get(digest)

    def find_ending(self, digest: bytes) -> Ending | None:
        return self._endings.get(digest)

    def copy(self, source: int, target: int) -> None:
        self.memory[:, target] = self.memory[:, source]


def fitting_pages(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """As many pages as a quarter of the device's memory holds, at least one."""
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0]
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    slot = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return max(1, int(memory * _MEMORY_SHARE) // (slot * PAGE))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NumPy asks the system for zero pages, which take no memory until they are written; torch would write them all
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, np.uint8)).view(dtype).view(shape)
