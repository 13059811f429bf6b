"""What a teacher writes is kept only where its source, its own second answer or the sandbox agrees."""

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError
from support import make_artifact, make_run

from components.data.candidates import ACCEPTED, Candidate
from components.data.documents import new_document, read_documents, write_documents
from components.data.judging import TeacherConfig
from components.data.novelty import Novelty
from components.data.synthetic import SyntheticConfig, synthesize
from components.data.synthetic_taught import verify_problems, verify_programs, verify_textbook

SOURCE = (
    "Lake Orna is a deep lake in the northern hills of the province. It was mapped in 1894 by the surveyor Anton Berg. "
    "The Orna Dam is the oldest dam of the region. Fishing has been the main trade of its villages since 1702. "
) * 3
SECTION = (
    "Think of a body of water among hills: this is Lake Orna, and it goes down a long way. Somebody had to draw the "
    "first map of it, which a surveyor called Anton Berg did in 1894. The people around it have lived by catching fish "
    "from 1702 on. Nearby stands a dam, Orna Dam, and none in that part of the country is older."
)
PROGRAM = 'def double(x: int) -> int:\n    """Twice x."""\n    return 2 * x\n\n'
TESTS = "assert double(1) == 2\nassert double(0) == 0\nassert double(-2) == -4\n"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (SECTION, ACCEPTED),
        (SECTION.replace("1894", "1895"), "number not in the source"),
        (SECTION.replace("Anton Berg", "Karl Lund"), "name not in the source"),
        (SOURCE, "copied"),
        ("A lake is a body of water.", "too short"),
    ],
)
def test_a_passage_says_what_its_source_says_in_other_words(text: str, verdict: str) -> None:
    assert verify_textbook([Candidate(text, "textbook", None, {"source": SOURCE})]) == [verdict]


@pytest.mark.parametrize(
    ("lines", "again", "verdict"),
    [
        (["Problem: Two and two?", "2 + 2 = 4", "Answer: 4"], ["Answer: 4"], ACCEPTED),
        (["Problem: Half a thousand?", "1000 / 2 = 500", "Answer: 500"], ["Answer: 500 apples"], ACCEPTED),
        (["Problem: Two less four?", "2 - 4 = -2", "Answer: -2"], ["Answer: 2"], "answered otherwise when asked again"),
        (["Problem: Two and two?", "2 + 2 = 5", "Answer: 4"], ["Answer: 4"], "wrong step"),
        (["Problem: Two and two?", "2 + 2 = 4", "Four."], ["Answer: 4"], "no answer"),
        (["Two and two?", "2 + 2 = 4", "Answer: 4"], ["Answer: 4"], "no problem and solution"),
    ],
)
def test_a_problem_is_answered_alike_twice(lines: list[str], again: list[str], verdict: str) -> None:
    candidate = Candidate("\n".join(lines), "problem", None, {"lines": lines, "again": again})
    assert verify_problems([candidate]) == [verdict]


def test_a_program_passes_its_own_tests_in_the_sandbox() -> None:
    texts = [PROGRAM + TESTS, PROGRAM + TESTS.replace("== 0", "== 1"), PROGRAM, PROGRAM + TESTS]
    verdicts = verify_programs([Candidate(text, "program", None) for text in texts])
    assert verdicts[0] == verdicts[3] == ACCEPTED
    assert verdicts[1] != ACCEPTED
    assert verdicts[2] == "no function with tests"


def test_a_text_too_much_like_an_earlier_one_is_not_new() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(500)]
    first = rng.choices(words, k=200)
    near = [word if rng.random() > 0.03 else "other" for word in first]
    texts = [" ".join(first), " ".join(near), " ".join(rng.choices(words, k=200))]
    novelty = Novelty(0.6)
    found = []
    for signature in novelty.sign(texts):
        found.append(novelty.is_new(signature))
        if found[-1]:
            novelty.keep(signature)
    assert found == [True, False, True]


def test_a_procedural_writer_writes_no_textbook() -> None:
    with pytest.raises(ValidationError, match="set writer to 'endpoint'"):
        SyntheticConfig(textbook_bytes=1)


def test_settings_that_are_off_are_not_in_the_dump() -> None:
    new = {
        "textbook_bytes", "problem_bytes", "program_bytes", "most_alike", "minimum_mathematics_reward",
        "mathematics_teacher",
    }  # fmt: skip
    assert new.isdisjoint(SyntheticConfig().model_dump())


class Teacher(BaseHTTPRequestHandler):
    """A server that writes well about lakes, solves its own problem, and doubts every third text."""

    asked = 0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][0]["content"]
        type(self).asked += 1
        if "Answer Yes or No" in prompt:
            yes = 0.9 if "apples" in prompt or "lake" in prompt.lower() else 0.2
            tokens = [{"token": "Yes", "logprob": -0.1}] if yes > 0.5 else [{"token": "No", "logprob": -0.1}]
            choice = {"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": tokens}]}}
        else:
            choice = {"message": {"content": self.write(prompt)}}
        body = json.dumps({"choices": [choice], "usage": {"total_tokens": 10}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def write(self, prompt: str) -> str:
        if "<source>" in prompt:
            return SECTION
        count = sum(prompt.encode()) % 90 + 2
        if "<example>" in prompt:
            return f"Problem: Ann has {count} apples and buys {count}. How many?\n{count} + {count} = {2 * count}\n" + (
                f"Answer: {2 * count}"
            )
        if prompt.startswith("Solve the problem") and "apples" in prompt:
            count = int(prompt.partition("has ")[2].split()[0])
            return f"Answer: {2 * count}"
        return "I do not know."

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


def test_the_stage_keeps_what_is_checked_with_its_provenance(tmp_path: Path, endpoint: str) -> None:
    documents = [new_document(f"{SOURCE}{n}", source="test", language="en", domain="encyclopaedia") for n in range(5)]
    write_documents(tmp_path / "corpus", documents)
    config = SyntheticConfig(
        mathematics_bytes=0, code_bytes=0, knowledge_bytes=0, retrieval_bytes=0, recall_bytes=0, writer="endpoint",
        teacher=TeacherConfig(endpoint=endpoint, model="m"), textbook_bytes=10_000, problem_bytes=300,
        minimum_mathematics_reward=0.5, most_alike=0.9,
    )  # fmt: skip
    run = make_run(tmp_path / "run")
    summary = synthesize(config, {"documents": make_artifact("corpus", tmp_path / "corpus")}, run)
    found = list(read_documents(run.output))
    textbook = [document for document in found if document.source == "synthetic-textbook"]
    problems = [document for document in found if document.source == "synthetic-problems"]
    assert len(textbook) == 1  # the others say the same
    assert textbook[0].domain == "synthetic-knowledge"
    assert textbook[0].meta["generator"] == "m"
    assert textbook[0].meta["prompt"].startswith("textbook/")
    assert textbook[0].meta["grounded_in"] in {document.id for document in documents}
    assert summary["kinds"]["textbook"]["verdicts"]["too alike"] == 4
    assert problems
    assert {document.domain for document in problems} == {"synthetic-math"}
    assert all(float(document.meta["mathematics reward"]) > 0.5 for document in problems)
