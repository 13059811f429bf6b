"""Question answering: the paragraph that answers a question, among as many others as the length takes."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from components.evaluation.harness.ruler.example import Example
from components.stage import StageError

FILES = {"ruler_qa_squad": "dev-v2.0.json", "ruler_qa_hotpot": "hotpot_dev_distractor_v1.json"}
"""As SQuAD 2.0 and HotpotQA are published."""
ORDER = 42
ASK = "Answer the question based on the given documents. Only give me the answer and do not output any other words."


@dataclass(frozen=True)
class Asked:
    """``needed``: documents that hold the answer; ``near``: others of the same article."""

    query: str
    answers: tuple[str, ...]
    needed: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Collection:
    """Questions with the documents that they are asked about."""

    documents: list[str]
    questions: list[Asked]


def answer(collection: Collection, number: int, size: int, rng: Random) -> Example:
    """Question ``number`` behind ``size`` documents, those that it needs among them."""
    asked = collection.questions[number % len(collection.questions)]
    needed, near, documents = list(asked.needed), list(asked.near), collection.documents
    if size >= len(documents):
        chosen = list(range(len(documents)))
    elif size - len(needed) > len(near):
        others = [index for index in range(len(documents)) if index not in {*needed, *near}]
        chosen = needed + near + rng.sample(others, size - len(needed) - len(near))
    else:
        chosen = needed + rng.sample(near, max(0, size - len(needed)))
    Random(ORDER).shuffle(chosen)
    context = "\n\n".join(f"Document {place}:\n{documents[index]}" for place, index in enumerate(chosen, 1))
    text = f"{ASK}\n\nThe following are given documents.\n\n{context}\n\n{ASK}\n\nQuestion: {asked.query}"
    return Example(text, "Answer:", asked.answers)


@cache
def read_collection(task: str, folder: Path | None) -> Collection:
    """The published file in ``folder``. StageError where it is missing or no such file."""
    file = FILES[task]
    if folder is None or not (folder / file).is_file():
        raise StageError(f"task {task} needs {file} in the folder of --data: no package carries it")
    try:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        return squad(content) if task == "ruler_qa_squad" else hotpot(content)
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{folder / file}: not as published: {error!r}") from None


def squad(content: Any) -> Collection:
    """Answerable questions of SQuAD 2.0."""
    articles = [article["paragraphs"] for article in content["data"]]
    documents = sorted({paragraph["context"] for article in articles for paragraph in article})
    index = {document: number for number, document in enumerate(documents)}
    questions = []
    for article in articles:
        of_article = [index[paragraph["context"]] for paragraph in article]
        for paragraph in article:
            here = index[paragraph["context"]]
            near = tuple(number for number in of_article if number != here)
            questions += [
                Asked(row["question"], tuple(found["text"] for found in row["answers"]), (here,), near)
                for row in paragraph["qas"]
                if not row["is_impossible"]
            ]
    return Collection(documents, questions)


def hotpot(content: Any) -> Collection:
    """All questions of HotpotQA's distractor setting, each with its ten documents."""
    texts = [[f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]] for row in content]
    documents = sorted({text for row in texts for text in row})
    index = {document: number for number, document in enumerate(documents)}
    questions = [
        Asked(row["question"], (row["answer"],), tuple(index[text] for text in of_row))
        for row, of_row in zip(content, texts, strict=True)
    ]
    return Collection(documents, questions)


__all__ = ["FILES", "Asked", "Collection", "answer", "hotpot", "read_collection", "squad"]
