"""One checkpoint in the form that others want: a Hugging Face folder or a GGUF file, as it is or quantised.

What is written is read back and measured before it gets its name: a plain folder against ``transformers``, a plain GGUF
file against the checkpoint, a quantised form by the perplexity before and after.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from components.serving.importing import MEBIBYTE, Bars, Mebibytes
from components.stage import StageConfig, StageError

if TYPE_CHECKING:
    from model.sources import Source
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer


class FormatConfig(StageConfig):
    """What to write."""

    format: Literal["hf", "gguf"] = "hf"
    quantize: Literal["int8", "int4"] | None = Field(
        None, description="of the matrices: torchao's layouts in a folder, Q8_0 and Q4_1 in GGUF"
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="type of weights that are not quantised; None keeps their own"
    )
    check: bool = Field(True, description="read back and measure; needs the memory of two models")
    text: Path | None = Field(None, description="text that perplexity is measured on; None: the Python reference")
    shard_megabytes: int = Field(5_000, ge=1, description="most bytes of one weight file, in millions")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.quantize and self.dtype:
            raise ValueError(f"quantize {self.quantize} and dtype {self.dtype} exclude each other")
        return self


def export_checkpoint(config: FormatConfig, source: Path, target: Path, progress: Bars) -> dict[str, Any]:
    """Write the model folder ``source`` as ``target``, a new folder, or a file where its name ends in ``.gguf``.

    Returns what was measured. Raises StageError, and leaves nothing behind, for a checkpoint that is damaged or that
    the format cannot say, and for one that reads back differently.
    """
    from model.config import ModelFormatError
    from model.sources import FolderSource

    partial = target.with_name(f".{target.name}.partial")
    file = partial if target.suffix == ".gguf" else partial / "model.gguf"
    try:
        opened = FolderSource(source)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if config.format == "gguf":
            file.parent.mkdir(parents=True, exist_ok=True)
            facts = _gguf(config, opened, file, progress)
        else:
            facts = _folder(config, opened, partial, progress)
        partial.rename(target)
    except ModelFormatError as error:
        raise StageError(str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if partial.is_file():
            partial.unlink()
    written = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return {"path": str(target), "bytes": sum(path.stat().st_size for path in written), **facts}


def _folder(config: FormatConfig, opened: "Source", folder: Path, progress: Bars) -> dict[str, Any]:
    import torch

    from components.serving.export import ExportConfig, verify
    from model.conversion import convert, converted_bytes
    from model.quantized_folder import export_quantized, quantised_bytes

    shard_bytes = config.shard_megabytes * 10**6
    if config.quantize:
        with progress(quantised_bytes(opened, config.quantize) // MEBIBYTE, config.quantize, unit="MiB") as bar:
            export_quantized(opened, folder, config.quantize, shard_bytes=shard_bytes, advance=Mebibytes(bar))
        return _perplexities(config, opened, folder, progress)
    dtype = getattr(torch, config.dtype) if config.dtype else None
    with progress(converted_bytes(opened, dtype) // MEBIBYTE, "export", unit="MiB") as bar:
        convert(opened, folder, dtype=dtype, shard_bytes=shard_bytes, advance=Mebibytes(bar))
    if not config.check:
        return {}
    settings = ExportConfig()
    with progress(1, "compare with transformers", unit="folder") as bar:
        agreement = verify(folder, settings, seed=0)
        bar.advance()
    if not agreement.logits_difference <= settings.logits_tolerance:  # also true of NaN
        raise StageError(f"logits differ by {agreement.logits_difference:.1e} from transformers'")
    return {
        "logits_difference": agreement.logits_difference,
        "equal_tokens": agreement.equal_tokens,
        "tokens": agreement.tokens,
    }


def _gguf(config: FormatConfig, opened: "Source", file: Path, progress: Bars) -> dict[str, Any]:
    import torch

    from model.gguf_export import export_gguf

    numbers = sum(torch.Size(entry.shape).numel() for entry in opened.entries.values())
    with progress(numbers // MEBIBYTE, "GGUF", unit="Mi numbers") as bar:
        export_gguf(opened, file, config.quantize or config.dtype, advance=Mebibytes(bar))
    if config.quantize:
        return _perplexities(config, opened, file, progress)
    return {"logits_difference": _logits_difference(opened, file, progress)} if config.check else {}


def _perplexities(config: FormatConfig, opened: "Source", written: Path, progress: Bars) -> dict[str, Any]:
    """Of the checkpoint and of what was made of it, one after the other."""
    from components.serving.perplexity import comparison_text, perplexity
    from model.checkpoint import load_source

    if not config.check:
        return {}
    text, tokenizer = comparison_text(config.text), _tokenizer(opened)
    with progress(2, "perplexity", unit="model") as bar:
        before = perplexity(load_source(opened), tokenizer, text)
        bar.advance(before=before)
        after = perplexity(_read_back(written), tokenizer, text)
        bar.advance(after=after)
    return {"perplexity_before": before, "perplexity_after": after}


def _logits_difference(opened: "Source", file: Path, progress: Bars) -> float:
    """Largest difference of the logits of a text's beginning between the checkpoint and the file."""
    import torch

    from components.serving.perplexity import comparison_text
    from model.checkpoint import load_source

    ids = torch.tensor([_tokenizer(opened).encode(comparison_text()[:1000])[:128]])
    logits = []
    with progress(2, "compare with the checkpoint", unit="model") as bar, torch.inference_mode():
        for load in (lambda: load_source(opened), lambda: _read_back(file)):
            model = load()
            logits.append(model.logits(model(ids)))
            del model
            bar.advance()
    return float((logits[0] - logits[1]).abs().max())


def _read_back(written: Path) -> "Transformer":
    from model.checkpoint import load_model, load_source
    from model.conversion import open_source

    return load_model(written) if written.is_dir() else load_source(open_source(written))


def _tokenizer(opened: "Source") -> "Tokenizer":
    tokenizer = opened.tokenizer()
    if tokenizer is None:
        raise StageError(f"{opened.origin}: without its tokenizer nothing can be measured; leave the check out")
    return tokenizer
