"""Which part may import which, what scripts may do, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "prefillshare"
MAX_LINES = 300

BASE = {"errors", "config", "runtime", "files", "lifeline"}
LEARNED = BASE | {"kv", "models", "tasks"}
ALL = LEARNED | {
    "training",
    "evals",
    "transfer",
    "policy",
    "serving",
    "bench",
    "cli",
    "report",
}
# The parts that each part may import, besides itself; "" is the package's own module.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"errors"},
    "__main__": {"cli"},
    "errors": set(),
    "config": {"errors"},
    "runtime": {"errors"},
    "files": {"errors"},
    "lifeline": set(),
    "report": set(),
    "kv": BASE,
    "tasks": {"errors", "config"},
    "models": BASE | {"kv"},
    "transfer": BASE | {"kv"},
    "policy": {"errors"},
    "training": LEARNED,
    "evals": LEARNED | {"training"},
    "serving": ALL - {"training", "evals", "bench", "cli", "report"},
    "bench": ALL,
    "cli": ALL,
}
FORBIDDEN_LIBRARIES = {"transfer": {"transformers"}, "policy": {"torch"}}
# Calls that a script may make while it is imported: they do nothing by themselves.
HARMLESS_CALLS = {"logging.getLogger", "Path", "frozenset"}


def part_of(path: str) -> str:
    """`prefillshare/kv/cache.py` belongs to `kv`."""
    name = path.split("/")[1].removesuffix(".py")
    return "" if name == "__init__" else name


def imported(source: str, path: str) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that `source` imports."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def import_violations(source: str, path: str) -> list[str]:
    part = part_of(path)
    if part not in MAY_IMPORT:
        return [f"{path}: {part!r} is not in MAY_IMPORT: say there what it may import"]
    allowed = MAY_IMPORT[part] | {part}
    libraries = FORBIDDEN_LIBRARIES.get(part, set())
    found = []
    for line, name in imported(source, path):
        top, *below = name.split(".")
        if top in libraries:
            found.append(f"{path}:{line}: {part} imports {top}")
        if top == PACKAGE and (not below or below[0] not in allowed):
            found.append(f"{path}:{line}: {part or PACKAGE} imports {name}")
    return found


def script_violations(source: str, path: str) -> list[str]:
    tree = ast.parse(source)
    functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
    found = [] if "main" in functions else [f"{path}: has no function main"]
    running = (node.lineno for node in tree.body if not _is_inert(node))
    return found + [f"{path}:{line}: is executed at import" for line in running]


def _is_inert(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
            return True
        case ast.AsyncFunctionDef() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign() | ast.AnnAssign():
            calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
            return all(ast.unparse(each.func) in HARMLESS_CALLS for each in calls)
        case ast.If():
            return ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
    return False


def length_violations(source: str, path: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{path}: {lines} lines, over {MAX_LINES}"] if lines > MAX_LINES else []


def sources(*folders: str) -> list[tuple[str, str]]:
    """The text and the path, relative to the root, of every module in the folders."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return [
        (file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix())
        for file in sorted(files)
    ]


def test_imports_point_in_the_allowed_direction() -> None:
    checked = sources(PACKAGE)
    assert len(checked) > 3
    assert [each for pair in checked for each in import_violations(*pair)] == []


def test_scripts_have_a_main_and_do_nothing_at_import() -> None:
    scripts = [pair for pair in sources("train", "serve") if "__init__" not in pair[1]]
    assert [each for pair in scripts for each in script_violations(*pair)] == []


def test_files_are_short() -> None:
    checked = sources(PACKAGE, "train", "serve", "tests")
    assert [each for pair in checked for each in length_violations(*pair)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prefillshare/__init__.py", "from prefillshare.kv import cache"),
        ("prefillshare/errors.py", "import prefillshare.config"),
        ("prefillshare/config.py", "from prefillshare.runtime import device"),
        ("prefillshare/runtime.py", "from .config import Config"),
        ("prefillshare/kv/cache.py", "from prefillshare.models import decoder"),
        ("prefillshare/kv/cache.py", "from prefillshare import models"),
        ("prefillshare/kv/cache.py", "from ..models import decoder"),
        ("prefillshare/kv/cache.py", "import prefillshare"),
        ("prefillshare/kv/__init__.py", "from ..models.decoder import Decoder"),
        ("prefillshare/models/a.py", "def f():\n    import prefillshare.transfer.tcp"),
        ("prefillshare/transfer/a.py", "from prefillshare.models import decoder"),
        ("prefillshare/transfer/a.py", "from transformers.cache_utils import Cache"),
        ("prefillshare/tasks/a.py", "from prefillshare.models import prompt"),
        ("prefillshare/training/a.py", "from prefillshare.evals import report"),
        ("prefillshare/training/a.py", "from prefillshare.serving import engine"),
        ("prefillshare/evals/a.py", "from prefillshare.serving import engine"),
        ("prefillshare/serving/a.py", "from prefillshare.training import trainer"),
        ("prefillshare/serving/a.py", "from prefillshare.evals import report"),
        ("prefillshare/serving/a.py", "from prefillshare.cli import main"),
        ("prefillshare/serving/a.py", "from prefillshare.bench import speed"),
        ("prefillshare/novel/a.py", "import json"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(import_violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prefillshare/kv/cache.py", "from .layout import KVLayout\nimport torch"),
        ("prefillshare/kv/cache.py", "from prefillshare import errors"),
        ("prefillshare/evals/a.py", "from prefillshare.training import trainer"),
        ("prefillshare/serving/a.py", "from prefillshare.transfer import tcp"),
        ("prefillshare/bench/a.py", "import prefillshare.cli.command"),
        ("prefillshare/models/a.py", "import transformers"),
    ],
)
def test_an_allowed_import_is_not(path: str, source: str) -> None:
    assert import_violations(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "def other(): ...",
        "def main(): ...\nmain()",
        "def main(): ...\nmodel = load('x')",
        "def main(): ...\nif True:\n    main()",
        "def main(): ...\nfor _ in range(3): ...",
    ],
)
def test_a_wrong_script_is_found(source: str) -> None:
    assert len(script_violations(source, "train/a.py")) == 1


def test_a_right_script_is_not() -> None:
    source = (
        '"""Trains."""\nimport logging\n'
        "logger = logging.getLogger(__name__)\nSTEPS = 3\n"
        "def main(): ...\nif __name__ == '__main__':\n    main()\n"
    )
    assert script_violations(source, "train/a.py") == []


def test_a_long_file_is_found() -> None:
    assert length_violations("x = 1\n" * MAX_LINES, "a.py") == []
    assert len(length_violations("x = 1\n" * (MAX_LINES + 1), "a.py")) == 1
