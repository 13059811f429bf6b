"""The pass-key grid: keys stand where their row says, and a place that a model cannot see shows as a hole."""

import json
import re
from pathlib import Path

import pytest
from benchmark_models import CONTEXT, tiny_checkpoint

from components.evaluation.harness import passkey
from components.evaluation.harness.measure import Settings, measure, questions_of
from components.evaluation.harness.subject import Subject
from components.evaluation.harness.tasks import TASKS
from components.stage import StageError

LENGTHS = (2000, 4000)
TASK = TASKS["passkey"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    text = " ".join(f"A sentence with the number {n} of them says nothing else at all." for n in range(900))
    (folder / "paul_graham_essays.jsonl").write_text(json.dumps({"text": text}))
    return folder


class Reader(Subject):
    """Finds every key, but for those in a stretch of ``hidden`` characters' shares of texts over some length: that
    stretch is taken out of what it reads."""

    hidden, above = (0.0, 0.0), 0

    def write(self, prompts, **options):
        answers = []
        for prompt in prompts:
            text = self.tokenizer.decode(list(prompt), skip_control=False)
            if len(prompt) > self.above:
                begin, end = (int(share * len(text)) for share in self.hidden)
                text = text[:begin] + text[end:]
            name = re.findall(r"The pass key of ([a-z ]+) is\s*$", text)[-1]
            found = re.search(rf"The pass key of {name} is (\d+)", text)
            answers.append([f" {found[1]}." if found else " no"])
        return answers


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def test_keys_stand_where_their_row_says(reader: Reader, own: Path) -> None:
    _, questions = questions_of(TASK, Settings(limit=20, lengths=(4000,), folder=own), reader.tokenizer)
    for question in questions:
        asked, context = question.reference
        place = context.index(f"The pass key of {asked.name} is") / len(context)
        assert place == pytest.approx(int(question.group[6:-1]) / 100, abs=0.03)
        assert len(reader.tokenizer.encode(question.prompt)) <= 4000
        assert question.prompt.endswith(f"The pass key of {asked.name} is")
    assert len({question.group for question in questions}) == passkey.DEPTHS
    with pytest.raises(StageError, match="ask for a greater length"):
        questions_of(TASK, Settings(limit=1, lengths=(80,), folder=own), reader.tokenizer)


@pytest.mark.parametrize("chat", [False, True])
def test_a_planted_blind_spot_is_a_hole_in_the_map(reader: Reader, own: Path, chat: bool) -> None:
    settings = Settings(limit=20, lengths=LENGTHS, folder=own, chat=chat)
    reader.hidden, reader.above = (0.4, 0.6), 3000
    cells = passkey.grid(measure(reader, TASK, settings).items.frame())
    assert list(cells) == list(LENGTHS)
    assert set(cells[2000].values()) == {1.0}
    assert list(cells[2000]) == [f"depth {percent}%" for percent in range(5, 100, 10)]
    blind = {depth for depth, share in cells[4000].items() if share < 0.5}
    assert blind == {"depth 45%", "depth 55%"}
    svg = passkey.heat_map(cells)
    assert svg == passkey.heat_map(cells) and ">45%<" in svg.replace(" ", "") and "4,000" in svg
    shares = [int(value) for value in re.findall(r">\s*(\d+)\s*</text>", svg)]
    assert shares.count(0) >= 2 and shares.count(100) >= 18
    reader.hidden = (0.0, 0.0)
    whole = passkey.grid(measure(reader, TASK, settings).items.frame())
    assert {share for column in whole.values() for share in column.values()} == {1.0}


def test_a_real_model_is_asked_beyond_its_context(reader: Reader, own: Path, tmp_path: Path) -> None:
    subject = Subject(tiny_checkpoint(tmp_path / "model"))
    outcome = measure(subject, TASK, Settings(limit=2, lengths=(8 * CONTEXT,), folder=own))
    assert outcome.truncated == 0 and len(outcome.answers) == 2
    assert passkey.grid(outcome.items.frame())[8 * CONTEXT] == {"depth 5%": 0.0, "depth 15%": 0.0}
