from __future__ import annotations

import random

import pytest
import torch

from adapters_store.blend import BASE, Blend
from loadtest.tiny_model import Architecture
from server.core.requests import RequestId, Sampling
from server.core.steps import StepToken
from server.runners.loading import LoadedModel
from server.runners.text import TextCodec
from tests.server.runners.conftest import Load
from tests.server.runners.rig import BackendName, Rig

PROMPTS = ["the quick", "a rose is a rose 🌹 is", "in", "over the lazy dog the word was naïve", "jumps"]
CASES: list[tuple[Architecture, BackendName]] = [
    ("llama", "paged"),
    ("llama", "rows"),
    ("qwen2", "paged"),
    ("qwen2", "rows"),
    ("mistral-sliding", "rows"),
    ("gemma3", "rows"),
    ("gpt-neox", "rows"),
]
every_case = pytest.mark.parametrize(("architecture", "backend"), CASES)
every_backend = pytest.mark.parametrize("backend", ["paged", "rows"])


def alone(
    loaded: LoadedModel, backend: BackendName, prompt: str, num_tokens: int, sampling: Sampling | None = None
) -> list[int]:
    rig = Rig(loaded, backend)
    rig.begin("x", prompt, sampling=sampling)
    rig.run("x", steps=num_tokens)
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


@every_case
def test_greedy_tokens_are_those_of_transformers(load: Load, architecture: Architecture, backend: BackendName) -> None:
    loaded = load(architecture)
    for prompt in PROMPTS[:3]:
        assert alone(loaded, backend, prompt, 40) == generated(loaded, prompt, 40)


@every_case
def test_a_row_of_a_batch_answers_as_the_same_request_alone(
    load: Load, architecture: Architecture, backend: BackendName
) -> None:
    """Rows come, rest, pause and leave; prompts differ in length and come in chunks."""
    loaded = load(architecture)
    rig = Rig(loaded, backend)
    for name in "01":
        rig.begin(name, PROMPTS[int(name)])
    rig.run("01", steps=4)
    for name in "23":
        rig.begin(name, PROMPTS[int(name)])
    for _ in range(6):
        rig.step("0123", chunk=3)
    rig.runner.drop([RequestId("3"), RequestId("1")])  # the longest leave
    rig.run("02", steps=2)
    rig.begin("4", PROMPTS[4])
    rig.run("4", steps=4)  # some rows rest
    rig.pause("2", "4")
    rig.run("0", steps=2)
    rig.go_on("2")
    rig.go_on("4")
    rig.run("204", steps=70)  # past the room that was made at first
    assert len(rig.answer("0")) > 80
    for name, answer in rig.tokens.items():
        assert answer == alone(loaded, backend, PROMPTS[int(name)], len(answer)), name


@every_case
def test_a_row_of_a_mixed_batch_answers_as_the_same_request_alone_fused(
    load: Load, architecture: Architecture, backend: BackendName
) -> None:
    """Base, single adapters and pairs beside one another, over whatever is in the weights, in fp32: exactly."""
    loaded = load(architecture)
    rig = Rig(loaded, backend)
    blends = [BASE, rig.blend(1), rig.blend(2, scale=0.5), rig.blend(1, 2), BASE]
    for i, prompt in enumerate(PROMPTS):
        rig.begin(str(i), prompt, blends[i])
    draw = random.Random(0)
    for _ in range(40):
        names = draw.sample("01234", draw.randint(1, 5))
        rig.step(names, chunk=draw.randint(1, 20), active=draw.choice(blends))
    rig.execution.restore()
    for i, prompt in enumerate(PROMPTS):
        answer = rig.answer(str(i))
        assert answer == fused_alone(rig, backend, prompt, blends[i], len(answer)), i


def fused_alone(rig: Rig, backend: BackendName, prompt: str, blend: Blend, num_tokens: int) -> list[int]:
    other = Rig(rig.loaded, backend, shelf=rig.shelf)
    other.begin("x", prompt, blend)
    other.run("x", steps=num_tokens, active=blend)
    other.execution.restore()
    return other.answer("x")


@every_backend
def test_sampled_rows_answer_as_alone_too(load: Load, backend: BackendName) -> None:
    loaded = load("llama")
    rig = Rig(loaded, backend)
    wishes = [
        Sampling(temperature=0.8, seed=1),
        Sampling(temperature=1.5, top_p=0.9, seed=2),
        Sampling(temperature=1.0, top_k=5, seed=3),
        Sampling(repetition_penalty=1.3),
        Sampling(),
    ]
    pairs = list(zip(PROMPTS, wishes, strict=True))
    for i, (prompt, sampling) in enumerate(pairs):
        rig.begin(str(i), prompt, sampling=sampling)
    rig.run("01234", steps=6)
    rig.pause(*"0123")  # what was drawn and seen so far is kept
    for name in "0123":
        rig.go_on(name)
    rig.run("01234", steps=6)
    for i, (prompt, sampling) in enumerate(pairs):
        assert rig.answer(str(i)) == alone(loaded, backend, prompt, 12, sampling)


@every_backend
def test_streamed_text_is_the_decode_of_all_tokens(load: Load, backend: BackendName) -> None:
    rig = Rig(load("llama"), backend)
    names = [str(seed) for seed in range(8)]
    for name in names:
        rig.begin(name, "a rose", sampling=Sampling(temperature=2.0, seed=int(name)))
    rig.run(names, steps=31)
    for name in names:
        text = rig.text[RequestId(name)] + rig.runner.finish_text(RequestId(name))
        assert text == rig.codec.decode(rig.answer(name))


def test_the_end_of_text_is_marked_and_shows_nothing(load: Load) -> None:
    loaded = load("llama")
    rig = Rig(loaded)
    rig.begin("a", PROMPTS[0], sampling=Sampling(temperature=50.0, seed=1))
    found: list[StepToken] = []
    while not (found and found[-1].is_eos):
        found += rig.step("a")
        assert len(found) < 3000
    ends = [token for token in found if token.token in loaded.eos_tokens]
    assert ends
    assert all(token.is_eos and token.text == "" for token in ends)


@every_backend
def test_log_probabilities_are_those_of_the_models_own_forward(load: Load, backend: BackendName) -> None:
    loaded = load("llama")
    rig = Rig(loaded, backend)
    rig.begin("a", PROMPTS[0], sampling=Sampling(num_logprobs=3))
    rig.begin("b", PROMPTS[1])
    prompt = rig.codec.encode(PROMPTS[0])
    for _ in range(4):
        tokens = torch.tensor([[*prompt, *rig.answer("a")]])
        expected = loaded.model(tokens).logits[0, -1].log_softmax(0)
        found = {token.id: token for token in rig.step("ab")}
        told = found[RequestId("a")].logprob
        assert told is not None
        assert found[RequestId("b")].logprob is None
        assert told.drawn.token == found[RequestId("a")].token
        assert told.drawn.text == rig.codec.decode([told.drawn.token])
        assert told.drawn.logprob == pytest.approx(float(expected[told.drawn.token]), abs=1e-4)
        assert [each.token for each in told.top] == expected.topk(3).indices.tolist()


def test_padded_rows_are_counted_as_long_as_the_longest_with_room_to_grow(load: Load) -> None:
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, KV heads, head size, fp32
    runner = Rig(load("llama"), kv_budget_bytes=400 * bytes_per_token).runner
    assert runner.max_sequence_tokens == 400 - 64
    assert runner.fits([336])
    assert not runner.fits([337])
    assert runner.fits([36, 1, 1, 36])
    assert not runner.fits([37, 1, 1, 1])
    assert runner.fits([])
