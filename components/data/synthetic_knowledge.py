"""Knowledge and retrieval: questions whose answers stand in a source text that comes with them."""

import random
import re
from collections.abc import Iterator, Sequence

from components.data.candidates import ACCEPTED, Candidate
from components.data.documents import Document
from components.data.retrieval import retrieval_document

_SENTENCE_END = re.compile(r"(?<=[a-z0-9)][.!?]) +(?=[A-Z])")
_DEFINITION = re.compile(r"^((?:The )?[A-Z][\w' .()-]{2,50}?) (is|was|are|were) ((?:an?|the|one of) [^.]{15,200})\.$")
_BLANK = re.compile(r"\b(1[0-9]{3}|20[0-2][0-9]|[A-Z][a-z]{3,}(?: [A-Z][a-z]{3,})?)\b")
_FACT = re.compile(r"The pass key of ([a-z ]+) is (\d{5})")
PASSAGE_CHARACTERS = 500


def sentences_of(text: str) -> list[str]:
    """Sentences of English prose, without line breaks."""
    return [
        sentence.strip()
        for paragraph in text.split("\n")
        for sentence in _SENTENCE_END.split(paragraph)
        if sentence.strip()
    ]


def write(documents: Sequence[Document], error_share: float, rng: random.Random) -> Iterator[Candidate]:
    """A definition or a cloze question for each passage of the documents, some with the answer of another passage."""
    others: list[str] = ["Paris", "1987", "a village"]
    for document in documents:
        for passage, sentences in _passages(document.text):
            asked = _definition(sentences) or _cloze(sentences, rng)
            if asked is None:
                continue
            question, answer, restored = asked
            correct = rng.random() >= error_share
            given = answer if correct else rng.choice(others[-200:])
            others.append(answer)
            text = f"{passage}\n\nQuestion: {question}\nAnswer: {given}"
            evidence = {"passage": passage, "statement": restored.replace("\0", given)}
            yield Candidate(text, "definition" if question.startswith("What") else "cloze", given == answer, evidence)


def verify(candidates: list[Candidate]) -> list[str]:
    """Accepted when the source states it: the sentence with the answer filled in is in the passage, word by word."""
    return [
        ACCEPTED if candidate.evidence["statement"] in candidate.evidence["passage"] else "not in the source"
        for candidate in candidates
    ]


def write_retrieval(
    sentences: Sequence[str], sizes: Sequence[int], error_share: float, rng: random.Random
) -> Iterator[Candidate]:
    """Endless pass-key documents of the sizes (characters) in equal shares of bytes; some answers are another's key."""
    written = dict.fromkeys(sizes, 0)
    while True:
        size = min(written, key=lambda size: (written[size], size))
        pairs = max(2, min(16, size // 170))
        document = retrieval_document(rng, sentences, size, pairs, pairs)
        written[size] += len(document.text)
        text = document.text
        correct = rng.random() >= error_share
        if not correct:
            first, second = document.questions[0], document.questions[1]
            text = text.replace(first.text, f"{first.prompt}{second.answer}.")
        yield Candidate(text, f"{size} characters", correct, {"context": document.context})


def verify_retrieval(candidates: list[Candidate]) -> list[str]:
    """Accepted when every answered key is the one that the context states, exactly once."""
    verdicts = []
    for candidate in candidates:
        context = candidate.evidence["context"]
        stated = _FACT.findall(context)
        answered = _FACT.findall(candidate.text[len(context) :])
        right = len(dict(stated)) == len(stated) and set(answered) <= set(stated)
        verdicts.append(ACCEPTED if right else "not in the source")
    return verdicts


def _passages(text: str) -> Iterator[tuple[str, list[str]]]:
    """Runs of whole sentences of up to ``PASSAGE_CHARACTERS``."""
    run: list[str] = []
    for sentence in sentences_of(text):
        if run and sum(map(len, run)) + len(sentence) > PASSAGE_CHARACTERS:
            yield " ".join(run), run
            run = []
        run.append(sentence)
    if run:
        yield " ".join(run), run


def _definition(sentences: list[str]) -> tuple[str, str, str] | None:
    """Question, answer, and the source's statement with a null character where the answer belongs."""
    for sentence in sentences:
        if match := _DEFINITION.match(sentence):
            subject, verb, rest = match.groups()
            if subject.split()[0] not in {"It", "This", "There", "He", "She", "They", "That", "These", "What"}:
                return f"What {verb} {subject}?", rest, f"{subject} {verb} \0."
    return None


def _cloze(sentences: list[str], rng: random.Random) -> tuple[str, str, str] | None:
    candidates = [sentence for sentence in sentences if 50 <= len(sentence) <= 200]
    for sentence in rng.sample(candidates, len(candidates)):
        matches = [match for match in _BLANK.finditer(sentence) if match.start() > 0]
        if matches:
            match = rng.choice(matches)
            blanked = sentence[: match.start()] + "____" + sentence[match.end() :]
            restored = sentence[: match.start()] + "\0" + sentence[match.end() :]
            return f"Fill in the blank: {blanked}", match.group(), restored
    return None
