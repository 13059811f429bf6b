"""Hypothesis: a checkpoint is converted in the memory of a few pieces of a tensor, however large it and its shards are.

A checkpoint of random bfloat16 weights in the 0.5B model's widths, with as many layers as the size asks for, is written
in four shards and converted into a model folder of its own shards. Measured: the growth of the process's peak resident
memory over what it is after the imports, and the rate. No peer: ``transformers`` loads the model to convert it.

    qwenforge bench conversion [--megabytes 2000] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console


def main(arguments: list[str] | None = None) -> int:
    """Print what was measured; write it to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the checkpoint")
    parser.add_argument(
        "--folder", type=Path, help="where to put two of them, by default the folder for temporary files"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    with TemporaryDirectory(dir=given.folder) as folder:
        measured = measure(folder, given.megabytes)
    text = json.dumps(measured, indent=1)
    Console().print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


def measure(folder: str, megabytes: int) -> dict[str, Any]:
    """Write a checkpoint of about this size under ``folder``, convert it, and say what that took."""
    import torch

    from model.checkpoint import write_config
    from model.config import PUBLISHED
    from model.conversion import convert, open_source
    from model.hf_config import config_to_hf
    from model.sources import layout
    from model.tensor_files import WEIGHTS, Entry, write_tensors

    source, target = Path(folder) / "source", Path(folder) / "target"
    base = PUBLISHED["0.5b"].model_copy(update={"vocab_size": 16_384, "num_hidden_layers": 1})
    embeddings = base.vocab_size * base.hidden_size
    layers = max(1, round((megabytes * 5e5 - embeddings) / (base.num_parameters() - embeddings)))
    config = base.model_copy(update={"num_hidden_layers": layers})
    entries = {name: Entry(shape, torch.bfloat16) for name, shape in layout(config).items()}
    size = sum(entry.bytes for entry in entries.values())
    source.mkdir()
    write_config(source, config_to_hf(config), torch.bfloat16, None)
    write_tensors(
        source, entries, lambda name: [torch.randn(entries[name].shape).bfloat16()], shard_bytes=size // 4
    )  # fmt: skip
    shards = [file.stat().st_size for file in source.glob("*.safetensors")]
    before = _reset_peak()
    begin = time.perf_counter()
    convert(open_source(source), target, shard_bytes=size // 4)
    seconds = time.perf_counter() - begin
    grown = _status("VmHWM") - before
    assert not (target / WEIGHTS).exists(), "the target is sharded too"
    return {
        "checkpoint_megabytes": size / 1e6,
        "shards": len(shards),
        "shard_megabytes": max(shards) / 1e6,
        "largest_tensor_megabytes": max(entry.bytes for entry in entries.values()) / 1e6,
        "peak_growth_megabytes": grown / 1e6,
        "seconds": seconds,
        "megabytes_per_second": size / 1e6 / seconds,
    }


def _reset_peak() -> int:
    """Make now the peak of resident memory, so that what came before does not count; bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
