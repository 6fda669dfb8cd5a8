"""The code on a model card: how a saved decoder or prefill module is loaded."""

from __future__ import annotations

from prefillshare.models.record import DecoderRecord

# What a reader of a card puts paths for.
BASE = "path/to/the/prefill/module"
SAVED = "path/to/this/directory"

_HERE = """\
from pathlib import Path

import torch

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import lay_out

directory = Path("{base}")
base, tokenizer = load_model(directory, torch.{dtype}), load_tokenizer(directory)
decoder = Decoder.load(Path("{saved}"), base, ModelId.from_directory(directory))
messages = [{{"role": "user", "content": "…"}}]
record = decoder.record
prompt = lay_out(tokenizer, messages, record.suffix, record.boundary)
cache = PrefillModule({prefill}).prefill(prompt.token_ids[: prompt.boundary])
stop = frozenset({{tokenizer.eos_token_id}})
ids = decoder.generate(cache, prompt.remainder, max_tokens=64, stop_ids=stop)
print(tokenizer.decode(list(ids), skip_special_tokens=True))"""

_PLAIN = """\
from os.path import commonprefix

import torch
{imports}

base = AutoModelForCausalLM.from_pretrained("{base}", dtype=torch.{dtype})
tokenizer = AutoTokenizer.from_pretrained("{base}")
decoder = {decoder}


def tokens(messages, generation):
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


context = [{{"role": "user", "content": "…"}}]
ids = tokens({messages}, True)
prompt = torch.tensor([ids])
{prefill}
out = decoder.generate(
    input_ids=prompt,
    attention_mask=torch.ones_like(prompt),
    past_key_values=cache,
    max_new_tokens=64,
    do_sample=False,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.eos_token_id,
)
print(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))"""

_BOUNDARIES = {
    "last_token": "boundary = len(ids) - 1",
    "suffix": "boundary = min(\n"
    "    len(commonprefix([ids, tokens(context, False)])), len(ids) - 1\n"
    ")",
}
_SHARED_PREFILL = """\
{boundary}
cache = DynamicCache(config=base.config)
with torch.no_grad(){off}:
    {reader}(input_ids=prompt[:, :boundary], past_key_values=cache, use_cache=True)"""


def with_prefillshare(record: DecoderRecord, dtype: str) -> str:
    """Python that loads a decoder and generates with it, by this package."""
    prefill = "base" if record.prefill == "shared" else "decoder.model"
    return _HERE.format(base=BASE, saved=SAVED, dtype=dtype, prefill=prefill)


def with_libraries(record: DecoderRecord, dtype: str, *, adapter: bool) -> str:
    """The same by transformers, and PEFT if the decoder is an `adapter`."""
    imports = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache"
    )
    decoder = f'AutoModelForCausalLM.from_pretrained("{SAVED}", dtype=torch.{dtype})'
    if adapter:
        imports = f"from peft import PeftModel\n{imports}"
        decoder = f'PeftModel.from_pretrained(base, "{SAVED}")'
    suffix = {"role": "user", "content": record.suffix}
    return _PLAIN.format(
        imports=imports,
        base=BASE,
        dtype=dtype,
        decoder=decoder,
        messages=f"[*context, {suffix!r}]" if record.suffix else "context",
        prefill=_prefill(record, adapter),
    )


def _prefill(record: DecoderRecord, adapter: bool) -> str:
    if record.prefill == "own":
        return "cache = DynamicCache(config=base.config)"
    return _SHARED_PREFILL.format(
        boundary=_BOUNDARIES[record.boundary],
        # PEFT's model shares the base's layers: the adapter is in them.
        off=", decoder.disable_adapter()" if adapter else "",
        reader="decoder" if adapter else "base",
    )
