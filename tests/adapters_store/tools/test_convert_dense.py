"""LoRA and its kin to a sparse adapter: what is kept is what PEFT merges, and how much that is is told."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.config import KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters_store.base import describe_checkpoint
from adapters_store.errors import AdapterStoreError, BaseMismatch, TrainingRefused
from adapters_store.format import read_adapter, unpack_positions
from adapters_store.tools.applied import applied
from adapters_store.tools.convert import ConvertOptions, as_dict, convert, render
from adapters_store.tools.peft_types import MERGED, NOT_MERGED
from loadtest.tiny_model import save_tiny_model
from tests.adapters_store.tools.peft_world import (
    TARGETS,
    greedy,
    load,
    logits,
    merged_by_peft,
    save_peft_adapter,
    stored,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # PEFT's and transformers' own, while PEFT trains
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SQUARE = ["q_proj", "o_proj"]  # some types share one matrix among layers of one shape
CONFIGS: dict[str, Callable[[], Any]] = {
    "ADALORA": lambda: peft.AdaLoraConfig(total_step=10, init_r=2, target_modules=TARGETS),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=TARGETS),
    "C3A": lambda: peft.C3AConfig(block_size=8, target_modules=TARGETS),
    "DEFT": lambda: peft.DeftConfig(target_modules=TARGETS),
    "DELORA": lambda: peft.DeloraConfig(r=2, target_modules=TARGETS),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=TARGETS),
    "FROD": lambda: peft.FrodConfig(target_modules=TARGETS),
    "GLORA": lambda: peft.GloraConfig(target_modules=TARGETS),
    "GRALORA": lambda: peft.GraloraConfig(r=4, target_modules=TARGETS),
    "HIRA": lambda: peft.HiraConfig(r=2, target_modules=TARGETS),
    "HRA": lambda: peft.HRAConfig(r=2, target_modules=TARGETS),
    "IA3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "LN_TUNING": peft.LNTuningConfig,
    "LOHA": lambda: peft.LoHaConfig(r=2, target_modules=TARGETS),
    "LOKR": lambda: peft.LoKrConfig(r=2, target_modules=TARGETS),
    "LORA": lambda: peft.LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS),
    "LORA, rsLoRA, patterns": lambda: peft.LoraConfig(
        r=4, use_rslora=True, target_modules=TARGETS, rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 16}
    ),
    "LORA, DoRA": lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=TARGETS),
    "LORA, embedding": lambda: peft.LoraConfig(r=2, target_modules=["embed_tokens"]),
    "LORA, EVA": lambda: peft.LoraConfig(r=2, init_lora_weights="orthogonal", target_modules=TARGETS),
    "LORA, KaSA": lambda: peft.LoraConfig(r=2, kasa_config=KasaConfig(), target_modules=TARGETS),
    "LORA, MiCA": lambda: peft.LoraConfig(r=2, init_lora_weights="mica", target_modules=TARGETS),
    "LORA, MonteCLoRA": lambda: peft.LoraConfig(r=2, monteclora_config=MontecloraConfig(), target_modules=TARGETS),
    "LORA, QALoRA": lambda: peft.LoraConfig(r=2, use_qalora=True, qalora_group_size=16, target_modules=TARGETS),
    "LORA, VeLoRA": lambda: peft.LoraConfig(r=2, velora_config=VeloraConfig(), target_modules=TARGETS),
    "MISS": lambda: peft.MissConfig(r=2, target_modules=TARGETS),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=TARGETS),
    "OSF": lambda: peft.OSFConfig(target_modules=TARGETS),
    "PEANUT": lambda: peft.PeanutConfig(target_modules=TARGETS),
    "PSOFT": lambda: peft.PsoftConfig(r=4, target_modules=TARGETS),
    "PVERA": lambda: peft.PveraConfig(r=4, target_modules=SQUARE),
    "RANDLORA": lambda: peft.RandLoraConfig(r=2, target_modules=TARGETS),
    "ROAD": lambda: peft.RoadConfig(group_size=8, target_modules=TARGETS),
    "SUPERTUNING": lambda: peft.SupertuningConfig(target_modules=TARGETS),
    "TINYLORA": lambda: peft.TinyLoraConfig(target_modules=TARGETS),
    "TRAINABLE_TOKENS": lambda: peft.TrainableTokensConfig(token_indices=[1, 5]),
    "UNILORA": lambda: peft.UniLoraConfig(target_modules=TARGETS),
    "VBLORA": lambda: peft.VBLoRAConfig(r=2, num_vectors=16, vector_length=16, target_modules=SQUARE),
    "VERA": lambda: peft.VeraConfig(r=4, target_modules=SQUARE),
    "WAVEFT": lambda: peft.WaveFTConfig(n_frequency=20, target_modules=TARGETS),
}
SPARSE = {"SUPERTUNING", "WAVEFT", "TRAINABLE_TOKENS"}  # a whole delta of few entries


def lora() -> Any:
    return CONFIGS["LORA"]()


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def options(base_dir: Path, tmp_path: Path) -> ConvertOptions:
    return ConvertOptions(source=tmp_path / "peft", output=tmp_path / "native", base_dir=base_dir)


def deltas_of(options: ConvertOptions) -> dict[str, Tensor]:
    """Dense, float32, of the adapter that was written."""
    adapter = read_adapter(options.output, base=describe_checkpoint(options.base_dir)).adapter
    found, start = {}, 0
    for entry, flat in unpack_positions(adapter.index_set):
        delta = torch.zeros(entry.numel)
        delta[flat] = adapter.values[start : start + entry.count].float()
        found[entry.name] = delta.view(entry.shape)
        start += entry.count
    return found


def peft_deltas(options: ConvertOptions) -> dict[str, Tensor]:
    merged = dict(merged_by_peft(options.base_dir, options.source).named_parameters())
    deltas = {name: merged[name].detach() - weight for name, weight in stored(options.base_dir).items()}
    return {name: delta for name, delta in deltas.items() if delta.any()}


def test_every_type_that_is_taken_is_compared_with_peft_below() -> None:
    assert {name.partition(",")[0] for name in CONFIGS} == MERGED
    assert not MERGED & NOT_MERGED.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_at_sparsity_1_the_whole_delta_is_what_peft_merges(options: ConvertOptions, name: str) -> None:
    save_peft_adapter(options.base_dir, options.source, CONFIGS[name]())
    report = convert(replace(options, sparsity=1.0))
    ours, theirs = deltas_of(options), peft_deltas(options)
    assert ours.keys() == theirs.keys()
    for weight, delta in theirs.items():  # theirs is a difference of fp32 sums of weights around 0.3
        torch.testing.assert_close(ours[weight], delta, rtol=0, atol=1e-6 if name != "RANDLORA" else 2e-5)
    model = load(options.base_dir)
    adapter = read_adapter(options.output, base=None).adapter
    with applied(model, [(adapter, 1.0)]):
        for expected in (
            logits(merged_by_peft(options.base_dir, options.source)),
            logits(peft.PeftModel.from_pretrained(load(options.base_dir), options.source).eval()),  # beside the weights
        ):
            torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-3)
    assert (report.kept_share, report.is_exact, report.warning) == (1.0, True, None)
    assert report.peft_type == name.partition(",")[0]
    num_elements = sum(delta.numel() for delta in theirs.values())
    assert (report.num_entries < num_elements / 5) == (name in SPARSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_whose_delta_is_sparse_is_converted_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    base_dir = save_tiny_model(tmp_path / "base", dtype=dtype)
    options = ConvertOptions(source=tmp_path / "peft", output=tmp_path / "native", base_dir=base_dir)
    save_peft_adapter(base_dir, options.source, lora())
    tensors = load_file(options.source / "adapter_model.safetensors")
    for number, tensor in enumerate(tensors.values()):  # B·A of one column and one row each: one entry per rank
        kept = torch.zeros_like(tensor)
        kept.view(-1)[[3, kept.numel() - 1 - number]] = 1 / 256
        tensor.copy_(kept)
    save_file(tensors, options.source / "adapter_model.safetensors", metadata={"format": "pt"})
    report = convert(options)
    assert (report.kept_share, report.is_exact) == (1.0, True)
    assert 0 < report.num_entries < 30
    model = load(base_dir)
    adapter = read_adapter(options.output, base=None).adapter
    assert set((adapter.values * 256**2 / 3).tolist()) <= {1.0, 2.0}  # of (alpha / r)·B·A, not of rounded sums
    with applied(model, [(adapter, 1.0)]):
        merged = merged_by_peft(base_dir, options.source)
        assert greedy(model) == greedy(merged)
        assert torch.equal(logits(model), logits(merged))


def test_biases_that_a_lora_adds_to_are_part_of_the_delta_where_the_base_has_them(
    options: ConvertOptions, tmp_path: Path
) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True)
    save_peft_adapter(options.base_dir, options.source, config)
    with pytest.raises(TrainingRefused, match=r"a delta of model\.layers\.0\.self_attn\.q_proj, got .*no bias"):
        convert(options)
    options = replace(options, base_dir=save_tiny_model(tmp_path / "qwen2", "qwen2"), sparsity=1.0)
    save_peft_adapter(options.base_dir, options.source, config)
    convert(options)
    ours, theirs = deltas_of(options), peft_deltas(options)
    assert ours.keys() == theirs.keys()
    assert sum(name.endswith("q_proj.bias") for name in ours) == 2
    for name, delta in theirs.items():
        torch.testing.assert_close(ours[name], delta, rtol=0, atol=1e-6)


def test_each_weight_keeps_its_largest_entries_and_the_model_is_the_base_plus_these(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    report = convert(replace(options, sparsity=0.05))
    model = load(options.base_dir)
    for name, delta in peft_deltas(options).items():
        k = int(0.05 * delta.numel())
        smallest = delta.abs().flatten().topk(k).values[-1]
        kept = torch.where(delta.abs() >= smallest, delta, 0)
        assert int(kept.count_nonzero()) == k
        model.get_parameter(name).data += kept
        figures = next(weight for weight in report.weights if weight.name == name)
        assert (figures.count, figures.numel) == (k, delta.numel())
        share = float(kept.norm() ** 2 / delta.norm() ** 2)
        assert figures.kept_share == pytest.approx(share, rel=1e-4)
    adapter = read_adapter(options.output, base=None).adapter
    ours = load(options.base_dir)
    with applied(ours, [(adapter, 1.0)]):
        torch.testing.assert_close(logits(ours), logits(model), rtol=0, atol=1e-4)
    energies = [(weight.kept_energy, weight.energy) for weight in report.weights]
    assert report.kept_share == pytest.approx(sum(kept for kept, _ in energies) / sum(whole for _, whole in energies))
    assert not report.is_exact


def test_equal_magnitudes_go_to_the_lower_position(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    tensors = load_file(options.source / "adapter_model.safetensors")
    save_file(
        {name: torch.ones_like(tensor) for name, tensor in tensors.items()},
        options.source / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    convert(options)
    adapter = read_adapter(options.output, base=None).adapter
    for entry, flat in unpack_positions(adapter.index_set):
        assert flat.tolist() == list(range(entry.count))


def test_a_delta_of_which_little_is_kept_is_warned_of_and_told_weight_by_weight(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    report = convert(options)
    assert report.kept_share < 0.5
    assert report.warning is not None
    shown = render(report)
    assert report.warning in shown
    assert all(weight.name in shown for weight in report.weights)
    assert f"{report.kept_share:.1%} of the squared norm" in shown
    assert f"{report.kept_share**0.5:.1%} of the norm" in shown
    for row, weight in zip(as_dict(report)["weights"], report.weights, strict=True):
        assert (row["name"], row["kept_share"]) == (weight.name, weight.kept_share)
        assert row["kept_norm_share"] == pytest.approx(math.sqrt(weight.kept_energy / weight.energy))
    card = read_adapter(options.output, base=None).card
    assert card is not None
    assert (card["source_type"], card["sparsity"]) == ("LORA", 0.01)
    assert (card["source_digest"], card["kept_share"]) == (report.source_digest, round(report.kept_share, 6))


def test_values_are_narrowed_only_on_request(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    assert convert(options).values_dtype == "float32"
    assert convert(replace(options, values_dtype="bfloat16")).values_dtype == "bfloat16"


def initialised(init: str) -> Callable[[], Any]:
    return lambda: peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=init)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_changed_its_base_is_refused_until_peft_has_converted_it(
    options: ConvertOptions, init: Any, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    tuned = peft.get_peft_model(load(options.base_dir), initialised(init)())
    tuned.peft_config["default"].init_lora_weights = True
    tuned.save_pretrained(tmp_path / "initial")
    tuned.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    expected = logits(tuned.eval())
    tuned.save_pretrained(options.source)
    with pytest.raises(TrainingRefused, match=f"init_lora_weights: .*path_initial_model.*got '{init}'"):
        convert(options)
    converted = tmp_path / "converted"
    tuned.save_pretrained(converted, path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    report = convert(replace(options, source=converted, sparsity=1.0))
    assert report.num_entries > 0
    model = load(options.base_dir)
    with applied(model, [(read_adapter(options.output, base=None).adapter, 1.0)]):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("peft_type", sorted(NOT_MERGED))
def test_what_merges_into_no_weight_is_refused_with_the_reason(options: ConvertOptions, peft_type: str) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    change_config(options.source, peft_type=peft_type)
    with pytest.raises(TrainingRefused, match=f"peft_type: .*got {peft_type}: {NOT_MERGED[peft_type]}"):
        convert(options)


def test_a_prompt_that_peft_saved_is_refused(options: ConvertOptions) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    save_peft_adapter(options.base_dir, options.source, config)
    with pytest.raises(TrainingRefused, match="PROMPT_TUNING: it puts learned vectors beside the prompt"):
        convert(options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: expected none: whole modules"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices: expected none: rows of the embedding"),
        ({"bias": "all"}, "bias: expected 'none'"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication: expected none"),
    ],
)
def test_whatever_else_a_file_holds_is_never_dropped_in_silence(
    options: ConvertOptions, config: dict[str, Any], message: str
) -> None:
    save_peft_adapter(options.base_dir, options.source, peft.LoraConfig(r=2, target_modules=TARGETS, **config))
    with pytest.raises(TrainingRefused, match=message):
        convert(options)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda t: {**t, "base_model.model.lm_head.weight": torch.ones(320, 32)},
            TrainingRefused,
            r"1 whole weights of the base as well \(such as base_model.model.lm_head.weight\)",
        ),
        (lambda t: {**t, "base_model.model.more.weight": torch.ones(2)}, TrainingRefused, "1 that nothing asks for"),
        (lambda t: dict(list(t.items())[1:]), TrainingRefused, r"1 missing \(such as .*lora_A"),
        (lambda t: {k: v.repeat(2, 2) for k, v in t.items()}, BaseMismatch, "shape: .*size mismatch"),
        (lambda t: {k: v * torch.nan for k, v in t.items()}, TrainingRefused, "a finite delta, got NaN"),
        (lambda t: {k: v * 0 for k, v in t.items()}, TrainingRefused, "a delta of zeros"),
    ],
)
def test_tensors_that_are_not_the_configs_are_refused(
    options: ConvertOptions,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    error: type[AdapterStoreError],
    message: str,
) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    change_tensors(options.source, change)
    with pytest.raises(error, match=message):
        convert(options)
    assert not options.output.exists()


def test_a_field_that_this_peft_does_not_know_is_refused_where_it_says_something(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    change_config(options.source, use_tomorrow=False)
    assert convert(options).num_entries > 0
    change_config(options.source, use_tomorrow=True)
    with pytest.raises(TrainingRefused, match=r"a config that PEFT .* understands whole, got use_tomorrow = True"):
        convert(options)


def test_targets_that_the_base_does_not_have_are_refused(options: ConvertOptions) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    change_config(options.source, target_modules=["c_attn"])
    with pytest.raises(TrainingRefused, match=r"one that PEFT can load, got Target modules .*c_attn"):
        convert(options)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_weight_is_refused_by_name(tmp_path: Path, target: str) -> None:
    base_dir = save_tiny_model(tmp_path / "base", tied=True)
    options = ConvertOptions(source=tmp_path / "peft", output=tmp_path / "native", base_dir=base_dir)
    save_peft_adapter(base_dir, options.source, peft.LoraConfig(r=2, target_modules=["q_proj", target]))
    with pytest.raises(TrainingRefused, match=rf"{target}\.weight, which the model shares with another"):
        convert(options)


def test_without_peft_it_says_what_to_install(options: ConvertOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    save_peft_adapter(options.base_dir, options.source, lora())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingRefused, match=r"pip install 'shira-server\[train\]'"):
        convert(options)
