from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters_store.adapter import TORCH_DTYPES, DTypeName
from adapters_store.base import describe_checkpoint
from adapters_store.errors import BaseUnreadable, TrainingRefused
from adapters_store.format import read_adapter, unpack_positions
from adapters_store.tools.applied import applied
from adapters_store.tools.checkpoint import load_causal_lm
from adapters_store.tools.exact_values import exact_values
from adapters_store.tools.extract import ExtractOptions, extract
from loadtest.tiny_model import save_tiny_model

Weights = dict[str, Tensor]
SHARD_NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def small_weights(dtype: torch.dtype = torch.bfloat16) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (40, 30), "a.bias": (40,), "norm.weight": (30,), "embed_tokens.weight": (50, 30)}
    weights = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return {**weights, "positions": torch.arange(4)}


def touched(weights: Weights, *places: tuple[str, int, float]) -> Weights:
    """A copy with these elements (weight, flat position) set."""
    copy = {name: weight.clone() for name, weight in weights.items()}
    for name, position, value in places:
        copy[name].view(-1)[position] = value
    return copy


def save(folder: Path, weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    base = small_weights()
    new = touched(base, ("a.weight", 5, 1.5), ("a.weight", 1100, -2.0), ("a.bias", 0, 0.25), ("norm.weight", 29, 3.0))
    return ExtractOptions(
        base_dir=save(tmp_path / "base", base),
        finetuned_dir=save(tmp_path / "new", new),
        output=tmp_path / "adapter.safetensors",
    )


def served(options: ExtractOptions) -> Weights:
    """Base and adapter as the server puts them together."""
    weights: Weights = load_file(options.base_dir / "model.safetensors")
    adapter = read_adapter(options.output, base=describe_checkpoint(options.base_dir)).adapter
    start = 0
    for entry, flat in unpack_positions(adapter.index_set):
        values = adapter.values[start : start + entry.count]
        weight = weights[entry.name].view(-1)
        weight[flat] = (weight[flat].float() + values.float()).to(weight.dtype)
        start += entry.count
    return weights


def same_bits(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a)


@pytest.mark.parametrize("dtype", TORCH_DTYPES.values())
def test_serving_the_difference_gives_the_fine_tuned_checkpoint_bit_for_bit(
    options: ExtractOptions, dtype: torch.dtype
) -> None:
    base = small_weights(dtype)
    new = touched(base)
    for name in ("a.weight", "norm.weight", "embed_tokens.weight"):
        new[name].view(-1)[::40] *= 1.02
    save(options.base_dir, base)
    save(options.finetuned_dir, new)
    report = extract(options)
    assert same_bits(served(options), new)
    assert [weight.name for weight in report.weights] == ["a.weight", "embed_tokens.weight", "norm.weight"]
    assert report.num_inexact == 0


def test_a_model_whose_weights_were_touched_here_and_there_answers_as_the_adapter_over_the_base_does(
    tmp_path: Path,
) -> None:
    base_dir = save_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    new = load_causal_lm(base_dir, dtype=torch.bfloat16, device="cpu")
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.view(-1)[:: max(parameter.numel() // 10, 1)] *= -1.5
    new.save_pretrained(tmp_path / "new")  # type: ignore[operator]
    options = ExtractOptions(base_dir=base_dir, finetuned_dir=tmp_path / "new", output=tmp_path / "adapter")
    extract(options)
    model = load_causal_lm(base_dir, dtype=torch.bfloat16, device="cpu")
    adapter = read_adapter(options.output, base=describe_checkpoint(base_dir)).adapter
    tokens = torch.arange(1, 20)[None]
    with torch.no_grad(), applied(model, [(adapter, 1.0)]):
        assert torch.equal(model(tokens).logits, new(tokens).logits)
        wanted = dict(new.named_parameters())
        assert all(torch.equal(parameter, wanted[name]) for name, parameter in model.named_parameters())


def test_how_the_checkpoints_are_split_into_files_does_not_matter(options: ExtractOptions, tmp_path: Path) -> None:
    whole = extract(options)
    weights = load_file(options.finetuned_dir / "model.safetensors")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shard_of = {name: SHARD_NAMES[number % 2] for number, name in enumerate(weights)}
    for shard in SHARD_NAMES:
        save_file({name: weight for name, weight in weights.items() if shard_of[name] == shard}, sharded / shard)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    assert extract(replace(options, finetuned_dir=sharded)) == whole


def test_the_card_tells_what_was_compared_and_nothing_of_the_machine(options: ExtractOptions, tmp_path: Path) -> None:
    report = extract(options)
    card = read_adapter(options.output, base=None).card
    assert card == {
        "made_by": "shira extract",
        "base": "base",
        "finetuned": "new",
        "finetuned_fingerprint": describe_checkpoint(options.finetuned_dir).fingerprint,
        "density": round(4 / 2770, 8),
        "inexact_entries": 0,
    }
    assert report.density == 4 / 2770


def test_the_sign_of_a_zero_is_no_difference(options: ExtractOptions) -> None:
    base = touched(small_weights(), ("a.weight", 3, 0.0))
    save(options.base_dir, base)
    save(options.finetuned_dir, touched(base, ("a.weight", 3, -0.0), ("a.weight", 4, -0.0)))
    report = extract(options)
    assert report.num_entries == 1
    assert served(options)["a.weight"].view(-1)[4] == 0


def test_a_head_that_copies_the_embedding_is_no_weight_of_its_own(options: ExtractOptions) -> None:
    alone = extract(options)
    new = load_file(options.finetuned_dir / "model.safetensors")
    save(options.finetuned_dir, {**new, "lm_head.weight": new["embed_tokens.weight"].clone()})
    assert extract(options).version == alone.version
    save(options.finetuned_dir, {**new, "lm_head.weight": new["embed_tokens.weight"] + 1})
    with pytest.raises(TrainingRefused, match=r"a model with lm_head\.weight \(1 in all\)"):
        extract(options)


def test_a_head_both_store_is_left_out_only_where_the_config_ties_it(options: ExtractOptions) -> None:
    base = small_weights()
    new = touched(base, ("embed_tokens.weight", 7, 1.0))
    for folder, weights in ((options.base_dir, base), (options.finetuned_dir, new)):
        save(folder, {**weights, "lm_head.weight": weights["embed_tokens.weight"].clone()})
    assert [weight.name for weight in extract(options).weights] == ["embed_tokens.weight", "lm_head.weight"]
    (options.base_dir / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    assert [weight.name for weight in extract(options).weights] == ["embed_tokens.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.weight": torch.zeros(30, 40, dtype=torch.bfloat16)}, r"shape \(40, 30\) of a.weight .*got \(30, 40\)"),
        ({"a.weight": torch.zeros(40, 30)}, "dtype bfloat16 of a.weight as in the base, got float32"),
        ({"b.weight": torch.zeros(3)}, r"got a model with b\.weight \(1 in all\)"),
        ({"a.bias": None}, r"got a model without a\.bias \(1 in all\)"),
        ({"positions": torch.arange(4) + 1}, "positions as in the base: torch.int64 cannot be adapted"),
        ({"a.bias": torch.tensor([torch.nan] + [0.0] * 39).bfloat16()}, "finite weights, got 1 NaN or infinite"),
        ({"a.weight": torch.zeros(40, 30).bfloat16()}, r"5\.00% of 2770 .* got 43\..*\(most in a.weight 100\.0%"),
    ],
)
def test_checkpoints_that_do_not_differ_sparsely_are_refused_with_figures(
    options: ExtractOptions, change: dict[str, Tensor | None], message: str
) -> None:
    weights = small_weights() | change
    save(options.finetuned_dir, {name: weight for name, weight in weights.items() if weight is not None})
    with pytest.raises(TrainingRefused, match=message):
        extract(options)
    assert not options.output.exists()


def test_a_denser_difference_is_written_where_that_is_asked_for(options: ExtractOptions) -> None:
    save(options.finetuned_dir, small_weights() | {"a.weight": torch.zeros(40, 30).bfloat16()})
    assert extract(replace(options, max_density=0.5)).num_entries == 1200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetuned_dir": Path("nowhere")}, "finetuned: expected a directory"),
        ({"base_dir": Path("nowhere")}, "base: expected a directory"),
        ({"output": Path("nowhere/adapter")}, "output"),
        ({"max_density": 0.0}, "max_density"),
        ({"values_dtype": "int8"}, "values_dtype"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused_by_name(
    options: ExtractOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingRefused, match=message):
        extract(replace(options, **change))


@pytest.mark.parametrize("name", ["base_dir", "finetuned_dir"])
def test_a_checkpoint_is_never_written_over(options: ExtractOptions, name: str) -> None:
    shard = getattr(options, name) / "model.safetensors"
    before = shard.read_bytes()
    with pytest.raises(TrainingRefused, match="output: expected another file than what is read"):
        extract(replace(options, output=shard))
    assert shard.read_bytes() == before


def test_equal_checkpoints_have_no_difference_and_a_folder_without_safetensors_no_weights(
    options: ExtractOptions, tmp_path: Path
) -> None:
    with pytest.raises(TrainingRefused, match="none: they are equal"):
        extract(replace(options, finetuned_dir=options.base_dir))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseUnreadable):
        extract(replace(options, finetuned_dir=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("dtype", "values_dtype", "place", "is_coarse"),
    [
        (torch.float32, "float32", 1e-10, True),  # 1 → 1e-10: the difference rounds to −1
        (torch.bfloat16, "float32", 1e-10, True),
        (torch.float32, "bfloat16", 1.01, True),
        (torch.bfloat16, "bfloat16", 1.0078125, False),
    ],
)
def test_what_no_value_serves_exactly_is_refused_or_rounded_on_request(
    options: ExtractOptions, dtype: torch.dtype, values_dtype: DTypeName, place: float, is_coarse: bool
) -> None:
    base = touched(small_weights(dtype), ("a.weight", 5, 1.0))
    save(options.base_dir, base)
    new = touched(base, ("a.weight", 5, place))
    save(options.finetuned_dir, new)
    options = replace(options, values_dtype=values_dtype)
    if is_coarse:
        with pytest.raises(TrainingRefused, match=rf"got 1 of 1 entries that no {values_dtype} does, .*a\.weight"):
            extract(options)
    report = extract(replace(options, allow_rounding=True))
    assert report.num_inexact == int(is_coarse)
    error = served(options)["a.weight"].view(-1)[5].double() - new["a.weight"].view(-1)[5].double()
    assert report.largest_error == float(error.abs())


def test_a_difference_that_the_values_dtype_cannot_hold_is_refused_even_with_rounding(options: ExtractOptions) -> None:
    save(options.finetuned_dir, touched(small_weights(), ("a.weight", 5, 1e30)))
    with pytest.raises(TrainingRefused, match=r"float16, which overflows in a\.weight"):
        extract(replace(options, values_dtype="float16", allow_rounding=True))


def test_a_small_step_from_an_fp32_weight_is_served_exactly() -> None:
    torch.manual_seed(0)
    w0 = torch.randn(100_000)
    w0 = w0[w0.abs() > 0.01]
    w1 = w0 + torch.randn_like(w0) * 1e-3
    found = exact_values(w0, w1, torch.float32)
    assert found.num_inexact == 0
    assert torch.equal(w0 + found.values, w1)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20), st.sampled_from(list(TORCH_DTYPES.values())))
def test_what_is_called_exact_serves_the_weight_whatever_the_numbers(
    pairs: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    w0, w1 = torch.tensor(pairs).clamp(-6e4, 6e4).to(dtype).unbind(1)
    found = exact_values(w0, w1, torch.float32)
    differs = (w0.float() + found.values).to(dtype) != w1
    assert int(differs.sum()) == found.num_inexact
    assert (found.largest_error > 0) == (found.num_inexact > 0)
