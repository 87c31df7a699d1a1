"""From a scenario and its seed to a trace: the same ones give the same requests at the same times."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from loadtest.arrivals import along_the_curve, gamma_arrivals, place
from loadtest.scenario import Images, Population, Scenario, ServerName, Span, Texts, Uploads
from loadtest.trace import AnyRow, Form, ImageRow, TextRow, UploadRow
from server.bench_serve.workload import Lengths, adapter_name, draw_length, zipf_weights

MAX_SEED = 2**31
HANG_UP_S = (0.02, 1.0)  # between what a client waits that does not wait for the end


def draw_trace(scenario: Scenario) -> list[AnyRow]:
    """In order of time."""
    kinds = _texts(scenario), _images(scenario), _uploads(scenario)
    return sorted((row for rows in kinds for row in rows), key=lambda row: row.offset_s)


def _texts(scenario: Scenario) -> Iterator[TextRow]:
    if scenario.text is None:
        return
    rng = Random(f"{scenario.seed} texts")
    for offset_s, adapters in _asked(scenario, scenario.text, kind="text"):
        yield TextRow(
            offset_s=offset_s,
            adapters=adapters,
            seed=rng.randrange(MAX_SEED),
            prompt_tokens=_number(rng, scenario.text.prompt_tokens),
            output_tokens=_number(rng, scenario.text.output_tokens),
            **_manner(rng, scenario.text),
        )


def _images(scenario: Scenario) -> Iterator[ImageRow]:
    if scenario.image is None:
        return
    rng = Random(f"{scenario.seed} images")
    for offset_s, adapters in _asked(scenario, scenario.image, kind="image"):
        yield ImageRow(
            offset_s=offset_s,
            adapters=adapters,
            seed=rng.randrange(MAX_SEED),
            num_steps=_number(rng, scenario.image.num_steps),
            side=rng.choice(scenario.image.sides),
            **_manner(rng, scenario.image),
        )


def _uploads(scenario: Scenario) -> Iterator[UploadRow]:
    if scenario.upload is None:
        return
    rng = Random(f"{scenario.seed} uploads")
    for number, offset_s in enumerate(_times(scenario, _rate(scenario, "upload"), "uploads")):
        server: ServerName = "pictures" if rng.random() < scenario.upload.picture_share else "text"
        form = _form(rng, scenario.upload, server)
        moved = adapter_name(rng.randrange(max(scenario.num_moving(server), 1)))
        name = moved if form == "move" else f"life-{number}"
        yield UploadRow(offset_s=offset_s, seed=rng.randrange(MAX_SEED), form=form, server=server, name=name)


def _form(rng: Random, uploads: Uploads, server: ServerName) -> Form:
    """PEFT's two files hold adapters of a language model."""
    forms: list[Form] = ["native", "peft", "hostile", "move"]
    drawn = rng.choices(forms, [getattr(uploads.forms, form) for form in forms])[0]
    return "native" if drawn == "peft" and server == "pictures" else drawn


def _asked(scenario: Scenario, population: Population, *, kind: str) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Each adapter has a process of its own, the base another."""
    rng = Random(f"{scenario.seed} {kind} blends")
    every = [adapter_name(number) for number in range(population.num_adapters)]
    weights = zipf_weights(len(every), population.alpha)
    base_share = population.base_share if every else 1.0
    shares = {(): base_share} | {
        (name,): (1 - base_share) * weight / sum(weights) for name, weight in zip(every, weights, strict=True)
    }
    for adapters, share in shares.items():
        for offset_s in _times(scenario, share * _rate(scenario, kind), f"{kind} {adapters}"):
            if adapters and rng.random() < population.blend_share:
                second = next(name for name in iter(lambda: rng.choices(every, weights)[0], "") if name not in adapters)
                yield offset_s, (*adapters, second)
            else:
                yield offset_s, adapters


def _rate(scenario: Scenario, kind: str) -> float:
    mix = scenario.mix
    share: float = getattr(mix, kind) / (mix.text + mix.image + mix.upload)
    return share * scenario.rate.mean_per_s


def _times(scenario: Scenario, rate_per_s: float, what: str) -> Iterator[float]:
    """A stream of random numbers for each process, so that a change of one leaves the others as they were."""
    rate, duration_s = scenario.rate, scenario.duration_s
    curve = along_the_curve(rate, duration_s)
    rng = Random(f"{scenario.seed} times of {what}")
    for at_s in gamma_arrivals(rng, rate_per_s=rate_per_s, cv=rate.cv, duration_s=duration_s):
        yield place(at_s, curve, duration_s)


def _number(rng: Random, span: Span) -> int:
    if span.law == "uniform":
        return rng.randint(span.low, span.high)
    return draw_length(Lengths(low=span.low, high=span.high), rng)


def _manner(rng: Random, population: Texts | Images) -> dict[str, Any]:
    stream, hangs_up, hang_up_s = rng.random(), rng.random(), rng.uniform(*HANG_UP_S)
    return {
        "stream": stream < population.stream_share,
        "hang_up_s": hang_up_s if hangs_up < population.hang_up_share else None,
    }
