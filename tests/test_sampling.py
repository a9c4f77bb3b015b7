"""Text from a model directory: its template, its end tokens, and Korean that is never shown by halves."""

import json

import numpy as np
import pytest

from openko import hf_weights, sampling, tokenizers
from openko.errors import InputError
from openko.sampling import Conversation, Sampler, TextStream

GREEDY = {"temperature": 0.0, "max_new_tokens": 8}


def test_a_prompt_is_one_user_turn_and_the_system_turn_is_optional(chat_directory):
    sampler = Sampler(chat_directory)
    plain, with_system = (sampler.answer(["안녕?"], system=s, **GREEDY)[0] for s in (None, "친절하게"))
    ids = sampler.tokenizer.encode_chat([{"role": "user", "content": "안녕?"}])
    expected = sampler.decoder.generate([ids], terminators=sampler.terminators, **GREEDY)[0]
    assert plain.tokens == len(expected) and plain.prompt == "안녕?"
    assert plain.text != with_system.text


def test_a_directory_without_template_or_end_token_is_refused(chat_directory):
    settings = json.loads((chat_directory / "tokenizer_config.json").read_text())
    (chat_directory / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    with pytest.raises(InputError, match="template"):
        Sampler(chat_directory).answer(["안녕?"])
    for name in ("config.json", "generation_config.json"):
        raw = json.loads((chat_directory / name).read_text())
        raw.pop("eos_token_id")
        (chat_directory / name).write_text(json.dumps(raw))
    with pytest.raises(InputError, match="eos_token_id"):
        Sampler(chat_directory)


def test_plain_completion_starts_at_begin_of_text(chat_directory):
    sampler = Sampler(chat_directory)
    ids = [sampler.tokenizer[tokenizers.BEGIN], *sampler.tokenizer.encode("안녕")]
    expected = sampler.decoder.generate([ids], terminators=sampler.terminators, **GREEDY)[0]
    assert sampler.complete(["안녕"], **GREEDY)[0].tokens == len(expected)


TEXTS = ["안녕하세요! 오늘은 꿈을 꾸었어요. ㅋㅋㅋ", "훈민정음 ᄒᆞᆫ글 👩‍👩‍👧 naïve", "값 1000원\n\n  둘", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_shows_whole_syllables_and_all_of_them(text):
    tokenizer = tokenizers.load("llama-3")
    ids, stream = tokenizer.encode(text), TextStream(tokenizer)
    pieces = [stream.push([number]) for number in ids]
    assert "".join(pieces) + stream.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(1 for n in range(1, len(ids)) if tokenizer.decode(ids[:n]).endswith("\ufffd")) == sum(not p for p in pieces[:-1])


def test_bytes_that_are_no_text_come_out_as_in_the_whole():
    tokenizer = tokenizers.load("llama-3")
    ids = [*tokenizer.encode("꿈")[:-1], *tokenizer.encode("끝"), tokenizer.encode("뷁")[0]]
    stream = TextStream(tokenizer)
    assert stream.push(ids) + stream.rest() == tokenizer.decode(ids)


def test_a_reply_is_the_answer_piece_by_piece(chat_directory):
    sampler, shown = Sampler(chat_directory), []
    how = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 40, "seed": 3}
    found = sampler.reply([{"role": "user", "content": "안녕?"}], shown.append, **how)
    assert found == sampler.answer(["안녕?"], **how)[0]
    assert "".join(shown) == found.text and len(shown) > 1


def test_a_conversation_goes_on_from_what_was_said_and_forgets_the_oldest(chat_directory):
    sampler, notes = Sampler(chat_directory), []
    chat = Conversation(sampler, system="친절하게", **GREEDY)
    first = chat.ask("안녕?", lambda _: None, notes.append)
    roles = [m["role"] for m in chat.messages]
    assert roles == ["system", "user", "assistant"] and chat.messages[-1]["content"] == first.text and not notes
    second = chat.ask("또?", lambda _: None, notes.append)
    assert second == sampler.reply(chat.messages[:-1], lambda _: None, **GREEDY)
    long = "안녕하세요 " * ((sampler.config.max_position_embeddings - 60) // len(sampler.tokenizer.encode("안녕하세요 ")))
    chat.ask(long, lambda _: None, notes.append)
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"] and len(notes) == 2
    with pytest.raises(InputError, match="max_position_embeddings"):
        chat.ask(long * 2, lambda _: None, notes.append)
    assert len(chat.messages) == 3  # as before the question that was refused
    chat.clear()
    assert [m["role"] for m in chat.messages] == ["system"]


def test_on_cpu_bf16_weights_are_computed_in_fp32(tmp_path_factory, chat_directory):
    tmp_path = tmp_path_factory.mktemp("bf16")
    config, parameters = hf_weights.load(chat_directory)
    tokenizers.copy_files(chat_directory, tmp_path)
    ends = json.loads((chat_directory / "generation_config.json").read_text())
    hf_weights.save(tmp_path, config, parameters, dtype="bfloat16", carried=ends)
    assert Sampler(tmp_path).decoder.weights["norm"].dtype == np.float32
    assert Sampler(tmp_path, dtype="bfloat16").decoder.weights["norm"].dtype == hf_weights.DTYPES["BF16"]
    assert Sampler(tmp_path, dtype="bfloat16").answer(["안녕?"], **GREEDY)[0].tokens


def test_llama3_s_own_end_tokens_can_be_asked_for(chat_directory):
    sampler = Sampler(chat_directory)
    first = sampler.answer(["안녕?"], **GREEDY)[0]
    free = sampler.decoder.generate([sampler.tokenizer.encode_chat([{"role": "user", "content": "안녕?"}])], terminators=(), **GREEDY)[0]
    stopped = sampler.answer(["안녕?"], **GREEDY, terminators=(free[2],))[0]
    assert stopped.tokens == free.index(free[2]) + 1 and first.stop in ("length", tokenizers.TURN_END, tokenizers.END)
    assert sampler.llama3_terminators == (sampler.tokenizer[tokenizers.END], sampler.tokenizer[tokenizers.TURN_END])


def test_a_model_without_template_is_asked_in_the_form_of_another(tmp_path, chat_directory):
    config, parameters = hf_weights.load(chat_directory)
    base = tmp_path / "base"
    base.mkdir()
    hf_weights.save(base, config, parameters, carried=json.loads((chat_directory / "generation_config.json").read_text()))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Sampler(base)
    assert Sampler(base, form=chat_directory).answer(["안녕?"], **GREEDY) == Sampler(chat_directory).answer(["안녕?"], **GREEDY)


def test_a_tokenizer_larger_than_the_model_is_refused(chat_directory):
    tokenizers.train(["안녕하세요. 무엇을 도와드릴까요? Hello, how can I help you today? " * 3], 310, "other").save(chat_directory)
    with pytest.raises(InputError, match=r"310 ids, but vocab_size in config\.json is 300"):
        Sampler(chat_directory)


def test_what_needs_no_weights_is_refused_without_reading_them(chat_directory, monkeypatch):
    monkeypatch.setattr(sampling.decoding, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(InputError, match="top_p"):
        Sampler(chat_directory).answer(["안녕?"], top_p=2.0)
    with pytest.raises(InputError, match="max_position_embeddings"):
        Conversation(Sampler(chat_directory), max_new_tokens=5000).check()
    settings = json.loads((chat_directory / "tokenizer_config.json").read_text())
    (chat_directory / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    with pytest.raises(InputError, match="template"):
        Conversation(Sampler(chat_directory)).check()


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_generation_config_is_named(chat_directory, text):
    (chat_directory / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"generation_config\.json"):
        Sampler(chat_directory)
