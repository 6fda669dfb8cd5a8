"""Orders to bridge a cache that contradict themselves are refused."""

from __future__ import annotations

from typing import Any

import pytest

from prefillshare.serving.messages import BridgeOrder, DecodeRequest


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": [4, 5]},
        {"shares": [[(0, 1.0)]]},
        {"shares": [[(0, 1.0)], [(3, 1.0)], [(1, 1.0)]]},
        {"shares": [[(0, 1.0)], [], [(1, 1.0)]]},
    ],
    ids=str,
)
def test_an_inconsistent_order_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shares"):
        BridgeOrder.model_validate(
            {"bridge": "a" * 64, "source_tokens": 3, "token_ids": [1, 2, 3], **fields}
        )


def test_a_bridged_cache_ends_at_the_boundary() -> None:
    order = {"bridge": "a", "source_tokens": 3, "token_ids": [1, 2, 3]}
    fields: dict[str, Any] = {"request_id": "r", "token_ids": [1, 2, 3]}
    fields["prefill"] = None
    fields |= {"max_tokens": 1, "stop_ids": []}
    with pytest.raises(ValueError, match="3 tokens that are not the 2 before"):
        DecodeRequest.model_validate({**fields, "boundary": 2, "bridge": order})
    with pytest.raises(ValueError, match="leaves none of 3 tokens"):
        DecodeRequest.model_validate({**fields, "boundary": 3})
