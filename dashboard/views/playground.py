"""Chat with one or two checkpoints side by side through the model API, each token coloured by its probability."""

import codecs
import html
import json
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import streamlit as st

from dashboard import reading
from dashboard.chat_api import Answer, ApiError, Model, Token, chat, models

NEEDS_RUN = False
"""It talks to what is served, whether or not a run is in the catalog."""
_REDRAW_SECONDS = 0.1
_NONE = "nobody"


def show(run_id: str | None) -> None:
    settings = reading.settings()
    key = settings.api_keys.get_secret_value().split(",")[0]
    urls = [url.strip().rstrip("/").removesuffix("/v1") for url in settings.api_urls.split(",") if url.strip()]
    found, silent = models(urls, key)
    if not found:
        empty(silent)
        return
    for line in silent:
        st.sidebar.caption(line)
    chosen = choose(found)
    body = sampling()
    if body is None:
        return
    st.session_state.setdefault("turns", [])
    if st.sidebar.button("New conversation", icon=":material/restart_alt:"):
        st.session_state["turns"] = []
    coloured = st.sidebar.toggle("Colour tokens by probability", value=True)
    for turn in st.session_state["turns"]:
        for column, model in zip(st.columns(len(chosen)), chosen, strict=True):
            with column:
                st.chat_message("user").text(turn["question"])
                if model in turn["answers"]:
                    draw(turn["answers"][model], st.chat_message("assistant"), coloured)
    question = st.chat_input(f"Ask {' and '.join(model.name for model in chosen)}")
    if question:
        turn = {"question": question, "answers": {}}
        ask(chosen, key, turn, body, coloured)
        st.session_state["turns"].append(turn)


def empty(silent: Sequence[str]) -> None:
    st.info("No checkpoint is served yet: " + "; ".join(silent) + ".")
    st.markdown("Start one in a terminal, by its alias, its digest or a folder; then reload this page:")
    st.code("qwenforge serve rl", language="bash")
    st.markdown("Two are compared side by side when both are served and the dashboard knows both addresses:")
    st.code(
        "qwenforge serve dpo --port 8001\n"
        "QWENFORGE_API_URLS=http://127.0.0.1:8000,http://127.0.0.1:8001 qwenforge dashboard",
        language="bash",
    )


def choose(found: Sequence[Model]) -> list[Model]:
    """One checkpoint, or two."""
    left = st.sidebar.selectbox("Checkpoint", found, format_func=lambda model: model.label)
    others: list[Model | str] = [_NONE, *(model for model in found if model != left)]
    right = st.sidebar.selectbox(
        "Beside it", others, index=min(1, len(others) - 1),
        format_func=lambda other: other.label if isinstance(other, Model) else other,
    )  # fmt: skip
    return [left, right] if isinstance(right, Model) else [left]


def sampling() -> dict[str, Any] | None:
    """What is asked of both; None where the tools are no JSON."""
    with st.sidebar.expander("System prompt and sampling", icon=":material/tune:"):
        system = st.text_area("System prompt", "You are a helpful assistant.")
        body: dict[str, Any] = {
            "temperature": st.slider("Temperature", 0.0, 2.0, 0.7, help="0 takes the likeliest token."),
            "top_p": st.slider("Top p", 0.05, 1.0, 0.95),
            "top_k": int(st.number_input("Top k", 0, value=0, help="0 keeps all.")),
            "repetition_penalty": st.slider("Repetition penalty", 0.5, 2.0, 1.0),
            "max_tokens": int(st.number_input("Tokens at most", 1, 8192, 256)),
            "seed": int(st.number_input("Seed", 0, value=0)),
            "logprobs": True,
            "top_logprobs": 5,
        }
        tools = st.text_area("Tools", help="A JSON list in OpenAI's form; empty for none.")
    if tools.strip():
        try:
            body["tools"] = json.loads(tools)
        except ValueError as error:
            st.error(f"The tools are no JSON: {error}")
            return None
    return body | {"messages": [{"role": "system", "content": system}] if system else []}


def ask(chosen: Sequence[Model], key: str, turn: dict[str, Any], body: dict[str, Any], coloured: bool) -> None:
    """Let all write at once, and draw what they write. Leaving the page ends their answers."""
    places = {}
    for column, model in zip(st.columns(len(chosen)), chosen, strict=True):
        with column:
            st.chat_message("user").text(turn["question"])
            places[model] = st.chat_message("assistant").empty()
    said: queue.SimpleQueue[tuple[Model, Answer, bool]] = queue.SimpleQueue()
    left = threading.Event()

    def write(model: Model, own: dict[str, Any]) -> None:
        answer = Answer()
        try:
            for answer in chat(model, key, own):
                if left.is_set():
                    return
                said.put((model, answer, False))
        except ApiError as error:
            answer.error = str(error)
        said.put((model, answer, True))

    for model in chosen:
        own = body | {"messages": [*body["messages"], *history(model), {"role": "user", "content": turn["question"]}]}
        threading.Thread(target=write, args=(model, own), daemon=True).start()
    drawn = dict.fromkeys(chosen, 0.0)
    writing = set(chosen)
    try:
        while writing:
            model, answer, ended = said.get()
            if ended:
                writing.discard(model)
                turn["answers"][model] = answer
            if ended or time.monotonic() - drawn[model] > _REDRAW_SECONDS:
                drawn[model] = time.monotonic()
                draw(answer, places[model].container(), coloured)
    finally:
        left.set()


def history(model: Model) -> Iterator[dict[str, Any]]:
    """What was said between the user and this checkpoint before."""
    for turn in st.session_state["turns"]:
        answer = turn["answers"].get(model)
        if answer is not None and not answer.error:
            yield {"role": "user", "content": turn["question"]}
            yield answer.message()


def draw(answer: Answer, place: Any, coloured: bool) -> None:
    # as HTML of our own, in which all that a model writes is escaped: its Markdown could load pictures from elsewhere
    place.html(spans(answer.tokens) if coloured and answer.tokens else plain(answer.text))
    for call in answer.calls:
        place.code(f"{call['function']['name']}({call['function']['arguments']})", language="json")
    if answer.error:
        place.error(answer.error)
    elif answer.finish:
        rate = len(answer.tokens) / max(answer.seconds, 1e-3)
        place.caption(
            f"{len(answer.tokens)} tokens · {rate:,.0f} a second · first after {1000 * answer.first_seconds:,.0f} ms · "
            f"perplexity {answer.perplexity:.2f} · ended by {answer.finish}"
        )


def plain(text: str) -> str:
    return f'<div style="white-space: pre-wrap">{html.escape(text)}</div>'


def spans(tokens: Iterable[Token]) -> str:
    """Green is certain, red a surprise; the likeliest alternatives show under the pointer."""
    parts = []
    for text, log_prob, others in characters(tokens):
        probability = math.exp(log_prob)
        told = "\n".join(f"{math.exp(value):6.1%}  {other!r}" for other, value in others)
        parts.append(
            f'<span style="background: hsla({120 * probability:.0f}, 80%, 45%, 0.3)" '
            f'title="{html.escape(f"{probability:.1%}" + chr(10) + told)}">{html.escape(text)}</span>'
        )
    return f'<div style="white-space: pre-wrap">{"".join(parts)}</div>'


def characters(tokens: Iterable[Token]) -> Iterator[tuple[str, float, list[tuple[str, float]]]]:
    """Whole characters with the log p of the tokens that they are made of, and the first one's alternatives."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    log_prob, others = 0.0, None
    for token in tokens:
        log_prob, others = log_prob + token.log_prob, token.others if others is None else others
        if text := decoder.decode(token.data):
            yield text, log_prob, others
            log_prob, others = 0.0, None
    if text := decoder.decode(b"", final=True):
        yield text, log_prob, others or []
