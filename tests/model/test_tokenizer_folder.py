"""Tokenizers as folders: the older files, vocabularies of other makers, what is refused."""

import json

import pytest
from transformers import AutoTokenizer

from model.config import ModelFormatError
from model.tokenizer import Tokenizer


def test_a_folder_without_its_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelFormatError, match="not a tokenizer"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_vocabulary_without_turns_renders_no_conversation(tokenizer, tmp_path):
    loaded = reloaded(tokenizer, tmp_path, lambda values: values["added_tokens"].pop(1))
    assert loaded.encode("a cat") == tokenizer.encode("a cat")
    assert loaded.eos_id == loaded.im_end_id - 2 == tokenizer.eos_id
    with pytest.raises(ModelFormatError, match=r"no <\|im_start\|>"):
        loaded.render_chat([{"role": "user", "content": "Hi"}])


def reloaded(tokenizer, folder, change) -> Tokenizer:
    """``tokenizer`` by way of a ``tokenizer.json`` that ``change`` was made to."""
    tokenizer.save(folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return Tokenizer.load(folder)


NAME = "<|endoftext|>"
BEGINNING = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": NAME, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {NAME: {"id": NAME, "ids": [0], "tokens": [NAME]}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["added_tokens"].__delitem__(slice(3)), r"neither <\|endoftext\|> nor <\|im_end\|>"),
        (lambda values: values["added_tokens"].append(values["added_tokens"][-1] | {"id": 360, "content": "  "}),
         "'  ' is ordinary text"),
        (lambda values: values.update(pre_tokenizer=None, decoder=None), "only byte-level BPE"),
        (lambda values: values.update(post_processor=BEGINNING), r"puts <\|endoftext\|> into every text"),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_refused(tokenizer, tmp_path, change, message):
    with pytest.raises(ModelFormatError, match=message):
        reloaded(tokenizer, tmp_path, change)


def test_loads_the_older_pair_of_files(tokenizer, tmp_path):
    tokenizer._backend.model.save(str(tmp_path))
    loaded = Tokenizer.load(tmp_path)
    sample = "The cat sat on 12 mats, naïve 你好"
    assert loaded.control == tokenizer.control
    assert loaded.encode(sample) == tokenizer.encode(sample)
    (tmp_path / "merges.txt").write_text("one two three\n")
    with pytest.raises(ModelFormatError, match=r"vocab\.json"):
        Tokenizer.load(tmp_path)


# ---- chat templates -------------------------------------------------------------------------------------

HI = [{"role": "user", "content": "Hi"}]
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are A.<|im_end|>\n' }}{% endif %}" + PLAIN


@pytest.mark.parametrize(("template", "system"), [(PLAIN, None), (NAMED, "You are A.")])
@pytest.mark.parametrize("place", ["config", "named", "file"])
def test_a_template_of_another_maker_is_followed(tokenizer, template, system, place, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    values = json.loads(path.read_text())
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(template)
    else:
        named = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": template}]
        path.write_text(json.dumps(values | {"chat_template": named if place == "named" else template}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.chat.default_system == system
    auto = AutoTokenizer.from_pretrained(tmp_path)
    for conversation in (HI, [{"role": "system", "content": "S"}, *HI, {"role": "assistant", "content": "Yes"}, *HI]):
        expected = auto.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        assert loaded.render_chat(conversation) == list(expected)
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").chat == loaded.chat


def test_a_template_that_is_not_chatml_renders_nothing_but_text_still_encodes(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("[INST] {{ messages[0].content }} [/INST]")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("a cat") == tokenizer.encode("a cat")
    with pytest.raises(ModelFormatError, match=r"not ChatML: it begins a turn with '\[INST\] Why\? \[/INST\]'"):
        loaded.render_chat(HI)


def test_a_template_is_run_in_a_sandbox(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__base__.__subclasses__() }}")
    with pytest.raises(ModelFormatError, match="its chat template fails: SecurityError"):
        Tokenizer.load(tmp_path).render_chat(HI)


def test_tool_tags_are_text_to_a_vocabulary_without_them(tokenizer, tmp_path):
    loaded = reloaded(tokenizer, tmp_path, lambda values: values["added_tokens"].__delitem__(slice(3, None)))
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    ids, mask = loaded.render_chat_with_mask([*HI, call], tools=[{"name": "add"}])
    text = loaded.decode(ids, skip_control=False)
    assert text == tokenizer.decode(tokenizer.render_chat([*HI, call], False, tools=[{"name": "add"}]), False)
    learned = [token for token, kept in zip(ids, mask, strict=True) if kept]
    assert loaded.decode(learned).startswith("<tool_call>\n")
