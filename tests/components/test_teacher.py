import json
import math
from pathlib import Path

import httpx
import pytest

from components.stage import StageError
from components.teacher import CheckpointTeacher, EndpointTeacher, Usage

QUESTION = [{"role": "user", "content": "2 + 2?"}]


class Server:
    """An OpenAI-compatible server in this process; ``failures`` answers first, with these status codes."""

    def __init__(self, *failures: int) -> None:
        self.failures = list(failures)
        self.requests: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append({**json.loads(request.content), "key": request.headers.get("authorization")})
        if self.failures:
            return httpx.Response(self.failures.pop(0), text="busy")
        likely = [{"token": "4", "logprob": math.log(0.6)}, {"token": " 5", "logprob": math.log(0.2)}]
        choice = {"message": {"content": "four"}, "logprobs": {"content": [{"top_logprobs": likely}]}}
        usage = {"total_tokens": 10, "prompt_tokens": 7, "completion_tokens": 3}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})


def teacher(server: Server, cache: Path, budget: int = 1000) -> EndpointTeacher:
    return EndpointTeacher("http://judge/v1", "m", cache, budget, transport=httpx.MockTransport(server))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def test_scores_are_the_probabilities_of_the_choices_alone(tmp_path: Path) -> None:
    assert teacher(Server(), tmp_path).score(QUESTION, ("4", "5", "6")) == pytest.approx({"4": 0.75, "5": 0.25, "6": 0})


def test_a_question_is_asked_once_even_by_another_process(tmp_path: Path) -> None:
    server = Server()
    for _ in range(2):
        assert teacher(server, tmp_path).complete(QUESTION) == "four"
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    server = Server(429, 503)
    assert teacher(server, tmp_path).complete(QUESTION) == "four"
    assert len(server.requests) == 3


def test_a_refusal_is_not_repeated(tmp_path: Path) -> None:
    server = Server(401)
    with pytest.raises(StageError, match="401"):
        teacher(server, tmp_path).complete(QUESTION)
    assert len(server.requests) == 1


def test_a_spent_budget_stops_and_keeps_what_was_answered(tmp_path: Path) -> None:
    asking = teacher(Server(), tmp_path, budget=20)
    asking.complete_all(["a", "b"])
    with pytest.raises(StageError, match="budget_tokens"):
        asking.complete_all(["c"])
    assert asking.complete_all(["a", "b"]) == ["four", "four"]


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = Server()
    teacher(server, tmp_path).complete(QUESTION)
    assert server.requests[0]["key"] == "Bearer secret"
    assert not any("secret" in file.read_text() for file in tmp_path.iterdir())


def test_samples_are_requests_of_their_own_and_all_are_counted(tmp_path: Path) -> None:
    server = Server()
    for _ in range(2):  # the second process finds all answers
        asking = teacher(server, tmp_path)
        answers = asking.sample_all([QUESTION, QUESTION * 2], samples=3, max_tokens=9, temperature=0.7, seed=5)
        assert answers == [["four"] * 3] * 2
        assert asking.usage == Usage(prompt_tokens=6 * 7, answer_tokens=6 * 3)
    assert sorted(request["seed"] for request in server.requests) == [5, 5, 6, 6, 7, 7]
    assert {request["temperature"] for request in server.requests} == {0.7}


def test_a_checkpoint_scores_and_completes(tmp_path: Path) -> None:
    from model.checkpoint import save_model
    from model.config import ModelConfig
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

    tokenizer = Tokenizer.train(["yes no maybe " * 20], 300)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = Transformer(config)
    model.init_weights(0)
    save_model(tmp_path, model, tokenizer)
    local = CheckpointTeacher(tmp_path)
    scores = local.score(QUESTION, ("Yes", "No"))
    assert sum(scores.values()) == pytest.approx(1.0)
    answers = local.complete_all(["a", "b"], max_tokens=4)
    assert len(answers) == 2
    kept = CheckpointTeacher(tmp_path, cache=tmp_path / "kept")
    assert [kept.complete_all(["a", "b"], max_tokens=4) for _ in range(2)] == [answers, answers]
    assert len(list((tmp_path / "kept").iterdir())) == 2
    how = {"samples": 2, "max_tokens": 4, "temperature": 2.0, "seed": 1}
    (first, second), _ = sampled = kept.sample_all([QUESTION, QUESTION * 2], **how)
    assert first != second
    again = CheckpointTeacher(tmp_path, cache=tmp_path / "kept")
    again.engine = None  # it is not asked
    assert again.sample_all([QUESTION, QUESTION * 2], **how) == sampled
    read = sum(2 * len(tokenizer.render_chat(QUESTION * n, add_generation_prompt=True)) for n in (1, 2))
    assert again.usage == kept.usage
    assert again.usage.prompt_tokens == read
    assert 4 <= again.usage.answer_tokens <= 16


def test_a_killed_local_teacher_is_asked_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.teacher.KEPT_AT_ONCE", 1)
    asked: list[str] = []

    def local(answers: int) -> CheckpointTeacher:
        """One of a model that ends its process after so many answers."""
        teacher = CheckpointTeacher.__new__(CheckpointTeacher)
        teacher.cache, teacher._identity = tmp_path, [["config.json", 1, 1]]

        def answer(batch, choices):
            if len(asked) == answers:
                raise KeyboardInterrupt
            asked.append(batch[0][0]["content"])
            return [{"Yes": 0.25, "No": 0.75}]

        teacher._score = answer
        return teacher

    with pytest.raises(KeyboardInterrupt):
        local(2).score_all(["a", "b", "c"], ("Yes", "No"))
    assert local(9).score_all(["a", "b", "c"], ("Yes", "No")) == [{"Yes": 0.25, "No": 0.75}] * 3
    assert asked == ["a", "b", "c"]
    local(9).score_all(["a"], ("Yes", "No", "Perhaps"))
    assert asked == ["a", "b", "c", "a"]  # another question


def test_a_missing_checkpoint_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"teacher\.checkpoint"):
        CheckpointTeacher(tmp_path / "nothing")
