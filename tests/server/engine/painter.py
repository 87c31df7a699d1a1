"""A runner that draws, and requests for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from adapters_store.blend import BASE, Blend
from server.core.requests import AppliedAdapter, ImageRequest, Picture, RequestId
from server.core.steps import New, Reused, StepError, StepImage, StepResult, Work

_numbers = count()


def make_image_request(
    blend: Blend = BASE,
    *,
    num_steps: int = 4,
    arrived_s: float = 100.0,
    deadline_s: float | None = None,
    client: str = "anonymous",
    token_cost: float = 1.0,
) -> ImageRequest:
    return ImageRequest(
        id=RequestId(f"i{next(_numbers)}"),
        tenant="default",
        client=client,
        weight=1.0,
        blend=blend,
        adapters=tuple(AppliedAdapter(name=v, version=v, scale=1.0) for v in blend.versions),
        mode="auto",
        arrived_s=arrived_s,
        deadline_s=deadline_s,
        max_new_tokens=num_steps,
        token_cost=token_cost,
        prompt="a",
        negative_prompt=None,
        height=8,
        width=8,
        guidance_scale=None,
        scheduler=None,
        seed=0,
        preview_every=0,
    )


@dataclass
class FakePainter:
    """Draws as many steps as were asked for and ``num_more``; ``switch_s`` goes into switches in each of them."""

    num_more: int = 0
    switch_s: float = 0.0
    failing: dict[RequestId, Exception] = field(default_factory=dict)
    live: dict[RequestId, int] = field(default_factory=dict)
    asked: dict[RequestId, ImageRequest] = field(default_factory=dict)
    steps: list[list[RequestId]] = field(default_factory=list)
    max_sequence_tokens: int = 1_000_000
    on_step: Callable[[], None] = lambda: None

    def fits(self, lengths: Sequence[int]) -> bool:
        return True

    def begin(self, new: New) -> Reused:
        assert isinstance(new, ImageRequest)
        self.asked[new.id] = new
        self.live.setdefault(new.id, 0)
        return Reused()

    def step(self, work: Sequence[Work]) -> list[StepResult]:
        assert all(item.num_tokens == 1 for item in work)
        self.steps.append([item.id for item in work])
        self.on_step()
        return [self._draw(item.id) for item in work]

    def pause(self, ids: Collection[RequestId]) -> None:
        pass

    def finish_text(self, sequence_id: RequestId) -> str:
        return ""

    def drop(self, ids: Collection[RequestId]) -> None:
        for request in ids:
            self.live.pop(request, None)

    def describe(self) -> dict[str, Any]:
        return {}

    def _draw(self, request: RequestId) -> StepResult:
        if request in self.failing:
            return StepError(id=request, error=self.failing[request])
        self.live[request] += 1
        num_done, num_steps = self.live[request], self.asked[request].max_new_tokens + self.num_more
        picture = Picture(width=1, height=1, rgb=b"rgb") if num_done == num_steps else None
        return StepImage(id=request, num_done=num_done, num_steps=num_steps, switch_s=self.switch_s, picture=picture)
