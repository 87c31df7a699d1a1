from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch

from adapters_store.blend import BlendKey
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence, StepToken
from server.runners.llm import LlmRunner
from server.runners.loading import LoadedModel
from server.runners.text import TextCodec
from tests.server.runners.conftest import Load
from tests.server.runners.tiny_model import Architecture

BASE, OTHER = BlendKey("base"), BlendKey("other")
PROMPTS = ["the quick", "a rose is a rose 🌹 is", "in", "over the lazy dog the word was naïve", "jumps"]
ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "mistral-sliding", "gpt-neox"]


class Rig:
    """A runner, and what its sequences have answered so far."""

    def __init__(self, loaded: LoadedModel, *, kv_budget_bytes: int = 1 << 24) -> None:
        self.codec = TextCodec(loaded.tokenizer)
        self.runner = LlmRunner(loaded, self.codec, kv_budget_bytes=kv_budget_bytes)
        self.tokens: dict[RequestId, list[int]] = {}
        self.text: dict[RequestId, str] = {}

    def new(self, name: str, prompt: str, sampling: Sampling | None = None) -> NewSequence:
        tokens = self.codec.encode(prompt)
        return NewSequence(id=RequestId(name), prompt_tokens=tokens, sampling=sampling or Sampling(), max_new_tokens=40)

    def prefill(self, *sequences: NewSequence, key: BlendKey = BASE) -> None:
        self._take(self.runner.prefill(key, sequences))

    def decode(self, *names: str, key: BlendKey = BASE, steps: int = 1) -> None:
        for _ in range(steps):
            self._take(self.runner.decode(key, [RequestId(name) for name in names]))

    def answer(self, name: str) -> list[int]:
        return self.tokens[RequestId(name)]

    def _take(self, tokens: Iterable[StepToken]) -> None:
        for token in tokens:
            self.tokens.setdefault(token.id, []).append(token.token)
            self.text[token.id] = self.text.get(token.id, "") + token.text


def alone(loaded: LoadedModel, prompt: str, num_tokens: int, sampling: Sampling | None = None) -> list[int]:
    rig = Rig(loaded)
    rig.prefill(rig.new("x", prompt, sampling))
    rig.decode("x", steps=num_tokens - 1)
    return rig.answer("x")


def generated(loaded: LoadedModel, prompt: str, num_tokens: int) -> list[int]:
    """What transformers' own greedy search gives, passing over the end of text."""
    tokens = torch.tensor([TextCodec(loaded.tokenizer).encode(prompt)])
    output = loaded.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(output[0, tokens.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_transformers(load: Load, architecture: Architecture) -> None:
    loaded = load(architecture)
    for prompt in PROMPTS[:3]:
        assert alone(loaded, prompt, 16) == generated(loaded, prompt, 16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_of_a_batch_answers_as_the_same_request_alone(load: Load, architecture: Architecture) -> None:
    """Rows come and go at every step; prompts differ in length."""
    loaded = load(architecture)
    rig = Rig(loaded)
    sequences = {str(i): rig.new(str(i), prompt) for i, prompt in enumerate(PROMPTS)}
    rig.prefill(sequences["0"], sequences["1"])
    rig.decode("0", "1", steps=3)
    rig.prefill(sequences["2"], sequences["3"])
    rig.decode("0", "1", "2", "3", steps=4)
    rig.runner.drop([RequestId("3"), RequestId("1")])  # the longest leave
    rig.decode("0", "2", steps=2)
    rig.prefill(sequences["4"])
    rig.decode("4", steps=3)  # some rows rest
    rig.decode("2", "0", "4", steps=70)  # past the room that was made at first
    for name, answer in rig.tokens.items():
        assert answer == alone(loaded, PROMPTS[int(name)], len(answer)), name


def test_sampled_rows_answer_as_alone_too(load: Load) -> None:
    loaded = load("llama")
    rig = Rig(loaded)
    wishes = [
        Sampling(temperature=0.8, seed=1),
        Sampling(temperature=1.5, top_p=0.9, seed=2),
        Sampling(temperature=1.0, top_k=5, seed=3),
        Sampling(repetition_penalty=1.3),
        Sampling(),
    ]
    pairs = list(zip(PROMPTS, wishes, strict=True))
    rig.prefill(*(rig.new(str(i), prompt, sampling) for i, (prompt, sampling) in enumerate(pairs)))
    rig.decode(*"01234", steps=11)
    for i, (prompt, sampling) in enumerate(pairs):
        assert rig.answer(str(i)) == alone(loaded, prompt, 12, sampling)


def test_groups_of_two_blends_do_not_mix(load: Load) -> None:
    loaded = load("llama")
    rig = Rig(loaded)
    rig.prefill(rig.new("a", PROMPTS[0]))
    rig.prefill(rig.new("b", PROMPTS[1]), key=OTHER)
    for _ in range(5):
        rig.decode("a")
        rig.decode("b", key=OTHER)
    assert rig.answer("a") == alone(loaded, PROMPTS[0], 6)
    assert rig.answer("b") == alone(loaded, PROMPTS[1], 6)


def test_streamed_text_is_the_decode_of_all_tokens(load: Load) -> None:
    rig = Rig(load("llama"))
    names = [str(seed) for seed in range(8)]
    rig.prefill(*(rig.new(name, "a rose", Sampling(temperature=2.0, seed=int(name))) for name in names))
    rig.decode(*names, steps=30)
    for name in names:
        text = rig.text[RequestId(name)] + rig.runner.finish_text(RequestId(name))
        assert text == rig.codec.decode(rig.answer(name))


def test_the_end_of_text_is_marked_and_shows_nothing(load: Load) -> None:
    loaded = load("llama")
    rig = Rig(loaded)
    seen: Sequence[StepToken] = rig.runner.prefill(BASE, [rig.new("a", PROMPTS[0], Sampling(temperature=50.0, seed=1))])
    found = list(seen)
    for _ in range(3000):
        found += rig.runner.decode(BASE, [RequestId("a")])
        if found[-1].is_eos:
            break
    ends = [token for token in found if token.token in loaded.eos_tokens]
    assert ends
    assert all(token.is_eos and token.text == "" for token in ends)


def test_memory_bounds_what_is_admitted(load: Load) -> None:
    loaded = load("llama")
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, KV heads, head size, fp32
    rig = Rig(loaded, kv_budget_bytes=400 * bytes_per_token)
    new = rig.new("a", "in")
    most = len(new.prompt_tokens) + 40 + 64
    assert rig.runner.max_sequence_tokens == 400 - 64
    assert rig.runner.can_admit([new] * (400 // most))
    assert not rig.runner.can_admit([new] * (400 // most + 1))
    rig.prefill(new)
    assert not rig.runner.can_admit([new] * (400 // most))
    rig.runner.drop([new.id, RequestId("unknown")])
    assert rig.runner.can_admit([new] * (400 // most))
