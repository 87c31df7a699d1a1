"""One cell of the grid: a blend, what is drawn with it, and how many of the pictures show what they should."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from adapters_store.adapter import Version
from adapters_store.blend import Blend, BlendMember, Fusion, FusionMethod
from examples.emoji.measure.classifier import STYLE_ANSWERS, Classifier, Judged
from examples.emoji.measure.painter import Painter, Wish
from examples.emoji.measure.pictures import GROUPS
from examples.emoji.measure.prompts import Prompt

Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """``members``: (adapter's name, scale) in their order, which for ``switch`` is that of turns; none is the base."""

    prompts: str  # a key of PROMPTS
    members: tuple[tuple[str, float], ...] = ()
    fusion: FusionMethod = "sum"
    every: int | None = None

    @property
    def name(self) -> str:
        blend = " + ".join(f"{scale:g} {adapter}" for adapter, scale in self.members) or "base"
        every = f" every {self.every}" if self.every else ""
        return f"{self.prompts}: {blend}{f', {self.fusion}{every}' if len(self.members) > 1 else ''}"

    def blend(self, versions: Mapping[str, Version]) -> Blend:
        members = tuple(BlendMember(version=versions[adapter], scale=scale) for adapter, scale in self.members)
        return Blend(members=members, fusion=Fusion(method=self.fusion, every=self.every))


class Share(NamedTuple):
    """Of pictures, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float


def measure(
    cell: Cell,
    wanted: Sequence[tuple[Prompt, Wish]],
    painter: Painter,
    classifier: Classifier,
    versions: Mapping[str, Version],
) -> dict[str, Any]:
    """The cell as it is written down: counts of pictures."""
    started = time.process_time()
    images = painter.draw(cell.blend(versions), [wish for _, wish in wanted])
    return {
        "name": cell.name,
        **asdict(cell),
        "num_steps": painter.num_steps,
        "guidance_scale": painter.guidance_scale,
        **count([prompt for prompt, _ in wanted], classifier.judge(images)),
        "cpu_s": round(time.process_time() - started, 2),
    }


def count(prompts: Sequence[Prompt], judged: Judged) -> dict[str, Any]:
    """``num`` pictures, how many are of each style, how many of the group of their prompt, and of both; the same by
    kind of prompt."""
    styles = [STYLE_ANSWERS[place] for place in judged.styles.argmax(1).tolist()]
    groups = [GROUPS[place] for place in judged.groups.argmax(1).tolist()]
    rows = list(zip(prompts, styles, groups, strict=True))

    def of(chosen: list[tuple[Prompt, str, str]]) -> dict[str, Any]:
        return {
            "num": len(chosen),
            "style": dict(Counter(style for _, style, _ in chosen)),
            "group": dict(Counter(group for _, _, group in chosen)),
            "as_asked": sum(group == prompt.group for prompt, _, group in chosen),
            "as_asked_in_style": dict(Counter(style for prompt, style, group in chosen if group == prompt.group)),
        }

    kinds = dict.fromkeys(prompt.kind for prompt in prompts)
    return {**of(rows), "by_kind": {kind: of([row for row in rows if row[0].kind == kind]) for kind in kinds}}


def wilson(hits: int, num: int) -> Share:
    """Wilson (1927): the interval that holds the true share in 95 of 100 cases. ``num`` above 0."""
    share, z2 = hits / num, Z_95**2
    middle = (share + z2 / (2 * num)) / (1 + z2 / num)
    reach = Z_95 / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return Share(share, min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach)))  # but for rounding
