"""Columns of numbers that a stage leaves for its next step: one ``.npy`` file each, beside one another."""

import os
from pathlib import Path

import numpy as np

HEADER = 128
"""Bytes of an .npy file without values."""


def column(stem: Path, name: str) -> Path:
    """Where a column lies."""
    return stem.with_name(f"{stem.name}-{name}.npy")


def save(stem: Path, **columns: np.ndarray) -> None:
    """Each column to a file of its own (so that it can be mapped), under a temporary name first."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for name, values in columns.items():
        temporary = column(stem, name).with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.save(stream, values)
        temporary.replace(column(stem, name))


def load(stem: Path, *names: str) -> list[np.ndarray]:
    """Columns, mapped into memory; an empty one cannot be."""
    files = [column(stem, name) for name in names]
    return [np.load(file, mmap_mode="r" if file.stat().st_size > HEADER else None) for file in files]


class Stored:
    """Slices of the one-dimensional array in an ``.npy`` file, read when they are asked for: unlike those of a mapped
    file, pages that were read do not count as the memory of this process."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb")
        version = np.lib.format.read_magic(self._file)
        assert version == (1, 0), version  # what numpy writes for arrays like these
        (self.size,), _, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.size)
        data = os.pread(
            self._file.fileno(), (stop - start) * self.dtype.itemsize, self._start + start * self.dtype.itemsize
        )
        return np.frombuffer(data, dtype=self.dtype)
