from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("is_wide", [False, True], ids=["narrow", "wide"])
def test_every_pass_compiles_for_a_hopper_device(
    is_wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs no device: the cross compiler comes with Triton."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from adapters_store.kernels import triton_passes as passes

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    word_t = triton.language.int32 if is_wide else triton.language.int16
    constants = {"word_t": word_t, "chunk": 1024, "dtype": 0 if is_wide else 1}
    pointers = {"delta": "*fp32", "num_lost": "*i32", "visits": "*i64", "pairs": "*i64"}
    for kernel in (passes.exchange_pass, passes.overwrite_pass, passes.switch_pass, passes.stage_pass):
        signature = {
            name: "constexpr" if name in constants else pointers.get(name, "*i16" if "indices" in name else "*u8")
            for name in kernel.arg_names
        }
        used = {name: value for name, value in constants.items() if name in signature}
        source = ASTSource(fn=kernel, signature=signature, constexprs=used)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert compiled.asm["cubin"]
        assert "fma.rn.f32" not in compiled.asm["ptx"]
        assert "bar.sync" in compiled.asm["ptx"] or kernel is not passes.switch_pass
