"""RULER: prompts and scores are lm-eval's own, given the same random numbers; examples fill their length."""

import importlib
import json
import random
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from benchmark_models import CONTEXT, tiny_checkpoint

from components.evaluation.harness.measure import Settings, measure, questions_of, summary
from components.evaluation.harness.ruler import answering, counting, needles, tracking
from components.evaluation.harness.ruler.tasks import RULER
from components.evaluation.harness.subject import Subject
from components.evaluation.harness.task import Question, prompt_tokens
from components.evaluation.harness.tasks import GROUPS, TASKS
from components.stage import StageError

pytest.importorskip("wonderwords")
WORDS = {
    "adjectives": ["brave", "calm", "quiet", "small"], "nouns": ["river", "stone", "window"],
    "adjective": ["brave", "calm"], "noun": [f"noun{n}" for n in range(40)], "verb": ["go", "see"], "verbs": ["go"],
}  # fmt: skip
PROSE = " ".join(f"Sentence number {n} says nothing of any use." for n in range(60)).split()
SQUAD = {
    "data": [
        {"paragraphs": [
            {"context": f"The {thing} of {name} is number {place}.", "qas": [
                {"question": f"What is the {thing} of {name}?", "is_impossible": False,
                 "answers": [{"text": f"number {place}"}, {"text": str(place)}]},
                {"question": "And what is not?", "is_impossible": True, "answers": []},
            ]} for place, thing in enumerate(("capital", "river", "oldest bridge"))
        ]} for name in ("Aland", "Borland", "Celand")
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch):
    """lm-eval's module of a name, with few words, our sentence borders and no downloads."""
    pytest.importorskip("lm_eval")
    wonderwords, nltk = pytest.importorskip("wonderwords"), pytest.importorskip("nltk")
    monkeypatch.setattr(wonderwords, "RandomWord", lambda: type("Words", (), {"_categories": WORDS})())
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    monkeypatch.setattr(nltk, "sent_tokenize", needles.split_sentences)
    needles.word_lists.cache_clear()

    def load(name: str) -> ModuleType:
        module = importlib.import_module(f"lm_eval.tasks.ruler.{name}")
        return importlib.reload(module)

    yield load
    needles.word_lists.cache_clear()


@pytest.mark.parametrize("name", needles.SETTINGS)
def test_needles_are_lm_evals(theirs, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, task = theirs("prepare_niah"), needles.SETTINGS[name]
    adjectives, nouns = WORDS["adjectives"], WORDS["nouns"]
    # They keep a list of all pairs; drawing from two lists is the same, with other random numbers.
    monkeypatch.setattr(module, "generate_random_word", lambda: f"{random.choice(adjectives)}-{random.choice(nouns)}")
    template = (
        "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will "
        "quiz you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for "
        "{query} mentioned in the provided text?"
    )
    haystack = {"repeat": needles.NOISE, "needle": module.NEEDLE, "essay": PROSE} if hasattr(module, "NEEDLE") else {}
    for seed in range(5):
        ours = needles.hide(task, 40, Random(seed), PROSE)
        random.seed(seed)
        text, answers, query = module.generate_input_output(
            40, haystack[task.haystack], type_haystack=task.haystack, num_needle_k=max(task.keys, task.queries),
            type_needle_k=task.key, num_needle_v=task.values, type_needle_v=task.value, template=template,
            num_needle_q=task.queries,
        )  # fmt: skip
        assert (ours.text, list(ours.answers)) == (text, answers)
        assert query in ours.prefix and all(answer in text for answer in answers)


def test_chains_are_lm_evals(theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    module = theirs("vt_utils")
    monkeypatch.setattr(module.np.random, "randint", random.randrange)
    for seed, size in ((0, 3), (1, 12), (2, 30)):
        text, prefix, names = tracking.chain(size, Random(seed), letters=5)
        random.seed(seed)
        expected, answers = module.generate_input_output(size, 1, tracking.HOPS)
        assert f"{text} {prefix}" == expected.rstrip() and names == answers


def test_counted_words_are_lm_evals(theirs) -> None:
    module = theirs("cwe_utils")
    module.WORDS = counting.vocabulary()
    for seed, length, (often, seldom) in ((0, 1024, (6, 1)), (1, 4096, (30, 3))):
        ours = counting.common_words(30, Random(seed), length)
        random.seed(seed)
        module.RNG = random  # theirs draws words and their order from two generators
        context, answers = module.get_example(30, often, seldom)
        assert context in ours.text and list(ours.answers) == answers
        assert ours.prompt.replace("?\n\n", "? ") == module.TEMPLATE.format(context=context, query="")
    module = theirs("fwe_utils")
    for seed in range(3):
        ours = counting.frequent_words(300, Random(seed), 2048)
        random.seed(seed)
        text, answers, _ = module.generate_input_output(
            10**9, lambda text: type("Ids", (), {"input_ids": []})(), num_words=300, vocab_size=2048 // 50
        )
        assert (ours.prompt, list(ours.answers)) == (text, answers)


def test_documents_are_lm_evals(theirs) -> None:
    module = theirs("qa_utils")
    ours = answering.squad(SQUAD)
    module.download_json = lambda url: SQUAD
    rows, documents = module.read_squad()
    assert documents == ours.documents and len(rows) == len(ours.questions) == 9
    for number in range(9):
        for size in (1, 2, 5, 9):
            random.seed(number)
            text, answers = module.generate_input_output(number, size, qas=rows, docs=list(documents))
            found = answering.answer(ours, number, size, Random(number))
            assert (found.text, list(found.answers)) == (text, answers)


def test_answers_are_judged_like_lm_evals(theirs) -> None:
    module = theirs("common_utils")
    example = needles.Example("text", "prefix", ("4567", "Brave-River", "x"))
    question = Question("4096/0", "text", reference=example, length=4096)
    for answer in ("4567 and brave-river", "", "BRAVE-RIVER\x07x 4567", "456 7", " 4567.\n"):
        (score,) = TASKS["niah_single_1"].judge([question], [[answer]])
        expected = module.process_results({"max_length": 4096, "outputs": list(example.answers)}, [answer])
        assert score == expected
    # In question answering one of the spellings is enough (RULER's own metric).
    assert TASKS["ruler_qa_squad"].judge(
        [question],
        [
            ["It is 4567."],
        ],
    ) == [{"4096": 1.0}]


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multikey_3", "ruler_vt", "ruler_fwe"])
def test_lm_eval_writes_the_same_requests(subject: Subject, name: str) -> None:
    """lm-eval's own task settings over our records: the same text before the answer."""
    task_module = pytest.importorskip("lm_eval.api.task")
    from datasets import Dataset

    _, questions = questions_of(TASKS[name], Settings(limit=2, lengths=(2000,)), subject.tokenizer)
    rows = [
        {"input": q.reference.text, "outputs": list(q.reference.answers), "gen_prefix": q.reference.prefix}
        for q in questions
    ]
    config = {
        "output_type": "generate_until", "doc_to_text": "{{input}}", "doc_to_target": "{{outputs}}",
        "gen_prefix": "{{gen_prefix}}", "target_delimiter": " ", "generation_kwargs": {"until": []},
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "dataset_path": "json", "test_split": "test",
        "task": name,
    }  # fmt: skip
    task = task_module.ConfigurableTask(config=config)
    task.build_all_requests()
    assert [instance.args[0] for instance in task.instances] == [question.prompt for question in questions]


def test_examples_fill_their_length(subject: Subject) -> None:
    ours = subject.tokenizer
    for task in RULER:
        if task.name.startswith("ruler_qa"):
            continue
        if needles.SETTINGS.get(task.name, needles.SETTINGS["niah_single_1"]).haystack == "essay":
            continue  # its prose is a package's
        _, questions = questions_of(task, Settings(limit=2, lengths=(3000, 6000)), ours)
        assert [question.id for question in questions] == ["3000/0", "3000/1", "6000/0", "6000/1"]
        for question in questions:
            used = len(ours.encode(question.prompt)) + task.max_new_tokens
            assert 0.8 * question.length < used <= question.length, task.name
            assert all(answer in question.reference.text for answer in question.reference.answers)
        again = questions_of(task, Settings(limit=1, lengths=(3000,)), ours)[1]
        assert again == questions[:1], "the same questions whatever else is asked"


def test_own_essays_and_documents(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "paul_graham_essays.jsonl").write_text(json.dumps({"text": " ".join(PROSE * 20)}))
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(SQUAD))
    settings = Settings(limit=3, lengths=(2000,), folder=tmp_path)
    for name in ("niah_multiquery", "ruler_qa_squad"):
        _, questions = questions_of(TASKS[name], settings, subject.tokenizer)
        assert len(questions) == 3
    assert "Sentence number" in questions_of(TASKS["niah_multiquery"], settings, subject.tokenizer)[1][0].prompt
    with pytest.raises(StageError, match=r"task ruler_qa_hotpot.* needs hotpot_dev_distractor_v1.json"):
        questions_of(TASKS["ruler_qa_hotpot"], settings, subject.tokenizer)
    with pytest.raises(StageError, match="ask for a greater length"):
        questions_of(TASKS["niah_single_1"], Settings(limit=1, lengths=(150,)), subject.tokenizer)


def test_a_model_is_asked_beyond_its_context(subject: Subject) -> None:
    """Nothing is cut although the text is four times as long, and afterwards the model has its own context again."""
    settings = Settings(limit=2, lengths=(4 * CONTEXT,), chat=True, max_new_tokens=4)
    outcome = measure(subject, TASKS["niah_single_1"], settings)
    assert outcome.truncated == 0 and len(outcome.answers) == 2
    assert subject.context == CONTEXT
    metric = f"niah_single_1.{4 * CONTEXT}"
    assert list(summary(outcome.items.frame(), 0)) == [metric]
    form, (question, _) = questions_of(TASKS["niah_single_1"], settings, subject.tokenizer)
    text = subject.tokenizer.decode(prompt_tokens(subject.tokenizer, question, form), skip_control=False)
    assert text.endswith(f"<|im_start|>assistant\n{question.prefix}")


def test_the_group_is_what_needs_no_data() -> None:
    assert len(RULER) == 13 and len(GROUPS["ruler"]) == 11
