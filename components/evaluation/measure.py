"""The measurements of stage ``evaluate``, each of which adds its outcomes to one table of items."""

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from components.evaluation.bits_per_byte import document_bits
from components.evaluation.held_out import held_out_documents
from components.evaluation.items import Items
from components.evaluation.passkey import passkey_outcomes, passkey_problems, sentences
from components.evaluation.statistics import paired_difference
from components.sft.conversation_store import Conversation, read_conversations
from components.sft.sampling import Answer, judge, sample_answers
from components.stage import Inputs, Run, effect
from model.checkpoint import load_model
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from components.evaluation.evaluate import EvaluationConfig

ANSWERS_PER_BATCH = 256
HARDLY_EVER = 0.05
"""Share of greedy answers that end by themselves, below which each prompt is sampled once only."""


class Measurement:
    """One checkpoint under measurement: ``items`` and ``samples`` grow with each method."""

    def __init__(self, config: "EvaluationConfig", inputs: Inputs, run: Run) -> None:
        self.config, self.inputs, self.run = config, inputs, run
        self.folder = inputs["checkpoint"].path
        self.model = load_model(self.folder, device=run.device).eval()
        self.tokenizer = Tokenizer.load(self.folder)
        self.items = Items()
        self.samples: list[dict[str, Any]] = []
        written_with = inputs["tokenizer"].path if "tokenizer" in inputs else None
        self.documents = (
            held_out_documents(inputs["shards"].path, self.folder, config, written_with) if "shards" in inputs else []
        )
        self._by_chance: list[tuple[bool, bool]] = []

    def bits_per_byte(self) -> None:
        """Metric ``bits_per_byte`` by domain, an item a document, weighted by its bytes."""
        eos_id = self.tokenizer.eos_id
        length = self.config.window or self.model.config.max_position_embeddings
        with self.run.progress(len(self.documents), "bits per byte", unit="document") as bar:
            bits = document_bits(self.model, self.documents, eos_id, length=length, advance=bar.advance)
        for document, spent in zip(self.documents, bits, strict=True):
            self.items.add("bits_per_byte", document.domain, document.item, spent, weight=document.bytes)

    def passkey(self) -> None:
        """Metric ``passkey`` by context length."""
        if self.config.passkeys_per_length == 0:
            return
        # Synthetic text has needles of its own: a haystack that holds some more asks an ambiguous question.
        prose = [d for d in self.documents if d.domain != "code" and not d.domain.startswith("synthetic")]
        filler = [
            s
            for document in prose or self.documents
            for s in sentences(self.tokenizer.decode(document.tokens.tolist()))
        ]
        if not filler:
            self.run.info("passkey: no held-out sentences to hide keys in; raise shards.held_out_share")
            return
        problems = passkey_problems(
            self.tokenizer, filler, self.config.passkey_lengths, self.config.passkeys_per_length, self.run.seed
        )
        with self.run.progress(len(problems), "pass keys", unit="key") as bar:
            outcomes = passkey_outcomes(self.model, self.tokenizer, problems, advance=bar.advance)
        for problem, right in zip(problems, outcomes, strict=True):
            self.items.add("passkey", str(problem.length), problem.item, right)

    def tasks(self) -> None:
        """Metrics ``verified_*``, ``format_*``, ``stopped`` by family, greedy and sampled, and the answers' length."""
        if not self.tokenizer.has_conversations:
            self.run.info("tasks: this checkpoint's conversations are not in ChatML; they are left out")
            return
        chosen = _first_of_each_family(
            read_conversations(self.inputs["conversations"], "heldout"), self.config.tasks_per_family
        )
        answers = {"greedy": self._answer(chosen, 0.0, 1)}
        # A base model rambles on to the limit, and an answer without an end has failed: more of them cost the most time
        # of all checkpoints and tell nothing.
        ended = sum(answer.finished for (answer,) in answers["greedy"]) / max(1, len(chosen))
        samples = self.config.samples if ended >= HARDLY_EVER else min(1, self.config.samples)
        if samples:
            answers["sampled"] = self._answer(chosen, self.config.temperature, samples)
        for mode, of_prompts in answers.items():
            for conversation, given in zip(chosen, of_prompts, strict=True):
                for number, answer in enumerate(given):
                    self._judge(conversation, mode, number, answer)
        self._compare_with_chance(chosen, [only for (only,) in answers["greedy"]])
        if samples and "reward" in self.inputs:
            self._reward(chosen, answers["sampled"])
        self._show(chosen, answers)

    def human_eval(self) -> None:
        """Metric ``human_eval``: pass@1 of greedy answers, an item a problem."""
        from components.evaluation.human_eval import ask, human_eval_problems, passes

        if not self.tokenizer.has_conversations:
            return
        problems = human_eval_problems(self.config.human_eval)
        with self.run.progress(len(problems), "HumanEval", unit="problem") as bar:
            answers = sample_answers(
                self.model, self.tokenizer, [ask(problem) for problem in problems], temperature=0.0,
                max_new_tokens=self.config.human_eval_tokens, seed=self.run.seed,
            )  # fmt: skip
            verdicts = passes(problems, [answer.text for (answer,) in answers], bar.advance)
        for problem, passed in zip(problems, verdicts, strict=True):
            self.items.add("human_eval", "python", problem.name, passed)

    def factories(self) -> None:
        """Metric ``factory_greedy`` by factory: its check accepts the greedy answer to a prompt that it held out."""
        from components.sft.factories.build import load
        from components.sft.factories.held_out import reasons

        records = read_conversations(self.inputs["factories"], "heldout")
        names = list(dict.fromkeys(record.task for record in records))
        if not self.tokenizer.has_conversations:
            return
        with self.run.progress(len(records), "the factories' prompts", unit="prompt") as bar:
            for name in names:
                own = [record for record in records if record.task == name]
                longest = max(len(self.tokenizer.encode(record.messages[-1]["content"])) for record in own)
                answers = sample_answers(
                    self.model, self.tokenizer, [record.prompt for record in own], temperature=0.0,
                    max_new_tokens=longest + longest // 4 + 1, seed=self.run.seed,
                )  # fmt: skip
                for record, reason in zip(own, reasons(load(name), own, [a for (a,) in answers]), strict=True):
                    self.items.add("factory_greedy", name, record.id, not reason)
                bar.advance(len(own))

    def benchmarks(self) -> None:
        """Metrics ``ifeval.*`` and ``reasoning.*``, as ``qwenforge eval --tasks`` takes them."""
        from components.evaluation.harness.measure import Settings, measure
        from components.evaluation.harness.subject import Subject
        from components.evaluation.harness.tasks import TASKS

        subject = Subject(self.folder, self.run.device)
        for name, count in self.config.benchmarks.items():
            settings = Settings(
                limit=count, chat=self.tokenizer.has_conversations, max_new_tokens=self.config.benchmark_tokens,
                seed=self.run.seed,
            )  # fmt: skip
            with self.run.progress(count, name, unit="question") as bar:
                self.items.rows += measure(subject, TASKS[name], settings, bar.advance).items.rows

    def effects(self) -> list[dict[str, Any]]:
        """Against what needs no model: a code of equal lengths for all tokens, and answers given to other prompts."""
        found = self._against_a_uniform_code() if self.documents else []
        if self._by_chance:
            own, others = ([float(pair[side]) for pair in self._by_chance] for side in (0, 1))
            gain = paired_difference(own, others, seed=self.run.seed)
            found.append(
                effect(
                    "verified greedy answers over the same answers given to other prompts of the family",
                    sum(own) / len(own), sum(others) / len(others), low=gain.low, high=gain.high,
                )
            )  # fmt: skip
        return found

    def _against_a_uniform_code(self) -> list[dict[str, Any]]:
        sizes = [document.bytes for document in self.documents]
        bits = [row[3] for row in self.items.rows if row[0] == "bits_per_byte"]
        uniform = [len(d.tokens) * math.log2(self.model.config.vocab_size) for d in self.documents]
        gain = paired_difference(bits, uniform, weights=sizes, seed=self.run.seed)
        value = sum(bits) / sum(sizes)
        return [
            effect(
                "bits per byte over a uniform code of the vocabulary", value, value - gain.value,
                unit="bits/byte", better="lower", low=gain.low, high=gain.high,
            )
        ]  # fmt: skip

    def _answer(self, chosen: list[Conversation], temperature: float, samples: int) -> list[list[Answer]]:
        """``samples`` answers to every prompt."""
        answers: list[list[Answer]] = []
        step = max(1, ANSWERS_PER_BATCH // samples)
        with self.run.progress(len(chosen), f"answers at {temperature:g}", unit="prompt") as bar:
            for begin in range(0, len(chosen), step):
                prompts = [conversation.prompt for conversation in chosen[begin : begin + step]]
                answers += sample_answers(
                    self.model, self.tokenizer, prompts, samples=samples, temperature=temperature,
                    max_new_tokens=self.config.max_new_tokens, seed=self.run.seed,
                )  # fmt: skip
                bar.advance(len(prompts))
        return answers

    def _judge(self, conversation: Conversation, mode: str, number: int, answer: Answer) -> None:
        verdict = judge(conversation, answer)
        item = f"{conversation.id}/{number}"
        for metric, score in (
            (f"verified_{mode}", verdict.correct),
            (f"format_{mode}", verdict.format),
            (f"stopped_{mode}", answer.finished),
            (f"answer_tokens_{mode}", len(answer.tokens)),
        ):
            self.items.add(metric, conversation.task, item, score, cluster=conversation.id)

    def _compare_with_chance(self, chosen: list[Conversation], given: list[Answer]) -> None:
        """Judge every greedy answer for its own prompt and for the next prompt of the same family."""
        families: dict[str, list[int]] = defaultdict(list)
        for index, conversation in enumerate(chosen):
            families[conversation.task].append(index)
        for members in families.values():
            for index, other in zip(members, members[1:] + members[:1], strict=True):
                own, swapped = (judge(chosen[place], given[index]).correct for place in (index, other))
                self._by_chance.append((own, swapped))

    def _reward(self, chosen: list[Conversation], answers: list[list[Answer]]) -> None:
        """Metric ``reward``: the reward model's score of the sampled answers."""
        from components.preference.reward_scoring import load_reward_model, score

        reward_model, tokenizer = load_reward_model(self.inputs["reward"].path, self.run.device)
        entries = [
            (c, f"{c.id}/{number}", [*c.prompt, {"role": "assistant", "content": answer.text}])
            for c, given in zip(chosen, answers, strict=True)
            for number, answer in enumerate(given)
        ]
        scores = score(reward_model, tokenizer, [messages for _, _, messages in entries])
        for (conversation, item, _), value in zip(entries, scores, strict=True):
            self.items.add("reward", conversation.task, item, value, cluster=conversation.id)

    def _show(self, chosen: list[Conversation], answers: dict[str, list[list[Answer]]]) -> None:
        """Answers to the same few prompts of every checkpoint, one of each family before a second of any."""
        rank: dict[str, int] = defaultdict(int)
        order = []
        for index, conversation in enumerate(chosen):
            order.append((rank[conversation.task], index))
            rank[conversation.task] += 1
        for _, index in sorted(order)[: self.config.shown_prompts]:
            conversation, greedy = chosen[index], answers["greedy"][index][0]
            verdict = judge(conversation, greedy)
            self.samples.append(
                {
                    "id": conversation.id,
                    "task": conversation.task,
                    "messages": conversation.prompt,
                    "expected": conversation.answer,
                    "response": greedy.text,
                    "correct": verdict.correct,
                    "format": verdict.format,
                }
            )


def _first_of_each_family(conversations: list[Conversation], count: int) -> list[Conversation]:
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for conversation in conversations:
        if taken[conversation.task] < count:
            taken[conversation.task] += 1
            chosen.append(conversation)
    return chosen
