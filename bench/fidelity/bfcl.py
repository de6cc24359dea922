"""BFCL's multi-turn tasks: classes with state, and for each task a configuration and the calls that solve it."""

import copy
import importlib
import importlib.resources
import inspect
import json
from typing import Any

from bench.fidelity.environments import Invoke, Task, Tool, Tools, World

CATEGORIES = ("base", "miss_func", "miss_param", "long_context")


class Entry:
    """One of the 800 tasks."""

    def __init__(self, category: str, question: dict[str, Any], answer: dict[str, Any]) -> None:
        assert question["id"] == answer["id"], (question["id"], answer["id"])
        self.name = str(question["id"]).removeprefix("multi_turn_")
        self.classes: list[str] = question["involved_classes"]
        self.texts: list[str] = [text for turn in answer["ground_truth"] for text in turn]
        self._config, self._long = question["initial_config"], category == "long_context"

    def instances(self) -> dict[str, Any]:
        """The objects that its calls are about, as the benchmark makes them."""
        config = importlib.import_module("bfcl_eval.constants.executable_backend_config")
        made: dict[str, Any] = {}
        for name in self.classes:
            made[name] = getattr(importlib.import_module(config.CLASS_FILE_PATH_MAPPING[name]), name)()
            if name not in config.STATELESS_CLASSES:
                made[name]._load_scenario(copy.deepcopy(self._config.get(name, {})), long_context=self._long)
        return made


def entries() -> list[Entry]:
    """All of them."""
    data = importlib.resources.files("bfcl_eval") / "data"
    found: list[Entry] = []
    for category in CATEGORIES:
        file = f"BFCL_v4_multi_turn_{category}.json"
        questions, answers = (_lines((folder / file).read_text()) for folder in (data, data / "possible_answer"))
        found += [Entry(category, *both) for both in zip(questions, answers, strict=True)]
    return [entry for entry in found if entry.texts]


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def tasks() -> list[Task]:
    """Each task alone."""
    return [Task(entry.name, _alone(entry)) for entry in entries()]


def _alone(entry: Entry) -> Any:
    def fresh() -> World:
        instances = entry.instances()
        return World(instances, _methods(instances), (_calls(entry, ""),))

    return fresh


def pairs() -> list[Task]:
    """Two tasks in one environment: with objects of their own, on the same objects, and a task beside itself."""
    every = entries()
    found: list[Task] = []
    for number, entry in enumerate(every):
        other = every[(number + 1) % len(every)]
        found.append(Task(f"apart: {entry.name}, {other.name}", _apart(entry, other)))
        kin = _next_kin(every, number)
        found.append(Task(f"shared: {entry.name}, {kin.name}", _shared(entry, kin)))
        found.append(Task(f"twice: {entry.name}", _shared(entry, entry)))
    return found


def _next_kin(every: list[Entry], number: int) -> Entry:
    """The next task that has a class in common with this one."""
    own = set(every[number].classes)
    return next(each for each in every[number + 1 :] + every if own & set(each.classes))


def _apart(one: Entry, other: Entry) -> Any:
    def fresh() -> World:
        mine, others = one.instances(), other.instances()
        tools = {**_methods(mine, "one."), **_methods(others, "two.")}
        return World([mine, others], tools, (_calls(one, "one."), _calls(other, "two.")))

    return fresh


def _shared(one: Entry, other: Entry) -> Any:
    def fresh() -> World:
        instances = {**other.instances(), **one.instances()}
        return World(instances, _methods(instances), (_calls(one, ""), _calls(other, "")))

    return fresh


def _methods(instances: dict[str, Any], prefix: str = "") -> dict[str, Tool]:
    """Every public method, by its name."""
    return {
        f"{prefix}{name}": method
        for instance in instances.values()
        for name, method in inspect.getmembers(instance, predicate=inspect.ismethod)
        if not name.startswith("_")
    }


def _calls(entry: Entry, prefix: str) -> list[Invoke]:
    return [_call(text, prefix) for text in entry.texts]


def _call(text: str, prefix: str) -> Invoke:
    """The benchmark writes its calls as Python, and evaluates them so itself."""
    code = compile(text.strip(), "<ground truth>", "eval")

    def invoke(tools: Tools) -> Any:
        names = {name.removeprefix(prefix): tool for name, tool in tools.items() if name.startswith(prefix)}
        return eval(code, {"__builtins__": {}}, names)

    return invoke
