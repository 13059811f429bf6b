"""Hypothesis: cleaning and MinHash signatures take a third of datatrove's time a document or less, tokenizing no more
than a tenth over the plain tokenizers library, and peak memory does not grow with the input.

Peer: datatrove (extra ``peers``) with the same filters and limits (Gopher quality and repetition) and the same shape of
signature, in one process each, on the same documents of the pocket corpus. datatrove is given the fastest splitter of
words that there is (blanks for cleaning, one regular expression for MinHash) instead of its default, spaCy. Contenders
take turns; seconds are processor time of all threads, so that other work on the machine counts for neither. Only the
tokenizing with all cores is wall-clock time, which wants a machine with nothing else to do.

Memory is the peak of the process that runs a stage and of the largest of its pool's processes. Inputs of other sizes
are pieces of the same documents again and again, each with a number of its own: of a size at which the smallest input
already fills a Parquet row group and several shards, which is what memory is bounded by.

The rates of one core are what ``qwenforge plan`` extrapolates the data stages from (``data_rates.py``).

    qwenforge bench data --turns 5 --megabytes 10 100 1000 --json benchmarks/results/DATE-data.json
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import data_rates
from benchmarks.harness import peak_memory
from benchmarks.plain_run import run_stage
from components.data.clean import CleanConfig, clean
from components.data.code_layout import encode_documents
from components.data.deduplicate import DeduplicateConfig
from components.data.documents import Document, new_document, write_documents
from components.data.filters import FilterConfig, reason_to_drop
from components.data.ingest import IngestConfig
from components.data.minhash import WordHasher, shingle_hashes, signatures
from components.data.reading import documents_of
from components.data.words import comparable_words
from infra.hardware import describe_host
from model.tokenizer import Tokenizer

SOURCES = ("news-lee", "medical-abstracts", "web-snippets", "wikipedia-articles")
Contender = Callable[[list[Document]], Any]
TARGETS = {"cleaning": 3.0, "MinHash signatures": 3.0, "tokenizing": 0.9, "tokenizing, all cores": 0.9}
FLAT = 1.25
"""Most that the peak of the largest input may be of that of the smallest."""
WALL = ("tokenizing, all cores",)
PIECE = 1_500
"""Characters of a document in the inputs that memory is measured on."""
REPEATS = 8
"""How often the documents are taken for tokenizing with all cores: a batch has to keep them busy."""


def main(given: list[str] | None = None) -> int:
    """Print a line for each comparison; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[10, 100], help="inputs to measure memory on")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    documents = sample(arguments.documents)
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    with TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = tokenizing(documents)
        pairs = {"cleaning": cleaning(), "MinHash signatures": minhash(folder), "tokenizing": (ours, theirs)}
        rows = {name: compare(*pair, documents, arguments.turns) for name, pair in pairs.items()}
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        rows["tokenizing, all cores"] = compare(ours, theirs, REPEATS * documents, arguments.turns, time.perf_counter)
        peaks = {megabytes: memory(documents, megabytes, folder) for megabytes in sorted(arguments.megabytes)}
        rates = data_rates.measure(documents, folder / "rates")
    for name, row in rows.items():
        times, clock = (REPEATS, "wall clock") if name in WALL else (1, "processor time")
        print(
            f"{name:22} {row['ratio']:6.2f}x [{row['low']:.2f}, {row['high']:.2f}]  "
            f"{times * len(documents) / row['seconds']:>8,.0f} documents/s, {times * size / row['seconds']:.2f} MB/s "
            f"of {clock}"
        )
    for megabytes, peak in peaks.items():
        print(f"cleaning {megabytes:>5} MB: peak {peak['main'] / 1e6:,.0f} MB, a worker {peak['worker'] / 1e6:,.0f} MB")
    for name, rate in rates["rates"].items():
        print(f"one core, {name:20} {rate / 1e6:8.2f} MB/s")
    missed = [name for name, least in TARGETS.items() if rows[name]["ratio"] < least]
    missed += [f"memory of the {part} process" for part in ("main", "worker") if grows(peaks, part)]
    print(f"below target: {', '.join(missed)}" if missed else "all targets met")
    if arguments.json:
        facts = {
            "date": datetime.now(UTC).date().isoformat(), "host": describe_host(), "documents": len(documents),
            "megabytes": round(size, 3), "rows": rows, "peak_bytes": peaks, **rates,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


def grows(peaks: dict[int, dict[str, int]], part: str) -> bool:
    """Whether the largest input needs more memory than the smallest."""
    sizes = [peak[part] for _, peak in sorted(peaks.items())]
    return len(sizes) > 1 and sizes[-1] > FLAT * sizes[0]


def compare(
    ours: Contender, theirs: Contender, documents: list[Document], turns: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:  # fmt: skip
    """How many times their seconds are ours: median, lowest and highest of the turns; a first turn warms up."""
    ratios, seconds = [], []
    for turn in range(turns + 1):
        spent = []
        for contender in (ours, theirs):
            begin = clock()
            contender(documents)
            spent.append(clock() - begin)
        if turn:
            ratios.append(spent[1] / spent[0])
            seconds.append(spent[0])
    return {"ratio": median(ratios), "low": min(ratios), "high": max(ratios), "seconds": median(seconds)}


def sample(count: int) -> list[Document]:
    """The first documents of each of the sources, in turn."""
    config = IngestConfig()
    each = count // len(SOURCES)
    chosen: list[Document] = []
    for source in config.sources:
        if source.name in SOURCES:
            reader = documents_of(source, config.base, lambda _: None)
            chosen += [document for document, _ in zip(reader, range(each), strict=False)]
    return chosen


def cleaning() -> tuple[Contender, Contender]:
    """Gopher's rules on quality and repetition. Limits are equal: datatrove's."""
    from datatrove.data import Document as Peer
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    limits = FilterConfig(min_words=50, min_alphabetic_words=0.8)
    rules = [GopherRepetitionFilter(language=splitter(r"\S+")), GopherQualityFilter(language=splitter(r"\S+"))]

    def ours(documents: list[Document]) -> int:
        return sum(not reason_to_drop(document.text, "en", limits) for document in documents)

    def theirs(documents: list[Document]) -> int:
        peers = (Peer(text=document.text, id=document.id) for document in documents)
        return sum(all(rule.filter(peer) is True for rule in rules) for peer in peers)

    return ours, theirs


def minhash(folder: Path) -> tuple[Contender, Contender]:
    """Signatures of 25 bands of 5 over 3-word shingles."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = DeduplicateConfig()
    shape = MinhashConfig(n_grams=config.shingle, num_buckets=config.bands, hashes_per_bucket=config.rows)
    step = MinhashDedupSignature(str(folder / "signatures"), shape, language=splitter(r"\w+"))
    hashed = step._hash_func
    step._hash_func = lambda shingle: hashed(shingle.encode())  # xxhash 4 takes no str, which datatrove 0.10 gives it

    def ours(documents: list[Document]) -> Any:
        hasher = WordHasher()
        shingles = (shingle_hashes(hasher(comparable_words(document.text)), config.shingle) for document in documents)
        return signatures(shingles, config.bands * config.rows)

    def theirs(documents: list[Document]) -> Any:
        found = (step.get_shingles(document.text) for document in documents)
        return [step.get_signature(shingles) for shingles in found if shingles.size]

    return ours, theirs


def tokenizing(documents: list[Document]) -> tuple[Contender, Contender]:
    """What the ``shards`` stage calls, beside the library's own batch encoding with the same vocabulary."""
    tokenizer = Tokenizer.train([document.text for document in documents[::4]], 4_096)
    backend = tokenizer._backend

    def ours(documents: list[Document]) -> int:
        return sum(map(len, encode_documents(documents, tokenizer)))

    def theirs(documents: list[Document]) -> int:
        texts = [document.text for document in documents]
        return sum(len(item.ids) for item in backend.encode_batch_fast(texts, add_special_tokens=False))

    return ours, theirs


def splitter(pattern: str) -> Any:
    """A word tokenizer for datatrove that is one regular expression."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    words = re.compile(pattern)

    class Splitter(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return words.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [match.span() for match in words.finditer(text)]

    return Splitter()


def memory(documents: list[Document], megabytes: int, folder: Path) -> dict[str, int]:
    """Peak bytes of a process that cleans ``megabytes`` of text, and of the largest of its pool's processes."""
    corpus = folder / f"corpus-{megabytes}"
    pieces = [d.text[start : start + PIECE] for d in documents for start in range(0, len(d.text), PIECE)]

    def repeated() -> Any:
        size = number = 0
        while size < megabytes * 1e6:
            text = f"{pieces[number % len(pieces)]} {number}"
            size += len(text.encode())
            number += 1
            yield new_document(text, source="made", language="en")

    write_documents(corpus, repeated())
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=clean_and_report, args=(corpus, folder / f"clean-{megabytes}", sender))
    process.start()
    sender.close()
    try:
        peaks = receiver.recv()
    except EOFError:
        raise SystemExit(f"cleaning {megabytes} MB: its process died (its own error stands above)") from None
    process.join()
    shutil.rmtree(corpus)
    shutil.rmtree(folder / f"clean-{megabytes}")
    return dict(peaks)


def clean_and_report(corpus: Path, folder: Path, sender: Any) -> None:
    """Clean, and send the peaks through ``sender``."""
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
        run_stage(clean, CleanConfig(), folder, documents=corpus)
    finally:
        over.set()
        watcher.join()
    sender.send({"main": peak_memory(), "worker": largest})


if __name__ == "__main__":
    raise SystemExit(main())
