"""Calls of a denoiser that pipelines wait for, and how several become one forward.

A pipeline calls its denoiser with tensors whose first dimension is a row for each noise prediction (two for an image
under classifier-free guidance). Calls that agree in everything else are put one below the other; each row has its own
timestep, so images that are at different steps run together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SHARED = frozenset({"img_ids", "txt_ids"})  # positions in Flux's image and text: tokens come first, not rows
Denoiser = Callable[..., Any]
Joiner = Callable[[str, Sequence[Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenoiserCall:
    """What one image's pipeline calls its denoiser with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        return next(leaf for _, leaf in self.leaves() if isinstance(leaf, Tensor) and leaf.dim()).shape[0]

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every value with the name of the argument that it is in."""
        for place, value in enumerate(self.args):
            yield from _leaves(str(place), value)
        for name, value in self.kwargs.items():
            yield from _leaves(name, value)

    def can_join(self, other: DenoiserCall) -> bool:
        """Whether one forward can answer both."""
        mine, others = list(self.leaves()), list(other.leaves())
        if [name for name, _ in mine] != [name for name, _ in others]:
            return False
        rows, other_rows = self.num_rows, other.num_rows
        pairs = zip(mine, others, strict=True)
        return all(_fit(name, value, rows, other_value, other_rows) for (name, value), (_, other_value) in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """In the place of an answer: why there is none."""

    error: Exception


def predict(denoiser: Denoiser, calls: Sequence[DenoiserCall], max_together: int) -> list[Any]:
    """What the denoiser answers to each call, in their order; at most ``max_together`` share a forward. A call that is
    alone runs exactly as the pipeline made it. Those of a shared forward that fails run alone, and one that fails alone
    has ``Failed`` for an answer."""
    answers: dict[int, Any] = {}
    for group in _groups(calls, max_together):
        answers.update(zip(group, _try_forward(denoiser, [calls[place] for place in group]), strict=True))
    return [answers[place] for place in range(len(calls))]


def without_frames(error: Exception) -> Exception:
    """The frames of a failed forward hold its activations for as long as the error lives."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def mean(answers: Sequence[Any]) -> Any:
    """The mean of what several forwards answered to one call, summed in float32. Raises what one of them failed by."""
    for answer in answers:
        if isinstance(answer, Failed):
            raise answer.error
    if len(answers) == 1:
        return answers[0]

    def join(_: str, values: Sequence[Any]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return torch.stack([value.float() for value in values]).mean(dim=0).to(values[0].dtype)

    return _zip("", answers, join)


def _groups(calls: Sequence[DenoiserCall], max_together: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for place, call in enumerate(calls):
        for group in groups:
            if len(group) < max_together and calls[group[0]].can_join(call):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def _try_forward(denoiser: Denoiser, calls: Sequence[DenoiserCall]) -> list[Any]:
    try:
        return _forward(denoiser, calls)
    except Exception as error:
        if len(calls) == 1:
            log.exception("a forward of the denoiser failed")
            return [Failed(without_frames(error))]
        log.warning("a forward of the denoiser over %d images failed, they run one by one: %s", len(calls), error)
    return [answer for call in calls for answer in _try_forward(denoiser, [call])]  # out of reach of the first error


def _forward(denoiser: Denoiser, calls: Sequence[DenoiserCall]) -> list[Any]:
    if len(calls) == 1:
        return [denoiser(*calls[0].args, **calls[0].kwargs)]
    counts = [call.num_rows for call in calls]

    def join(name: str, values: Sequence[Any]) -> Any:
        if not isinstance(values[0], Tensor) or name in SHARED:
            return values[0]
        rows = [value.expand(count) if not value.dim() else value for value, count in zip(values, counts, strict=True)]
        return torch.cat(rows)

    args = [_zip(str(place), values, join) for place, values in enumerate(zip(*(c.args for c in calls), strict=True))]
    kwargs = {name: _zip(name, [call.kwargs[name] for call in calls], join) for name in calls[0].kwargs}
    answer = denoiser(*args, **kwargs)
    starts = [sum(counts[:place]) for place in range(len(counts))]
    return [_rows(answer, start, start + count) for start, count in zip(starts, counts, strict=True)]


def _rows(answer: Any, start: int, stop: int) -> Any:
    return _zip("", [answer], lambda _, values: values[0][start:stop] if isinstance(values[0], Tensor) else values[0])


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case Mapping():
            for key in value:
                yield from _leaves(f"{name}.{key}", value[key])
        case list() | tuple():
            for each in value:
                yield from _leaves(name, each)
        case _:
            yield name, value


def _fit(name: str, a: Any, rows_a: int, b: Any, rows_b: int) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    if a.dtype != b.dtype or a.dim() != b.dim():
        return False
    if name in SHARED:
        return torch.equal(a, b)
    return not a.dim() or (a.shape[0] == rows_a and b.shape[0] == rows_b and a.shape[1:] == b.shape[1:])


def _zip(name: str, values: Sequence[Any], join: Joiner) -> Any:
    """Values of one shape, leaf by leaf."""
    first = values[0]
    if is_dataclass(first) and not isinstance(first, type):  # a model's output
        names = [field.name for field in fields(first)]
        return type(first)(**{key: _zip(key, [getattr(value, key) for value in values], join) for key in names})
    match first:
        case Mapping():
            return {key: _zip(f"{name}.{key}", [value[key] for value in values], join) for key in first}
        case list() | tuple():
            return type(first)(_zip(name, list(each), join) for each in zip(*values, strict=True))
        case _:
            return join(name, values)
