"""Token files that stay in a bucket: documents and windows are read by range, a few blocks are kept.

What a batch needs are a few kilobytes of a file of terabytes, so nothing is copied beforehand.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np

from components.data.locations import client

BLOCK = 1 << 20
"""Bytes of one read: packed windows take their pieces from all over a file, neighbours are rarely wanted together, and
a request costs about as long as this much takes to send."""
BLOCKS = 64
"""Kept of a file."""


class RemoteTokens:
    """Slices of the numbers in one object, (size,) of ``dtype``. A connection that breaks is tried again by boto3."""

    def __init__(self, uri: str, dtype: str) -> None:
        self._bucket, self._key = parts(uri)
        self.dtype = np.dtype(dtype)
        self._bytes = int(client().head_object(Bucket=self._bucket, Key=self._key)["ContentLength"])
        self.size = self._bytes // self.dtype.itemsize
        self._block = lru_cache(maxsize=BLOCKS)(self._read)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.size)
        begin, end = start * self.dtype.itemsize, max(start, stop) * self.dtype.itemsize
        first = begin // BLOCK
        blocks = b"".join(self._block(number) for number in range(first, -(-end // BLOCK)))
        return np.frombuffer(blocks[begin - first * BLOCK : end - first * BLOCK], dtype=self.dtype)

    def _read(self, number: int) -> bytes:
        start = number * BLOCK
        span = f"bytes={start}-{min(start + BLOCK, self._bytes) - 1}"
        return client().get_object(Bucket=self._bucket, Key=self._key, Range=span)["Body"].read()


def read_object(uri: str) -> bytes:
    """One whole object."""
    bucket, key = parts(uri)
    return client().get_object(Bucket=bucket, Key=key)["Body"].read()


def load_array(uri: str) -> Any:
    """The array of an ``.npy`` object."""
    return np.load(io.BytesIO(read_object(uri)))


def parts(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
