"""Streamed answers: the same text as a batch generation, whole characters only, remembered turns."""

import pytest

from components.serving.conversation import Conversation
from model.checkpoint import save_model
from model.config import ModelConfig
from model.generation import generate
from model.tokenizer import Tokenizer
from model.transformer import Transformer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["a few words, and 一些文字 as well. " * 20], vocab_size=320)
    config = ModelConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    save_model(folder, Transformer(config).init_weights(3), tokenizer)
    return folder


def test_pieces_join_to_the_greedy_generation(checkpoint):
    conversation = Conversation(checkpoint, "cpu", system="Be brief.", max_new_tokens=24)
    pieces = list(conversation.reply("Hello?"))

    prompt = conversation.tokenizer.render_chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    )
    stops = (conversation.tokenizer.im_end_id, conversation.tokenizer.eos_id)
    [expected] = generate(conversation.engine, [prompt], max_new_tokens=24, stop_ids=stops)
    text = conversation.tokenizer.decode(expected.tokens)
    assert "".join(pieces) == text[: len("".join(pieces))]
    assert text[len("".join(pieces)) :].strip("\ufffd") == "", "only an unfinished character may be missing"


def test_conversation_remembers_its_turns_even_a_broken_off_one(checkpoint):
    conversation = Conversation(checkpoint, "cpu", temperature=1.0, max_new_tokens=16, seed=5)
    reply = conversation.reply("One?")
    first = next(reply)
    reply.close()
    list(conversation.reply("Two?"))
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert conversation.messages[1]["content"] == first


def test_sampling_is_seeded(checkpoint):
    def answer(seed: int) -> str:
        return "".join(Conversation(checkpoint, "cpu", temperature=1.0, max_new_tokens=16, seed=seed).reply("Hi"))

    assert answer(1) == answer(1) != answer(2)
