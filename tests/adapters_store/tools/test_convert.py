"""SHiRA to and fro: nothing is lost, and PEFT agrees."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft.tuners.shira import ShiraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adapters_store.adapter import TORCH_DTYPES, Digest, sha256_digest
from adapters_store.base import describe_checkpoint
from adapters_store.errors import AdapterRejected, BaseMismatch, StorageFull, TrainingRefused
from adapters_store.format import read_adapter
from adapters_store.tools.applied import applied
from adapters_store.tools.convert import ConvertOptions, convert
from adapters_store.tools.convert_source import Form
from loadtest.tiny_model import save_tiny_model
from tests.adapters_store.tools.peft_world import (
    greedy,
    load,
    merged_by_peft,
    rank_counts,
    save_native,
    save_peft_adapter,
)

# PEFT asks transformers for a name that is about to go, and makes sparse tensors without choosing their checks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def options(base_dir: Path, tmp_path: Path) -> ConvertOptions:
    """A native file with r(m + n) entries in each layer, to PEFT's folder."""
    save_native(base_dir, tmp_path / "native", rank_counts(base_dir, 2))
    return ConvertOptions(source=tmp_path / "native", output=tmp_path / "peft", base_dir=base_dir, to="peft")


def test_a_native_adapter_converted_to_peft_gives_the_same_greedy_tokens_there(options: ConvertOptions) -> None:
    convert(options)
    adapter = read_adapter(options.source, base=describe_checkpoint(options.base_dir)).adapter
    model = load(options.base_dir)
    before = greedy(model)
    with applied(model, [(adapter, 1.0)]):
        ours = greedy(model)
        tuned = peft.PeftModel.from_pretrained(load(options.base_dir), options.output)
        assert greedy(tuned) == ours
        merged = dict(tuned.merge_and_unload().named_parameters())
        assert all(torch.equal(merged[name], parameter) for name, parameter in model.named_parameters())
    assert ours != before


def test_a_shira_of_peft_converted_to_native_gives_the_same_greedy_tokens_here(options: ConvertOptions) -> None:
    config = peft.ShiraConfig(r=3, target_modules=["q_proj", "up_proj"], random_seed=1)
    folder = save_peft_adapter(options.base_dir, options.output, config, spread=1.0)
    native = options.output.with_name("back")
    report = convert(replace(options, source=folder, output=native, to="native"))
    parsed = read_adapter(native, base=describe_checkpoint(options.base_dir))
    model = load(options.base_dir)
    before = greedy(model)
    with applied(model, [(parsed.adapter, 1.0)]):
        assert greedy(model) == greedy(merged_by_peft(options.base_dir, folder)) != before
    assert (report.is_exact, report.kept_share, report.warning) == (True, 1.0, None)
    assert parsed.card == {
        "made_by": "shira convert",
        "base": options.base_dir.name,
        "source_type": "SHIRA",
        "source_digest": sha256_digest((folder / "adapter_model.safetensors").read_bytes()),
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.integers(1, 8),
    targets=st.sets(st.sampled_from(["q_proj", "k_proj", "up_proj", "down_proj", "lm_head"]), min_size=1),
    dtype=st.sampled_from(list(TORCH_DTYPES.values())),
    to=st.sampled_from(["peft", "diffusers"]),
)
def test_there_and_back_is_the_same_version(
    options: ConvertOptions, rank: int, targets: set[str], dtype: torch.dtype, to: Form
) -> None:
    folder = options.source.parent / os.urandom(8).hex()
    folder.mkdir()
    counts = rank_counts(options.base_dir, rank, list(targets))
    adapter = save_native(options.base_dir, folder / "native", counts, dtype=dtype)
    there = replace(options, source=folder / "native", output=folder / "there", to=to)
    assert convert(there).is_exact
    back = replace(options, source=folder / "there", output=folder / "back", to="native")
    report = convert(back)
    assert read_adapter(back.output, base=None).adapter.version == adapter.version == report.version
    assert (report.source, report.num_entries) == (to, adapter.index_set.num_entries)


def test_the_card_of_a_native_file_is_carried_over(options: ConvertOptions, tmp_path: Path) -> None:
    from adapters_store.format import write_adapter

    adapter = read_adapter(options.source, base=None).adapter
    write_adapter(adapter, options.source, card={"mask": "wm"})
    convert(replace(options, output=tmp_path / "bf16", to="native", values_dtype="bfloat16"))
    assert read_adapter(tmp_path / "bf16", base=None).card == {"mask": "wm"}


def test_peft_attaches_just_to_the_layers_of_the_adapter(options: ConvertOptions, tmp_path: Path) -> None:
    base = describe_checkpoint(options.base_dir)
    save_native(options.base_dir, options.source, {DOWN: sum(base.weights[DOWN].shape)})
    convert(options)
    tuned = peft.PeftModel.from_pretrained(load(options.base_dir), options.output)
    layers = [name for name, module in tuned.named_modules() if isinstance(module, ShiraLayer)]
    assert layers == ["base_model.model." + DOWN.removesuffix(".weight")]


def test_peft_attaches_to_no_other_layer_where_it_shortens_a_long_list_of_them(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=12,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    counts = rank_counts(tmp_path / "base", 1, ["q_proj", "v_proj", "up_proj"])
    del counts["model.layers.11.self_attn.q_proj.weight"], counts["model.layers.1.mlp.up_proj.weight"]
    save_native(tmp_path / "base", tmp_path / "native", counts)
    convert(ConvertOptions(source=tmp_path / "native", output=tmp_path / "peft", base_dir=tmp_path / "base", to="peft"))
    tuned = peft.PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "peft").base_model.model
    layers = {f"{name}.weight" for name, module in tuned.named_modules() if isinstance(module, ShiraLayer)}
    assert layers == counts.keys()
    assert len(layers) == 34


def test_a_shira_that_diffusers_saved_goes_to_native_and_back_to_diffusers(tmp_path: Path) -> None:
    base_dir, source = tmp_path / "base", tmp_path / "saved" / "pytorch_lora_weights.safetensors"
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    model.save_pretrained(base_dir)
    config = peft.ShiraConfig(r=1, target_modules=["to_q", "to_v"], init_weights=False, random_seed=1)
    model.add_adapter(config)
    model.save_lora_adapter(source.parent)
    to_native = ConvertOptions(source=source, output=tmp_path / "native", base_dir=base_dir)
    convert(to_native)
    convert(replace(to_native, source=tmp_path / "native", output=tmp_path / "back", to="diffusers"))
    theirs, ours = load_file(source), load_file(tmp_path / "back")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_the_single_file_carries_a_config_that_peft_understands(options: ConvertOptions) -> None:
    convert(replace(options, to="diffusers"))
    with safe_open(options.output, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    config = peft.ShiraConfig(**json.loads(metadata["lora_adapter_metadata"]))
    assert (config.peft_type, config.r) == ("SHIRA", 2)
    assert {f"{name}.shira_weight" for name in config.target_modules} <= names


def test_values_narrowed_on_request_are_called_inexact(options: ConvertOptions, tmp_path: Path) -> None:
    report = convert(replace(options, output=tmp_path / "narrow", to="native", values_dtype="bfloat16"))
    assert (report.values_dtype, report.is_exact) == ("bfloat16", False)
    assert read_adapter(tmp_path / "narrow", base=None).adapter.values.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({DOWN: 81}, rf"r\(m \+ n\) .*got 81 in {DOWN}, 1\.012 times m \+ n = 80"),
        ({DOWN: 160, "lm_head.weight": 352}, rf"160 in {DOWN}, 2 times m \+ n = 80, after r = 1 in lm_head.weight"),
        ({"model.norm.weight": 32}, r"nn.Linear.*got model.norm.weight \[32\]"),
        ({"model.embed_tokens.weight": 352}, r"nn.Linear.*got model.embed_tokens.weight \[320, 32\]"),
    ],
)
def test_what_peft_cannot_hold_is_refused_with_the_figure(
    options: ConvertOptions, counts: dict[str, int], message: str
) -> None:
    save_native(options.base_dir, options.source, counts)
    with pytest.raises(TrainingRefused, match=message):
        convert(options)
    assert [path.name for path in options.source.parent.iterdir()] == ["native"]


@pytest.mark.parametrize("to", ["native", "peft", "diffusers"])
def test_a_full_disk_leaves_nothing_behind(options: ConvertOptions, to: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write
    num_left = 3

    def write(fd: int, data: Any) -> int:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageFull):
        convert(replace(options, to=to))
    assert [path.name for path in options.source.parent.iterdir()] == ["native"]


def change_config(**changes: Any) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return change


def rewrite(name: str, content: bytes | None) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return folder

    return change


def pickled(folder: Path) -> Path:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def halved(folder: Path) -> Path:
    """The same adapter for a base half as wide."""
    tensors = load_file(folder / "adapter_model.safetensors")
    wide = {name: tensor + 1000 if "indices" in name else tensor for name, tensor in tensors.items()}
    save_file(wide, folder / "adapter_model.safetensors")
    return folder


def bare_tensors(folder: Path) -> Path:
    save_file({"x": torch.zeros(1)}, folder / "file.safetensors")
    return folder / "file.safetensors"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda folder: folder / "nowhere",
            TrainingRefused,
            "input: expected an adapter file or folder, got .*nowhere",
        ),
        (rewrite("adapter_config.json", None), TrainingRefused, r"a folder with adapter_config\.json"),
        (rewrite("adapter_config.json", b"{'r': 1}"), AdapterRejected, "one JSON value"),
        (rewrite("adapter_config.json", b"[1]"), TrainingRefused, r"a adapter_config\.json with a peft_type"),
        (rewrite("adapter_model.safetensors", b"not one"), AdapterRejected, "truncated"),
        (rewrite("adapter_model.safetensors", b"PK\3\4" * 100), AdapterRejected, "not a safetensors file"),
        (pickled, TrainingRefused, r"got adapter_model\.bin: nothing is unpickled here"),
        (lambda folder: pickled(folder) / "adapter_model.bin", TrainingRefused, "nothing is unpickled here"),
        (bare_tensors, TrainingRefused, r"no adapter_config\.json beside it"),
        (halved, AdapterRejected, "range: expected rows below"),
        (change_config(peft_type="LOL"), TrainingRefused, "got LOL: a type that is not known here"),
        (change_config(peft_type="XLORA"), TrainingRefused, "XLORA: what it adds depends on the input"),
        (change_config(modules_to_save=["lm_head"]), AdapterRejected, "modules_to_save"),
    ],
)
def test_what_is_no_adapter_of_this_base_is_refused(
    options: ConvertOptions,
    tmp_path: Path,
    spoil: Callable[[Path], Path],
    error: type[Exception],
    message: str,
) -> None:
    convert(options)
    spoiled = spoil(options.output)
    with pytest.raises(error, match=message):
        convert(replace(options, source=spoiled, output=tmp_path / "out", to="native"))
    assert not (tmp_path / "out").exists()


def test_the_base_of_a_native_file_is_checked_by_fingerprint(options: ConvertOptions, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", "qwen2")
    with pytest.raises(BaseMismatch):
        convert(replace(options, base_dir=other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": "gguf"}, "to: expected one of native, peft, diffusers"),
        ({"sparsity": 0.0}, "sparsity"),
        ({"values_dtype": "int8"}, "values_dtype"),
        ({"base_dir": Path("nowhere")}, "base: expected a directory"),
        ({"output": Path("nowhere/out")}, "output: expected a file in a directory that exists"),
        ({"output": Path("/")}, "output: expected nothing there yet"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(options: ConvertOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingRefused, match=message):
        convert(replace(options, **change))


def test_an_output_that_exists_is_not_replaced_by_a_folder(options: ConvertOptions) -> None:
    options.output.write_text("something else")
    with pytest.raises(TrainingRefused, match="nothing there yet"):
        convert(options)
    assert options.output.read_text() == "something else"


@pytest.mark.parametrize("name", ["source", "base_dir"])
@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_what_is_read_is_never_written_over(options: ConvertOptions, tmp_path: Path, name: str, to: Form) -> None:
    base_dir = save_tiny_model(tmp_path / "a-base")
    files = {"source": options.source, "base_dir": base_dir / "model.safetensors"}
    before = files[name].read_bytes()
    with pytest.raises(TrainingRefused, match="output: expected another file than what is read"):
        convert(replace(options, base_dir=base_dir, output=files[name], to=to))
    assert files[name].read_bytes() == before


def test_the_weights_file_stands_for_its_folder(options: ConvertOptions, tmp_path: Path) -> None:
    convert(options)
    source = options.output / "adapter_model.safetensors"
    report = convert(replace(options, source=source, output=tmp_path / "back", to="native"))
    assert report.source_digest == Digest(sha256_digest(source.read_bytes()))
