from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters_store.adapter import Adapter, Fingerprint
from adapters_store.blend import DELTA_METHODS, Fusion
from adapters_store.errors import AdapterRejected, AdapterStoreError, BlendRejected, TrainingRefused
from adapters_store.format import read_adapter, write_adapter
from adapters_store.tools.applied import applied
from adapters_store.tools.fuse_files import FuseOptions, fuse_files
from adapters_store.tools.native_files import short_names
from tests.adapters_store.adapter_files import SHAPES, container, make_adapter, same_bits

A = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [1.0, 2.0, 3.0])
B = make_adapter({"a.weight": [1, 7], "b.weight": [69]}, [-0.3, 5.0, 6.0])
SAME_SET = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [0.1, -2.0, 0.7])
STRANGER = make_adapter({"b.weight": [3]}, [1.0], base=Fingerprint("sha256:" + "0" * 64))
ADAPTERS = {"a": A, "b": B, "same": SAME_SET, "stranger": STRANGER}


class Weight(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, adapter in ADAPTERS.items():
        write_adapter(adapter, tmp_path / f"{name}.safetensors")
    return tmp_path


def options(folder: Path, *names: str, **changes: Any) -> FuseOptions:
    paths = tuple(folder / f"{name}.safetensors" for name in names)
    return FuseOptions(**{"adapters": paths, "output": folder / "fused.safetensors", **changes})


def words(members: list[tuple[Adapter, float]], fusion: Fusion) -> dict[str, Tensor]:
    """What a bf16 model holds under a blend. −0 is where a delta of 0 can be told from none."""
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=draw).bfloat16() for name, shape in SHAPES.items()}
    tensors["a.weight"].view(-1)[:9] = -0.0
    model = nn.ModuleDict({name.removesuffix(".weight"): Weight(tensor) for name, tensor in tensors.items()})
    with applied(model, members, fusion):
        return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


@pytest.mark.parametrize(
    "fusion", [*(Fusion(method=method) for method in DELTA_METHODS), Fusion(method="ties", density=0.5)]
)
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("a", "same"), ("a", "b", "same")])
def test_the_fused_file_at_scale_one_gives_the_words_of_the_blend(
    folder: Path, names: tuple[str, ...], fusion: Fusion
) -> None:
    scales = (0.7, -0.4, 1.0)[: len(names)]
    report = fuse_files(options(folder, *names, scales=scales, fusion=fusion))
    fused = read_adapter(report.output, base=None).adapter
    assert fused.version == report.version
    blend = words([(ADAPTERS[name], scale) for name, scale in zip(names, scales, strict=True)], fusion)
    served = words([(fused, 1.0)], Fusion())
    for name, tensor in blend.items():
        assert same_bits(served[name], tensor)


@pytest.mark.parametrize("method", DELTA_METHODS)
def test_adapters_of_one_index_set_are_fused_to_that_very_set(folder: Path, method: Any) -> None:
    fusion = Fusion(method=method, density=0.5 if method == "ties" else None)
    report = fuse_files(options(folder, "a", "same", fusion=fusion))
    fused = read_adapter(report.output, base=None).adapter
    assert fused.index_set.digest == A.index_set.digest == report.index_set
    assert report.is_shared_index_set


def test_entries_that_cancel_are_kept_as_zeros(folder: Path) -> None:
    report = fuse_files(options(folder, "a", "same"))
    assert (report.num_entries, report.num_zero_values) == (3, 1)
    assert read_adapter(report.output, base=None).adapter.values.tolist() == pytest.approx([1.1, 0.0, 3.7])


def test_a_union_is_named_by_its_content(folder: Path) -> None:
    forth = fuse_files(options(folder, "a", "b"))
    back = fuse_files(options(folder, "b", "a", output=folder / "again.safetensors"))
    assert forth.version == back.version
    fused = read_adapter(forth.output, base=None).adapter
    union = {"a.weight": [1, 7, 65_536], "b.weight": [69], "c.weight": [5]}
    assert fused.index_set.digest == make_adapter(union).index_set.digest
    assert not forth.is_shared_index_set


def test_the_order_of_the_files_does_not_matter_to_the_last_bit(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in "xyz":
        adapter = make_adapter({"a.weight": range(300)}, torch.randn(300, generator=draw))
        write_adapter(adapter, folder / f"{name}.safetensors")
    versions = {fuse_files(options(folder, *names)).version for names in permutations("xyz")}
    assert len(versions) == 1


def test_the_card_names_members_scales_and_method(folder: Path) -> None:
    fuse_files(options(folder, "a", "b", scales=(0.5, 2.0), fusion=Fusion(method="ties", density=0.5)))
    assert read_adapter(folder / "fused.safetensors", base=None).card == {
        "made_by": "shira fuse",
        "method": "ties",
        "density": 0.5,
        "members": [
            {"name": "a", "version": A.version, "scale": 0.5},
            {"name": "b", "version": B.version, "scale": 2.0},
        ],
    }


def test_values_can_be_stored_narrower(folder: Path) -> None:
    fuse_files(options(folder, "a", "b", values_dtype="bfloat16"))
    values = read_adapter(folder / "fused.safetensors", base=None).adapter.values
    assert same_bits(values, torch.tensor([0.7, 5.0, 2.0, 6.0, 3.0]).bfloat16())


@pytest.mark.parametrize(
    ("names", "changes", "error", "message"),
    [
        ((), {}, BlendRejected, "at least one adapter"),
        (("a", "a"), {}, BlendRejected, "a.safetensors: the same file is given twice"),
        (("a", "copy"), {}, BlendRejected, "a and copy hold one adapter, sha256:"),
        (("a", "stranger"), {}, BlendRejected, "stranger is made for the base sha256:0000.*, a for sha256:cdcd"),
        (("a", "peft"), {}, AdapterRejected, "peft.safetensors: __metadata__: .*'shira'"),
        (("a", "none"), {}, FileNotFoundError, "none.safetensors"),
        (("a", "b"), {"scales": (1.0,)}, TrainingRefused, "scales: expected 2, one per adapter, got 1"),
        (("a", "b"), {"scales": (1.0, float("nan"))}, BlendRejected, "scale must be finite"),
        (("a", "b"), {"scales": (1.0, -1.0), "fusion": Fusion(method="mean")}, BlendRejected, "add up to 0"),
        (("a", "b"), {"fusion": Fusion(density=0.5)}, BlendRejected, "density is for ties"),
        (("a", "b"), {"fusion": Fusion(method="switch")}, BlendRejected, "one of sum, mean, ties, ram, got switch"),
        (("a", "b"), {"values_dtype": "int8"}, TrainingRefused, "values_dtype: expected one of"),
        (("huge", "b"), {"values_dtype": "float16"}, BlendRejected, "1 of 4 fused values .* range of float16"),
        (("a", "b"), {"output": Path("nowhere/f")}, TrainingRefused, "output: expected a file in a directory"),
    ],
)
def test_what_cannot_be_fused_is_refused_by_name_and_leaves_no_file(
    folder: Path, names: tuple[str, ...], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_adapter(A, folder / "copy.safetensors")
    write_adapter(make_adapter({"c.weight": [0]}, [1e6]), folder / "huge.safetensors")
    (folder / "peft.safetensors").write_bytes(container({}))
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=message):
        fuse_files(options(folder, *names, **changes))
    assert sorted(folder.iterdir()) == before


def test_the_output_cannot_be_one_of_the_adapters(folder: Path) -> None:
    with pytest.raises(AdapterStoreError, match=r"another file than what is read \(a\.safetensors\)"):
        fuse_files(options(folder, "a", "b", output=folder / "a.safetensors"))
    assert read_adapter(folder / "a.safetensors", base=None).adapter.version == A.version


def test_short_names_take_as_many_folders_as_they_need() -> None:
    paths = [Path(name) for name in ("x/one/adapter.safetensors", "x/two/adapter.safetensors", "three.v1")]
    assert short_names(paths[:1]) == ["adapter"]
    assert [
        name.endswith(end)
        for name, end in zip(short_names(paths), ["one/adapter", "two/adapter", "three.v1"], strict=True)
    ]
