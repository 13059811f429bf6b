"""One conversation with a checkpoint, its answers streamed as text while the tokens come."""

from collections.abc import Generator
from pathlib import Path
from typing import Any


class Conversation:
    """Remembers what was said; ``reply`` answers in pieces."""

    def __init__(
        self, checkpoint: Path, device: str, *, system: str = "", temperature: float = 0.0,
        max_new_tokens: int = 256, seed: int = 0,
    ) -> None:  # fmt: skip
        from model.checkpoint import load_model
        from model.generation import Engine
        from model.tokenizer import Tokenizer

        self.tokenizer = Tokenizer.load(checkpoint)
        # one engine for the whole conversation: each turn reads only what is new
        self.engine = Engine(load_model(checkpoint, device=device).eval(), self.tokenizer, max_running=1)
        self.temperature, self.max_new_tokens, self.seed = temperature, max_new_tokens, seed
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []

    def reply(self, question: str) -> Generator[str, None, None]:
        """The answer's text, piece by piece. An answer that is broken off is remembered as far as it came."""
        from model.generation import Request

        messages = [*self.messages, {"role": "user", "content": question}]
        request = Request(
            prompt=self.tokenizer.render_chat(messages), max_new_tokens=self.max_new_tokens,
            temperature=self.temperature, seed=self.seed, stop_ids=(self.tokenizer.im_end_id, self.tokenizer.eos_id),
        )  # fmt: skip
        id = self.engine.add(request)
        self.messages = messages
        said = ""
        try:
            while self.engine.busy:
                for event in self.engine.step():
                    if event.text:
                        said += event.text
                        yield event.text
        finally:
            self.engine.cancel(id)
            self.messages.append({"role": "assistant", "content": said})


__all__ = ["Conversation"]
