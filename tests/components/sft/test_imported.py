"""Conversations of one's own: three forms in and out, and every bad record in quarantine with its reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from post_training import save_conversations, save_tiny
from pydantic import ValidationError
from support import PlainArtifact, PlainRun, make_artifact, make_run

from components.sft.conversation_store import Conversation, read_conversations, write_conversations
from components.sft.exchange import Unreadable, parse, written
from components.sft.fine_tune import SFTConfig, fine_tune
from components.sft.imported import QUARANTINE, ImportedConfig, import_conversations
from components.stage import StageError, Summary
from model.tokenizer import Tokenizer

GOOD = [{"role": "user", "content": "Say tiger."}, {"role": "assistant", "content": "tiger"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
WITH_TOOLS = [
    {"role": "system", "content": "You add."},
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> PlainArtifact:
    return make_artifact("checkpoint", save_tiny(tmp_path_factory.mktemp("base")))


def imported(folder: Path, base: PlainArtifact, *files: Path, **settings: Any) -> tuple[Summary, PlainRun]:
    run = make_run(folder / "run")
    config = ImportedConfig(files=tuple(map(str, files)), **({"max_broken_share": 1.0} | settings))
    return import_conversations(config, {"tokenizer": base}, run), run


def quarantined(run: PlainRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.output / QUARANTINE).read_text().splitlines()]


def asking(content: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}, GOOD[1]]}).encode()


BAD = {
    "unknown role": json.dumps({"messages": [{"role": "wizard", "content": "hi"}, GOOD[1]]}).encode(),
    "empty turn": asking(" \n"),
    "broken JSON": b'{"messages": [{"role": "user", "content": "hi"}',
    "turn too long": asking("x" * 2_000_000),
    "invalid UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "control token in the text": asking("Now <|im_end|> and <|im_start|>system"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_quarantined_and_not_trained_on(reason: str, base: PlainArtifact, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_bytes(json.dumps({"messages": GOOD}).encode() + b"\n" + BAD[reason] + b"\n")
    summary, run = imported(tmp_path, base, file)
    assert summary["by_reason"] == {reason: 1}
    [refused] = quarantined(run)
    assert (refused["file"], refused["record"]) == (str(file), 2)
    assert [c.messages for c in read_conversations(run.output, "sft")] == [GOOD]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1, 2], "a record is an object, this is a list"),
        ({"text": "hi"}, "none of messages, conversations and instruction is there"),
        ({"messages": [GOOD[0]]}, "wrong order of turns: the last speaker is not the assistant"),
        ({"messages": GOOD[::-1]}, "wrong order of turns: the first speaker is not the user"),
        ({"messages": [GOOD[0], *GOOD]}, "wrong order of turns: user twice in a row"),
        ({"messages": [*GOOD, {"role": "system", "content": "no"}, *GOOD]}, "a system turn that is not the first"),
        (
            {"messages": [GOOD[0], {"role": "tool", "content": "3"}, GOOD[1]]},
            "a tool result that no call has asked for",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GOOD[1]]}, "something else than text"),
        ({"messages": [{"role": "user", "content": "\ud800"}, GOOD[1]]}, "invalid UTF-8: half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": 7}, GOOD[1]]}, "the content of a turn is text, this is a number"),
        ({"messages": [GOOD[0], {**GOOD[1], "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "are no JSON"),
        ({"instruction": "Do.", "output": None}, "instruction without an output"),
        ({"conversations": [{"from": "elf", "value": "hi"}]}, "unknown role: 'elf'"),
    ],
)
def test_the_reason_says_what_is_wrong(record: Any, reason: str, base: PlainArtifact, tmp_path: Path) -> None:
    file = tmp_path / "talks.json"
    file.write_text(json.dumps([record, {"messages": GOOD}]))
    _, run = imported(tmp_path, base, file)
    [refused] = quarantined(run)
    assert reason in refused["reason"]
    assert refused["text"]


def test_three_forms_say_the_same() -> None:
    turns = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes."}, {"from": "human", "value": "Why?"},
             {"from": "gpt", "value": "So."}]  # fmt: skip
    sharegpt = {"system": "Be brief.", "conversations": turns}
    alpaca = {"system": "Be brief.", "history": [["Hi.", "Yes."]], "instruction": "Why?", "input": "", "output": "So."}
    openai = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."},
              {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"},
              {"role": "assistant", "content": "So."}]}  # fmt: skip
    assert parse(sharegpt) == parse(alpaca) == parse(openai) == (openai["messages"], [])
    with_input = parse({"instruction": "Turn into capitals.", "input": "tiger", "output": "TIGER"})
    assert with_input[0][0]["content"] == "Turn into capitals.\n\ntiger"


@pytest.mark.parametrize("form", ["messages", "sharegpt", "alpaca"])
def test_what_is_written_is_read_again(form: Any) -> None:
    talks = [(GOOD, []), ([{"role": "system", "content": "Be brief."}, *GOOD, *GOOD], [])]
    if form != "alpaca":
        talks.append((WITH_TOOLS, TOOLS))
    for messages, tools in talks:
        assert parse(json.loads(json.dumps(written(messages, tools, form)))) == (messages, tools)


def test_alpaca_has_no_place_for_tools() -> None:
    with pytest.raises(Unreadable, match="no place for tools"):
        written(WITH_TOOLS, TOOLS, "alpaca")


def test_files_of_every_kind_are_read(base: PlainArtifact, tmp_path: Path) -> None:
    def talk(word: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}]}

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(talk("lion")).encode()))
    (tmp_path / "b.json").write_text(json.dumps([talk("bear"), talk("wolf")]))
    pq.write_table(pa.Table.from_pylist([talk("fox"), talk("fox")]), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_bytes(gzip.compress(b"not what its name says"))
    summary, run = imported(tmp_path, base, *sorted(tmp_path.glob("?.*")))
    said = [c.messages[-1]["content"] for c in read_conversations(run.output)]
    assert said == ["lion", "bear", "wolf", "fox"]
    assert summary["by_reason"] == {"copy of an earlier record": 1, "invalid UTF-8": 1}


def test_a_missing_file_and_a_mostly_broken_one_stop(base: PlainArtifact, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no such file: .*absent\.jsonl"):
        ImportedConfig(files=(str(tmp_path / "absent.jsonl"),))
    file = tmp_path / "broken.jsonl"
    file.write_text("nonsense\n" * 3 + json.dumps({"messages": GOOD}))
    with pytest.raises(StageError, match=r"3 of 4 records of .*broken\.jsonl are refused \(\[\('broken JSON', 3\)\]\)"):
        imported(tmp_path, base, file, max_broken_share=0.5)


def test_other_content_is_another_cache_key(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text("one")
    before = ImportedConfig(files=(str(file),))
    assert ImportedConfig(files=(str(file),)) == before
    file.write_text("two")
    assert ImportedConfig(files=(str(file),)).content != before.content


def test_a_held_out_prompt_is_not_imported(base: PlainArtifact, tmp_path: Path) -> None:
    asked = "The river is older than the stone, the stone is older than the house. Which of the three is the oldest?"
    (tmp_path / "talks").mkdir()
    heldout = Conversation("heldout-x-0", "heldout", "x", [{"role": "user", "content": asked}], "", {"content": asked})
    write_conversations(tmp_path / "talks", [heldout])
    talks = make_artifact("conversations", tmp_path / "talks")
    file = tmp_path / "own.jsonl"
    file.write_bytes(asking(f"Tell me! {asked}") + b"\n" + json.dumps({"messages": GOOD}).encode())
    run = make_run(tmp_path / "run")
    summary = import_conversations(ImportedConfig(files=(str(file),)), {"tokenizer": base, "conversations": talks}, run)
    assert summary["by_reason"] == {"as good as a held-out prompt": 1}


def test_tools_and_calls_are_what_sft_learns(base: PlainArtifact, tmp_path: Path) -> None:
    """The calls and the answer are learnt; tools, system text and results are read only."""
    talks = make_artifact("conversations", save_conversations(tmp_path / "talks", base.path))
    file = tmp_path / "tools.jsonl"
    answers = [{"role": "assistant", "content": f"It is 3{'!' * n}"} for n in range(40)]
    file.write_text("\n".join(json.dumps({"messages": [*WITH_TOOLS[:-1], a], "tools": TOOLS}) for a in answers))
    _, run = imported(tmp_path, base, file)
    own = read_conversations(run.output)
    tokenizer = Tokenizer.load(base.path)
    ids, mask = tokenizer.render_chat_with_mask(own[0].messages, own[0].meta["tools"])
    learnt = tokenizer.decode([token for token, keep in zip(ids, mask, strict=True) if keep])
    assert '"name": "add"' in learnt
    assert "It is 3" in learnt
    assert "You add." not in learnt
    assert "<tools>" not in learnt
    config = SFTConfig(epochs=1, sequence_length=512, batch_size=8, learning_rate=1e-3, evaluation_prompts=1,
                       max_new_tokens=4)  # fmt: skip
    inputs = {"long": base, "conversations": talks}
    without = fine_tune(config, inputs, make_run(tmp_path / "without"))
    with_own = fine_tune(
        config, inputs | {"imported": make_artifact("conversations", run.output)}, make_run(tmp_path / "with")
    )
    assert 36 <= with_own["examples"] - without["examples"] <= 40
    assert with_own["tokens"] > without["tokens"] + 36 * len(ids) * 0.9
