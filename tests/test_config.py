"""Configuration files and overrides, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError, field_validator

from prefillshare.config import Config, load_config
from prefillshare.errors import ConfigError


class Optimizer(Config):
    learning_rate: float = 1e-4
    steps: int = 10


class Worker(Config):
    name: str
    port: int = 8000


class Settings(Config):
    seed: int = 0
    output: Path | None = None
    optimizer: Optimizer = Optimizer()
    workers: list[Worker] = []
    named: dict[str, Worker] = {}
    either: Worker | Optimizer | None = None

    @field_validator("seed")
    @classmethod
    def _not_negative(cls, seed: int) -> int:
        if seed < 0:
            raise ValueError("a seed is not negative")
        return seed


def load(tmp_path: Path, text: str, *overrides: str) -> Settings:
    file = tmp_path / "some.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(Settings, file, overrides)


def test_defaults_need_no_file() -> None:
    assert load_config(Settings, None, []) == Settings()


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing yet\n") == Settings()


def test_file_then_overrides_in_order(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "seed: 1\noptimizer: {steps: 5}\nworkers: [{name: a}, {name: b}]\n",
        "optimizer.learning_rate=1e-5",
        "seed=2",
        "seed=3",
        "workers.1.port=9",
        "output=runs/x=y",
    )
    assert settings.seed == 3
    assert settings.optimizer == Optimizer(learning_rate=1e-5, steps=5)
    assert settings.workers == [Worker(name="a"), Worker(name="b", port=9)]
    assert settings.output == Path("runs/x=y")


def test_an_override_is_yaml_and_makes_the_levels_above_it() -> None:
    overrides = ["named.left.name=a", "workers=[{name: b, port: 2}]"]
    settings = load_config(Settings, None, overrides)
    assert settings.named == {"left": Worker(name="a")}
    assert settings.workers == [Worker(name="b", port=2)]


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "unknown key sed; did you mean 'seed'?"),
        (
            "optimizer: {learning_rte: 1}",
            "optimizer.learning_rte; did you mean 'optimizer.learning_rate'?",
        ),
        ("optimizer: {zzz: 1}", "optimizer.zzz; known: learning_rate, steps"),
        (
            "workers: [{name: a}, {name: b, prt: 1}]",
            "unknown key workers.1.prt; did you mean 'workers.1.port'?",
        ),
        (
            "named: {left: {name: a, prt: 1}}",
            "unknown key named.left.prt; did you mean 'named.left.port'?",
        ),
        ("either: {stps: 1}", "unknown key either.stps; did you mean 'either.steps'?"),
        ("seed: many", "seed: 'many': expected a valid integer"),
        ("optimizer: {steps: 1.5}", "optimizer.steps: 1.5: expected a valid integer"),
        ("optimizer: 3", "optimizer: 3: expected a valid dictionary"),
        ("seed: -1", "seed: -1: a seed is not negative"),
        ("workers: [{port: 1}]", "workers.0.name is missing; set it in the file or by"),
        ("[1, 2]", "holds a list at the top level"),
        ("seed: [1", "is not YAML"),
        ("seed: 2024-99-99", "is not YAML"),
    ],
)
def test_an_error_names_the_file_the_key_and_the_remedy(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'some.yaml'}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", "--set sed=1: unknown key sed; did you mean 'seed'?"),
        (
            "optimizer.stps=1",
            "unknown key optimizer.stps; did you mean 'optimizer.steps'?",
        ),
        ("optimizer={stps: 1}", "--set optimizer={stps: 1}: unknown key optimizer."),
        ("seed=many", "--set seed=many: seed: 'many': expected a valid integer"),
        ("seed", "--set seed: write it as --set key.subkey=value"),
        ("=1", "--set =1: write it as"),
        ("optimizer..steps=1", "--set optimizer..steps=1: write it as"),
        ("seed=[1", "--set seed=[1: the value is not YAML"),
        ("workers.0.prt=1", "--set workers.0.prt=1: unknown key workers.0.prt; did"),
        ("optimizer.steps.x=1", "--set optimizer.steps.x=1: optimizer.steps is 5"),
        ("workers.7.name=a", "workers is [{'name': 'a'}], which has no '7'"),
    ],
)
def test_an_error_names_the_override(
    tmp_path: Path, override: str, message: str
) -> None:
    text = "optimizer: {steps: 5}\nworkers: [{name: a}]"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, override)
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "sed: 1\noptimizer: {steps: x}\n", "stuff=1")
    assert len(str(caught.value).splitlines()) == 3


def test_without_a_file_one_can_be_named() -> None:
    told = "configuration: name is missing; set it in a file for --config, or by --set"
    with pytest.raises(ConfigError, match=told):
        load_config(Worker, None, [])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; name an existing"):
        load_config(Settings, tmp_path / "absent.yaml", [])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Settings, tmp_path, [])
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(Settings, binary, [])
