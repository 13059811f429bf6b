"""Peak memory of the stages that read a whole corpus, on inputs of several sizes.

The peak is that of the process that runs a stage and of the largest of its pool's processes. Inputs are documents of
sentences drawn at random from real ones, all different: of a size at which the smallest input already fills a Parquet
row group and several shards, which is what memory is bounded by.
"""

import multiprocessing
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import peak_memory
from benchmarks.plain_run import run_stage
from components.data.clean import CleanConfig, clean
from components.data.deduplicate import DeduplicateConfig, deduplicate
from components.data.documents import Document, new_document, write_documents
from components.data.shards import ShardsConfig, tokenize
from model.tokenizer import Tokenizer

STAGES: dict[str, Callable[..., Any]] = {"clean": clean, "deduplicate": deduplicate, "shards": tokenize}
CONFIGS = {"clean": CleanConfig(), "deduplicate": DeduplicateConfig(), "shards": ShardsConfig()}
CHARACTERS = 1_500
"""Of a document, about."""
_SENTENCE = re.compile(r"[^.!?\n]{20,300}[.!?]")


def measure(stage: str, documents: list[Document], megabytes: int, folder: Path) -> dict[str, int]:
    """Peak bytes of the process that runs ``stage`` over ``megabytes`` of text, and of its largest worker (0: none)."""
    corpus, output = folder / "corpus", folder / "output"
    write_documents(corpus, made_of(documents, megabytes))
    inputs = {"documents": corpus}
    if stage == "shards":
        Tokenizer.train([document.text for document in documents[::4]], 4_096).save(folder / "tokenizer")
        inputs["tokenizer"] = folder / "tokenizer"
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_and_report, args=(stage, inputs, output, sender))
    process.start()
    sender.close()
    try:
        peaks = receiver.recv()
    except EOFError:
        raise SystemExit(f"{stage}, {megabytes} MB: its process died (its own error stands above)") from None
    process.join()
    shutil.rmtree(corpus)
    shutil.rmtree(output)
    return dict(peaks)


def made_of(documents: list[Document], megabytes: int) -> Iterator[Document]:
    """``megabytes`` of different documents in the sentences of ``documents``, the same ones each time."""
    sentences = [sentence.strip() for document in documents for sentence in _SENTENCE.findall(document.text)]
    rng = random.Random(0)
    a_document = max(1, round(CHARACTERS * len(sentences) / sum(map(len, sentences))))
    size = 0
    while size < megabytes * 1e6:
        text = " ".join(rng.choices(sentences, k=a_document))
        size += len(text.encode())
        yield new_document(text, source="made", language="en", domain="other")


def run_and_report(stage: str, inputs: dict[str, Path], folder: Path, sender: Any) -> None:
    """Run the stage, and send the peaks through ``sender``."""
    largest = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not over.wait(0.05):  # the system keeps each one's high-water mark as long as it lives
            for child in multiprocessing.active_children():
                with suppress(OSError):
                    largest = max(largest, peak_memory(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_stage(STAGES[stage], CONFIGS[stage], folder, **inputs)
    finally:
        over.set()
        watcher.join()
    sender.send({"main": peak_memory(), "worker": largest})
