"""Imports point down: a module takes only from its own package and from the floors below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "tokenization", "trainer", "launch")

# From the top down. An entry is a module, or a package with all that is in it.
FLOORS: list[tuple[str, ...]] = [
    ("launch",),
    ("trainer.verify",),
    ("trainer.build",),
    ("trainer.loop",),
    ("trainer.forecast",),
    ("trainer.plan",),
    ("trainer.checkpoint",),
    ("trainer.step", "trainer.layer_norms", "trainer.evaluate", "trainer.model"),
    ("trainer.tracker",),
    ("trainer.data", "trainer.parallel", "trainer.optimizer"),
    (
        *("configs", "tokenization", "trainer.loss", "trainer.metrics", "trainer.guard"),
        *("trainer.wandb_link", "trainer.wandb_sender", "trainer.step_log", "trainer.bar"),
        *("trainer.evaluations", "trainer.bounds", "trainer.cross_entropy", "trainer.fused"),
        *("trainer.random_states", "trainer.output_lock", "trainer.start_up", "trainer.stages"),
        *("trainer.watchdog", "trainer.hang", "trainer.board"),
    ),
]
# On one floor, beyond a package's own modules: (importer, imported).
BESIDE = {
    ("tokenization", "configs"),
    ("trainer.loss", "configs"),
    ("trainer.loss", "trainer.cross_entropy"),
    ("trainer.cross_entropy", "trainer.fused"),
    ("trainer.metrics", "configs"),
    ("trainer.metrics", "trainer.guard"),
    ("trainer.evaluations", "trainer.step_log"),
    ("trainer.guard", "configs"),
    ("trainer.step_log", "configs"),
    ("trainer.wandb_link", "configs"),
    ("trainer.stages", "configs"),
    ("trainer.watchdog", "trainer.hang"),
    ("trainer.watchdog", "trainer.board"),
    ("trainer.hang", "trainer.board"),
    ("trainer.board", "configs"),
    ("trainer.output_lock", "configs"),
    ("trainer.evaluate", "trainer.step"),
    ("trainer.step", "trainer.layer_norms"),
    ("trainer.layer_norms", "trainer.model"),
}
# Library -> the only places of ours that may import it.
ONLY_IN = {
    "deepspeed": ("trainer.parallel", "launch.deepspeed_launcher"),
    "megatron.core.parallel_state": ("trainer.parallel",),
}
# Place -> (libraries it must do without, its modules that are excepted).
WITHOUT = {
    "configs": (("torch", "transformers"), ()),
    "tokenization": (("torch",), ()),
    "trainer.data": (("torch",), ("trainer.data.micro_batch",)),
    "trainer.plan": (("torch",), ()),
}

Imports = dict[str, set[str]]
"""Module -> what it imports, by full name; `from a import b` gives both `a` and `a.b`."""


def test_imports_point_down() -> None:
    assert faults(project_imports()) == []


def test_no_two_tests_have_one_name() -> None:
    """Their folders are no packages, so pytest would take one for the other."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_modules_are_found() -> None:
    imports = project_imports()
    assert "configs.schema" in imports["configs.load"]
    assert "configs.errors" in imports["launch.cli"]


PLANTED: list[tuple[str, str, str, str]] = [
    (
        "configs.planted",
        "from trainer.step import train_step",
        "configs.planted imports trainer.step",
        "higher",
    ),
    (
        "trainer.model.planted",
        "import trainer.checkpoint.store",
        "imports trainer.checkpoint.store",
        "higher",
    ),
    (
        "trainer.data.planted",
        "def f():\n    from trainer.parallel import grid",
        "trainer.parallel",
        "same floor",
    ),
    ("trainer.loss", "from tokenization import sample", "trainer.loss imports tokenization", "same floor"),
    ("trainer.model.planted", "import deepspeed.comm", "trainer.model.planted imports deepspeed", "only in"),
    ("trainer.step", "from megatron.core import parallel_state", "megatron.core.parallel_state", "only in"),
    ("configs.planted", "if TYPE_CHECKING:\n    import torch", "configs.planted imports torch", "without"),
    ("tokenization.planted", "from torch.nn import Module", "tokenization.planted imports torch", "without"),
    ("trainer.data.planted", "import torch.utils.data", "trainer.data.planted imports torch", "without"),
    ("trainer.planted", "import json", "trainer.planted", "no floor"),
]


@pytest.mark.parametrize(("module", "source", "where", "why"), PLANTED)
def test_planted_faults_are_seen(module: str, source: str, where: str, why: str) -> None:
    (fault,) = faults({module: set(imported(source, module, is_package=False))})
    assert where in fault
    assert why in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("launch.planted", "from trainer.data.sources import open_source\nimport torch, deepspeed_like"),
        ("trainer.data.micro_batch", "import torch"),
        ("trainer.model.planted", "from megatron.core.tensor_parallel import ColumnParallelLinear"),
        ("trainer.parallel.planted", "import deepspeed\nfrom megatron.core import parallel_state"),
        ("trainer.data.planted", "from trainer.data.rows import PackedRow\nfrom .packing import pack"),
        (
            "tokenization.templates.planted",
            "from ..segments import Segment\nfrom configs.errors import ConfigError",
        ),
    ],
)
def test_what_is_allowed_is_no_fault(module: str, source: str) -> None:
    assert faults({module: set(imported(source, module, is_package=False))}) == []


def test_planted_circle_is_seen() -> None:
    a, b, c = "configs.a", "configs.b", "configs.c"
    circle = {a: {b}, b: {c, "json"}, c: {a}}
    (fault,) = faults(circle)
    assert "circle" in fault
    assert all(module in fault for module in circle)


def project_imports() -> Imports:
    found: Imports = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            *folders, name = file.relative_to(ROOT).with_suffix("").parts
            is_package = name == "__init__"
            if not all(
                (ROOT.joinpath(*folders[: i + 1]) / "__init__.py").exists() for i in range(len(folders))
            ):
                continue  # a folder of scripts that write data, not a package
            module = ".".join(folders if is_package else [*folders, name])
            found[module] = set(imported(file.read_text(encoding="utf-8"), module, is_package))
    return found


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Everything a source imports, in functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def faults(imports: Imports) -> list[str]:
    """What is wrong, one line for each importer and what it must not import."""
    found: dict[tuple[str, str], str] = {}
    for module, targets in imports.items():
        if place(module) is None and module not in PACKAGES:
            found[module, ""] = f"{module} has no floor; give it one in FLOORS"
        for target in sorted(targets):
            for subject, fault in (*_floor_faults(module, target), *_library_faults(module, target)):
                found.setdefault((module, subject), fault)
    return [*found.values(), *_circles(imports)]


def place(module: str) -> tuple[int, str] | None:
    """The floor of a module, 0 at the top, and the entry of FLOORS it falls under."""
    for floor, entries in enumerate(FLOORS):
        for entry in entries:
            if within(module, entry):
                return floor, entry
    return None


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _floor_faults(module: str, target: str) -> Iterator[tuple[str, str]]:
    here, there = place(module), place(target)
    if here and there and here[1] != there[1] and here[0] >= there[0] and (here[1], there[1]) not in BESIDE:
        relation = "the same floor" if there[0] == here[0] else "a higher floor"
        yield there[1], f"{module} imports {target}, which is on {relation}"


def _library_faults(module: str, target: str) -> Iterator[tuple[str, str]]:
    for library, places in ONLY_IN.items():
        if within(target, library) and not any(within(module, place) for place in places):
            yield library, f"{module} imports {library}, allowed only in {', '.join(places)}"
    for package, (libraries, excepted) in WITHOUT.items():
        for library in libraries:
            if within(module, package) and module not in excepted and within(target, library):
                yield library, f"{module} imports {library}, but {package} does without it"


def _circles(imports: Imports) -> list[str]:
    modules = imports.keys()
    try:
        TopologicalSorter({name: (imports[name] & modules) - {name} for name in modules}).prepare()
    except CycleError as error:
        return [f"imports in a circle: {' <- '.join(error.args[1])}"]
    return []
