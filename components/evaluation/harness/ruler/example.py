"""What every family makes, and how its size is found."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from components.stage import StageError


@dataclass(frozen=True)
class Example:
    """One item: ``text``, then ``prefix``, which begins the answer; all ``answers`` should follow."""

    text: str
    prefix: str
    answers: tuple[str, ...]
    joint: str = " "
    """Between text and prefix in running text."""

    @property
    def prompt(self) -> str:
        return f"{self.text}{self.joint}{self.prefix}"


Make = Callable[[int, Random], Example]
"""``make(size, rng)``: an example whose length grows with ``size`` (sentences, words, documents)."""


def largest(make: Make, tokens: Callable[[str], int], most: int, sizes: range, seed: str) -> int:
    """The largest size whose example has at most ``most`` tokens, by bisection. StageError where none has."""
    low, high = 0, 1
    fits = [False] * len(sizes)

    def try_one(index: int) -> bool:
        fits[index] = tokens(make(sizes[index], Random(seed)).prompt) <= most
        return fits[index]

    if not try_one(0):
        raise StageError(f"the shortest example has more than {most} tokens: ask for a greater length")
    while high < len(sizes) and try_one(high):  # sizes are tried upwards first: a long text costs time to make
        low, high = high, 2 * high
    high = min(high, len(sizes))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if try_one(middle) else (low, middle)
    return sizes[low]


def fitted(make: Make, tokens: Callable[[str], int], most: int, size: int, sizes: range, seed: str) -> Example:
    """An example of ``size``, or of the greatest smaller one at which this seed's text fits ``most`` tokens."""
    step = max(1, size // 50)
    while True:
        example = make(size, Random(seed))
        if size <= sizes.start or tokens(example.prompt) <= most:
            return example
        size = max(sizes.start, size - step)


__all__ = ["Example", "Make", "fitted", "largest"]
