"""Images of several blends through the engine: in turn, one after the other, in one batch, composed step by step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import Adapter
from adapters_store.blend import Blend, BlendMember, Fusion, StepwiseMethod
from server.bench_pictures.engine import DrawingEngine, Drawn, Wish
from server.bench_pictures.options import PicturesOptions
from server.bench_pictures.rows import Group, Row
from server.core.requests import Picture

T = TypeVar("T")
NUM_REQUESTS = 4
IN_TURN, IN_ORDER = "four blends in turn", "four blends, one after the other"
TOGETHER, ALONE = "one blend, four images together", "one blend, four images one after the other"
MAX_TURNS_RATIO = 1.1


def measure_turns(engine: DrawingEngine, adapters: Sequence[Adapter], options: PicturesOptions) -> list[Group]:
    """Four requests that arrive together; of four blends, then of one."""
    wishes = [
        Wish(blend=_alone(adapter), seed=options.seed + number, num_steps=options.num_steps)
        for number, adapter in enumerate(adapters[:NUM_REQUESTS])
    ]
    same = [Wish(blend=wishes[0].blend, seed=wish.seed, num_steps=wish.num_steps) for wish in wishes]
    drawn = in_rounds(
        {
            IN_TURN: lambda: [engine.draw(*wishes)],
            IN_ORDER: lambda: [engine.draw(wish) for wish in wishes],
            TOGETHER: lambda: [engine.draw(*same)],
            ALONE: lambda: [engine.draw(wish) for wish in same],
        },
        options.num_rounds,
    )
    conditions = {"num_steps": options.num_steps, "num_rounds": options.num_rounds}
    return [
        Group(name="turns, four requests of four blends", conditions=conditions, rows=_turn_rows(drawn, options)),
        Group(name="batches, four requests of one blend", conditions=conditions, rows=_batch_rows(drawn)),
    ]


def measure_composition(engine: DrawingEngine, adapters: Sequence[Adapter], options: PicturesOptions) -> Group:
    """One image at a time of two and of three adapters that take turns over its steps, beside one of one adapter."""
    blends = {"one adapter": _alone(adapters[0])} | {
        f"{method}, {num_adapters} adapters": _composed(adapters[:num_adapters], method)
        for method in ("switch", "composite")
        for num_adapters in (2, 3)
    }
    wishes = {name: Wish(blend=blend, seed=options.seed, num_steps=options.num_steps) for name, blend in blends.items()}
    drawn = in_rounds({name: partial(engine.draw, wish) for name, wish in wishes.items()}, options.num_rounds)
    plain = [one.total_s for one in drawn["one adapter"]]
    rows = []
    for name, images in drawn.items():
        seconds = [one.total_s for one in images]
        step_ms = statistics.median(seconds) * 1e3 / options.num_steps
        rows.append(
            Row(what=f"a step: {name}", value=step_ms, unit="ms", ratio=_ratio(seconds, plain), to="one adapter")
        )
        switch_ms = statistics.median(sum(one.switch_s) for one in images) * 1e3 / options.num_steps
        rows.append(Row(what="  of which switches", value=switch_ms, unit="ms"))
    conditions = {"num_steps": options.num_steps, "every": 1, "num_rounds": options.num_rounds}
    return Group(name="composition step by step", conditions=conditions, rows=rows)


def switch_often(engine: DrawingEngine, adapters: Sequence[Adapter], options: PicturesOptions) -> int:
    """Draws images whose adapter changes at each step until so many switches were made; returns how many."""
    wish = Wish(blend=_composed(adapters[:2], "switch"), seed=options.seed, num_steps=options.num_steps)
    num_before = engine.num_switches
    while (num_switches := engine.num_switches - num_before) < options.num_switches:
        engine.draw(wish)
    return num_switches


def in_rounds(contenders: Mapping[str, Callable[[], T]], num_rounds: int) -> dict[str, list[T]]:
    """One round to warm up, then rounds in which each has its turn, the order reversed every other time."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(-1, num_rounds):
        for name, run in list(contenders.items())[:: -1 if number % 2 else 1]:
            result = run()
            if number >= 0:
                results[name].append(result)
    return results


def _turn_rows(drawn: Mapping[str, list[list[Drawn]]], options: PicturesOptions) -> list[Row]:
    turns = [only for [only] in drawn[IN_TURN]]
    orders = drawn[IN_ORDER]
    turn_s = [one.total_s for one in turns]
    order_s = [sum(one.total_s for one in images) for images in orders]
    num_steps = NUM_REQUESTS * options.num_steps
    num_to_first = num_steps - NUM_REQUESTS + 1  # the first has run all of its own, the others all but one
    first_s = [min(one.end_s) for one in turns]
    fair_s = [total * num_to_first / num_steps for total in turn_s]
    num_equal = sum(picture == alone.pictures[0] for picture, alone in zip(turns[-1].pictures, orders[-1], strict=True))
    to_order = "one after the other"
    return [
        _seconds_row(IN_ORDER, order_s),
        _seconds_row(IN_TURN, turn_s, order_s, to=to_order, at_most=MAX_TURNS_RATIO),
        _seconds_row("  of which switches", [sum(one.switch_s) for one in turns], turn_s, to="the whole"),
        _seconds_row("first image, in turn", first_s, fair_s, to=f"{num_to_first}/{num_steps} of the whole", at_most=1),
        Row(
            what="  denoising steps of all before it was there",
            value=max(one.num_steps_to_first for one in turns),
            unit="steps",
            ratio=max(one.num_steps_to_first for one in turns) / num_to_first,
            to=f"a fair share's {num_to_first}",
            at_most=1,
        ),
        _seconds_row(
            "mean latency, in turn", [statistics.mean(one.end_s) for one in turns], _waits(orders), to=to_order
        ),
        _seconds_row(
            "until the last of them had run a step, in turn",
            [max(one.first_step_s) for one in turns],
            [_before_last(images) for images in orders],
            to=to_order,
        ),
        Row(
            what="images equal to those drawn alone",
            value=num_equal,
            unit=f"of {NUM_REQUESTS}",
            ratio=num_equal / NUM_REQUESTS,
            to="all",
            at_least=1,
        ),
    ]


def _batch_rows(drawn: Mapping[str, list[list[Drawn]]]) -> list[Row]:
    together_s = [only.total_s for [only] in drawn[TOGETHER]]
    alone_s = [sum(one.total_s for one in images) for images in drawn[ALONE]]
    [together], alone = drawn[TOGETHER][-1], drawn[ALONE][-1]
    apart = [_difference(picture, one.pictures[0]) for picture, one in zip(together.pictures, alone, strict=True)]
    return [
        _seconds_row(ALONE, alone_s),
        _seconds_row(TOGETHER, together_s, alone_s, to="one after the other"),
        Row(what="  largest difference of a colour value", value=max(int(one.max()) for one in apart), unit="of 255"),
        Row(what="  mean difference", value=statistics.mean(float(one.mean()) for one in apart), unit="of 255"),
    ]


def _difference(one: Picture, other: Picture) -> NDArray[np.int16]:
    a, b = (np.frombuffer(picture.rgb, np.uint8).astype(np.int16) for picture in (one, other))
    difference: NDArray[np.int16] = np.abs(a - b)
    return difference


def _waits(orders: Sequence[Sequence[Drawn]]) -> list[float]:
    """Mean latency of requests that arrived together and are drawn one after the other."""
    return [
        statistics.mean(sum(one.total_s for one in images[: place + 1]) for place in range(len(images)))
        for images in orders
    ]


def _before_last(images: Sequence[Drawn]) -> float:
    """Until the last of them had run a step, one after the other."""
    return sum(one.total_s for one in images[:-1]) + images[-1].first_step_s[0]


def _seconds_row(
    what: str, seconds: Sequence[float], of: Sequence[float] = (), *, to: str = "", at_most: float | None = None
) -> Row:
    ratio = _ratio(seconds, of) if of else None
    return Row(what=what, value=statistics.median(seconds) * 1e3, unit="ms", ratio=ratio, to=to, at_most=at_most)


def _ratio(values: Sequence[float], of: Sequence[float]) -> float:
    """The median of each round's."""
    return statistics.median(value / other for value, other in zip(values, of, strict=True))


def _alone(adapter: Adapter) -> Blend:
    return Blend(members=(BlendMember(version=adapter.version, scale=1.0),))


def _composed(adapters: Sequence[Adapter], method: StepwiseMethod) -> Blend:
    members = tuple(BlendMember(version=adapter.version, scale=1.0) for adapter in adapters)
    return Blend(members=members, fusion=Fusion(method=method))
