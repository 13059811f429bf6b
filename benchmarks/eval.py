"""Hypothesis: item by item our harness says what lm-eval and the benchmarks' owners say, at twice lm-eval's items a
second.

Peer: lm-eval with its Hugging Face backend on the same folder of weights: its tasks where it has them, its model
everywhere. The likeliest choices must be equal on 99% of the questions; verdicts on the same written answers (the
peer's and ours) must be the owners' on all of them. The two take turns in one process, so that a busy machine slows
both. With one thread the clock counts the process's own CPU seconds, with more it is the wall's.

With ``--json`` every turn is kept as soon as it is done: a killed benchmark goes on with the next turn, and tasks that
are measured one by one end up in one file. ``--fresh`` measures again.

    qwenforge bench eval --tasks mmlu --limit 40 --shots 5
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import owners
from benchmarks.eval_results import Kept
from components.evaluation.harness.data import read_rows
from components.evaluation.harness.measure import Outcome, Settings, choose, questions_of
from components.evaluation.harness.subject import Subject
from components.evaluation.harness.task import Form, Question, Task, prompt_tokens
from components.evaluation.harness.tasks import TASKS
from components.serving.pinned import fetch_pinned, read_pinned
from model.conversion import convert, open_source

PINNED = Path(__file__).parents[1] / "recipes" / "checkpoints" / "smollm2-135m.toml"
NAMES = ("mmlu", "human_eval", "ifeval", "bfcl_simple", "reasoning")
EQUAL_PICKS = 0.99


def measure(
    ours: Subject, theirs: Any, task: Task, settings: Settings, *, turns: int, kept: dict[str, Any],
    keep: Callable[[], None],
) -> dict[str, Any]:  # fmt: skip
    """Agreement and speed on one task. ``kept`` holds the turns that are done, by their first question, and grows;
    ``keep`` is called after each."""
    form, questions = questions_of(task, settings)
    requests = their_requests(theirs, task, form, questions, settings)
    size = -(-len(questions) // turns)
    for begin in range(0, len(questions), size):
        if str(begin) in kept:
            continue
        part = questions[begin : begin + size]
        turn: dict[str, Any] = {"seconds": {}}
        for side in ("theirs", "ours") if begin // size % 2 else ("ours", "theirs"):
            now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
            start = now()
            if side == "ours":
                turn[side] = our_answers(ours, task, form, part, settings)
            else:
                turn[side] = their_answers(theirs, task, requests[begin : begin + size])
            turn["seconds"][side] = now() - start
        kept[str(begin)] = turn
        keep()
    done = [kept[str(begin)] for begin in range(0, len(questions), size)]
    seconds = {side: [turn["seconds"][side] for turn in done] for side in ("ours", "theirs")}
    mine, yours = ([answer for turn in done for answer in turn[side]] for side in ("ours", "theirs"))
    result: dict[str, Any] = {
        "task": task.name, "questions": len(questions), "chat": settings.chat, "shots": settings.shots,
        "equal_answers": sum(a == b for a, b in zip(mine, yours, strict=True)),
        "items_per_second": round(len(questions) / sum(seconds["ours"]), 3),
        "their_items_per_second": round(len(questions) / sum(seconds["theirs"]), 3),
        "ratio": round(statistics.median(t / o for o, t in zip(seconds["ours"], seconds["theirs"], strict=True)), 2),
    }  # fmt: skip
    if task.kind == "likelihood":
        result["agrees"] = result["equal_answers"] >= EQUAL_PICKS * len(questions)
    else:
        said = [*yours, *(answer for answer, other in zip(mine, yours, strict=True) if answer != other)]
        asked = [*questions, *(q for q, a, b in zip(questions, mine, yours, strict=True) if a != b)]
        verdicts = our_verdicts(task, asked, said)
        expected = owners_verdicts(task, asked, said, settings.chat)
        result["verdicts"] = len(said)
        result["equal_verdicts"] = sum(a == b for a, b in zip(verdicts, expected, strict=True))
        result["agrees"] = result["equal_verdicts"] == len(said)
    return result


def our_answers(ours: Subject, task: Task, form: Form, questions: Sequence[Question], settings: Settings) -> list[Any]:
    """Numbers of the likeliest choices, or texts."""
    if task.kind == "likelihood":
        outcome = Outcome()
        choose(ours, questions, form, outcome, lambda done: None)
        return [outcome.answers[question.id] for question in questions]
    prompts = [prompt_tokens(ours.tokenizer, question, form) for question in questions]
    limit = settings.max_new_tokens or task.max_new_tokens
    return [text for (text,) in ours.write(prompts, max_new_tokens=limit, until=task.until)]


def their_answers(theirs: Any, task: Task, requests: Sequence[list[Any]]) -> list[Any]:
    """The same from lm-eval's backend; ``requests`` holds the instances of each question."""
    flat = [instance for group in requests for instance in group]
    if task.kind == "generation":
        return theirs.generate_until(flat, disable_tqdm=True)
    values = iter(theirs.loglikelihood(flat, disable_tqdm=True))
    picks = []
    for group in requests:
        found = [next(values)[0] for _ in group]
        picks.append(found.index(max(found)))
    return picks


def their_requests(
    theirs: Any, task: Task, form: Form, questions: Sequence[Question], settings: Settings
) -> list[list[Any]]:
    """lm-eval's instances of each question: made by its own task where it has one, from raw records."""
    from lm_eval.api.instance import Instance

    limit = settings.max_new_tokens or task.max_new_tokens
    writing = {"until": list(task.until), "max_gen_toks": limit, "do_sample": False}
    if task.name in ("mmlu", "human_eval", "ifeval"):
        return lm_eval_task(theirs, task.name, len(form.examples), len(questions), writing, settings.chat)
    contexts = []
    for question in questions:
        if task.name == "reasoning" and not form.examples and form.chat:
            messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.prompt}]
            contexts.append(theirs.apply_chat_template(messages))
        else:  # functions are named in the prompt as Qwen's template does, which other templates leave out
            ids = prompt_tokens(_subject_tokenizer(theirs), question, form)
            contexts.append(_subject_tokenizer(theirs).decode(ids, skip_control=False))
    return [[Instance("generate_until", {}, (context, writing), 0)] for context in contexts]


def _subject_tokenizer(theirs: Any) -> Any:
    from model.tokenizer import Tokenizer

    return Tokenizer.load(theirs.pretrained)


def lm_eval_task(
    theirs: Any, name: str, shots: int, count: int, writing: dict[str, Any], chat: bool
) -> list[list[Any]]:
    """Requests by lm-eval's ``ConfigurableTask`` with the settings of its own task files (mmlu, humaneval,
    humaneval_instruct, ifeval); the data alone comes from the pinned package instead of the hub."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    words = "Write a solution to the following problem and make sure that it passes the tests:"
    code = words + "\n```python\n{{ prompt }}\n```\n"
    config: dict[str, Any] = {
        "mmlu": {"output_type": "multiple_choice", "doc_to_text": "{{question.strip()}}",
                 "doc_to_choice": ["A", "B", "C", "D"], "doc_to_target": "answer"},
        "human_eval": {"output_type": "generate_until", "doc_to_text": code if chat else "{{prompt}}",
                       "doc_to_target": "{{canonical_solution}}", "generation_kwargs": writing}
        | ({"gen_prefix": "Here is the completed function:\n```python\n{{ prompt }}\n"} if chat else {}),
        "ifeval": {"output_type": "generate_until", "doc_to_text": "prompt", "doc_to_target": 0,
                   "generation_kwargs": writing},
    }[name]  # fmt: skip
    source = {"human_eval": "humaneval"}.get(name, name)
    rows = [{key: value for key, value in row.items() if key != "kwargs"} for row in read_rows(source, None)]
    parts = {"shown": Dataset.from_list(rows[: shots or 1]), "asked": Dataset.from_list(rows[shots : shots + count])}
    task = ConfigurableTask(config={
        **config, "task": name, "custom_dataset": lambda **_: parts, "dataset_path": "json", "test_split": "asked",
        "fewshot_split": "shown", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": shots,
    })  # fmt: skip
    task.build_all_requests(
        apply_chat_template=chat, fewshot_as_multiturn=chat, tokenizer_name=theirs.tokenizer_name,
        chat_template=theirs.apply_chat_template if chat else None,
    )  # fmt: skip
    groups: dict[int, list[Any]] = {}
    for instance in task.instances:
        groups.setdefault(instance.doc_id, []).append(instance)
    return [groups[number] for number in sorted(groups)]


def our_verdicts(task: Task, questions: Sequence[Question], answers: Sequence[str]) -> list[Any]:
    assert task.judge is not None
    scores = task.judge(questions, [[answer] for answer in answers])
    if task.name == "ifeval":
        names = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
        return [tuple(score[name] for name in names) for score in scores]
    metric = {"human_eval": "pass@1", "reasoning": "score"}.get(task.name, "acc")
    return [score[metric] for score in scores]


def owners_verdicts(task: Task, questions: Sequence[Question], answers: Sequence[str], chat: bool) -> list[Any]:
    if task.name == "human_eval":
        cut = [answer.split("```")[0] if chat else answer for answer in answers]
        return [float(passed) for passed in owners.human_eval(questions, cut)]
    if task.name == "ifeval":
        found = []
        for question, answer in zip(questions, answers, strict=True):
            row = owners.ifeval(question, answer)
            strict, loose = row["inst_level_strict_acc"], row["inst_level_loose_acc"]
            found.append((float(row["prompt_level_strict_acc"]), float(row["prompt_level_loose_acc"]),
                          sum(strict) / len(strict), sum(loose) / len(loose)))  # fmt: skip
        return found
    judge: Callable[[Question, str], Any] = {"bfcl_simple": owners.bfcl, "reasoning": owners.reasoning}[task.name]
    return [float(judge(question, answer)) for question, answer in zip(questions, answers, strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Print a line a task; exit code 1 where results do not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--model", type=Path, help="model folder; SmolLM2-135M-Instruct from its package by default")
    parser.add_argument("--limit", type=int, default=20, help="questions of each task")
    parser.add_argument("--shots", type=int, default=0, help="examples before each question (mmlu, human_eval)")
    parser.add_argument("--text", action="store_true", help="running text instead of conversations")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of a written answer")
    parser.add_argument("--batch", type=int, default=8, help="the peer's batch size")
    parser.add_argument("--turns", type=int, default=10, help="parts of the questions, in which the two take turns")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="keep the results here, task by task")
    parser.add_argument("--fresh", action="store_true", help="measure again what the file holds already")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    how = {
        "limit": given.limit, "shots": given.shots, "turns": given.turns,
        "max_new_tokens": given.max_new_tokens, "batch": given.batch,
        "threads": torch.get_num_threads(), "text": given.text, "model": str(given.model or "SmolLM2-135M-Instruct"),
    }  # fmt: skip
    kept = Kept(given.json)
    results, names = [], []
    for name in given.tasks:
        if given.fresh or (row := kept.result(name, how)) is None:
            names.append(name)
        else:
            results.append(row)
            print(f"{sentence(row)} (kept)", flush=True)
    if names:
        results += compare_all(names, given, how, kept)
    return 0 if all(result["agrees"] for result in results) else 1


def compare_all(
    names: Sequence[str], given: argparse.Namespace, how: dict[str, Any], kept: Kept
) -> list[dict[str, Any]]:
    """Measure the tasks one after the other, each kept when it is done."""
    from lm_eval.models.huggingface import HFLM

    results = []
    with TemporaryDirectory() as temporary:
        folder = given.model or Path(temporary) / "model"
        if given.model is None:
            convert(open_source(fetch_pinned(read_pinned(PINNED))), folder)
        ours = Subject(folder)
        theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=given.batch)
        for name in names:
            settings = Settings(
                limit=given.limit, shots=given.shots if TASKS[name].has_examples else 0,
                chat=not given.text or TASKS[name].conversations_only, max_new_tokens=given.max_new_tokens,
            )  # fmt: skip
            turns = kept.turns(name, how, fresh=given.fresh)
            count = min(given.turns, given.limit)
            result = measure(ours, theirs, TASKS[name], settings, turns=count, kept=turns, keep=kept.write)
            result |= {"date": datetime.now(UTC).date().isoformat(), "how": how}
            kept.finish(name, result)
            results.append(result)
            print(sentence(result), flush=True)
    return results


def sentence(result: dict[str, Any]) -> str:
    """One task, for people."""
    count = result["questions"]
    kind = "picks" if "verdicts" not in result else "texts"
    verdicts = f", {result['equal_verdicts']}/{result['verdicts']} verdicts the owners'" if "verdicts" in result else ""
    return (
        f"{result['task']}: {result['equal_answers']}/{count} {kind} equal{verdicts}; {result['items_per_second']} "
        f"items/s, lm-eval {result['their_items_per_second']}, ratio {result['ratio']}"
        + ("" if result["agrees"] else "  DISAGREES")
    )


if __name__ == "__main__":
    raise SystemExit(main())
