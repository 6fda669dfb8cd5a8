"""What the harness is told: against its own model, and against inference by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from prefillshare.evals.lm_eval import PrefillShareLM
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import lay_out
from tests.evals.harness import encoded, requests, saved
from tests.evals.merging import merging_tokenizer

PAIRS = [
    ("Which is red?\nAnswer:", " blood"),
    ("Which is red?\nAnswer:", " sky"),
    ("Which is red?\nAnswer:", " x"),
    ("a b", "c and more"),
    ("space moved \n", "to the answer"),
    ("seam: ", "x"),
    ("", "no context"),
    ("q", "café ✓"),
    ("left " * 20, "truncated"),
]


@torch.no_grad()
def by_hand(
    base: Any, decoder: Any, shared: list[int], own: list[int], n: int
) -> float:
    """The log-probability of the last `n` of `own`: prefill, then one token a step."""
    state = PrefillModule(base, chunk_tokens=3).prefill(shared).to_transformers()
    steps = []
    for token in own[:-1]:
        output = decoder(input_ids=torch.tensor([[token]]), past_key_values=state)
        steps.append(output.logits[0, -1].log_softmax(-1))
    pairs = zip(steps[-n:], own[-n:], strict=True)
    return sum(float(step[token]) for step, token in pairs)


@pytest.fixture(scope="module")
def reference(base_directory: Path) -> Any:
    """The harness's own model on the base."""
    return HFLM(
        pretrained=str(base_directory), dtype="float64", device="cpu", max_length=64
    )


def test_with_an_untrained_decoder_it_is_the_harness_own_model(
    identity: PrefillShareLM, reference: Any
) -> None:
    pairs = requests("loglikelihood", PAIRS)
    found = identity.loglikelihood(pairs, disable_tqdm=True)
    wanted = reference.loglikelihood(pairs, disable_tqdm=True)
    assert [x for x, _ in found] == pytest.approx([x for x, _ in wanted], abs=1e-9)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_a_greedy_continuation_is_said_to_be_one(
    identity: PrefillShareLM, reference: Any
) -> None:
    options = {"until": [], "max_gen_toks": 1}
    contexts = ["a", "b c", "d?"]
    answers = identity.generate_until(
        requests("generate_until", [(c, options) for c in contexts]), disable_tqdm=True
    )
    pairs = list(zip(contexts, answers, strict=True))
    pairs = [(c, a) for c, a in pairs if encoded(c + a)[:-1] == encoded(c)]
    assert pairs
    scored = requests("loglikelihood", pairs)
    for model in (identity, reference):
        found = model.loglikelihood(scored, disable_tqdm=True)
        assert all(greedy for _, greedy in found)


def test_rolling_texts_are_those_of_the_harness_own_model(
    identity: PrefillShareLM, reference: Any
) -> None:
    texts = requests("loglikelihood_rolling", [("short",), ("a longer text " * 12,)])
    found = identity.loglikelihood_rolling(texts, disable_tqdm=True)
    wanted = reference.loglikelihood_rolling(texts, disable_tqdm=True)
    assert found == pytest.approx(wanted, abs=1e-8)


def test_generated_texts_are_those_of_the_harness_own_model(
    identity: PrefillShareLM, reference: Any
) -> None:
    options = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    prompts = [(context, options) for context in ("abc", "Which is red?", "x " * 40)]
    found = identity.generate_until(requests("generate_until", prompts), True)
    assert found == reference.generate_until(requests("generate_until", prompts), True)


def test_a_chat_is_scored_as_it_is_served(
    trained: PrefillShareLM, base: PreTrainedModel
) -> None:
    messages = [{"role": "user", "content": "order 4"}]
    served = lay_out(merging_tokenizer(), messages, "ship it", "suffix")
    context = trained.apply_chat_template(messages)
    answers = ["to Lyon", "abc", "x"]
    found = trained.loglikelihood(
        requests("loglikelihood", [(context, answer) for answer in answers]), True
    )
    shared, own = list(served.token_ids[: served.boundary]), list(served.remainder)
    for answer, (total, _) in zip(answers, found, strict=True):
        ids = encoded(answer)
        wanted = by_hand(base, trained.decoder.model, shared, own + ids, len(ids))
        assert total == pytest.approx(wanted, abs=1e-9)


def test_a_text_is_scored_with_all_but_its_last_token_prefilled(
    trained: PrefillShareLM, base: PreTrainedModel
) -> None:
    (found,) = trained.loglikelihood(
        requests("loglikelihood", [("Answer:", " blood")]), True
    )
    context, answer = encoded("Answer:"), encoded(" blood")
    wanted = by_hand(
        base, trained.decoder.model, context[:-1], context[-1:] + answer, len(answer)
    )
    assert found[0] == pytest.approx(wanted, abs=1e-9)


def test_a_chat_is_answered_as_it_is_served(trained: PrefillShareLM) -> None:
    messages = [{"role": "user", "content": "order 4"}]
    served = lay_out(merging_tokenizer(), messages, "ship it", "suffix")
    cache = trained.scorer.prefill.prefill(served.token_ids[: served.boundary])
    ids = list(
        trained.decoder.generate(
            cache, served.remainder, max_tokens=10, stop_ids=frozenset({0})
        )
    )
    text = str(merging_tokenizer().decode(ids, skip_special_tokens=True))
    context = trained.apply_chat_template(messages)
    options = {"until": [], "max_gen_toks": 10}
    assert trained.generate_until(
        requests("generate_until", [(context, options)]), True
    ) == [text]
    stop = text[1:3]
    assert len(stop) == 2
    (cut,) = trained.generate_until(
        requests("generate_until", [(context, options | {"until": [stop]})]), True
    )
    assert cut == text[: text.index(stop)]


def test_generation_ends_at_a_stop_sequence(trained: PrefillShareLM) -> None:
    (whole,) = trained.generate_until(
        requests("generate_until", [("abc", {"until": [], "max_gen_toks": 12})]), True
    )
    assert whole
    steps: list[object] = []
    hook = trained.decoder.model.register_forward_hook(lambda *_: steps.append(None))
    options = {"until": whole[:1], "max_gen_toks": 12}
    try:
        (cut,) = trained.generate_until(
            requests("generate_until", [("abc", options)]), True
        )
    finally:
        hook.remove()
    assert (cut, len(steps)) == ("", 1)


def test_the_decoder_never_reads_what_is_shared(trained: PrefillShareLM) -> None:
    read: list[list[int]] = []
    hook = trained.decoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.extend(kwargs["input_ids"].tolist()),
        with_kwargs=True,
    )
    context = trained.apply_chat_template([{"role": "user", "content": "qqq " * 9}])
    try:
        trained.loglikelihood(requests("loglikelihood", [(context, "abc")]), True)
        trained.generate_until(
            requests("generate_until", [(context, {"max_gen_toks": 3})]), True
        )
    finally:
        hook.remove()
    (q,) = encoded("q")
    assert len(read) >= 2
    assert not any(q in ids for ids in read)


def test_a_decoder_trained_the_ordinary_way_prefills_itself(
    base: PreTrainedModel, base_directory: Path, tmp_path: Path
) -> None:
    decoder = saved(base, base_directory, tmp_path / "own", prefill="own")
    model = PrefillShareLM(str(base_directory), decoder, "float64")
    (found,) = model.loglikelihood(requests("loglikelihood", [("abq", "cd")]), True)
    with torch.no_grad():
        logits = model.decoder.model(torch.tensor([encoded("abqcd")])).logits[0]
    scored = zip(logits.log_softmax(-1)[1:-1], encoded("cd"), strict=True)
    assert found[0] == pytest.approx(sum(float(x[i]) for x, i in scored), abs=1e-9)
