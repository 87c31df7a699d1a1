from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from adapters_store.adapter import sha256_digest
from adapters_store.errors import TrainingRefused
from adapters_store.tools.data import Pair, load_examples, load_pairs, prompt_tokens, split_held_out

LETTERS = "abcdefgh <>/\n"
END = len(LETTERS)
TEMPLATE = (
    "{% for message in messages %}<{{ message.role[0] }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    """A token per letter; the roles are a (assistant) and b (bystander)."""
    letters = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate([*LETTERS, "$"])}, "$"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="$", chat_template=TEMPLATE)


def ids(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def lines(path: Path, *objects: object) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in objects) + "\n\n")
    return path


def test_text_is_cut_into_full_sequences_of_which_every_token_is_predicted(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abcdefghab")
    examples = load_examples(path, tokenizer, sequence_length=4)
    assert examples.input_ids.tolist() == examples.labels.tolist() == [ids("abcd"), ids("efgh")]
    assert examples.num_predicted == 6
    assert examples.digest == sha256_digest(b"abcdefghab")


def test_only_the_completion_and_the_end_are_predicted(tokenizer: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "ab", "completion": "cde"}, {"prompt": "", "completion": "f"})
    examples = load_examples(path, tokenizer, sequence_length=9)
    assert examples.input_ids.tolist() == [[*ids("abcde"), END], [*ids("f"), *[END] * 5]]
    assert examples.labels.tolist() == [[-100, -100, *ids("cde"), END], [*ids("f"), END, *[-100] * 4]]
    assert examples.num_predicted == 5


def test_of_a_conversation_every_turn_of_the_assistant_is_predicted(tokenizer: Any, tmp_path: Path) -> None:
    roles = ["bystander", "assistant", "bystander", "assistant"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, ["a", "cd", "e", "g"], strict=True)]
    path = lines(tmp_path / "a.jsonl", {"messages": messages})
    examples = load_examples(path, tokenizer, sequence_length=64)
    assert "".join(LETTERS[token] for token in examples.input_ids[0]) == "<b>a</><a>cd</><b>e</><a>g</>"
    predicted = [LETTERS[label] if label >= 0 else "-" for label in examples.labels[0].tolist()]
    assert "".join(predicted) == "----------cd</>----------g</>"
    assert load_pairs(path, tokenizer) == [Pair(prompt="<b>a</><a>cd</><b>e</><a>", completion="g</>")]


def test_a_conversation_may_be_about_prompts_and_a_prompt_about_messages(tokenizer: Any, tmp_path: Path) -> None:
    words = {"prompt": "messages", "completion": "messages"}
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    turns = [{"role": "bystander", "content": "prompt"}, {"role": "assistant", "content": "messages"}]
    path = lines(tmp_path / "a.jsonl", words, {"messages": turns})
    assert load_pairs(path, tokenizer) == [
        Pair(prompt="messages", completion="messages"),
        Pair(prompt="prompt", completion="messages"),
    ]


def test_a_mark_before_the_text_is_no_text(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a", "completion": "b"}\r\n' * 2)
    assert load_pairs(path, tokenizer) == [Pair(prompt="a", completion="b")] * 2
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabcd")
    assert load_examples(tmp_path / "a.txt", tokenizer, sequence_length=4).input_ids.tolist() == [ids("abcd")]


def test_pairs_are_the_lines_as_they_stand(tokenizer: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "ab", "completion": "cde"})
    assert load_pairs(path, tokenizer) == [Pair(prompt="ab", completion="cde")]
    text = tmp_path / "a.txt"
    text.write_text("ab")
    with pytest.raises(TrainingRefused, match=r"prompts and completions \(\*.jsonl\), got a.txt"):
        load_pairs(text, tokenizer)


def begun(tokenizer: Any) -> Any:
    """The same, with < before every text and > after it."""
    tokenizer.bos_token, tokenizer.eos_token = "<", ">"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="< $A >", special_tokens=[(letter, LETTERS.index(letter)) for letter in "<>"]
    )
    return tokenizer


def test_every_sequence_begins_as_the_server_begins_a_prompt(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = begun(tokenizer)
    path = tmp_path / "a.txt"
    path.write_text("abcdef")
    assert load_examples(path, tokenizer, sequence_length=4).input_ids.tolist() == [ids("<abc"), ids("<def")]
    pairs = lines(tmp_path / "a.jsonl", {"prompt": "ab", "completion": "c"}, {"prompt": "", "completion": "c"})
    examples = load_examples(pairs, tokenizer, sequence_length=8)
    assert examples.input_ids.tolist() == [ids("<abc>"), ids("<c>>>")]
    assert examples.labels.tolist() == [[-100, -100, -100, *ids("c>")], [-100, *ids("c>"), -100, -100]]
    assert prompt_tokens(tokenizer, "ab") == ids("<ab")
    assert prompt_tokens(tokenizer, "<ab") == ids("<ab")  # of a chat template that writes it


def test_the_two_parts_of_a_split_are_all_examples_and_none_twice(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(LETTERS[number % 8] for number in range(30)))
    examples = load_examples(path, tokenizer, sequence_length=2)
    examples.input_ids = torch.arange(15).unsqueeze(1)
    train, held_out = split_held_out(examples, 0.2)
    assert held_out.input_ids.flatten().tolist() == [2, 7, 12]
    assert sorted([*train.input_ids.flatten().tolist(), *held_out.input_ids.flatten().tolist()]) == list(range(15))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', r'\{"prompt", "completion"\} .*got line 2: completion: Field required'),
        ('{"prompt": "a", "completion": 3}', "line 2: completion: Input should be a valid string"),
        ('{"prompt": "a", "completion": "b", "extra": 1}', "line 2: extra: Extra inputs"),
        ('{"prompt": "a"', "line 2: the line: Invalid JSON"),
        ("[]", "line 2: the line: "),
        ('{"prompt": "abcd", "completion": "abcd"}', "at most 8 tokens a line .* got line 2: 9 tokens"),
        ('{"prompt": "a", "completion": ""}', None),
        ('{"messages": []}', "a last turn of role assistant, got line 2"),
        ('{"messages": [{"role": "bystander", "content": "a"}]}', "a last turn of role assistant, got line 2"),
        ('{"messages": [{"role": "assistant"}]}', r"line 2: messages.0.content: Field required"),
        ('{"messages": [], "prompt": "a"}', "line 2: prompt: Extra inputs"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "a turn before the assistant's first, got line 2: none",
        ),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tokenizer: Any, tmp_path: Path, line: str, message: str | None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    if message is None:
        assert len(load_examples(path, tokenizer, sequence_length=8)) == 2  # the end alone is predicted
        return
    with pytest.raises(TrainingRefused, match=message):
        load_examples(path, tokenizer, sequence_length=8)


def test_a_line_with_nothing_to_predict_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "", "completion": "a"})
    tokenizer.eos_token = None
    with pytest.raises(TrainingRefused, match="something to predict after the prompt, got line 1"):
        load_examples(path, tokenizer, sequence_length=8)


def test_messages_need_a_chat_template_that_takes_them_and_only_grows(tokenizer: Any, tmp_path: Path) -> None:
    turns = [{"role": role, "content": "a"} for role in ("bystander", "assistant", "bystander", "assistant")]
    path = lines(tmp_path / "a.jsonl", {"messages": turns})
    for template, message in [
        (None, "a model whose tokenizer has a chat template"),
        ("{{ raise_exception('no') }}", "messages that the chat template takes, got line 1: no"),
        ("{{ messages | length }}", "only grows from turn to turn, got line 1: turn 1"),
    ]:
        tokenizer.chat_template = template
        with pytest.raises(TrainingRefused, match=message):
            load_examples(path, tokenizer, sequence_length=64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "some text"),
        (b" \n\t", "some text"),
        (b"abc \xff def", "UTF-8, got .* byte 4"),
        (b"abc", "8 tokens or more, got 3 tokens"),
    ],
)
def test_a_text_that_is_none_is_refused(tokenizer: Any, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(TrainingRefused, match=message):
        load_examples(path, tokenizer, sequence_length=8)
