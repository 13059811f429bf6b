"""The Qwen tokenizer: byte-level BPE over NFC text, digits one by one, 22 control tokens after the regular ones.

Text never becomes a control token: ``encode`` works on a vocabulary that has none, and ``render_chat`` alone puts
them in. So a document or a user that writes ``<|im_end|>`` cannot end a turn.
"""

import base64
import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from model.chat import CHAT_TEMPLATE, Message, segments
from model.config import ModelFormatError

_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_TEXTUAL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
CONTROL_TOKENS = _SPECIAL + _TEXTUAL
"""In the published order. The first 14 are invisible in decoded text, the last 8 are not (a tool call shows)."""

# English contractions; words with at most one leading non-letter; single digits; punctuation; line ends; blanks.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back, and conversations to ids."""

    def __init__(self, backend: Backend) -> None:
        """``backend`` holds the regular tokens only."""
        self._backend = backend
        self.regular_size: int = backend.get_vocab_size(with_added_tokens=False)
        self.control = {name: self.regular_size + index for index, name in enumerate(CONTROL_TOKENS)}
        self._control_names = {token: name for name, token in self.control.items()}
        self.vocab_size = self.regular_size + len(CONTROL_TOKENS)
        self.eos_id = self.control["<|endoftext|>"]
        self.im_start_id = self.control["<|im_start|>"]
        self.im_end_id = self.control["<|im_end|>"]

    # ---- making, reading, writing -----------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges until there are ``vocab_size`` tokens (256 bytes and 22 control tokens included); fewer
        where the text has no pair left to merge. The same texts give the same vocabulary."""
        if vocab_size < 256 + len(CONTROL_TOKENS):
            raise ValueError(f"vocab_size {vocab_size} is below 256 bytes + {len(CONTROL_TOKENS)} control tokens")
        backend = _backend(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(CONTROL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def from_tiktoken(cls, file: Path | str) -> "Tokenizer":
        """Read a rank file (``base64 token``, blank, ``rank``), the format of the published vocabulary."""
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
            except ValueError as error:
                raise ModelFormatError(f"{file}, line {number}: expected 'base64-token rank'") from error
        letters = _byte_letters()
        written = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
        vocabulary = {written[token]: rank for token, rank in ranks.items()}
        merges = [
            (written[pair[0]], written[pair[1]])
            for token in sorted(ranks, key=ranks.__getitem__)
            if len(token) > 1 and (pair := _last_merge(token, ranks)) is not None
        ]
        return cls(_backend(models.BPE(vocab=vocabulary, merges=merges)))

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read a folder that ``save`` or ``transformers`` wrote: ``tokenizer.json``, or where there is none the older
        pair ``vocab.json`` and ``merges.txt``, which hold the regular tokens only.

        Raises ModelFormatError where the files are missing or broken, or a control token is not where it belongs.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.exists() and (vocabulary := path.with_name("vocab.json")).exists():
            try:
                return cls(_backend(models.BPE.from_file(str(vocabulary), str(path.with_name("merges.txt")))))
            except Exception as error:  # the library raises nothing narrower
                raise ModelFormatError(f"{vocabulary}: not a vocabulary with its merges: {error}") from error
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            regular = len(values["model"]["vocab"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFormatError(f"{path}: not a tokenizer: {error}") from error
        found = {token["content"]: token["id"] for token in values.get("added_tokens", ())}
        for index, name in enumerate(CONTROL_TOKENS):
            if found.get(name) != regular + index:
                raise ModelFormatError(f"{path}: {name} has id {found.get(name)}, expected {regular + index}")
        return cls(Backend.from_str(json.dumps(values | {"added_tokens": []})))

    def save(self, folder: Path | str) -> None:
        """Write what ``transformers.AutoTokenizer`` loads: the vocabulary, control tokens and chat template."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        full = Backend.from_str(self._backend.to_str())
        full.add_tokens([AddedToken(name, special=name in _SPECIAL, normalized=False) for name in CONTROL_TOKENS])
        (folder / "tokenizer.json").write_text(full.to_str(), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "additional_special_tokens": list(_SPECIAL[1:]),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 131072,
            "chat_template": CHAT_TEMPLATE,
        }
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    # ---- text -------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of the regular tokens of NFC(text); never a control token."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of many texts, on all cores."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [item.ids for item in encoded]

    def decode(self, ids: Iterable[int], skip_control: bool = True) -> str:
        """Text of the ids; bytes that are not UTF-8 show as U+FFFD. ``skip_control`` leaves out the invisible
        control tokens; tool-call and fill-in-the-middle marks stay."""
        parts: list[str] = []
        regular: list[int] = []
        for token in ids:
            name = self._control_names.get(token)
            if name is None:
                regular.append(token)
            elif not (skip_control and name in _SPECIAL):
                parts += (self._backend.decode(regular, skip_special_tokens=False), name)
                regular = []
        parts.append(self._backend.decode(regular, skip_special_tokens=False))
        return "".join(parts)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes, UTF-8 or not, without normalisation: ``decode_bytes`` gives exactly these back."""
        letters = _byte_letters()
        split, tokenize = self._backend.pre_tokenizer.pre_tokenize_str, self._backend.model.tokenize
        ids: list[int] = []
        for stray, text in re.findall(r"([\udc80-\udcff]+)|([^\udc80-\udcff]+)", data.decode(errors="surrogateescape")):
            pieces = [piece for piece, _ in split(text)] if text else []
            if stray:
                pieces = ["".join(letters[byte] for byte in stray.encode(errors="surrogateescape"))]
            ids += [token.id for piece in pieces for token in tokenize(piece)]
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids, control tokens by their names; ids beyond the vocabulary (a model may have more rows
        than there are tokens) stand for nothing."""
        return b"".join(self._bytes.get(token, b"") for token in ids)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        value = {letter: byte for byte, letter in enumerate(_byte_letters())}
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        regular = {token: bytes(value[letter] for letter in name) for name, token in vocabulary.items()}
        return regular | {token: name.encode() for token, name in self._control_names.items()}

    def stream(self, skip_control: bool = True) -> "StreamDecoder":
        """A decoder for ids that come one by one."""
        return StreamDecoder(self, skip_control)

    # ---- conversations ----------------------------------------------------------------------------------

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation in ChatML, ready for the assistant to go on."""
        ids, _ = self._render(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        return ids

    def render_chat_with_mask(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None
    ) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation, and True exactly on what an assistant wrote and its <|im_end|>."""
        return self._render(messages, add_generation_prompt=False, tools=tools)

    def _render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Sequence[Any] | None
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        parts = segments(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        # neighbouring texts are one text, except where an answer begins: there generation cuts as well
        for (control, learned), group in groupby(parts, key=lambda part: (part.control, part.learned)):
            texts = [part.text for part in group]
            new = [self.control[text] for text in texts] if control else self.encode("".join(texts))
            ids += new
            mask += [learned] * len(new)
        return ids, mask


class StreamDecoder:
    """Text while the ids come: never half a character, and joined together exactly what ``decode`` says of them all."""

    def __init__(self, tokenizer: Tokenizer, skip_control: bool = True) -> None:
        self._tokenizer, self._skip_control = tokenizer, skip_control
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this id completes; empty while a character's last bytes are still to come."""
        name = self._tokenizer._control_names.get(token)
        if name is None:
            return self._utf8.decode(self._tokenizer.decode_bytes([token]))
        return "" if self._skip_control and name in _SPECIAL else self.flush() + name

    def flush(self) -> str:
        """What is left at the end: U+FFFD for bytes that no character came of."""
        return self._utf8.decode(b"", final=True)


def _backend(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_letters() -> list[str]:
    """The visible letter that byte-level BPE writes for each of the 256 bytes: printable Latin-1 stands for
    itself, the other bytes take the code points from 256 on (the convention of GPT-2)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others: Iterator[int] = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


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
