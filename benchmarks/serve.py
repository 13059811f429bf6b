"""Hypothesis: over HTTP 16 streams at once get at least 3 times the tokens a second of one, 64 lose none, and what
killed clients held of the cache is free within a second.

A ``qwenforge serve`` process on loopback and clients in a process of their own, so that neither waits for the other's
interpreter. Streams are server-sent events of chat completions, each with a prompt of its own and ``ignore_eos``, so
that every answer has all its tokens. The numbers of streams take turns; a ratio is of neighbours in time. Tokens are
counted by the server's ``usage``; times between tokens are those between events (a token that is half of a character
comes with the next). CPU seconds of both processes stand beside the wall clock, for on a busy machine they alone say
what a token costs. The client reads bytes: a general HTTP client would cost more a token than the pocket model.

    qwenforge bench serve                        the pocket shape, random weights
    qwenforge bench serve rl --streams 1 16      an alias, a digest or a folder
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.generation import SHAPES
from benchmarks.http_clients import answer_orders, bodies, go_on_until_killed
from infra.hardware import describe_host

ROOT = Path(__file__).parent.parent
PERCENTILES = (50, 90, 99)
_KILLED_STREAMS = 16
_WAIT_SECONDS = 120.0


@contextmanager
def serving(checkpoint: str, threads: int, home: Path | None = None) -> Iterator[tuple[int, psutil.Process]]:
    """A server process that is healthy: its port and itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"QWENFORGE_THREADS": str(threads), "QWENFORGE_API_KEYS": "", "PYTHONPATH": str(ROOT)}
    if home is not None:
        own["QWENFORGE_HOME"] = str(home)
    command = [sys.executable, "-m", "flows.cli", "serve", checkpoint, "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _WAIT_SECONDS
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server of {checkpoint} did not start (its own error stands above)")
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def _pages_used(port: int) -> int:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith("qwenforge_cache_pages_used ")]
    return int(float(line.split()[1]))


def measure(
    checkpoint: str, *, streams: list[int], tokens: int, prompt_words: int, rounds: int, threads: int,
    home: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Serve, load, kill; what came of it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with serving(checkpoint, threads, home) as (port, server):
        model = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"]
        clients = context.Process(target=answer_orders, args=(theirs, port), daemon=True)
        clients.start()
        found: dict[int, list[dict[str, Any]]] = {number: [] for number in streams}
        for turn in range(rounds + 1):
            for number in streams:
                asked = bodies(model, number, tokens if turn else 8, prompt_words, turn * len(streams) + number)
                before = sum(server.cpu_times()[:2])
                ours.send((asked, tokens if turn else 8))
                seconds, cpu, seen = ours.recv()
                if turn:  # the first is a warm-up
                    spent = sum(server.cpu_times()[:2]) - before
                    found[number].append({"seconds": seconds, "server": spent, "client": cpu, "streams": seen})
        ours.send(None)
        clients.join()
        freed = _kill_midway(port, model, prompt_words)
    levels = [_level(number, found[number]) for number in streams]
    return {"streams": levels, "killed": freed} | _ratios(found)


def _level(number: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    seen = [each for turn in turns for each in turn["streams"]]
    answered = [each for each in seen if each.events]
    first = [each.events[0] for each in answered]
    between = np.concatenate([np.diff(each.events) for each in answered]) if answered else []
    written = sum(each.tokens for each in seen)
    return {
        "streams": number,
        "lost": sum(not each.whole for each in seen),
        "tokens_per_second": round(median(_rate(turn) for turn in turns), 1),
        "first_token_ms": _percentiles(first),
        "between_tokens_ms": _percentiles(between),
        "server_cpu_ms_a_token": round(1000 * sum(turn["server"] for turn in turns) / max(written, 1), 3),
        "client_cpu_ms_a_token": round(1000 * sum(turn["client"] for turn in turns) / max(written, 1), 3),
    }


def _rate(turn: dict[str, Any]) -> float:
    return sum(each.tokens for each in turn["streams"]) / turn["seconds"]


def _percentiles(seconds: Any) -> dict[str, float]:
    if not len(seconds):
        return {}
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 2) for p in PERCENTILES}


def _ratios(found: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Throughput as a multiple of one stream's: the median over the turns."""
    if 1 not in found:
        return {}
    return {
        f"ratio_{number}_to_1": round(median(_rate(a) / _rate(b) for a, b in zip(turns, found[1], strict=True)), 2)
        for number, turns in found.items()
        if number != 1
    }


def _kill_midway(port: int, model: str, prompt_words: int) -> dict[str, Any]:
    """Kill -9 a process of clients in the middle of long answers; how long until no page is held."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    tokens = 1500
    asked = bodies(model, _KILLED_STREAMS, tokens, prompt_words, 999)
    process = context.Process(target=go_on_until_killed, args=(theirs, port, asked, tokens), daemon=True)
    process.start()
    if not ours.poll(_WAIT_SECONDS):
        raise SystemExit("the clients that were to be killed got no answers")
    held = _pages_used(port)
    process.kill()
    begin = time.monotonic()
    while (left := _pages_used(port)) and time.monotonic() - begin < 30:
        time.sleep(0.01)
    process.join()
    seconds = round(time.monotonic() - begin, 3)
    return {"clients": _KILLED_STREAMS, "pages_before": held, "pages_after": left, "seconds": seconds}


def random_checkpoint(folder: Path) -> Path:
    """The pocket shape with random weights, and a tokenizer of as many rows learnt from the standard library."""
    from model.checkpoint import save_model
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

    config = SHAPES["pocket"]
    texts = (file.read_text("utf-8") for file in sorted(Path(os.__file__).parent.glob("*.py"))[:120])
    tokenizer = Tokenizer.train(texts, config.vocab_size)
    model = Transformer(config.model_copy(update={"vocab_size": tokenizer.vocab_size})).init_weights(0)
    save_model(folder, model, tokenizer)
    return folder


def lines(result: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    for level in result["streams"]:
        first, between = (
            "/".join(f"{value:g}" for value in level[name].values()) for name in ("first_token_ms", "between_tokens_ms")
        )
        yield (
            f"{level['streams']:>3} streams: {level['tokens_per_second']:,} tokens/s, lost {level['lost']}; first "
            f"token {first} ms, between tokens {between} ms (p50/p90/p99); CPU a token: server "
            f"{level['server_cpu_ms_a_token']} ms, clients {level['client_cpu_ms_a_token']} ms"
        )
    for name, value in result.items():
        if name.startswith("ratio_"):
            yield f"{name.split('_')[1]} streams: {value} times the throughput of one"
    killed = result["killed"]
    yield (
        f"{killed['clients']} clients killed midway: {killed['pages_before']} pages held before, "
        f"{killed['pages_after']} after {killed['seconds']} s"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print one line a number of streams, and write a dated JSON where asked; 1 where a stream was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="alias, digest or folder; by default random weights")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--prompt-words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the server's mathematics")
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        own_home = None if given.checkpoint else Path(folder) / "home"
        checkpoint = given.checkpoint or str(random_checkpoint(Path(folder) / "pocket"))
        result = measure(
            checkpoint, streams=given.streams, tokens=given.tokens, prompt_words=given.prompt_words,
            rounds=given.rounds, threads=given.threads, home=own_home,
        )  # fmt: skip
    for line in lines(result):
        print(line)
    if given.json:
        facts = {"date": datetime.now(UTC).date().isoformat(), "host": describe_host()}
        settings = {
            name: getattr(given, name) for name in ("checkpoint", "tokens", "prompt_words", "rounds", "threads")
        }
        given.json.write_text(json.dumps(facts | settings | result, indent=1) + "\n", encoding="utf-8")
    lost = sum(level["lost"] for level in result["streams"])
    return int(lost > 0 or result["killed"]["pages_after"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
