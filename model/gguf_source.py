"""Reading GGUF files, the format of llama.cpp: quantised tensors are dequantised, Llama's heads put back in order."""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from model.config import ModelFormatError
from model.gguf_metadata import Metadata, config_from_gguf, tokenizer_from_gguf
from model.gguf_names import from_gguf
from model.sources import missing_biases
from model.tensor_files import PIECE, Entry
from model.tokenizer import Tokenizer

_PLAIN = {
    GGMLQuantizationType.F64: torch.float64,
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class _Place:
    tensor: ReaderTensor
    reader: GGUFReader
    data: np.ndarray
    """(rows, row bytes or elements) of one tensor or one expert; (elements,) of a vector."""
    head_rows: int = 0
    """Rows of a head, where llama.cpp has reordered them within each; 0: in order."""


class GGUFSource:
    """One file, or all parts of one that was split."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFormatError for a file that is damaged, or that holds what this model cannot reproduce."""
        self.path, self.origin = path, str(path)
        readers = [_open(part) for part in parts_of(path)]
        self.meta = Metadata(readers[0], self.origin)
        tensors = {tensor.name: (tensor, reader) for reader in readers for tensor in reader.tensors}
        if "rope_freqs.weight" in tensors:
            raise ModelFormatError(f"{path}: rope_freqs.weight holds frequencies of its own, which are not supported")
        if "token_embd.weight" not in tensors:
            raise ModelFormatError(f"{path}: missing tensor token_embd.weight")
        rows = int(tensors["token_embd.weight"][0].shape[-1])
        self.config = config_from_gguf(self.meta, rows, tied="output.weight" not in tensors)
        self._places: dict[str, _Place] = {}
        self.entries: dict[str, Entry] = {}
        for name, (tensor, reader) in tensors.items():
            self._add(name, tensor, reader)
        self._zeros = {} if self.meta.arch == "qwen2" else missing_biases(self.config, self.entries)
        self.entries |= self._zeros

    def pieces(self, name: str) -> Iterator[Tensor]:
        if zeros := self._zeros.get(name):
            yield torch.zeros(zeros.shape, dtype=zeros.dtype)
            return
        place, entry = self._places[name], self.entries[name]
        if len(entry.shape) == 1:
            values = _values(place.tensor, place.data.reshape(-1))
            yield _in_order(values[:, None], place.head_rows)[:, 0]
            return
        unit = place.head_rows or 1  # whole heads, whose rows change places
        step = max(1, PIECE // (entry.shape[1] * 4) // unit) * unit
        for start in range(0, entry.shape[0], step):
            yield _in_order(_values(place.tensor, place.data[start : start + step]), place.head_rows)
            _give_up_pages(place.reader)

    def tokenizer(self) -> Tokenizer | None:
        return tokenizer_from_gguf(self.meta)

    def _add(self, name: str, tensor: ReaderTensor, reader: GGUFReader) -> None:
        """Enter one tensor under our name, or a stack of experts under theirs."""
        experts = self.config.moe.num_experts if self.config.moe else 0
        names = from_gguf(name, experts) or [name]  # an unknown one is named by the check of names
        shape = tuple(int(size) for size in reversed(tensor.shape))
        data = [tensor.data]
        if name.endswith("_exps.weight"):
            if shape[0] != experts:
                raise ModelFormatError(f"{self.origin}: {name} stacks {shape[0]} experts, expert_count is {experts}")
            data, shape = list(tensor.data), shape[1:]
        elif name.endswith("ffn_gate_inp_shexp.weight"):
            shape, data = (1, shape[-1]), [tensor.data.reshape(1, -1)]
        reordered = self.meta.arch == "llama" and (".attn_q." in name or ".attn_k." in name)
        dtype = _PLAIN.get(tensor.tensor_type, torch.float32)
        for part, of_part in zip(names, data, strict=True):
            self._places[part] = _Place(tensor, reader, of_part, self.config.head_dim if reordered else 0)
            self.entries[part] = Entry(shape, dtype)


def _values(tensor: ReaderTensor, data: np.ndarray) -> Tensor:
    """Rows of a tensor in its own plain type, or dequantised to float32."""
    plain = _PLAIN.get(tensor.tensor_type)
    if plain is not None:
        return torch.from_numpy(np.array(data)).view(plain)
    try:
        return torch.from_numpy(np.ascontiguousarray(dequantize(np.array(data), tensor.tensor_type)))
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise ModelFormatError(f"{tensor.name} is quantised as {kind}, which the gguf package cannot read") from None


def _in_order(rows: Tensor, head_rows: int) -> Tensor:
    """Undo llama.cpp's order of Q and K in its ``llama`` architecture, where rotated pairs are neighbours: row 2 i + j
    of a head goes to j D / 2 + i. (heads * D, columns) both ways."""
    if not head_rows:
        return rows
    split = rows.view(-1, head_rows // 2, 2, rows.shape[1])  # head, pair, side, column
    return split.transpose(1, 2).reshape(rows.shape)


def _give_up_pages(reader: GGUFReader) -> None:
    """The pages of the file that were read count as this process's memory until it says that it is done with them."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None and isinstance(reader.data.base, mmap.mmap):
        reader.data.base.madvise(advice)


def _open(path: Path) -> GGUFReader:
    try:
        reader = GGUFReader(path)
    except FileNotFoundError:
        raise ModelFormatError(f"{path}: this part of the model is missing") from None
    except Exception as error:  # the library raises whatever the bytes lead to
        raise ModelFormatError(f"{path}: not a whole GGUF file: {error}") from error
    if reader.byte_order == "S":
        raise ModelFormatError(f"{path}: written for another byte order")
    return reader


def parts_of(path: Path) -> list[Path]:
    """All parts of a GGUF file that was split, in order; itself where it was not."""
    matched = _PART.fullmatch(path.name)
    if matched is None:
        return [path]
    return [path.with_name(f"{matched[1]}-{part:05d}-of-{matched[3]}.gguf") for part in range(1, int(matched[3]) + 1)]
