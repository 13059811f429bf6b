"""Tokenizers as folders: ``tokenizer.json`` and ``tokenizer_config.json``, as ``transformers`` reads and writes."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from model.byte_level import backend as make_backend
from model.chat import END
from model.chat_format import ChatFormat, chat_format
from model.config import ModelFormatError
from model.hf_config import read_json_object
from model.tokenizer import CONTROL_TOKENS, Tokenizer


def read_tokenizer(folder: Path) -> Tokenizer:
    """``Tokenizer.load``."""
    path = folder / "tokenizer.json"
    settings = folder / "tokenizer_config.json"
    config = read_json_object(settings) if settings.exists() else {}
    chat = chat_format(_template(folder, config))
    if not path.exists() and (vocabulary := folder / "vocab.json").exists():
        try:
            backend = make_backend(models.BPE.from_file(str(vocabulary), str(folder / "merges.txt")))
        except Exception as error:  # the library raises nothing narrower
            raise ModelFormatError(f"{vocabulary}: not a vocabulary with its merges: {error}") from error
        return Tokenizer(backend, chat=chat)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        added = {str(token["content"]): (int(token["id"]), bool(token["special"])) for token in values["added_tokens"]}
        kind, steps = values["model"]["type"], json.dumps([values["pre_tokenizer"], values["decoder"]])
        full = Backend.from_str(json.dumps(values))
        backend = Backend.from_str(json.dumps(values | {"added_tokens": [], "post_processor": None}))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFormatError(f"{path}: not a tokenizer: {error}") from error
    if kind != "BPE" or "ByteLevel" not in steps:
        raise ModelFormatError(f"{path}: a {kind} tokenizer that is not byte-level; only byte-level BPE is supported")
    if start := full.encode("").tokens:
        raise ModelFormatError(
            f"{path}: puts {start[0]} into every text; a tokenizer that adds tokens is not supported"
        )
    return assemble(
        backend, added, eos=_text(config.get("eos_token")), chat=chat, origin=str(path)
    )  # fmt: skip


def assemble(
    backend: Backend, added: dict[str, tuple[int, bool]], *, eos: str, chat: ChatFormat, origin: str
) -> Tokenizer:
    """A tokenizer of regular tokens, and ``added`` ones (name -> id, invisible), all of which become control tokens.

    ``eos``: what ends a text where there is no ``<|endoftext|>``. Raises ModelFormatError, in the name of ``origin``,
    where that is missing or an added token is a piece of ordinary text.
    """
    for name, (_, hidden) in added.items():
        if not (hidden or name in CONTROL_TOKENS or (name[:1] + name[-1:]) in ("<>", "[]")):
            raise ModelFormatError(
                f"{origin}: added token {name!r} is ordinary text; only control tokens are supported"
            )
    end = next((name for name in ("<|endoftext|>", eos) if name in added), None)
    if end is None:
        raise ModelFormatError(f"{origin}: no token ends a document: neither <|endoftext|> nor {eos or 'an eos_token'}")
    control = {name: token for name, (token, _) in added.items()}
    return Tokenizer(backend, control, hidden=[name for name in added if added[name][1]], eos=end, chat=chat)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """``Tokenizer.save``."""
    folder.mkdir(parents=True, exist_ok=True)
    full = Backend.from_str(tokenizer._backend.to_str())
    hidden = tokenizer.hidden
    full.add_tokens([AddedToken(name, special=name in hidden, normalized=False) for name in tokenizer.control])
    for name, token in tokenizer.control.items():
        if full.token_to_id(name) != token:
            raise ModelFormatError(f"{name} would be written with id {full.token_to_id(name)} instead of {token}")
    (folder / "tokenizer.json").write_text(full.to_str(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END if END in tokenizer.control else tokenizer.eos,
        "pad_token": tokenizer.eos,
        "unk_token": None,
        "additional_special_tokens": [name for name in tokenizer.control if name in hidden - {tokenizer.eos}],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "chat_template": tokenizer.chat.template,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, a text, or the one named ``default`` of several."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _text(token: Any) -> str:
    """A token of ``tokenizer_config.json``: a text, or an object that holds it."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
