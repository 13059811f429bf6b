"""Labels for the quality classifiers: texts with a target in [0, 1], for each dimension.

The bundled judge takes no opinion from anywhere but the corpus itself:

- coherence: documents against themselves with words, sentences or the documents' parts shuffled;
- cleanliness: documents against themselves with page furniture, markup, wrongly decoded text or repetition put in;
- educational: sources that are written to inform (encyclopaedia, science, mathematics, documentation) against sources
  that are written to amuse, chat or sell;
- factual: encyclopaedia, science and news against stories and chatter;
- harmlessness: documents against those that use several words of a small lexicon of violence, drugs, sex and fraud.

The last three contrasts exist in English only; other languages are not judged by them.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.data.documents import Document, is_held_out
from components.data.features import EXCERPT

if TYPE_CHECKING:
    from components.data.quality import QualityConfig
    from components.teacher import Teacher

INFORMING = frozenset({"encyclopedia", "science", "mathematics", "technology", "law"})
AMUSING = frozenset({"entertainment", "conversation", "e-commerce", "web"})
FACTUAL = frozenset({"encyclopedia", "science", "news"})
TELLING = frozenset({"literature", "entertainment", "conversation"})

MEASURED_SHARE = 0.25
"""Share of the labelled documents that no classifier is fitted to: its AUC is measured on them."""

HARMFUL = frozenset(
    """abuse addict arrested assault attack bomb brutal cocaine corpse crack dead deadly death drugs escort explosives
    fatal fraud gambling gore gun guns hate heroin hostage injured kill killed killer killing kills knife massacre
    meth murder murdered naked nude nudity orgy overdose porn poison prostitution racist rape raped scam sex sexual
    shooting shot slaughter slut stab stabbed suicide terror terrorist threat torture victim victims viagra violence
    violent weapon weapons whore xxx casino""".split()  # noqa: SIM905
)
FURNITURE = (
    "Click here to subscribe to our newsletter", "Accept all cookies", "Home | About | Contact | Sitemap",
    "Share on Facebook  Tweet  Pin it", "Log in or sign up to comment", "© All rights reserved. Terms of use",
    "Read more »", "Advertisement", "Skip to main content", "Related posts:", "Enable JavaScript to continue",
    "Add to cart   Buy now", "Next page >>", "点击这里订阅", "版权所有 请勿转载", "上一页 下一页", "登录 注册 首页",
    "Page 1 of 12", "Tags: misc, news, 2015", "Loading... please wait", "ログイン 会員登録",
)  # fmt: skip
MARKUP = (
    '<div class="nav">',
    "</div>",
    "<br/>",
    "&nbsp;",
    '<a href="http://x.example/?id=12">',
    "<script>var a=1;</script>",
)


@dataclass(frozen=True)
class Labelled:
    """A text, the judge's target for it (0 bad, 1 good), and the id of the document that it comes from."""

    text: str
    target: float
    origin: str


def bundled_labels(documents: Sequence[Document], count: int, rng: random.Random) -> dict[str, list[Labelled]]:
    """Up to ``count`` good and ``count`` bad texts for each dimension."""

    chosen = _across_languages(documents, count, rng)

    def corrupted(corrupt: Callable[[Document, random.Random], str]) -> list[Labelled]:
        good = [Labelled(document.text, 1.0, document.id) for document in chosen]
        bad = [Labelled(corrupt(document, rng), 0.0, document.id) for document in chosen]
        return [*good, *(item for item, first in zip(bad, good, strict=True) if item.text != first.text[:EXCERPT])]

    def contrasted(good: Sequence[Document], bad: Sequence[Document]) -> list[Labelled]:
        size = min(count, len(good), len(bad))
        return [
            Labelled(document.text, target, document.id)
            for side, target in ((good, 1.0), (bad, 0.0))
            for document in rng.sample(list(side), size)
        ]

    english = [document for document in documents if document.language == "en"]

    def hinted(hints: frozenset[str]) -> list[Document]:
        return [document for document in english if document.meta.get("domain_hint") in hints]

    harms = [(document, _harm(document.text)) for document in english]
    return {
        "educational": contrasted(hinted(INFORMING), hinted(AMUSING)),
        "coherence": corrupted(lambda document, rng: shuffle(document.text[:EXCERPT], rng)),
        "factual": contrasted(hinted(FACTUAL), hinted(TELLING)),
        "cleanliness": corrupted(
            lambda document, rng: soil(document.text[:EXCERPT], rng, is_held_out(document.id, MEASURED_SHARE))
        ),
        "harmlessness": contrasted([d for d, harm in harms if harm == 0], [d for d, harm in harms if harm >= 3]),
    }


def taught_labels(
    documents: Sequence[Document], config: "QualityConfig", teacher: "Teacher", rng: random.Random
) -> dict[str, list[Labelled]]:
    """Labels of a language model: the expectation of a 1-to-5 rating under its own probabilities, scaled to [0, 1]."""
    chosen = rng.sample(list(documents), min(config.judged_documents, len(documents)))
    labels = {}
    for dimension, rubric in RUBRICS.items():
        prompts = [
            f"Rate the text below for {rubric}\nThe text may be in any language, or source code. Answer with one "
            f"digit from 1 (worst) to 5 (best).\n\n<text>\n{document.text[:EXCERPT]}\n</text>"
            for document in chosen
        ]
        ratings = teacher.score_all(prompts, ("1", "2", "3", "4", "5"))
        labels[dimension] = [
            Labelled(document.text, sum((int(d) - 1) / 4 * p for d, p in rating.items()), document.id)
            for document, rating in zip(chosen, ratings, strict=True)
        ]
    return labels


def _across_languages(documents: Sequence[Document], count: int, rng: random.Random) -> list[Document]:
    """About ``count`` documents; a language gets a part by the square root of its size, so that small ones count."""
    languages: dict[str, list[Document]] = {}
    for document in documents:
        languages.setdefault(document.language, []).append(document)
    total = sum(math.sqrt(len(members)) for members in languages.values())
    chosen: list[Document] = []
    for _, members in sorted(languages.items()):
        part = round(count * math.sqrt(len(members)) / total)
        chosen += rng.sample(members, min(part, len(members)))
    return chosen


RUBRICS = {
    "educational": "educational value: would a learner understand something of lasting use from it?",
    "coherence": "coherence: do its sentences follow from one another and belong to one subject?",
    "factual": "factual density: how many specific, checkable statements does it make for its length?",
    "cleanliness": "cleanliness: is it free of menus, advertisements, markup, wrong characters and repetition?",
    "harmlessness": "harmlessness: is it free of hate, sexual content, fraud and instructions for violence?",
}


def shuffle(text: str, rng: random.Random) -> str:
    """The same words in an order that makes no sense: all of them, sentences, or short runs."""
    sentences = re.split(r"(?<=[.!?。！？\n])", text)
    if len(sentences) >= 5 and rng.random() < 0.4:
        rng.shuffle(sentences)
        return "".join(sentences)
    spaced = " " in text[:200]
    words = text.split(" ") if spaced else list(text)
    run = rng.choice((1, 1, 2, 3))
    runs = [words[start : start + run] for start in range(0, len(words), run)]
    rng.shuffle(runs)
    return (" " if spaced else "").join(word for part in runs for word in part)


def soil(text: str, rng: random.Random, measured: bool = False) -> str:
    """The text as a careless crawler would have stored it. What is measured on gets other lines than what is learnt."""
    kind = rng.choice(("furniture", "markup", "mojibake", "repetition", "furniture"))
    lines = text.split("\n")
    if kind == "mojibake":
        wrong = text.encode("utf-8", "replace").decode("cp1252", "replace")
        return wrong if wrong != text else text.replace(" ", "Â ", 12).replace("'", "â€™")
    if kind == "repetition":
        line = rng.choice([line for line in lines if line.strip()] or [text])[:200]
        return "\n".join([*lines[: len(lines) // 2], *[line] * rng.randrange(3, 8), *lines[len(lines) // 2 :]])
    pool = (FURNITURE if kind == "furniture" else MARKUP)[int(measured) :: 2]
    for _ in range(rng.randrange(3, 9)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(pool))
    return "\n".join(lines)


def _harm(text: str) -> int:
    """How many different words of the lexicon the text uses."""
    return len(HARMFUL.intersection(re.findall(r"[a-z]+", text[:EXCERPT].lower())))
