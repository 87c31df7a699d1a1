"""The demo's first part: the example adapters over the default base, their answers and receipts."""

from __future__ import annotations

import textwrap
from pathlib import Path

import httpx

from server.demo.process import DemoFailed, checked, example_files, push_examples, running_server, say
from server.demo.switches import index_sets, show_switches

EXAMPLES_BASE = "SmolLM2-135M-Instruct@package"
PROMPT = "In the beginning of the year"
PARAMETERS = {"max_new_tokens": 48, "repetition_penalty": 1.2}


def tell_of_texts(examples_dir: Path, models_dir: Path, *, model: str = EXAMPLES_BASE, prompt: str = PROMPT) -> None:
    """Prints the base's answer, each adapter's and two fused, and the base's again. Raises DemoFailed."""
    examples = example_files(examples_dir)
    with running_server(model, models_dir) as client:
        names = push_examples(client, examples)
        first, second = names[:2]
        base_before = _ask(client, prompt, "base", [])
        for name in names:
            _ask(client, prompt, name, [name])
        _ask(client, prompt, f"{first} + {second}", [first, second])
        show_switches(client, prompt, index_sets(examples))
        base_after = _ask(client, prompt, "base again", [])
        if base_after != base_before:
            raise DemoFailed("the base answered differently after the switches")
        say("The base's answer is identical to the first one.")
        audit = client.post("/admin/verify").json()
        if not audit["ok"]:
            raise DemoFailed(f"the audit found the base changed: {audit}")
        say(f"Audit of {audit['bytes']:,} bytes of weights: intact, {audit['digest'][:23]}…")


def _ask(client: httpx.Client, prompt: str, title: str, adapters: list[str]) -> str:
    body = {"prompt": prompt, "adapter": adapters, "parameters": PARAMETERS}
    answer = checked(client.post("/generate", json=body))
    receipt = answer["receipt"]
    applied = [adapter["name"] for adapter in receipt["adapters"]]
    if applied != adapters:
        raise DemoFailed(f"asked for {adapters}, the receipt says {applied}")
    text: str = answer["text"]
    say(f"\n── {title} ──")
    say(textwrap.fill(prompt + text, width=100, replace_whitespace=False, drop_whitespace=False))
    say(
        f"   receipt: {' + '.join(applied) or 'base'} · {receipt['mode']} · switch {receipt['switch_ms']:.2f} ms"
        f" · total {receipt['total_ms']:.0f} ms · blend {receipt['blend_key'][:15]}…"
    )
    return text
