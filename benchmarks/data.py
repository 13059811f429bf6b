"""Hypothesis: cleaning and MinHash signatures take a third of datatrove's time a document or less, tokenizing no more
than a tenth over the plain tokenizers library, and peak memory does not grow with the input.

Peer: datatrove (extra ``peers``) with the same filters and limits (Gopher quality and repetition) and the same shape of
signature, in one process each, on the same documents of the pocket corpus. datatrove is given the fastest splitter of
words that there is (blanks for cleaning, one regular expression for MinHash) instead of its default, spaCy. Contenders
take turns; seconds are processor time of all threads, so that other work on the machine counts for neither. Only the
tokenizing with all cores is wall-clock time, which wants a machine with nothing else to do.

Memory (``data_memory.py``) is that of the stages ``clean``, ``deduplicate`` and ``shards``. The rates of one core are
what ``qwenforge plan`` extrapolates the data stages from (``data_rates.py``). ``--only`` measures a part; what FILE
holds of the others is kept, so that a long measurement can be made in several goes:

    qwenforge bench data --turns 5 --megabytes 10 100 1000 --json benchmarks/results/DATE-data.json
    qwenforge bench data --only clean --megabytes 1000 --json benchmarks/results/DATE-data.json
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import data_memory, data_rates
from components.data.deduplicate import DeduplicateConfig
from components.data.documents import FILE_CHARACTERS, Document
from components.data.filters import FilterConfig, reason_to_drop
from components.data.ingest import IngestConfig
from components.data.minhash import WordHasher, shingle_hashes, signatures
from components.data.reading import documents_of
from components.data.shard_writer import encode_ahead
from components.data.words import comparable_words
from infra.hardware import describe_host
from model.tokenizer import Tokenizer

SOURCES = ("news-lee", "medical-abstracts", "web-snippets", "wikipedia-articles")
Contender = Callable[[list[Document]], Any]
TARGETS = {"cleaning": 3.0, "MinHash signatures": 3.0, "tokenizing": 0.9, "tokenizing, all cores": 0.9}
FLAT = 1.25
"""Most that the peak of the largest input may be of that of the smallest, from one that fills a file on."""
INDEX = {"shards": 0.12}
"""Bytes of memory a byte of text beyond that: where documents and windows lie, which the loader needs as well."""
WALL = ("tokenizing, all cores",)
REPEATS = 8
"""How often the documents are taken for tokenizing with all cores: a batch has to keep them busy."""
PARTS = ("rates", *data_memory.STAGES)


def main(given: list[str] | None = None) -> int:
    """Print a line for each comparison; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[10, 100], help="inputs to measure memory on")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="rates, or the memory of a stage")
    parser.add_argument("--json", type=Path, help="write the result here, beside what is there of other parts")
    arguments = parser.parse_args(given)
    facts: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "host": describe_host()}
    if arguments.json and arguments.json.is_file():
        kept = json.loads(arguments.json.read_text(encoding="utf-8"))
        if kept["host"] != facts["host"]:
            parser.error(f"--json: {arguments.json} was measured on another machine; name another file")
        facts = kept | facts

    def keep() -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    documents = sample(arguments.documents)
    with TemporaryDirectory() as name:
        if "rates" in arguments.only:
            facts |= rates(documents, arguments.turns, Path(name))
            keep()
        peaks = facts.setdefault("peak_bytes", {})
        for stage in data_memory.STAGES:
            for megabytes in arguments.megabytes if stage in arguments.only else ():
                peak = data_memory.measure(stage, documents, megabytes, Path(name))
                peaks.setdefault(stage, {})[str(megabytes)] = peak
                keep()
    print_facts(facts)
    missed = below_target(facts)
    print(f"below target: {', '.join(missed)}" if missed else "all targets met")
    return 1 if missed else 0


def rates(documents: list[Document], turns: int, folder: Path) -> dict[str, Any]:
    """Everything but memory: ``rows`` (ratios to the peers) and what ``data_rates`` finds."""
    ours, theirs = tokenizing(documents)
    pairs = {"cleaning": cleaning(), "MinHash signatures": minhash(folder), "tokenizing": (ours, theirs)}
    rows = {name: compare(*pair, documents, turns) for name, pair in pairs.items()}
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    rows["tokenizing, all cores"] = compare(ours, theirs, REPEATS * documents, turns, time.perf_counter)
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    return {
        "documents": len(documents), "megabytes": round(size, 3), "rows": rows,
        **data_rates.measure(documents, folder / "rates"),
    }  # fmt: skip


def print_facts(facts: dict[str, Any]) -> None:
    """What was measured, in this go or before."""
    for name, row in facts.get("rows", {}).items():
        times, clock = (REPEATS, "wall clock") if name in WALL else (1, "processor time")
        print(
            f"{name:22} {row['ratio']:6.2f}x [{row['low']:.2f}, {row['high']:.2f}]  "
            f"{times * facts['documents'] / row['seconds']:>8,.0f} documents/s, "
            f"{times * facts['megabytes'] / row['seconds']:.2f} MB/s of {clock}"
        )
    for stage, peaks in facts["peak_bytes"].items():
        for megabytes, peak in sorted(peaks.items(), key=lambda item: int(item[0])):
            print(
                f"{stage:12} {megabytes:>5} MB: peak {peak['main'] / 1e6:,.0f} MB, "
                f"a worker {peak['worker'] / 1e6:,.0f} MB"
            )
    for name, rate in facts.get("rates", {}).items():
        print(f"one core, {name:20} {rate / 1e6:8.2f} MB/s")


def below_target(facts: dict[str, Any]) -> list[str]:
    """What was measured and misses its target."""
    rows = facts.get("rows", {})
    missed = [name for name, least in TARGETS.items() if name in rows and rows[name]["ratio"] < least]
    for stage, peaks in facts["peak_bytes"].items():
        index = INDEX.get(stage, 0.0)
        missed += [f"memory of {stage}, {part} process" for part in ("main", "worker") if grows(peaks, part, index)]
    return missed


def grows(peaks: dict[str, dict[str, int]], part: str, index: float = 0.0) -> bool:
    """Whether the largest input needs more memory than the smallest that fills a file of documents (less is one job
    and starts no pool), and more than ``index`` bytes a byte beyond."""
    sizes = [(int(megabytes), peak[part]) for megabytes, peak in peaks.items() if peak[part]]
    full = [(megabytes, peak) for megabytes, peak in sizes if megabytes * 1_000_000 >= FILE_CHARACTERS]
    (small, least), (large, most) = min(full or sizes, default=(0, 0)), max(sizes, default=(0, 0))
    return most > FLAT * least + index * (large - small) * 1e6


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
        return sum(len(ids) - 1 for _, ids in encode_ahead(iter(documents), tokenizer))  # but the end token

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


if __name__ == "__main__":
    raise SystemExit(main())
