"""Clients of a chat API in processes of their own, for ``benchmarks.serve``. They read bytes, for a general HTTP client
costs more a token than the pocket model."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any


@dataclass
class Stream:
    """What one client saw, in seconds since it sent its request."""

    events: list[float] = field(default_factory=list)
    """When each event with text came."""
    end: float = 0.0
    """When the stream was over; by the clock that all clients share."""
    tokens: int = 0
    whole: bool = False
    """It ended as it should, with all its tokens."""


async def stream(port: int, body: dict[str, Any], tokens: int, seen: asyncio.Semaphore | None = None) -> Stream:
    """Send a chat completion and read its events; ``seen`` is released at the fifth."""
    result = Stream()
    text = json.dumps(body).encode()
    begin = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text)
        finished = False
        while True:
            # the head and the frames of chunked encoding stand between events, never inside of one
            _, _, data = (await reader.readuntil(b"\n\n")).partition(b"data: ")
            now = time.perf_counter() - begin
            if b'"content":"' in data and b'"role"' not in data:
                result.events.append(now)
                if seen is not None and len(result.events) == 5:
                    seen.release()
            elif b'"prompt_tokens"' in data:
                result.tokens = json.loads(data)["usage"]["completion_tokens"]
            elif data.startswith(b"[DONE]"):
                result.whole = finished and result.tokens == tokens
                break
            finished |= b'"finish_reason":"length"' in data
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        pass  # a lost stream
    result.end = time.perf_counter()
    return result


def bodies(model: str, streams: int, tokens: int, prompt_words: int, salt: int) -> list[dict[str, Any]]:
    """A request a stream; no two prompts begin alike."""
    words = [f"{salt * 1009 + index:x}" + " of a question" * (prompt_words // 3) for index in range(streams)]
    return [
        {
            "model": model, "messages": [{"role": "user", "content": word}],
            "max_tokens": tokens, "temperature": 1, "seed": index, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }
        for index, word in enumerate(words)
    ]  # fmt: skip


def answer_orders(pipe: Connection, port: int) -> None:
    """A process of clients: (bodies, tokens) in, (seconds, CPU seconds, streams) out."""

    async def all_of(requests: list[dict[str, Any]], tokens: int) -> list[Stream]:
        return await asyncio.gather(*(stream(port, body, tokens) for body in requests))

    while (order := pipe.recv()) is not None:
        begin, cpu = time.perf_counter(), time.process_time()
        streams = asyncio.run(all_of(*order))
        pipe.send((max(each.end for each in streams) - begin, time.process_time() - cpu, streams))


def go_on_until_killed(pipe: Connection, port: int, requests: list[dict[str, Any]], tokens: int) -> None:
    """Clients that report when each is in the middle of its answer, and then go on until they are killed."""

    async def run() -> None:
        seen = asyncio.Semaphore(0)
        streams = [asyncio.create_task(stream(port, body, tokens, seen)) for body in requests]
        for _ in streams:
            await seen.acquire()
        pipe.send(None)
        await asyncio.gather(*streams)

    asyncio.run(run())
