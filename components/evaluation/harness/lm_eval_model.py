"""Our checkpoints in lm-eval: model ``qwenforge``, and its task files run as they are.

from components.evaluation.harness.lm_eval_model import QwenforgeLM
lm_eval.simple_evaluate(model=QwenforgeLM("folder"), tasks=["arc_easy"])
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from components.evaluation.harness.measure import Settings
from components.evaluation.harness.subject import Advance, Subject
from components.evaluation.items import Items
from components.stage import StageError

PREFIX = "lm-eval:"
"""Before the name of a task that lm-eval brings."""


@register_model("qwenforge")
class QwenforgeLM(TemplateLM):
    """A model folder, or a ``Subject`` that is loaded already. Log-likelihoods of letters that share a context cost
    one reading, and what contexts share is read once."""

    def __init__(
        self, pretrained: Path | str | Subject, device: str = "cpu", max_gen_toks: int = 256, **_: Any
    ) -> None:
        """``_``: what lm-eval's command line passes to every model (batch_size, ...), which the engine decides."""
        super().__init__()
        self.subject = pretrained if isinstance(pretrained, Subject) else Subject(pretrained, device)
        self.ours = self.subject.tokenizer
        self.max_gen_toks = int(max_gen_toks)
        self.advance: Advance = lambda done: None
        names = sorted(self.ours.control, key=len, reverse=True)
        self._control = re.compile("(" + "|".join(map(re.escape, names)) + ")")

    @property
    def eot_token_id(self) -> int:
        return self.ours.eos_id

    @property
    def max_length(self) -> int:
        return self.subject.context

    @property
    def tokenizer_name(self) -> str:
        return "qwenforge"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Names of control tokens become these tokens: lm-eval passes conversations as text."""
        ids: list[int] = []
        for place, part in enumerate(self._control.split(string)):
            ids += [self.ours.control[part]] if place % 2 else self.ours.encode(part)
        return ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.ours.chat.template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Without a generation prompt the last turn is an assistant's beginning, which goes on."""
        ids = self.ours.render_chat(chat_history, add_generation_prompt=add_generation_prompt)
        text = self.ours.decode(ids, skip_control=False)
        return text if add_generation_prompt else text.removesuffix("<|im_end|>\n")

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = self.subject.log_likelihoods(pairs, self.advance)
        for (key, *_tokens), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", key, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return self.subject.rolling([request.args[0] for request in requests], self.advance)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Requests of equal settings together."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(index)
        answers: dict[int, str] = {}
        for members in groups.values():
            options = requests[members[0]].args[1]
            until = options.get("until") or []
            sampled = options.get("do_sample", float(options.get("temperature") or 0.0) > 0)
            written = self.subject.write(
                [self.tok_encode(requests[index].args[0]) for index in members],
                max_new_tokens=int(options.get("max_gen_toks", self.max_gen_toks)),
                until=[until] if isinstance(until, str) else [text for text in until if text],
                temperature=float(options.get("temperature", 1.0)) if sampled else 0.0,
                top_p=float(options.get("top_p", 1.0)), advance=self.advance,
            )  # fmt: skip
            for index, (text,) in zip(members, written, strict=True):
                answers[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return [answers[index] for index in range(len(requests))]


def run_task(subject: Subject, name: str, settings: Settings, advance: Advance = lambda done: None) -> Items:
    """One task of lm-eval (its name, or the path of a task file) on a checkpoint, item by item.

    StageError where there is no such task or its data cannot be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise StageError(f"there is no task file {file}")
        named = re.search(r"^task:\s*['\"]?([^'\"\s]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if named is None:
            raise StageError(f"{file}: names no task (task: NAME)")
        name = named[1]
        manager = TaskManager(include_path=str(file.parent.resolve()), include_defaults=False)
    else:
        manager = TaskManager()
    if name not in manager.all_tasks:
        raise StageError(f"lm-eval has no task {name!r}: lm-eval ls tasks shows them")
    model = QwenforgeLM(subject)
    model.advance = advance
    try:
        found = simple_evaluate(
            model=model, tasks=[name], task_manager=manager, limit=settings.limit, num_fewshot=settings.shots or None,
            apply_chat_template=settings.chat, fewshot_as_multiturn=settings.chat and settings.shots > 0,
            bootstrap_iters=0, log_samples=True, random_seed=settings.seed, numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed, fewshot_random_seed=settings.seed,
        )  # fmt: skip
    except (OSError, ConnectionError, FileNotFoundError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StageError(f"task {name}: its data or code cannot be loaded: {reason}") from error
    items = Items()
    for task, samples in found["samples"].items():
        for sample in samples:
            for metric in sample["metrics"]:
                if isinstance(value := sample[metric], bool | int | float):
                    kept = "" if sample["filter"] == "none" else f"@{sample['filter']}"
                    items.add(f"{task}.{metric}{kept}", "", str(sample["doc_id"]), value)
    return items


def is_lm_eval(name: str) -> bool:
    """Whether a task's name means one of lm-eval's: its prefix, or a task file."""
    return name.startswith(PREFIX) or name.endswith((".yaml", ".yml"))


__all__ = ["PREFIX", "QwenforgeLM", "is_lm_eval", "run_task"]
