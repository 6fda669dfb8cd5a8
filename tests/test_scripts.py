"""Scripts say in one line what they lack."""

from __future__ import annotations

import sys

import pytest

from prefillshare.errors import ConfigError
from prefillshare.models.gguf import package_folder
from train import harness


def test_the_harness_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "prefillshare.evals.lm_eval", raising=False)
    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    assert harness.main([]) == 2
    told = capsys.readouterr().err
    assert "pip install -e '.[eval]'" in told and "Traceback" not in told


def test_a_packaged_models_missing_part_is_named() -> None:
    with pytest.raises(ConfigError, match="pip install no-such-part"):
        package_folder("no-such-part", "no_such_part")
