"""AgentDojo: one environment for each suite, tasks of users and of attackers, each with the calls that fulfil it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bench.fidelity.environments import Invoke, Task, Tool, Tools, World

VERSION = "v1.2.2"


def tasks(suite_name: str) -> list[Task]:
    """Each task of users and of attackers alone."""
    suite = _suite(suite_name)
    return [Task(f"{suite_name}: {task.ID}", _fresh(suite, (task,))) for task in _tasks(suite)]


def pairs(suite_name: str) -> list[Task]:
    """Each task beside each other one, and beside itself."""
    suite = _suite(suite_name)
    every = _tasks(suite)
    return [
        Task(f"{suite_name}: {one.ID}, {other.ID}", _fresh(suite, (one, other)))
        for number, one in enumerate(every)
        for other in every[number:]
    ]


def _suite(name: str) -> Any:
    return import_module("agentdojo.task_suite.load_suites").get_suite(VERSION, name)


def _tasks(suite: Any) -> list[Any]:
    every = [*suite.user_tasks.values(), *suite.injection_tasks.values()]
    return [task for task in every if _ground_truth(suite, task)]


def _ground_truth(suite: Any, task: Any) -> Sequence[Any]:
    return list(task.ground_truth(_environment(suite, (task,))))


def _environment(suite: Any, tasks: Sequence[Any]) -> Any:
    environment = suite.load_and_inject_default_environment({})
    for task in tasks:
        if hasattr(task, "init_environment"):  # attackers' tasks have none
            environment = task.init_environment(environment)
    return environment


def _fresh(suite: Any, tasks: Sequence[Any]) -> Any:
    def fresh() -> World:
        environment = _environment(suite, tasks)
        runtime = import_module("agentdojo.functions_runtime").FunctionsRuntime(suite.tools)
        tools = {name: _tool(runtime, environment, name) for name in runtime.functions}
        calls = tuple([_call(each) for each in task.ground_truth(environment)] for task in tasks)
        return World(environment, tools, calls)

    return fresh


def _tool(runtime: Any, environment: Any, name: str) -> Tool:
    def called(**arguments: Any) -> Any:
        return runtime.run_function(environment, name, arguments)

    return called


def _call(call: Any) -> Invoke:
    def invoke(tools: Tools) -> Any:
        arguments = {name: _argument(value, tools) for name, value in call.args.items()}
        return tools[call.function](**arguments)

    return invoke


def _argument(value: Any, tools: Tools) -> Any:
    nested = isinstance(value, import_module("agentdojo.functions_runtime").FunctionCall)
    return _call(value)(tools)[0] if nested else value
