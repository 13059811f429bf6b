"""Our model in lm-eval against lm-eval's Hugging Face backend on the same folder: equal numbers, equal texts."""

import random
from pathlib import Path

import pytest
from benchmark_models import CONTEXT, WORDS, tiny_checkpoint
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from components.evaluation.harness.lm_eval_model import QwenforgeLM, run_task
from components.evaluation.harness.measure import Settings
from components.stage import StageError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[QwenforgeLM, HFLM]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")
    ours = QwenforgeLM(folder)
    theirs = HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, max_length=CONTEXT,
        prefix_token_id=ours.prefix_token_id,  # texts follow an end-of-text token, as in pre-training
    )  # fmt: skip
    return ours, theirs


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def asked(kind: str, *arguments) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def test_log_likelihoods_are_theirs(models: tuple[QwenforgeLM, HFLM]) -> None:
    """Letters of one context, continuations of several tokens, an empty context, spaces at the seam, one too long."""
    rng = random.Random(0)
    context = text(rng, 12)
    pairs = [(context, f" {letter}") for letter in "ABCD"]
    pairs += [(text(rng, rng.randint(1, 30)), " " + text(rng, rng.randint(1, 9))) for _ in range(20)]
    pairs += [("", "few words"), (context + "  ", "few"), (text(rng, 300), " A"), (text(rng, 300), " few letters and")]
    ours, theirs = (model.loglikelihood(asked("loglikelihood", *pairs)) for model in models)
    for pair, (mine, greedy), (yours, their_greedy) in zip(pairs, ours, theirs, strict=True):
        assert mine == pytest.approx(yours, abs=2e-3), pair
        assert greedy == their_greedy, pair
    # what greedy generation writes is greedy
    (written,) = models[0].generate_until(asked("generate_until", (context, {"until": [], "max_gen_toks": 4})))
    ((_, greedy),) = models[0].loglikelihood(asked("loglikelihood", (context, written)))
    assert greedy == models[1].loglikelihood(asked("loglikelihood", (context, written)))[0][1]


@pytest.mark.parametrize("words", [0, 1, 20, 200, 700])
def test_whole_texts_of_any_length_are_theirs(models: tuple[QwenforgeLM, HFLM], words: int) -> None:
    document = text(random.Random(words), words)
    ours, theirs = (model.loglikelihood_rolling(asked("loglikelihood_rolling", (document,))) for model in models)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-3)


def test_answers_are_theirs(models: tuple[QwenforgeLM, HFLM]) -> None:
    rng = random.Random(1)
    prompts = [text(rng, words) for words in (3, 9, 20, 20, 60)]
    options = {"until": ["few", "\n"], "max_gen_toks": 24, "do_sample": False}
    longer = {"until": [], "max_gen_toks": 40, "do_sample": False, "temperature": 0.0}
    requests = [(prompt, options) for prompt in prompts] + [(prompt, longer) for prompt in prompts]
    ours, theirs = (model.generate_until(asked("generate_until", *requests)) for model in models)
    assert ours == theirs
    assert len(set(ours)) > 5


def test_conversations_are_theirs(models: tuple[QwenforgeLM, HFLM]) -> None:
    talk = [{"role": "user", "content": "few words?"}, {"role": "assistant", "content": "A"}]
    for history, open_end in (
        (talk[:1], True),
        ([*talk, *talk[:1]], True),
        ([{"role": "system", "content": "D"}, *talk], False),
    ):
        ours, theirs = (model.apply_chat_template(history, add_generation_prompt=open_end) for model in models)
        if open_end:
            assert ours == theirs
        assert models[0].tok_encode(theirs) == models[1].tok_encode(theirs)
        assert models[0].tok_encode(ours) == models[1].tok_encode(ours)


def test_a_task_file_of_lm_eval_runs_as_it_is(models: tuple[QwenforgeLM, HFLM], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(f'{{"q": "few words {i}", "options": ["A", "few letters", "D 12"], "right": {i % 3}}}'
                  for i in range(12))
    )  # fmt: skip
    file = tmp_path / "toy.yaml"
    file.write_text(
        f"task: toy_choice\ndataset_path: json\ndataset_kwargs:\n  data_files: {tmp_path}/rows.jsonl\n"
        "  cache_dir: " + str(tmp_path / "cache") + "\n"
        'test_split: train\noutput_type: multiple_choice\ndoc_to_text: "{{q}}\\nAnswer:"\ndoc_to_choice: options\n'
        "doc_to_target: right\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )  # fmt: skip
    items = run_task(models[0].subject, str(file), Settings(limit=10)).frame()
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs = simple_evaluate(models[1], tasks=["toy_choice"], task_manager=manager, limit=10, bootstrap_iters=0)
    for metric in ("acc", "acc_norm"):
        mine = items[items["metric"] == f"toy_choice.{metric}"].sort_values("item", key=lambda column: column.map(int))
        assert list(mine["score"]) == [sample[metric] for sample in theirs["samples"]["toy_choice"]]
    assert 0 < items["score"].mean() < 1


def test_tasks_that_are_not_there_are_one_line(models: tuple[QwenforgeLM, HFLM], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no task 'nothing_like_it'"):
        run_task(models[0].subject, "nothing_like_it", Settings())
    with pytest.raises(StageError, match="there is no task file"):
        run_task(models[0].subject, str(tmp_path / "no.yaml"), Settings())
