"""The model of lm-evaluation-harness, set up and run by the harness."""

from __future__ import annotations

import functools
import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import pytest
from transformers import PreTrainedModel

from prefillshare.errors import ConfigError, ContextLengthError, IdentityError
from prefillshare.evals.lm_eval import PrefillShareLM
from tests.conftest import make_decoder
from tests.evals.harness import ROWS, requests, saved
from train.harness import main

ROOT = Path(__file__).resolve().parents[2]


def test_prompts_of_decoders_with_unlike_suffixes_are_cached_apart(
    identity: PrefillShareLM, trained: PrefillShareLM, base: PreTrainedModel
) -> None:
    assert identity.tokenizer_name == trained.tokenizer_name
    other = make_decoder(base, trained.model_id, suffix="bill it")
    before, trained.decoder = trained.decoder, other
    try:
        assert identity.tokenizer_name != trained.tokenizer_name
    finally:
        trained.decoder = before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "KV dtype 'int8' is none of"),
        ({"batch_size": "auto"}, "batch_size 'auto' is not a positive number"),
        ({"max_length": 10**6}, "max_length 1000000 is not within 2 and 4096"),
    ],
)
def test_unusable_arguments_are_named(
    base: PreTrainedModel,
    base_directory: Path,
    tmp_path: Path,
    arguments: dict[str, Any],
    message: str,
) -> None:
    decoder = saved(base, base_directory, tmp_path / "decoder")
    with pytest.raises(ConfigError, match=message):
        PrefillShareLM(str(base_directory), decoder, **arguments)


def test_a_decoder_of_another_module_is_refused(
    base: PreTrainedModel, base_directory: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    decoder = saved(base, base_directory, tmp_path / "decoder")
    with pytest.raises(IdentityError, match="belongs to prefill module"):
        PrefillShareLM(str(tiny_directory), decoder)


def test_generation_that_cannot_be_had_is_refused(identity: PrefillShareLM) -> None:
    for options, error, message in (
        ({"num_beams": 4}, ConfigError, "num_beams is not supported"),
        ({"do_sample": True, "temperature": 1, "top_p": 0.9}, ConfigError, "top_p"),
        ({"max_gen_toks": 64}, ContextLengthError, "leave no room for a prompt"),
    ):
        with pytest.raises(error, match=message):
            identity.generate_until(requests("generate_until", [("a", options)]), True)


CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def task(tmp_path: Path) -> str:
    """A folder with a multiple-choice task over a JSONL file."""
    data, folder = tmp_path / "rows.jsonl", tmp_path / "task"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    folder.mkdir()
    text = CHOICE.format(data=data, cache=tmp_path / "cache")
    (folder / "tiny_choice.yaml").write_text(text)
    return str(folder)


def test_the_harness_runs_a_task_with_a_trained_decoder(
    trained: PrefillShareLM, base_directory: Path, task: str, tmp_path: Path
) -> None:
    manager = lm_eval.tasks.TaskManager(include_path=task, include_defaults=False)
    trained.decoder.save(tmp_path / "decoder")
    results = lm_eval.simple_evaluate(
        model="prefillshare",
        model_args={
            "model": str(base_directory),
            "decoder": str(tmp_path / "decoder"),
            "dtype": "float64",
        },
        tasks=["tiny_choice"],
        task_manager=manager,
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results["config"]["prefill_module"] == trained.model_id.digest
    right = []
    for row, sample in zip(ROWS, results["samples"]["tiny_choice"], strict=True):
        context = trained.apply_chat_template(
            [{"role": "user", "content": str(row["question"])}]
        )
        pairs = [(context, choice) for choice in ("blood", "sky")]
        wanted = [x for x, _ in trained.loglikelihood(requests("loglikelihood", pairs))]
        found = [float(x) for ((x, _),) in sample["resps"]]
        assert found == pytest.approx(wanted, abs=1e-9)
        right.append(wanted.index(max(wanted)) == row["answer"])
    # What it learned: whoever does not read the question has one of the two.
    assert results["results"]["tiny_choice"]["acc,none"] == sum(right) / 2 == 1.0


def test_the_command_line_knows_the_model(
    trained: PrefillShareLM,
    base_directory: Path,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Listing the thousands of tasks that come with it takes longer than all the rest.
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    trained.decoder.save(tmp_path / "decoder")
    arguments = ["--model", "prefillshare", "--tasks", "tiny_choice"]
    arguments += ["--include_path", task, "--limit", "1", "--device", "cpu"]
    where = f"model={base_directory},dtype=float64,decoder={tmp_path}"
    assert main([*arguments, "--model_args", f"{where}/decoder"]) == 0
    assert "tiny_choice" in capsys.readouterr().out
    assert main([*arguments, "--model_args", f"{where}/absent"]) == 2
    assert "no decoder in" in capsys.readouterr().err


def test_later_releases_of_the_harness_find_the_model_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    group = "lm_eval.models"
    value = project["entry-points"][group]["prefillshare"]
    assert EntryPoint("prefillshare", value, group).load() is PrefillShareLM
