"""``qwenforge eval CHECKPOINT --tasks ...``: benchmarks of others on a checkpoint, perhaps beside another one."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.stage import StageError
from flows.checkpoints import find_checkpoint, readable
from flows.errors import UsageError
from flows.terminal import Display, stdout, table
from infra.hardware import resolve_device
from infra.settings import Settings as Place
from infra.settings import load_settings
from infra.store import ArtifactStore, open_store

if TYPE_CHECKING:
    import pandas as pd

    from components.evaluation.harness.measure import Settings


def benchmarks_command(
    name: str, tasks: str, *, against: str = "", output: Path | None = None, chat: bool | None = None,
    folder: Path | None = None, lengths: str = "", **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure ``name``, and ``against`` where given: metrics with intervals, differences with corrected p-values."""
    from components.evaluation.harness.measure import compare

    if folder is not None and not folder.is_dir():
        raise UsageError(f"--data: there is no folder {folder}")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output: {output} is there already, and not an empty folder")
    names = check_tasks(tasks)
    settings["lengths"] = read_lengths(lengths)
    place, display = load_settings(), Display()
    store = open_store(place)
    checkpoints = [name, against] if against else [name]
    for each in checkpoints:  # both are found before either is measured
        find_checkpoint(each, place, store)
    frames, results = [], []
    with display.live():
        for each in checkpoints:
            frame, result = run_tasks(each, names, place, store, display, chat=chat, folder=folder, **settings)
            frames.append(frame)
            results.append(result)
    found: dict[str, Any] = {**results[0]}
    if against:
        found["against"] = results[1]
        found["differences"] = compare(frames[0], frames[1], settings.get("seed", 0))
    if output is not None:
        write(output, frames[0], found)
    for result in results:
        del result["answers"]
    found.pop("answers", None)
    return found


def check_tasks(tasks: str) -> list[str]:
    """The names between the commas; UsageError for one that is not known."""
    from components.evaluation.harness.tasks import GROUPS, TASKS

    named = [name.strip() for name in tasks.split(",") if name.strip()]
    names = list(dict.fromkeys(task for name in named for task in GROUPS.get(name, (name,))))
    for name in names:
        if name not in TASKS and not name.startswith("lm-eval:") and not name.endswith((".yaml", ".yml")):
            known = ", ".join([*TASKS, *GROUPS])
            raise UsageError(f"no task {name!r}; there are {known}, lm-eval:NAME and task files of lm-eval")
    if not names:
        raise UsageError("--tasks names no task")
    return names


def read_lengths(text: str) -> tuple[int, ...]:
    """Tokens between the commas, in order; UsageError for what is no number of them."""
    parts = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < 64]:
        raise UsageError(f"--lengths: {wrong[0]!r} is no number of tokens from 64 on, such as 1024,4096")
    return tuple(sorted({int(part) for part in parts}))


def run_tasks(
    name: str, tasks: Iterable[str], place: Place, store: ArtifactStore, display: Display, *, chat: bool | None = None,
    **settings: Any,
) -> "tuple[pd.DataFrame, dict[str, Any]]":  # fmt: skip
    """Items of all tasks on one checkpoint, and their summary. UsageError where a task cannot be asked."""
    import pandas as pd

    from components.evaluation.harness.contamination import report
    from components.evaluation.harness.measure import Settings, summary
    from components.evaluation.harness.passkey import grid
    from components.evaluation.harness.subject import Subject

    checkpoint = find_checkpoint(name, place, store)
    with readable(name):
        subject = Subject(checkpoint.path, resolve_device(place.device))
    if chat and not subject.tokenizer.has_conversations:
        raise UsageError(f"{name}: --chat needs a conversation template that this checkpoint does not have")
    use = Settings(chat=subject.tokenizer.has_conversations if chat is None else chat, **settings)
    frames, ran = [], {}
    answers: dict[str, Any] = {}
    for task in tasks:
        begin = time.perf_counter()
        try:
            frame, said, truncated = run_one(subject, task, use, display)
        except StageError as error:
            raise UsageError(str(error)) from error
        seconds = time.perf_counter() - begin
        count = frame["item"].nunique()
        frames.append(frame)
        answers[task] = said
        ran[task] = {
            "questions": count, "seconds": round(seconds, 2), "questions_per_second": round(count / seconds, 3),
            "truncated": truncated,
        }  # fmt: skip
    items = pd.concat(frames, ignore_index=True)
    overlaps = known_overlaps(store, checkpoint.digest, ran) if use.folder is None else {}
    return items, {
        "checkpoint": name, "digest": checkpoint.digest, "chat": use.chat, "shots": use.shots, "samples": use.samples,
        "temperature": use.temperature, "seed": use.seed, "limit": use.limit, "tasks": ran,
        "metrics": summary(items, use.seed), "answers": answers, "passkey": grid(items),
        "contamination": report(items, overlaps, use.seed),
    }  # fmt: skip


def known_overlaps(store: ArtifactStore, digest: str, tasks: Iterable[str]) -> dict[str, dict[str, int]]:
    """What the decontamination of the checkpoint's own recipe found of the tasks' questions; {} where none is known:
    an imported checkpoint, or a folder."""
    from components.evaluation.harness.contamination import overlapping

    seen: set[str] = set()
    waiting = [digest] if digest else []
    while waiting:
        if (one := waiting.pop()) in seen or not store.exists(one):
            continue
        seen.add(one)
        manifest = store.manifest(one)
        if manifest.stage == "decontaminate":
            return overlapping(store.open(one).path, tasks)
        waiting += manifest.inputs.values()
    return {}


def run_one(subject: Any, task: str, use: "Settings", display: Display) -> "tuple[pd.DataFrame, Any, int]":
    """Items and answers of one task, and how many prompts were cut."""
    from components.evaluation.harness.measure import measure
    from components.evaluation.harness.tasks import TASKS

    sized = task in TASKS and TASKS[task].sized is not None  # its questions are as many for every length
    with display.progress(0 if task not in TASKS or sized else use.limit or 0, task, unit="question") as bar:
        if task in TASKS:
            outcome = measure(subject, TASKS[task], use, bar.advance)
            return outcome.items.frame(), outcome.answers, outcome.truncated
        try:
            from components.evaluation.harness.lm_eval_model import run_task
        except ImportError:
            raise UsageError(f"task {task} is lm-eval's, which is not installed: pip install -e '.[eval]'") from None
        before = subject.truncated
        items = run_task(subject, task.removeprefix("lm-eval:"), use, bar.advance)
        return items.frame(), {}, subject.truncated - before


def write(folder: Path, items: "pd.DataFrame", found: dict[str, Any]) -> None:
    """``items.parquet``, ``answers.json``, the pass keys' heat map, and, last, ``evaluation.json``."""
    from components.evaluation.harness.passkey import NAME, grid, heat_map
    from components.evaluation.items import FILE
    from components.evaluation.report import standalone

    folder.mkdir(parents=True, exist_ok=True)
    items.to_parquet(folder / FILE, index=False)
    if cells := grid(items):
        (folder / f"{NAME}.svg").write_text(standalone(heat_map(cells)), encoding="utf-8")
    rest = {key: value for key, value in found.items() if key not in ("answers", "against")}
    for name, content in (("answers", found["answers"]), ("evaluation", rest)):
        partial = folder / f"{name}.json.partial"
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(folder / f"{name}.json")


def print_benchmarks(found: dict[str, Any]) -> None:
    """A line a metric; under it, where two were measured, the differences."""
    console = stdout()
    how = "conversation" if found["chat"] else "running text"
    console.print(
        f"{found['checkpoint']}: {how}, {found['shots']} examples, {found['samples']} answers at temperature "
        f"{found['temperature']:g}, seed {found['seed']}"
    )
    for task, facts in found["tasks"].items():
        cut = f", {facts['truncated']} prompts cut to the context" if facts["truncated"] else ""
        console.print(f"{task}: {facts['questions']} questions in {facts['seconds']:.1f} s{cut}")
    rows = [
        [name, f"{m['value']:.4g}", f"{m['low']:.4g}", f"{m['high']:.4g}", m["n"]]
        for name, m in found["metrics"].items()
    ]
    headers = {"metric": "left", "value": "right", "low": "right", "high": "right", "questions": "right"}
    console.print(table("95% intervals", headers, rows))
    if cells := found["passkey"]:
        depths = list(next(iter(cells.values())))
        lines = [[depth, *(f"{100 * column[depth]:.0f}" for column in cells.values())] for depth in depths]
        heads = {"": "left"} | {f"{length:,}": "right" for length in cells}
        console.print(table("% of pass keys found, by depth and length (tokens)", heads, lines))
    for task, facts in found["contamination"].items():
        print_contamination(task, facts)
    if "differences" in found:
        print_differences(f"against {found['against']['checkpoint']}", found["differences"])


def print_contamination(task: str, facts: dict[str, Any]) -> None:
    """How many questions training documents held, and the scores with and without them."""
    console = stdout()
    if not facts["overlapping"]:
        console.print(f"{task}: decontamination found none of these {facts['asked']} questions in training documents")
        return
    console.print(
        f"{task}: {facts['overlapping']} of {facts['asked']} questions stood in {facts['documents']} training "
        "documents, which decontamination dropped"
    )
    for name, whole in facts["with"].items():
        rest = facts["without"].get(name)
        clean = f"{rest['value']:.4g} [{rest['low']:.4g}, {rest['high']:.4g}]" if rest else "nothing is left"
        console.print(f"  {name}: {whole['value']:.4g} [{whole['low']:.4g}, {whole['high']:.4g}], without them {clean}")


def print_differences(title: str, differences: list[dict[str, Any]]) -> None:
    """Paired differences and the p-values of being worse."""
    rows = [
        [row["metric"], f"{d['value']:+.4g}", f"{d['low']:+.4g}", f"{d['high']:+.4g}", f"{row['worse_p']:.4f}",
         f"{row['worse_p_holm']:.4f}", d["n"]]
        for row in differences
        for d in (row["difference"],)
    ]  # fmt: skip
    headers = {"metric": "left", "difference": "right", "low": "right", "high": "right", "p worse": "right",
               "Holm": "right", "questions": "right"}  # fmt: skip
    stdout().print(table(title, headers, rows))


__all__ = ["benchmarks_command", "check_tasks", "print_benchmarks", "print_differences", "run_tasks"]
