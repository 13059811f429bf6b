"""One conversation with a checkpoint, its answers streamed as text while the tokens come."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Conversation:
    """Remembers what was said; ``reply`` answers in pieces."""

    def __init__(
        self, checkpoint: Path, device: str, *, system: str = "", temperature: float = 0.0,
        max_new_tokens: int = 256, seed: int = 0,
    ) -> None:  # fmt: skip
        import torch

        from model.checkpoint import load_model
        from model.tokenizer import Tokenizer

        self.model = load_model(checkpoint, device=device).eval()
        self.tokenizer = Tokenizer.load(checkpoint)
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._random = torch.Generator().manual_seed(seed)

    def reply(self, question: str) -> Generator[str, None, None]:
        """The answer's text, piece by piece. An answer that is broken off is remembered as far as it came."""
        self.messages.append({"role": "user", "content": question})
        tokens: list[int] = []
        said = ""
        try:
            for token in self._tokens(self.tokenizer.render_chat(self.messages)):
                tokens.append(token)
                text = self.tokenizer.decode(tokens)
                if not text.endswith("\ufffd"):  # else: a character whose last bytes are still to come
                    piece, said = text[len(said) :], text
                    yield piece
        finally:
            self.messages.append({"role": "assistant", "content": said})

    def _tokens(self, prompt: list[int]) -> Iterator[int]:
        """Tokens up to a stop token or ``max_new_tokens``; the prompt is read once, then one token at a time."""
        import torch

        from model.cache import KVCache

        weight = self.model.output_weight
        cache = KVCache(
            self.model.config, 1, len(prompt) + self.max_new_tokens, dtype=weight.dtype, device=weight.device
        )
        new = torch.tensor([prompt], device=weight.device)
        for _ in range(self.max_new_tokens):
            with torch.inference_mode():
                token = self._choose(self.model.logits(self.model(new, cache=cache)[:, -1]))
            if token in (self.tokenizer.im_end_id, self.tokenizer.eos_id):
                return
            yield token
            new = torch.tensor([[token]], device=weight.device)

    def _choose(self, logits: "Tensor") -> int:
        """(1, V) logits to a token: the likeliest, or one drawn at the temperature."""
        import torch

        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits[0].float().cpu() / self.temperature).softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._random))


__all__ = ["Conversation"]
