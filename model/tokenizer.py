"""The tokenizer: byte-level BPE, and control tokens that stand beside it. Qwen's has NFC text, digits one by one and 22
control tokens after the regular ones; one that came with a checkpoint keeps its own rules and places.

Text never becomes a control token: ``encode`` works on a vocabulary that has none, and ``render_chat`` alone puts
them in. So a document or a user that writes ``<|im_end|>`` cannot end a turn.
"""

import base64
import codecs
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from model.byte_level import QWEN, byte_letters, cutter_of, ranked_bpe
from model.byte_level import backend as make_backend
from model.chat import END, START, Message, segments
from model.chat_format import ChatFormat
from model.config import ModelFormatError

HIDDEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Invisible in decoded text."""
CONTROL_TOKENS = (
    *HIDDEN_TOKENS, "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
"""In the published order. The last 8 show in decoded text (a tool call should)."""


class Tokenizer:
    """Text to ids and back, and conversations to ids."""

    def __init__(
        self,
        backend: Backend,
        control: Mapping[str, int] | None = None,
        *,
        hidden: Collection[str] = HIDDEN_TOKENS,
        eos: str = "<|endoftext|>",
        chat: ChatFormat | None = None,
    ) -> None:
        """``backend`` holds the regular tokens. ``control``: names and ids of the control tokens, by default
        ``CONTROL_TOKENS`` after the regular ones; ``hidden``: those that decoded text leaves out; ``eos``: the one that
        ends a document; ``chat``: how its conversations look, by default as in Qwen2.5.
        """
        self._backend = backend
        self.regular_size: int = backend.get_vocab_size(with_added_tokens=False)
        if control is None:
            control = {name: self.regular_size + index for index, name in enumerate(CONTROL_TOKENS)}
        self.control = dict(sorted(control.items(), key=lambda item: item[1]))
        self.hidden = frozenset(hidden) & self.control.keys()
        self.chat = chat or ChatFormat()
        self._control_names = {token: name for name, token in self.control.items()}
        self.vocab_size = max(self.regular_size, *(token + 1 for token in self._control_names))
        self.eos = eos
        self.eos_id = self.control[eos]
        self.im_end_id = self.control.get(END, self.eos_id)

    @property
    def im_start_id(self) -> int:
        """Of ``<|im_start|>``; ModelFormatError where this vocabulary has none."""
        self._check_chat()
        return self.control[START]

    # ---- making, reading, writing -----------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges until there are ``vocab_size`` tokens (256 bytes and 22 control tokens included); fewer
        where the text has no pair left to merge. The same texts give the same vocabulary."""
        if vocab_size < 256 + len(CONTROL_TOKENS):
            raise ValueError(f"vocab_size {vocab_size} is below 256 bytes + {len(CONTROL_TOKENS)} control tokens")
        backend = make_backend(models.BPE())
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
        return cls(make_backend(ranked_bpe(ranks)))

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read a folder that ``save`` or ``transformers`` wrote: ``tokenizer.json``, or where there is none the older
        pair ``vocab.json`` and ``merges.txt``, which hold the regular tokens only.

        Raises ModelFormatError where the files are missing or broken, or hold what this tokenizer cannot do.
        """
        from model.tokenizer_folder import read_tokenizer

        return read_tokenizer(Path(folder))

    def save(self, folder: Path | str) -> None:
        """Write what ``transformers.AutoTokenizer`` loads: the vocabulary, control tokens and chat template."""
        from model.tokenizer_folder import write_tokenizer

        write_tokenizer(Path(folder), self)

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
            elif not (skip_control and name in self.hidden):
                parts += (self._backend.decode(regular, skip_special_tokens=False), name)
                regular = []
        parts.append(self._backend.decode(regular, skip_special_tokens=False))
        return "".join(parts)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes, UTF-8 or not, without normalisation: ``decode_bytes`` gives exactly these back."""
        letters = byte_letters()
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
        value = {letter: byte for byte, letter in enumerate(byte_letters())}
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        named = vocabulary.keys() & self.control.keys()  # some vocabularies list control tokens among the regular ones
        regular = {
            token: bytes(value[letter] for letter in name) for name, token in vocabulary.items() if name not in named
        }
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
        """Ids of a conversation in ChatML, ready for the assistant to go on.

        Raises ModelFormatError where this vocabulary's conversations are not in ChatML.
        """
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
        self._check_chat()
        ids: list[int] = []
        mask: list[bool] = []
        parts = (
            # tool-call tags are ordinary text to a vocabulary that has no token for them
            part._replace(control=part.control and part.text in self.control)
            for part in segments(
                messages,
                add_generation_prompt=add_generation_prompt,
                tools=tools,
                default_system=self.chat.default_system,
            )
        )
        # neighbouring texts are one text, except where an answer begins: there generation cuts as well
        for (control, learned), group in groupby(parts, key=lambda part: (part.control, part.learned)):
            texts = [part.text for part in group]
            new = [self.control[text] for text in texts] if control else self.encode("".join(texts))
            ids += new
            mask += [learned] * len(new)
        return ids, mask

    @property
    def cuts_like_qwen(self) -> bool:
        """Whether text is normalised and cut into words as in Qwen2.5."""
        return cutter_of(self._backend) == QWEN and repr(self._backend.normalizer) == "NFC()"

    @property
    def has_conversations(self) -> bool:
        """Whether ``render_chat`` can say what this checkpoint's template says."""
        return not self._chat_problem()

    def _check_chat(self) -> None:
        if problem := self._chat_problem():
            raise ModelFormatError(f"this checkpoint holds no conversations in ChatML: {problem}")

    def _chat_problem(self) -> str:
        missing = [name for name in (START, END) if name not in self.control]
        return f"its vocabulary has no {missing[0]}" if missing else self.chat.problem


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
        return "" if self._skip_control and name in self._tokenizer.hidden else self.flush() + name

    def flush(self) -> str:
        """What is left at the end: U+FFFD for bytes that no character came of."""
        return self._utf8.decode(b"", final=True)
