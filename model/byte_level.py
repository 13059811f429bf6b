"""Byte-level BPE: the alphabet that bytes are written in, how text is cut before merging, merges out of a rank file."""

import json
from collections.abc import Iterator
from itertools import pairwise

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

# English contractions; words with at most one leading non-letter; single digits; punctuation; line ends; blanks.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN = "qwen2"
CUTTERS = (QWEN, "smollm", "gpt-2")
"""Known ways to cut text, by the names that GGUF files give them (``tokenizer.ggml.pre``)."""


def backend(model: models.BPE, cutter: str = QWEN) -> Backend:
    """A tokenizer over ``model`` that cuts text the way of ``cutter``; only Qwen's normalises it (NFC)."""
    made = Backend(model)
    if cutter == QWEN:
        made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    elif cutter == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif cutter == "gpt-2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        raise ValueError(f"{cutter!r} is none of {', '.join(CUTTERS)}")
    made.decoder = decoders.ByteLevel()
    return made


def cutter_of(tokenizer: Backend) -> str | None:
    """Which of ``CUTTERS`` cuts text for this tokenizer; None: another one."""
    cut = _cut(tokenizer)
    return next((name for name in CUTTERS if _cut(backend(models.BPE(), name)) == cut), None)


def _cut(tokenizer: Backend) -> str:
    """The pre-tokenizer without what changes no token."""
    values = json.loads(tokenizer.to_str())["pre_tokenizer"]
    for step in (values or {}).get("pretokenizers", [values or {}]):
        step.pop("trim_offsets", None)
    return json.dumps(values, sort_keys=True)


def byte_letters() -> list[str]:
    """The visible letter that byte-level BPE writes for each of the 256 bytes: printable Latin-1 stands for
    itself, the other bytes take the code points from 256 on (the convention of GPT-2)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others: Iterator[int] = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def ranked_bpe(ranks: dict[bytes, int]) -> models.BPE:
    """The model of a rank file, which lists tokens in the order of their merges and leaves the merges to be found."""
    letters = byte_letters()
    written = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
    merges = [
        (written[pair[0]], written[pair[1]])
        for token in sorted(ranks, key=ranks.__getitem__)
        if len(token) > 1 and (pair := _last_merge(token, ranks)) is not None
    ]
    return models.BPE(vocab={written[token]: rank for token, rank in ranks.items()}, merges=merges)


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair whose merge makes ``token``: what BPE over the earlier merges leaves of its bytes.

    None where earlier merges cannot reach two parts (the token is then never produced)."""
    limit = ranks[token]
    cuts = range(1, len(token))
    splits = [cut for cut in cuts if ranks.get(token[:cut], limit) < limit > ranks.get(token[cut:], limit)]
    if len(splits) == 1:  # most tokens: no need to replay the merges
        return token[: splits[0]], token[splits[0] :]
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        best, place = min((ranks.get(a + b, limit), i) for i, (a, b) in enumerate(pairwise(parts)))
        if best >= limit:
            return None
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]
