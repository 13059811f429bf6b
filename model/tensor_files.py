"""Tensors in safetensors files, one file or shards with an index, read and written piece by piece.

A piece is some rows of one tensor, at most ``PIECE`` bytes of it, so a folder of any size passes through little memory.
The library's own writer takes all tensors of a file at once; the format is a length, a JSON header and the bytes
one after another, so it is written here.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.config import ModelFormatError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
PIECE = 32 * 2**20

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, as its header tells."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str = ""
    """Where it is, for messages."""

    @property
    def row_bytes(self) -> int:
        return torch.Size(self.shape[1:]).numel() * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorFiles:
    """The tensors of a model folder. Headers are read at once, tensors when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelFormatError for a file that is missing, truncated or at odds with the index."""
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        index = _index(folder)
        for name in sorted(set(index.values())) if index else [WEIGHTS]:
            self._read_header(name)
        for tensor, name in index.items():
            if tensor not in self.entries or self.entries[tensor].file != name:
                raise ModelFormatError(f"{folder}: {name} holds no {tensor}, although {INDEX} says so")

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The rows of one tensor in order, (rows, ...) each, in its own type; a scalar as it is."""
        entry = self.entries[name]
        rows = entry.shape[0] if entry.shape else 1
        step = max(1, PIECE // max(1, entry.row_bytes))
        for start in range(0, rows, step):
            # Opened for each piece: what is mapped of the file counts as this process's memory until it is closed.
            with _errors(self.folder / entry.file), safe_open(self.folder / entry.file, framework="pt") as file:
                piece = file.get_slice(name)[start : start + step] if entry.shape else file.get_tensor(name)
            yield piece

    def read(self, name: str) -> Tensor:
        """One whole tensor."""
        pieces = list(self.pieces(name))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0].clone()

    def _read_header(self, name: str) -> None:
        path = self.folder / name
        with _errors(path), safe_open(path, framework="pt") as file:
            self.metadata |= file.metadata() or {}
            for tensor in file.keys():  # noqa: SIM118 (not a dict)
                if tensor in self.entries:
                    raise ModelFormatError(f"{self.folder}: {tensor} is in {self.entries[tensor].file} and in {name}")
                part = file.get_slice(tensor)
                dtype = _DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise ModelFormatError(f"{path}: {tensor} is of type {part.get_dtype()}, which is not supported")
                self.entries[tensor] = Entry(tuple(part.get_shape()), dtype, name)


def write_tensors(
    folder: Path,
    entries: dict[str, Entry],
    pieces: Callable[[str], Iterable[Tensor]],
    *,
    zeros: Collection[str] = (),
    shard_bytes: int = SHARD_BYTES,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write ``pieces`` of every name in ``entries``: one file, or shards of at most ``shard_bytes`` (but at least one
    tensor each) and their index. The same tensors give the same bytes. ``zeros``: names that are written as zero."""

    def filled(name: str) -> Iterable[Tensor]:
        entry = entries[name]
        return [torch.zeros(entry.shape, dtype=entry.dtype)] if name in zeros else pieces(name)

    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    size = 0
    for name, entry in entries.items():
        if shards[-1] and size + entry.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += entry.bytes
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(names, file)
        with (folder / file).open("wb") as stream:
            _write_file(stream, {name: entries[name] for name in names}, filled, {"format": "pt", **(metadata or {})})
    if len(shards) > 1:
        total = sum(entry.bytes for entry in entries.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """For people and programs: sorted keys, one a line."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_file(
    stream: BinaryIO, entries: dict[str, Entry], pieces: Callable[[str], Iterable[Tensor]], metadata: dict[str, str]
) -> None:
    # Wide types first, so that each tensor begins at a multiple of its element's size.
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name in order:
        entry, end = entries[name], offset + entries[name].bytes
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        written = 0
        for piece in pieces(name):
            data = piece.detach().cpu().to(entries[name].dtype).contiguous().reshape(-1)
            written += stream.write(data.view(torch.uint8).numpy().data)  # numpy knows no bfloat16
        if written != entries[name].bytes:
            raise ValueError(f"{name}: {written} bytes were given for {entries[name].bytes}")


def _index(folder: Path) -> dict[str, str]:
    """Tensor name -> file name; empty where one file holds everything."""
    if (folder / WEIGHTS).exists():
        return {}
    path = folder / INDEX
    if not path.exists():
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        hint = (
            f"; {pickles[0]} is a pickle, which can run code and is not read: save it as safetensors" if pickles else ""
        )
        raise ModelFormatError(f"{folder}: neither {WEIGHTS} nor {INDEX} is there{hint}")
    try:
        index = {
            str(name): str(file) for name, file in json.loads(path.read_text(encoding="utf-8"))["weight_map"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{path}: no weight_map of tensor names to files") from error
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise ModelFormatError(f"{path}: {name!r} is no file name")
        if not (folder / name).exists():
            raise ModelFormatError(f"{folder}: {name}, named in {INDEX}, is missing")
    return index


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Errors of the library in terms of the file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelFormatError(f"{path}: not a whole safetensors file: {error}") from error
