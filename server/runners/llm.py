"""Runs a causal LM step by step over whatever is in the weights: rows join and leave at every step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters_store.blend import BlendKey
from server.core.errors import ModelNotLoadable
from server.core.requests import RequestId
from server.core.steps import NewSequence, StepToken
from server.runners.kv import GROWTH_TOKENS, Batch, can_share_a_batch, join, new_cache, part
from server.runners.loading import LoadedModel
from server.runners.sampling import Sampler
from server.runners.text import IncrementalDecoder, TextCodec


@dataclass(slots=True, kw_only=True)
class _Live:
    """What one sequence carries besides its KV."""

    sampler: Sampler
    decoder: IncrementalDecoder
    most_tokens: int  # its KV never gets longer
    last_token: int = 0


class LlmRunner:
    """Owns the KV memory of its sequences, kept apart by blend key. Engine thread only.

    A model whose cache is not plain full attention (sliding window, recurrent) runs one row per forward: slower,
    equally right."""

    def __init__(self, loaded: LoadedModel, codec: TextCodec, *, kv_budget_bytes: int) -> None:
        """Runs one token through the model to learn what its KV takes."""
        self._model = loaded.model
        self._config = loaded.model.config
        self._device = loaded.weights.device
        self._eos = loaded.eos_tokens
        self._codec = codec
        self._shares = can_share_a_batch(self._config)
        accepted = inspect.signature(self._model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._live: dict[RequestId, _Live] = {}
        self._groups: dict[BlendKey, list[Batch]] = {}
        self._kv_budget_tokens = kv_budget_bytes // max(1, self._kv_bytes_per_token())

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens, prompt and new ones together, of a sequence that runs with nothing else live."""
        return max(0, self._kv_budget_tokens - GROWTH_TOKENS)

    def can_admit(self, new: Sequence[NewSequence]) -> bool:
        """True if the KV of all of these fits beside what is live, even when every row is padded to the longest."""
        most = [live.most_tokens for live in self._live.values()] + [_most_tokens(sequence) for sequence in new]
        return len(most) * max(most, default=0) <= self._kv_budget_tokens

    @torch.inference_mode()
    def prefill(self, blend_key: BlendKey, sequences: Sequence[NewSequence]) -> list[StepToken]:
        """Runs the prompts, keeps their KV, samples each first token."""
        for new in sequences:
            self._live[new.id] = _Live(
                sampler=Sampler(new.sampling, new.prompt_tokens, self._device),
                decoder=self._codec.decoder(),
                most_tokens=_most_tokens(new),
            )
        group = self._groups.setdefault(blend_key, [])
        tokens = []
        for rows in [sequences] if self._shares else [[new] for new in sequences]:
            batch, logits = self._run_prompts(rows)
            group.append(batch)
            tokens += self._sample(batch, logits)
        return tokens

    @torch.inference_mode()
    def decode(self, blend_key: BlendKey, ids: Sequence[RequestId]) -> list[StepToken]:
        """One token for each of the named sequences, which are in the blend's group."""
        tokens = []
        for batch in self._gather(blend_key, set(ids)):
            positions = batch.lengths.unsqueeze(1)  # (rows, 1)
            batch.grow()
            last = [[self._live[row].last_token] for row in batch.ids]
            logits = self._forward(batch, torch.tensor(last, device=self._device), positions)
            tokens += self._sample(batch, logits)
        return tokens

    def finish_text(self, sequence_id: RequestId) -> str:
        live = self._live.get(sequence_id)
        return "" if live is None else live.decoder.finish()

    @torch.inference_mode()
    def drop(self, ids: Sequence[RequestId]) -> None:
        """Frees the KV of these sequences. Unknown ids are ignored."""
        gone = set(ids)
        for row in gone:
            self._live.pop(row, None)
        for key, batches in list(self._groups.items()):
            left = [rest for batch in batches if (rest := part(batch, gone)[1]) is not None]
            if left:
                self._groups[key] = left
            else:
                del self._groups[key]

    def _run_prompts(self, sequences: Sequence[NewSequence]) -> tuple[Batch, Tensor]:
        longest = max(len(new.prompt_tokens) for new in sequences)
        padded = [(0,) * (longest - len(new.prompt_tokens)) + new.prompt_tokens for new in sequences]
        tokens = torch.tensor(padded, device=self._device)  # (rows, longest)
        lengths = torch.tensor([len(new.prompt_tokens) for new in sequences], device=self._device)
        positions = torch.arange(longest, device=self._device) - (longest - lengths).unsqueeze(1)
        batch = Batch(
            ids=[new.id for new in sequences],
            cache=new_cache(self._config, shared=self._shares),
            mask=(positions >= 0).to(torch.int64),
        )
        return batch, self._forward(batch, tokens, positions.clamp(min=0))

    def _gather(self, blend_key: BlendKey, ids: set[RequestId]) -> list[Batch]:
        """The batches that hold exactly ``ids``: one where rows can share a batch."""
        chosen, others = [], []
        for batch in self._groups[blend_key]:
            inside, outside = part(batch, ids)
            chosen += [inside] if inside else []
            others += [outside] if outside else []
        if self._shares and chosen:
            chosen = [join(chosen)]
        self._groups[blend_key] = chosen + others
        return chosen

    def _forward(self, batch: Batch, tokens: Tensor, positions: Tensor) -> Tensor:
        """Appends ``tokens`` (rows, n) to the batch; logits of each row's last token (rows, vocabulary)."""
        where = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=tokens,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            use_cache=True,
            **where,
            **self._extra,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _sample(self, batch: Batch, logits: Tensor) -> list[StepToken]:
        greedy = logits.argmax(dim=-1).tolist()  # the first of equals, as in a row alone
        return [self._advance(request, logits[row], greedy[row]) for row, request in enumerate(batch.ids)]

    def _advance(self, request: RequestId, logits: Tensor, greedy: int) -> StepToken:
        live = self._live[request]
        token = greedy if live.sampler.is_plain_greedy else live.sampler.draw(logits)
        live.last_token = token
        is_eos = token in self._eos
        return StepToken(id=request, token=token, is_eos=is_eos, text="" if is_eos else live.decoder.push(token))

    @torch.inference_mode()
    def _kv_bytes_per_token(self) -> int:
        cache = new_cache(self._config, shared=self._shares)
        batch = Batch(
            ids=[RequestId("probe")], cache=cache, mask=torch.ones(1, 1, dtype=torch.int64, device=self._device)
        )
        try:
            self._forward(
                batch,
                torch.zeros(1, 1, dtype=torch.int64, device=self._device),
                torch.zeros(1, 1, dtype=torch.int64, device=self._device),
            )
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise ModelNotLoadable(f"{type(self._model).__name__} cannot be run step by step: {error}") from error
        held = [t for layer in cache.layers for t in (getattr(layer, "keys", None), getattr(layer, "values", None))]
        return sum(tensor.nbytes for tensor in held if tensor is not None)


def _most_tokens(new: NewSequence) -> int:
    return len(new.prompt_tokens) + new.max_new_tokens + GROWTH_TOKENS
