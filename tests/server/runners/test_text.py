from __future__ import annotations

from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.tiny_model import tiny_tokenizer
from server.core.errors import RequestRejected
from server.runners.text import REPLACEMENT, TextCodec

CODEC = TextCodec(tiny_tokenizer())
VOCABULARY = len(tiny_tokenizer())


def pieces(tokens: list[int]) -> list[str]:
    decoder = CODEC.decoder()
    return [*(decoder.push(token) for token in tokens), decoder.finish()]


@given(st.text(max_size=60))
def test_pieces_joined_are_the_text_and_none_is_a_broken_character(text: str) -> None:
    tokens = list(CODEC.encode(text))
    got = pieces(tokens)
    assert "".join(got) == CODEC.decode(tokens) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in got)


@given(st.lists(st.integers(0, VOCABULARY - 1), max_size=60))
def test_pieces_joined_are_the_full_decode_for_any_tokens(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == CODEC.decode(tokens)


def test_a_character_of_several_tokens_comes_out_whole_at_its_last_one() -> None:
    tokens = list(CODEC.encode("🐕"))
    assert len(tokens) > 1
    assert pieces(tokens) == [*[""] * (len(tokens) - 1), "🐕", ""]


def test_a_character_cut_off_at_the_end_shows_as_replaced() -> None:
    tokens = list(CODEC.encode("a🐕"))[:-1]
    *_, last = pieces(tokens)
    assert set(last) == {REPLACEMENT}


def test_messages_without_a_chat_template_are_refused() -> None:
    with pytest.raises(RequestRejected, match="chat template"):
        CODEC.encode_chat([{"role": "user", "content": "hello"}])


def test_messages_go_through_the_template_and_its_refusals_come_back() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'odd' %}{{ raise_exception('no odd roles') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    codec = TextCodec(tokenizer)
    tokens = codec.encode_chat([{"role": "user", "content": "hello"}])
    assert codec.decode(tokens) == "user:hello\nassistant:"
    with pytest.raises(RequestRejected, match="no odd roles"):
        codec.encode_chat([{"role": "odd", "content": "hello"}])


def test_decoding_does_not_wait_for_a_long_prompt_to_be_encoded() -> None:
    """It stopped every stream for as long as that took."""
    reached, go_on = Event(), Event()

    class Slow:
        def __deepcopy__(self, memo: object) -> Any:
            return tiny_tokenizer()

        def __call__(self, prompt: str) -> Any:
            reached.set()
            assert go_on.wait(10)
            return tiny_tokenizer()(prompt)

    codec = TextCodec(Slow())
    encoding = Thread(target=codec.encode, args=("a",))
    encoding.start()
    assert reached.wait(10)
    assert codec.decode(CODEC.encode("hello")) == "hello"
    go_on.set()
    encoding.join(10)
