"""Decoders whose weights differ from the base's, of every method."""

from __future__ import annotations

import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.record import DecoderRecord
from tests.conftest import make_decoder


def full_decoder(model: PreTrainedModel, model_id: ModelId) -> Decoder:
    """A whole copy of the base whose weights differ from it."""
    record = DecoderRecord("shipping", model_id.digest, "shared", "last_token", "")
    decoder = Decoder.create(model, record, None)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in decoder.model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return decoder


def activated_decoder(model: PreTrainedModel, model_id: ModelId) -> Decoder:
    """The LoRA decoder of `make_decoder`, with aLoRA's switch."""
    record = DecoderRecord("shipping", model_id.digest, "shared", "last_token", "")
    lora = LoraConfig(
        r=4,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        alora_invocation_tokens=[0],
    )
    decoder = Decoder.create(model, record, lora)
    twin = dict(make_decoder(model, model_id).model.named_parameters())
    for name, parameter in decoder.model.named_parameters():
        parameter.data = twin[name].data
    return decoder
