"""How code documents lie in token files: repository marks as control tokens, and fill-in-the-middle.

Fill-in-the-middle after Bavarian et al. 2022 with the tokens of Qwen2.5-Coder (arXiv 2409.12186, section 3.2): within
one file, in a repository within its last one, so that all the others come before it as context.
"""

import re
from collections.abc import Sequence

import numpy as np

from components.data.documents import Document
from components.data.repositories import FILE_SEP, REPO_NAME
from model.tokenizer import Tokenizer

_MARK = re.compile(f"({re.escape(REPO_NAME)}|{re.escape(FILE_SEP)})")


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of every document. Only in a repository do its two marks become control tokens: in any other text they
    are text, as everything is that a document says."""
    texts: list[str] = []
    plans: list[list[int | None]] = []  # a control token, or None for the next text
    for document in documents:
        parts = _MARK.split(document.text) if document.meta.get("form") == "repository" else [document.text]
        is_mark = [place % 2 == 1 for place in range(len(parts))]
        plan = [
            tokenizer.control[part] if mark else None for part, mark in zip(parts, is_mark, strict=True) if part or mark
        ]
        texts += [part for part, mark in zip(parts, is_mark, strict=True) if part and not mark]
        plans.append(plan)
    encoded = iter(tokenizer.encode_batch(texts))
    return [[id for step in plan for id in (next(encoded) if step is None else (step,))] for plan in plans]


class FillInTheMiddle:
    """Rewrites a share of code documents as ``<|fim_prefix|>`` a ``<|fim_suffix|>`` c ``<|fim_middle|>`` b.

    Cuts fall between tokens: the document was encoded once, as a whole.
    """

    def __init__(self, tokenizer: Tokenizer, share: float, seed: int) -> None:
        control = tokenizer.control
        self.prefix, self.middle, self.suffix = (
            control[name] for name in ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
        )
        self.file_sep = control[FILE_SEP]
        self.newline = tokenizer.encode("\n")[-1]
        self.share = share
        self.random = np.random.default_rng([seed, 1])
        self.count = 0

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        start = self.last_file(ids)
        head, body, end = ids[:start], ids[start:-1], ids[-1:]
        if self.random.random() >= self.share or len(body) < 3:
            return ids
        first, second = np.sort(self.random.choice(np.arange(1, len(body)), size=2, replace=False))
        self.count += 1
        before, within, after = body[:first], body[first:second], body[second:]
        return np.concatenate([head, [self.prefix], before, [self.suffix], after, [self.middle], within, end])

    def last_file(self, ids: np.ndarray) -> int:
        """Where the content of a repository's last file begins; 0 for a document that is one file."""
        marks = np.flatnonzero(ids == self.file_sep)
        if len(marks) == 0:
            return 0
        lines = np.flatnonzero(ids[marks[-1] :] == self.newline)  # the path ends with its line
        return int(marks[-1] + lines[0] + 1) if len(lines) else len(ids) - 1
