"""A prefill module and a decoder as a model of lm-evaluation-harness.

python -m prefillshare.evals.lm_eval --model prefillshare \\
    --model_args model=models/base,decoder=runs/shipping --tasks gsm8k

Registers the model, then is lm-eval's own command line. Needs the extra `eval`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.evals.generation import Generation, generate_text
from prefillshare.evals.likelihood import SharedCacheScorer
from prefillshare.evals.served_prompt import ServedPrompts
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.prompt import Message

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (
        normalize_gen_kwargs,
    )
except ModuleNotFoundError as missing:
    raise ConfigError(
        f"lm-evaluation-harness cannot be imported ({missing}); install it with "
        "pip install -e '.[eval]' in a checkout"
    ) from missing

logger = logging.getLogger(__name__)

# As the harness hands it on: context and continuation as text (None for a window of a
# longer text), and the tokens of each.
Request = tuple[tuple[str, str] | None, list[int], list[int]]
# They choose among sampled tokens, so greedy decoding is the same without them.
_SAMPLING_ONLY = {"top_p", "top_k", "min_p", "typical_p"}


@register_model("prefillshare")
class PrefillShareLM(TemplateLM):
    """Answers each request as it would be served: base prefills, decoder generates.

    A request's context is cut at the decoder's own boundary (`ServedPrompts`). The
    prefill module reads what stands before, the decoder the rest and the continuation;
    it never reads the shared part with its own weights. A decoder trained the ordinary
    way (`prefill: own`) is its own prefill module.

    Context and continuation are encoded together and split as the harness's own models
    do, and the boundary lies before the first token that the continuation changed.
    Space at the end of a context counts as continuation there; it stays part of the
    prompt here, so its tokens are scored by the module that reads up to them: the
    prefill module. They are the same for all continuations of a context.

    Texts without a context (`loglikelihood_rolling`) are the decoder's from its first
    token on; later windows of a long text are cut one token before what they score.

    Args:
        model: the prefill module's directory.
        decoder: the decoder's directory.
        dtype: float64, float32, bfloat16 or float16.
        max_length: tokens that are read at most; by default the model's context.
        batch_size: continuations of one context that are scored at a time.
        device: as torch names it; the command line's default, cuda:0, means the
            processor where there is no such device.

    Raises:
        ConfigError: an argument is unusable, or the decoder's kind of prefill.
        IdentityError: the decoder was trained on another prefill module.
    """

    def __init__(
        self,
        model: str,
        decoder: str,
        dtype: str = "float32",
        max_length: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        directory = Path(model)
        self.tokenizer = load_tokenizer(directory)
        base = load_model(directory, _torch_dtype(dtype))
        torch.nn.Module.to(base, _device(device))
        self._device = base.device
        self.model_id = ModelId.from_directory(directory)
        self.decoder = Decoder.load(Path(decoder), base, self.model_id)
        prefill = PrefillModule(_prefill_model(base, self.decoder))
        self.scorer = SharedCacheScorer(
            prefill, self.decoder.model, rows=_rows(batch_size)
        )
        self.max_length = _length(max_length, prefill.context_tokens)
        self.prompts = ServedPrompts(
            self.tokenizer, self.decoder.record, self.max_length
        )

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        return self.prompts.prefix_id

    @property
    def tokenizer_name(self) -> str:
        """Names the rendered prompts, which differ by the decoder's suffix too."""
        suffix = hashlib.sha256(self.decoder.record.suffix.encode()).hexdigest()[:12]
        return f"prefillshare-{self.model_id.short}-{suffix}"

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """The chat as it is served: with the decoder's suffix at its end."""
        return self.prompts.render(
            chat_history, add_generation_prompt=add_generation_prompt
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Tokens of `string`, see `ServedPrompts.encode`."""
        return self.prompts.encode(string, add_special_tokens)

    def loglikelihood_rolling(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in nats, each token predicted once."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            for context, scored in self.prompts.windows(request.args[0]):
                windows.append((None, context, scored))
                owners.append(number)
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        for owner, (total, _) in zip(owners, scores, strict=True):
            totals[owner] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """The decoder's texts, cut at the first stop sequence."""
        laid_out = [self._lay_out(*request.args) for request in requests]
        # Contexts that begin alike follow one another, so the prefix is computed once.
        order = sorted(range(len(requests)), key=lambda i: laid_out[i].prefilled)
        texts = [""] * len(requests)
        for i in tqdm(order, "generate_until", disable=disable_tqdm):
            cache = self.scorer.cache(laid_out[i].prefilled)
            texts[i] = generate_text(self.decoder, self.tokenizer, cache, laid_out[i])
            self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        record = self.decoder.record
        return {
            "prefill_module": self.model_id.digest,
            "decoder": record.name,
            "prefill": record.prefill,
            "boundary": record.boundary,
            "suffix": record.suffix,
        }

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding yields it.

        The base class calls it with the tokens of `loglikelihood`.
        """
        items = [
            self.prompts.continuation(texts[0] if texts else "", context, scored)
            for texts, context, scored in requests
        ]
        with tqdm(total=len(items), desc="loglikelihood", disable=disable_tqdm) as bar:
            scores = self.scorer.score(items, bar.update)
        answers = [(each.total, bool(each.greedy.all())) for each in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _lay_out(self, context: str, options: dict[str, Any]) -> Generation:
        known = dict(normalize_gen_kwargs(options, default_max_gen_toks=256))
        stop, max_tokens = tuple(known.pop("until")), int(known.pop("max_gen_toks"))
        sampling, temperature = known.pop("do_sample"), known.pop("temperature", 0.0)
        foreign = sorted(set(known) - (set() if sampling else _SAMPLING_ONLY))
        if foreign:
            raise ConfigError(
                f"generation option {', '.join(foreign)} is not supported; use until, "
                "max_gen_toks, do_sample, temperature (--gen_kwargs overrides a task's)"
            )
        prefilled, remainder = self.prompts.cut(context, max_tokens)
        return Generation(prefilled, remainder, stop, max_tokens, temperature)


def main(argv: Sequence[str] | None = None) -> int:
    """lm-eval's command line, with the model registered; returns its exit status."""
    before = sys.argv
    sys.argv = ["lm-eval", *(sys.argv[1:] if argv is None else argv)]
    try:
        cli_evaluate()
    except PrefillShareError as error:
        sys.stderr.write(f"prefillshare: error: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    finally:
        sys.argv = before
    return 0


def _prefill_model(base: PreTrainedModel, decoder: Decoder) -> Any:
    match decoder.record.prefill:
        case "shared":
            return base
        case "own":
            return decoder.model
    raise ConfigError(
        f"decoder {decoder.record.name!r} reads a cache of kind "
        f"{decoder.record.prefill!r}; evaluate one trained with shared or own"
    )


def _torch_dtype(name: str) -> torch.dtype:
    try:
        return KVFormat(dtype=name).torch_dtype
    except ValueError as error:
        raise ConfigError(f"dtype: {error}") from error


def _device(name: str | None) -> torch.device:
    device = torch.device(name or "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        logger.warning("no CUDA device: evaluating on the processor")
        return torch.device("cpu")
    return device


def _rows(batch_size: int | str) -> int:
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise ConfigError(
            f"batch_size {batch_size!r} is not a positive number; give one: how many "
            "continuations of one context are scored at a time"
        )
    return int(batch_size)


def _length(wanted: int | None, context_tokens: int) -> int:
    if wanted is not None and not 2 <= wanted <= context_tokens:
        raise ConfigError(
            f"max_length {wanted} is not within 2 and {context_tokens}, the model's "
            "context; give a number between"
        )
    return context_tokens if wanted is None else wanted


if __name__ == "__main__":
    raise SystemExit(main())
