"""``qwenforge chat``: talk to a checkpoint in the terminal; the answer appears as it is written."""

import sys

from flows.checkpoints import find_checkpoint, readable
from infra.hardware import resolve_device
from infra.settings import load_settings
from infra.store import open_store


def chat_command(name: str, *, system: str, temperature: float, max_new_tokens: int, seed: int) -> None:
    """Answer questions from stdin until an empty line, Ctrl-D, or Ctrl-C at the prompt."""
    from components.serving.conversation import Conversation

    settings = load_settings()
    checkpoint = find_checkpoint(name, settings, open_store(settings))
    with readable(name):
        conversation = Conversation(
            checkpoint.path, resolve_device(settings.device), system=system, temperature=temperature,
            max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip
    while question := ask():
        reply = conversation.reply(question)
        try:
            for piece in reply:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            reply.close()
        except ValueError as error:  # the conversation has outgrown the context
            print(f"{error}, or start anew", end="", file=sys.stderr)
        print()


def ask() -> str:
    """The next question; empty at the end."""
    try:
        return input("\n> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


__all__ = ["chat_command"]
