from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adapters_store.adapter import Fingerprint, build_adapter
from adapters_store.blend import Fusion
from adapters_store.errors import AdapterStoreError, BaseMismatch, BlendRejected, TrainingRefused
from adapters_store.format import read_adapter, write_adapter
from adapters_store.tools import evaluate as module
from adapters_store.tools.applied import applied
from adapters_store.tools.data import Pair, load_examples
from adapters_store.tools.evaluate import EvalRow, evaluate, measure, subjects_of
from adapters_store.tools.evaluate_data import load_data
from adapters_store.tools.evaluate_options import BlendSpec, EvalOptions
from adapters_store.tools.evaluate_report import as_json, render
from adapters_store.tools.exact_match import count_matches, questions
from adapters_store.tools.loss import mean_loss
from adapters_store.tools.native_files import read_files
from adapters_store.tools.train import TrainOptions, TrainReport, train
from tests.adapters_store.adapter_files import same_bits
from tests.adapters_store.tools.conftest import HIDDEN

BLEND = BlendSpec(members=(("one", 1.0), ("two", -0.5)))
RAM = BlendSpec(members=(("one", 1.0), ("two", 0.5)), fusion=Fusion(method="ram"))


@dataclass(frozen=True, kw_only=True)
class Trained:
    folder: Path
    text: Path
    one: TrainReport
    two: TrainReport


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two adapters on masks of their own, trained on one text."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    text.write_text("abc def gh " * 200)
    reports = [
        train(
            TrainOptions(
                model_dir=model_dir,
                data=text,
                output=folder / f"{name}.safetensors",
                mask="rand",
                seed=seed,
                sparsity=2 / HIDDEN,
                learning_rate=1e-2,
                max_steps=15,
                batch_size=4,
                sequence_length=16,
                held_out=0.1,
            )
        )
        for seed, name in enumerate(("one", "two"))
    ]
    return Trained(folder=folder, text=text, one=reports[0], two=reports[1])


@pytest.fixture
def options(model_dir: Path, trained: Trained) -> EvalOptions:
    return EvalOptions(
        model_dir=model_dir,
        data=(trained.text,),
        adapters=(trained.one.output, trained.two.output),
        sequence_length=16,
    )


@pytest.fixture
def tokenizer(model_dir: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(model_dir)


def load(model_dir: Path, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    model: nn.Module = LlamaForCausalLM.from_pretrained(model_dir, dtype=dtype)
    return model


def row(rows: Sequence[EvalRow], subject: str, scale: float, data: str = "text.txt") -> EvalRow:
    (found,) = [row for row in rows if (row.subject, row.scale, row.data) == (subject, scale, data)]
    return found


def write_lines(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": text}) + "\n" for prompt, text in pairs))
    return path


def test_on_what_training_held_out_it_finds_the_losses_that_training_told(
    options: EvalOptions, trained: Trained
) -> None:
    report = evaluate(replace(options, held_out=0.1, precision="float32"))
    assert row(report.rows, "base", 0).loss == pytest.approx(trained.one.held_out_loss_before, abs=1e-5)
    assert row(report.rows, "one", 1).loss == pytest.approx(trained.one.held_out_loss_after, abs=1e-5)
    assert row(report.rows, "two", 1).loss == pytest.approx(trained.two.held_out_loss_after, abs=1e-5)
    assert (report.data[0].num_examples, report.data[0].num_tokens) == (14, 14 * 15)


def test_the_perplexity_is_that_of_the_whole_file_in_the_stored_dtype(
    options: EvalOptions, model_dir: Path, tokenizer: Any
) -> None:
    report = evaluate(replace(options, scales=(1.0, 0.5)))
    examples = load_examples(options.data[0], tokenizer, sequence_length=16)
    assert (report.dtype, report.data[0].num_tokens) == ("bfloat16", examples.num_predicted)
    model = load(model_dir)
    adapter = read_adapter(options.adapters[0], base=None).adapter
    for scale in (0.0, 0.5, 1.0):
        with applied(model, [(adapter, scale)]):
            loss = mean_loss(model, examples, batch_size=8)
        found = row(report.rows, "one" if scale else "base", scale)
        assert (found.loss, found.perplexity) == (loss, math.exp(loss))


def test_scale_zero_is_the_base_and_a_repetition_gives_the_same(options: EvalOptions) -> None:
    options = replace(options, scales=(0.0, 1.0), blends=(BLEND,))
    report = evaluate(options)
    base = row(report.rows, "base", 0).loss
    assert all(found.loss == base for found in report.rows if found.scale == 0)
    assert row(report.rows, "one", 1).loss != base
    assert evaluate(options) == report


@pytest.mark.parametrize("blend", [BLEND, RAM])
def test_a_blend_at_scale_one_is_what_the_server_would_serve(
    options: EvalOptions, blend: BlendSpec, model_dir: Path, tokenizer: Any
) -> None:
    report = evaluate(replace(options, blends=(blend,)))
    model = load(model_dir)
    adapters = {file.name: file.adapter for file in read_files(options.adapters)}
    with applied(model, [(adapters[name], scale) for name, scale in blend.members], blend.fusion):
        loss = mean_loss(model, load_examples(options.data[0], tokenizer, sequence_length=16), batch_size=8)
    assert row(report.rows, blend.title, 1).loss == loss
    assert [found.kind for found in report.rows] == ["base", "adapter", "adapter", "blend"]


def test_the_base_is_the_same_bit_for_bit_after_every_row_and_after_a_failure(
    options: EvalOptions, model_dir: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_dir)
    base: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}

    def is_base() -> bool:
        return all(same_bits(tensor.detach(), base[name]) for name, tensor in model.named_parameters())

    subjects = subjects_of(read_files(options.adapters), [BLEND])
    data = load_data(options, tokenizer)
    assert [is_base() for _ in measure(model, tokenizer, subjects, data, options)] == [True] * 4

    def fail(*_: Any, **__: Any) -> float:
        assert not is_base()
        raise InterruptedError

    monkeypatch.setattr(module, "mean_loss", fail)
    with pytest.raises(InterruptedError):
        list(measure(model, tokenizer, subjects[1:], data, options))
    assert is_base()


def slow_answer(model: nn.Module, tokenizer: Any, prompt: str, num_tokens: int) -> str:
    """Greedy, one prompt alone, every token from the whole sequence."""
    tokens: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for _ in range(num_tokens):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return "".join(tokenizer.convert_ids_to_tokens(tokens[-num_tokens:]))


def test_exact_match_counts_the_answers_that_greedy_decoding_gives(
    options: EvalOptions, model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = load(model_dir, torch.float32)
    lengths = {"abc d": 3, "gh": 1, "ab": 5, "h abcdef": 2}
    answers = {prompt: slow_answer(model, tokenizer, prompt, num) for prompt, num in lengths.items()}
    pairs = [(prompt, answer) for prompt, answer in answers.items() if answer.strip(" ?")]
    assert len(pairs) >= 3
    wrong = ("abc d", "b" if pairs[0][1][0] == "a" else "a")
    data = write_lines(tmp_path / "asked.jsonl", [*pairs, wrong])
    options = replace(options, data=(data,), metrics=("exact-match",), precision="float32", adapters=(), batch_size=3)
    report = evaluate(options)
    assert (report.rows[0].num_matched, report.data[0].num_questions) == (len(pairs), len(pairs) + 1)
    assert report.rows[0].exact_match == len(pairs) / (len(pairs) + 1)
    assert report.rows[0].loss is None
    # asked for more tokens than the completions have, nothing is cut off, and a model that goes on does not match
    assert evaluate(replace(options, max_new_tokens=20)).rows[0].num_matched == 0


def test_an_adapter_that_learnt_the_answers_answers_better_than_the_base(
    options: EvalOptions, model_dir: Path, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "lessons.jsonl", [("a", "b"), ("c", "d")] * 8)
    output = tmp_path / "lessons.safetensors"
    train(
        TrainOptions(
            model_dir=model_dir, data=data, output=output, sparsity=0.5, learning_rate=2e-2, max_steps=40, batch_size=8
        )
    )
    options = replace(options, data=(data,), adapters=(output,), metrics=("perplexity", "exact-match"))
    report = evaluate(options)
    base, learnt = row(report.rows, "base", 0, data.name), row(report.rows, "lessons", 1, data.name)
    assert learnt.exact_match == 1
    assert base.exact_match == 0
    assert learnt.perplexity is not None
    assert base.perplexity is not None
    assert learnt.perplexity < base.perplexity
    held_out = evaluate(replace(options, held_out=0.25)).data[0]
    assert (held_out.num_examples, held_out.num_questions) == (4, 4)


def test_a_generation_ends_at_the_end_of_the_sequence(model_dir: Path, tokenizer: Any) -> None:
    model = load(model_dir, torch.float32)
    answer = slow_answer(model, tokenizer, "abc d", 3)
    tokenizer.eos_token = answer[1]
    asked = questions([Pair(prompt="abc d", completion=answer[0])], tokenizer)
    assert answer[0] != answer[1]
    assert count_matches(model, tokenizer, asked, batch_size=1, max_new_tokens=10) == 1


def test_what_a_checkpoint_says_of_generation_does_not_change_the_answers(model_dir: Path, tokenizer: Any) -> None:
    model: Any = load(model_dir, torch.float32)
    answer = slow_answer(model, tokenizer, "abc d", 8)
    assert len(set(answer)) < len(answer)
    asked = questions([Pair(prompt="abc d", completion=answer)], tokenizer)
    model.generation_config.repetition_penalty = 100.0
    assert count_matches(model, tokenizer, asked, batch_size=1, max_new_tokens=None) == 1
    assert model.generation_config.repetition_penalty == 100.0


def test_the_report_is_a_table_json_and_a_plot(options: EvalOptions, tmp_path: Path) -> None:
    plot = tmp_path / "sweep.png"
    report = evaluate(replace(options, blends=(BLEND,), scales=(0.5, 1.0), plot=plot))
    table = render(report)
    assert all(
        word in table for word in ("base", "one", BLEND.title, "text.txt", "2,055 predicted tokens", "perplexity")
    )
    assert len(table.splitlines()) == 4 + 1 + 3 * 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    broken = replace(report, rows=(replace(report.rows[0], loss=1e4, perplexity=math.inf), *report.rows[1:]))
    parsed = json.loads(as_json(broken))
    assert parsed["rows"][0]["perplexity"] is None
    assert parsed["rows"][1]["perplexity"] == report.rows[1].perplexity
    assert set(parsed["adapters"]) == {"one", "two"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": ()}, TrainingRefused, "data: expected at least one, got none"),
        ({"data": (Path("none.txt"),)}, TrainingRefused, "data none.txt: expected a readable file"),
        ({"metrics": ()}, TrainingRefused, "metric: expected at least one"),
        ({"metrics": ("bleu",)}, TrainingRefused, "metric: expected one of perplexity, exact-match, got 'bleu'"),
        ({"metrics": ("exact-match",)}, TrainingRefused, r"data text.txt: expected prompts and completions"),
        ({"scales": (math.nan,)}, BlendRejected, "scale must be finite"),
        ({"sequence_length": 5000}, TrainingRefused, "data text.txt: expected 5000 tokens or more"),
        ({"sequence_length": 1}, TrainingRefused, "sequence_length: expected at least 2"),
        ({"held_out": 1.0}, TrainingRefused, "held_out"),
        ({"batch_size": 0}, TrainingRefused, "batch_size: expected at least 1, got 0"),
        ({"max_new_tokens": 0}, TrainingRefused, "max_new_tokens"),
        ({"precision": "int4"}, TrainingRefused, "precision: expected one of stored, bfloat16"),
        ({"device": "tpu"}, TrainingRefused, "device: expected one of cpu, cuda"),
        ({"model_dir": Path("nowhere")}, TrainingRefused, "model: expected a directory"),
        ({"plot": Path("nowhere/plot.png")}, TrainingRefused, "plot: expected a file in a directory"),
        (
            {"blends": (BlendSpec(members=(("three", 1.0),)),)},
            BlendRejected,
            r"three=1:sum: .*\(one, two\), got 'three'",
        ),
        ({"blends": (BlendSpec(members=()),)}, BlendRejected, "empty"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    options: EvalOptions, changes: dict[str, Any], error: type[AdapterStoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(replace(options, **changes))


def test_the_plot_cannot_be_what_is_read(options: EvalOptions) -> None:
    for path in (*options.data, *options.adapters, options.model_dir / "model.safetensors"):
        before = path.read_bytes()
        with pytest.raises(TrainingRefused, match="plot: expected another file than what is read"):
            evaluate(replace(options, plot=path))
        assert path.read_bytes() == before


def test_an_adapter_of_another_base_is_named(options: EvalOptions, tmp_path: Path) -> None:
    one = read_adapter(options.adapters[0], base=None).adapter
    stranger = build_adapter(base=Fingerprint("sha256:" + "0" * 64), index_set=one.index_set, values=one.values)
    write_adapter(stranger, tmp_path / "stranger.safetensors")
    with pytest.raises(BaseMismatch, match=r"stranger\.safetensors: manifest\.base"):
        evaluate(replace(options, adapters=(tmp_path / "stranger.safetensors",)))


@pytest.mark.parametrize(("content", "message"), [("", "some text"), ("{}", "line 1: "), ('{"prompt": "a"}', "line 1")])
def test_data_that_holds_nothing_is_refused(options: EvalOptions, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(TrainingRefused, match=rf"data data\.jsonl: .*{message}"):
        evaluate(replace(options, data=(path,)))


@pytest.mark.parametrize(("pair", "message"), [(("", "a"), "an empty prompt"), (("a", " "), "an empty completion")])
def test_a_question_without_prompt_or_answer_is_refused(
    options: EvalOptions, tmp_path: Path, pair: tuple[str, str], message: str
) -> None:
    path = write_lines(tmp_path / "data.jsonl", [("a", "b"), pair])
    with pytest.raises(TrainingRefused, match=f"example 2: {message}"):
        evaluate(replace(options, data=(path,), metrics=("exact-match",)))
