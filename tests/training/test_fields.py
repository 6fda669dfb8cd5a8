"""Which characters and tokens of a JSON answer belong to which field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Sample
from prefillshare.training.fields import json_values, token_fields
from tests.evals.merging import merging_tokenizer
from tests.training.examples import tokenisation

NAMES = st.text("abc", min_size=1, max_size=3)
LEAVES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
)
LEAVES |= st.lists(st.integers() | st.text(max_size=3), max_size=3)
OBJECTS = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda inner: st.dictionaries(NAMES, LEAVES | inner, max_size=3),
    max_leaves=6,
)


def leaves(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, held in value.items():
        found |= (
            leaves(held, f"{prefix}{name}.")
            if isinstance(held, dict)
            else {prefix + name: held}
        )
    return found


@given(value=OBJECTS, indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_every_value_is_found_where_it_stands(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = json_values(text)
    assert [name for name, _, _ in found] == list(leaves(value))
    for name, start, stop in found:
        spelled = text[start:stop]
        held = leaves(value)[name]
        # Numbers and literals have the character behind them, which ends them.
        bare = not isinstance(held, str | list)
        assert json.loads(spelled[:-1] if bare else spelled) == held
        assert not bare or spelled[-1] in ",}\n "


@pytest.mark.parametrize("text", ["", "12", "[1]", '{"a": 1', '{"a": 1} x', "lamp {}"])
def test_text_that_is_no_object_has_no_fields(text: str) -> None:
    assert json_values(text) == ()


def test_nested_too_deeply_is_no_object_either() -> None:
    assert json_values('{"a":' * 5000 + "1" + "}" * 5000) == ()


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), merging_tokenizer()])
def test_a_token_belongs_to_the_value_that_it_spells(tokenizer: Any) -> None:
    answer = '{"order": 417, "place": {"town": "Lyon é", "lane": ""}}'
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    fields = token_fields(tokenizer, answer)
    assert [name for name, _, _ in fields] == ["order", "place.town", "place.lane"]
    spelled = {n: tokenizer.decode(ids[a:b]) for n, a, b in fields}
    for name, text in {"order": "417,", "place.town": '"Lyon é"'}.items():
        assert text in spelled[name]
        # No whole token more than the value needs.
        (start, stop) = next((a, b) for n, a, b in fields if n == name)
        assert text not in tokenizer.decode(ids[start + 1 : stop])
        assert text not in tokenizer.decode(ids[start : stop - 1])


def test_examples_carry_the_fields_of_their_response() -> None:
    message = {"role": "user", "content": "where?"}
    unit = tuple(
        Sample((message,), "", answer) for answer in ('{"town": "Lyon"}', "Lyon")
    )
    first, second = tokenisation().group(unit)
    assert first.fields == (("town", 9, 15),) and second.fields == ()
