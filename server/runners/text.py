"""Text to tokens, and tokens back to text as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from threading import Lock
from typing import Any

from server.core.errors import RequestRejected

REPLACEMENT = "\ufffd"
MAX_PENDING = 3  # bytes of an unfinished UTF-8 character, each of which may show as one replacement character
CONTEXT_TOKENS = 4  # kept in the window, so that a tokenizer sees what it joins the next token to
WINDOW_TOKENS = 16


class TextCodec:
    """Any thread may call it; a tokenizer serves one at a time (the fast ones forbid concurrent use). Decoding has one
    of its own: the engine must not wait while a long prompt is encoded, which takes a second for a million characters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._decoding_tokenizer = deepcopy(tokenizer)
        self._decoding_lock = Lock()

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Raw text, with the beginning-of-text token if the tokenizer adds one."""
        with self._lock:
            return tuple(self._tokenizer(prompt).input_ids)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Through the model's chat template, ready for the assistant's turn. Raises RequestRejected."""
        if not self._tokenizer.chat_template:
            raise RequestRejected("this base model has no chat template; send a prompt instead", param="messages")
        try:
            with self._lock:
                text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
                return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        except Exception as error:  # templates raise what they like on roles and orders they refuse
            raise RequestRejected(f"the chat template refuses these messages: {error}", param="messages") from error

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens show nothing."""
        with self._decoding_lock:
            text: str = self._decoding_tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return text

    def decoder(self) -> IncrementalDecoder:
        return IncrementalDecoder(self.decode)


class IncrementalDecoder:
    """Gives out text as soon as it is final: never a broken character, and all pieces joined are the full decode."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text that were given out

    def push(self, token: int) -> str:
        """What became final by this token; often empty inside a character of several tokens."""
        self._window.append(token)
        text = self._decode(self._window)
        final = _num_final(text)
        piece = text[self._sent : final]
        self._sent = max(self._sent, final)
        if final == len(text) and len(self._window) >= WINDOW_TOKENS:
            del self._window[:-CONTEXT_TOKENS]
            self._sent = len(self._decode(self._window))
        return piece

    def finish(self) -> str:
        """What was held back; an unfinished character shows as replacement characters."""
        piece = self._decode(self._window)[self._sent :] if self._window else ""
        self._window, self._sent = [], 0
        return piece


def _num_final(text: str) -> int:
    """Characters that no further token can change: all but a short trailing run of replacement characters."""
    pending = 0
    while pending < MAX_PENDING and text.endswith(REPLACEMENT, 0, len(text) - pending):
        pending += 1
    return len(text) - pending
