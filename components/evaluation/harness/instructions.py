"""IFEval (arXiv 2311.07911): instructions whose following a program can check. Prompts of the owners, checkers as in
lm-eval, which is therefore needed."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from components.evaluation.harness.data import field, read_rows, unpacked
from components.evaluation.harness.task import Question, Scores, Task
from components.stage import StageError

PUNKT_ROOT = "llama_index/core/_static/nltk_cache"


def questions(folder: Path | None) -> list[Question]:
    """The 541 prompts; the group is the family of the first instruction (there may be several)."""
    found = []
    for number, row in enumerate(read_rows("ifeval", folder)):
        where = f"ifeval, record {number + 1}"
        ids = field(row, "instruction_id_list", where)
        if len(ids) != len(field(row, "kwargs", where)):
            raise StageError(f"{where}: {len(ids)} instructions, but settings for {len(row['kwargs'])}")
        family = str(ids[0]).partition(":")[0]
        found.append(Question(str(field(row, "key", where)), str(field(row, "prompt", where)), reference=row,
                              group=family))  # fmt: skip
    return found


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """By prompt: all instructions followed, ``strict`` as written and ``loose`` after dropping what is around the
    answer; and the share of the prompt's instructions that are."""
    score = checkers().process_results
    scores = []
    for question, given in zip(questions, answers, strict=True):
        rows: list[dict[str, Any]] = [score(question.reference, [answer]) for answer in given]
        found: dict[str, float] = {}
        for kind in ("strict", "loose"):
            found[f"prompt_{kind}"] = _mean([float(row[f"prompt_level_{kind}_acc"]) for row in rows])
            found[f"instruction_{kind}"] = _mean([_mean(row[f"inst_level_{kind}_acc"]) for row in rows])
        scores.append(found)
    return scores


@cache
def checkers() -> ModuleType:
    """lm-eval's module, with the sentence model that it would otherwise download and a language detector that says
    the same each time. StageError where a package is missing."""
    try:
        import langdetect
        import nltk
        from lm_eval import tasks as _tasks  # noqa: F401  (says at once whether it is there)
    except ImportError as error:
        raise StageError(
            f"task ifeval needs {error.name or 'lm_eval'}, whose checkers judge it: pip install -e '.[eval]'"
        ) from None
    langdetect.DetectorFactory.seed = 0
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        nltk.data.path.insert(0, str(unpacked("punkt") / PUNKT_ROOT))
    from lm_eval.tasks.ifeval import utils

    return utils


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


IFEVAL = Task("ifeval", "generation", questions, judge, max_new_tokens=1280, has_examples=False)
