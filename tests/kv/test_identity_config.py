"""What in a config makes another prefill module of the same tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError, IdentityError
from prefillshare.kv.identity import ModelId


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", 1e-3),
        ("num_key_value_heads", 1),
        ("query_pre_attn_scalar", 64),
        ("linear_num_key_heads", 3),
        ("conv_L_cache", 5),
        ("attention_multiplier", 0.5),
    ],
)
def test_a_key_that_bears_on_the_cache_makes_another_identity(
    tiny_directory: Path, tmp_path: Path, key: str, value: object
) -> None:
    copy = shutil.copytree(tiny_directory, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"use_cache": False}))
    assert ModelId.from_directory(copy) == ModelId.from_directory(tiny_directory)
    (copy / "config.json").write_text(json.dumps(config | {key: value}))
    assert ModelId.from_directory(copy) != ModelId.from_directory(tiny_directory)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "models" / "gemma3"
    with pytest.raises(ConfigError, match=f"no model in {absent}.*prefillshare init"):
        ModelId.from_directory(absent)
    with pytest.raises(IdentityError, match=r"holds no \*\.safetensors"):
        ModelId.from_directory(tmp_path)
