"""What an accuracy page says before its figures: what was trained, on what, where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from prefillshare.bench.markdown import hardware
from prefillshare.training.settings import TaskSettings

_TASKS: TypeAdapter[TaskSettings] = TypeAdapter(TaskSettings)


def setup(config: Mapping[str, Any]) -> Iterator[str]:
    """Seeds, systems, modules and tasks, each with its settings."""
    seeds = ", ".join(map(str, config["seeds"]))
    tuned = ", and each has prefill modules of its own" if config["modules"] else ""
    yield (
        f"Seeds {seeds}: they draw the order of the data and the adapters, the same "
        f"for every system{tuned}. All systems: {_keys(config['decoder'])}.\n"
    )
    yield _listed(
        f"`{name}`: {_system(system)}" for name, system in config["systems"].items()
    )
    if config["modules"]:
        yield "Prefill modules, tuned first:\n"
        yield _listed(
            f"`{name}`: {_module(module)}" for name, module in config["modules"].items()
        )
    yield "Tasks, each learned and then tested on other examples:\n"
    yield _listed(
        f"{described(each['train'])}; tested on "
        f"{'; '.join(map(described, each['test']))}"
        for each in config["tasks"]
    )


def missing(names: Sequence[str]) -> Iterator[str]:
    """Which runs are still to be made."""
    if names:
        yield f"**Not run yet:** {'; '.join(names)}.\n"


def made(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Which runs were trained where: kept runs may be older than this page."""
    yield "Trained (the line above says where this page was put together):\n"
    yield _listed(
        f"{'; '.join(entry['runs'])}: {', then '.join(map(_where, entry['made']))}"
        for entry in entries
    )
    places = [place for entry in entries for place in entry["made"]]
    processors = list(
        dict.fromkeys(str(place.get("gpu") or place.get("cpu")) for place in places)
    )
    if len(processors) > 1:
        yield (
            f"**More than one processor made these runs ({', '.join(processors)}): "
            "what differs between them may be the processor's doing.**\n"
        )
    if len({str(place.get("commit")) for place in places}) > 1:
        yield (
            "**More than one version of the code made these runs: see the log for what "
            "changed between them, such as the precision of attention.**\n"
        )


def described(task: Mapping[str, Any]) -> str:
    """A task's kind, and its settings so far as they are not the usual ones."""
    settings: TaskSettings = _TASKS.validate_python(task)
    asked = settings.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    return f"{settings.kind} ({_keys(asked)})"


def _system(system: Mapping[str, Any]) -> str:
    module = f"prefill module `{system['module']}`" if system["module"] else ""
    also = "; ".join(
        f"the same decoders as `{name}` with {_keys(changes)}"
        for name, changes in system["readings"].items()
    )
    task = f"tasks {_keys(system['task'])}" if system["task"] else ""
    parts = (_keys(system["train"]), module, task, also)
    return "; ".join(each for each in parts if each) or "as all"


def _module(module: Mapping[str, Any]) -> str:
    """Its own settings, and its tasks."""
    asked = {key: x for key, x in module.items() if key not in ("tasks", "output")}
    listed = "; ".join(map(described, module["tasks"]))
    return f"{_keys(asked)}; on {listed}" if asked else f"on {listed}"


def _keys(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _where(environment: Mapping[str, Any]) -> str:
    place = (
        f"commit {environment.get('commit')}, torch {environment.get('torch')}, "
        f"{hardware(environment)}"
    )
    module = environment.get("module")
    return f"{place} (on a module made by {_where(module)})" if module else place


def _listed(lines: Iterator[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
