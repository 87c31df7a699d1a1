"""A file of examples to train on or to measure with: running text, or JSON lines.

- ``*.jsonl``: an object a line, ``{"prompt": …, "completion": …}`` or ``{"messages": [{"role": …, "content": …}, …]}``;
  only completions and the assistant's turns are predicted. One line is one example, and a line that is too long is
  refused, not cut.
- anything else: UTF-8 text, tokenised once and cut into sequences of one length, every token predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError
from torch import Tensor
from torch.utils.data import Dataset

from adapters_store.adapter import Digest, sha256_digest
from adapters_store.errors import TrainingRefused

NOT_PREDICTED = -100  # the label that torch's cross entropy passes over
JSON_LINES = ".jsonl"
MAX_HELD_OUT = 64  # examples: enough for a figure with two digits, cheap on a CPU


class Examples(Dataset[dict[str, Tensor]]):
    """``input_ids`` and ``labels``, int64 (num_examples, sequence_length); labels are ``NOT_PREDICTED`` at prompts and
    padding, which is on the right. ``digest`` is that of the file."""

    def __init__(self, input_ids: Tensor, labels: Tensor, digest: Digest) -> None:
        self.input_ids = input_ids
        self.labels = labels
        self.digest = digest

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[row], "labels": self.labels[row]}

    def take(self, rows: Tensor) -> Examples:
        """These rows, int64 or bool."""
        return Examples(self.input_ids[rows], self.labels[rows], self.digest)

    def spread(self, num_examples: int) -> Examples:
        """So many of them, or all there are, spread evenly."""
        num_taken = min(num_examples, len(self))
        return self.take(torch.arange(num_taken) * len(self) // num_taken)

    @property
    def num_predicted(self) -> int:
        """Tokens that count in the loss: the first of a sequence never does."""
        return int((self.labels[:, 1:] != NOT_PREDICTED).sum())


def prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    """As the server tokenises a prompt: after the token that begins a text, if the tokenizer has one; once, where a
    chat template has written it already."""
    start = _start_tokens(tokenizer)
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens if tokens[: len(start)] == start else [*start, *tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    prompt: str
    completion: str


def load_examples(path: Path, tokenizer: Any, *, sequence_length: int) -> Examples:
    """Every example of the file. Raises TrainingRefused when it cannot be read, is not what it should be (naming the
    line), or holds nothing to learn from."""
    content, digest = _read(path)
    if path.suffix == JSON_LINES:
        rows = [_tokenize(line, tokenizer, sequence_length) for line in _read_lines(content, tokenizer)]
        input_ids, labels = _pad(rows, tokenizer)
    else:
        input_ids = _cut(content, tokenizer, sequence_length)
        labels = input_ids
    return Examples(input_ids, labels, digest)


def split_held_out(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """(train, held out). The held-out ones are spread evenly over the file: at least one, at most ``MAX_HELD_OUT``.

    Raises TrainingRefused for fewer than two examples."""
    num_examples = len(examples)
    if num_examples < 2:
        raise TrainingRefused("data", expected="two examples or more, one of them held out", got=str(num_examples))
    num_held_out = min(max(1, round(share * num_examples)), MAX_HELD_OUT, num_examples - 1)
    is_held_out = torch.zeros(num_examples, dtype=torch.bool)
    is_held_out[(torch.arange(num_held_out) * num_examples + num_examples // 2) // num_held_out] = True
    return examples.take(~is_held_out), examples.take(is_held_out)


def load_pairs(path: Path, tokenizer: Any) -> list[Pair]:
    """What is asked and what should be answered, of JSON lines; of a conversation, its last assistant turn.

    Raises as ``load_examples``."""
    if path.suffix != JSON_LINES:
        raise TrainingRefused("data", expected=f"prompts and completions (*{JSON_LINES})", got=path.name)
    content, _ = _read(path)
    pairs = []
    for line in _read_lines(content, tokenizer):
        *before, (completion, _) = line.segments
        pairs.append(Pair(prompt="".join(text for text, _ in before), completion=completion))
    return pairs


class _Prompt(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str
    completion: str


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    role: str
    content: str


class _Conversation(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    messages: list[_Message]


def _kind(line: object) -> str:
    return "conversation" if isinstance(line, dict) and "messages" in line else "prompt"


_LINE: TypeAdapter[_Prompt | _Conversation] = TypeAdapter(
    Annotated[Annotated[_Prompt, Tag("prompt")] | Annotated[_Conversation, Tag("conversation")], Discriminator(_kind)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """``segments`` are (text, whether it is predicted), the last of them predicted."""

    number: int
    segments: Sequence[tuple[str, bool]]
    ends: bool  # whether the end of the sequence is to be predicted too, or the text already says so


def _read(path: Path) -> tuple[str, Digest]:
    try:
        raw = path.read_bytes()
        content = raw.decode().removeprefix("\ufeff")  # the mark that some editors put before the text
    except OSError as error:
        raise TrainingRefused("data", expected="a readable file", got=f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingRefused("data", expected="UTF-8", got=f"{path}: byte {error.start} is not") from error
    if not content.strip():
        raise TrainingRefused("data", expected="some text", got=f"{path}: nothing but white space")
    return content, sha256_digest(raw)


def _read_lines(content: str, tokenizer: Any) -> Iterator[_Line]:
    for number, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        try:
            parsed = _LINE.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"][1:]) or "the line"  # after the kind
            raise TrainingRefused(
                "data",
                expected='{"prompt", "completion"} or {"messages": [{"role", "content"}, …]}',
                got=f"line {number}: {where}: {first['msg']}",
            ) from None
        if isinstance(parsed, _Prompt):
            yield _Line(number=number, segments=[(parsed.prompt, False), (parsed.completion, True)], ends=True)
        else:
            yield _Line(number=number, segments=_turns(parsed, tokenizer, number), ends=False)


def _turns(conversation: _Conversation, tokenizer: Any, number: int) -> list[tuple[str, bool]]:
    """The conversation as the chat template writes it, cut where an assistant turn begins and ends."""
    if not tokenizer.chat_template:
        raise TrainingRefused("data", expected="a model whose tokenizer has a chat template", got="messages, and none")
    messages = [message.model_dump() for message in conversation.messages]
    if not messages or messages[-1]["role"] != "assistant":
        raise TrainingRefused("data", expected="a last turn of role assistant", got=f"line {number}: another")
    segments: list[tuple[str, bool]] = []
    written = ""
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if turn == 0:
            raise TrainingRefused("data", expected="a turn before the assistant's first", got=f"line {number}: none")
        asked = _render(tokenizer, messages[:turn], number, add_generation_prompt=True)
        answered = _render(tokenizer, messages[: turn + 1], number)
        if not (asked.startswith(written) and answered.startswith(asked)):
            raise TrainingRefused(
                "data",
                expected="a chat template whose text only grows from turn to turn",
                got=f"line {number}: turn {turn} changes what was before it",
            )
        segments += [(asked[len(written) :], False), (answered[len(asked) :], True)]
        written = answered
    return segments


def _render(tokenizer: Any, messages: list[dict[str, str]], number: int, **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        raise TrainingRefused(
            "data", expected="messages that the chat template takes", got=f"line {number}: {error}"
        ) from error
    return text


def _cut(content: str, tokenizer: Any, sequence_length: int) -> Tensor:
    """int64 (num_sequences, sequence_length), each after the token that begins a text; a last sequence that is not
    full is dropped."""
    start = _start_tokens(tokenizer)
    tokens = tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]
    length = sequence_length - len(start)
    num_sequences = len(tokens) // length
    if not num_sequences:
        raise TrainingRefused("data", expected=f"{length} tokens or more", got=f"{len(tokens)} tokens")
    sequences = torch.tensor(tokens[: num_sequences * length]).view(num_sequences, length)
    return torch.cat([torch.tensor(start, dtype=torch.int64).expand(num_sequences, -1), sequences], dim=1)


def _start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text, and not the end that some put after it."""
    tokens: list[int] = tokenizer("")["input_ids"]
    return tokens[:-1] if len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id else tokens


def _tokenize(line: _Line, tokenizer: Any, sequence_length: int) -> tuple[list[int], list[int]]:
    """(tokens, labels). Segments are tokenised one by one, so that no token reaches over a cut."""
    tokens: list[int] = []
    labels: list[int] = []
    for text, is_predicted in line.segments:
        is_first = not tokens
        part = (
            prompt_tokens(tokenizer, text)
            if is_first
            else tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        )
        if line.ends and is_predicted and tokenizer.eos_token_id is not None:
            part = [*part, tokenizer.eos_token_id]
        tokens += part
        labels += part if is_predicted else [NOT_PREDICTED] * len(part)
    if len(tokens) > sequence_length:
        raise TrainingRefused(
            "data",
            expected=f"at most {sequence_length} tokens a line (the sequence length)",
            got=f"line {line.number}: {len(tokens)} tokens",
        )
    if all(label == NOT_PREDICTED for label in labels[1:]):
        raise TrainingRefused(
            "data", expected="something to predict after the prompt", got=f"line {line.number}: nothing"
        )
    return tokens, labels


def _pad(rows: Sequence[tuple[list[int], list[int]]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """To the longest row. Causal attention never looks to the right, so the padding needs no mask."""
    length = max(len(tokens) for tokens, _ in rows)
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    input_ids = torch.full((len(rows), length), filler)
    labels = torch.full((len(rows), length), NOT_PREDICTED)
    for row, (tokens, row_labels) in enumerate(rows):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.tensor(row_labels)
    return input_ids, labels
