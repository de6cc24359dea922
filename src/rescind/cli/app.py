"""`--app MODULE[:GUARD]`: the program whose tools an undo uses, imported from the current folder as its owner would."""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rescind.cli.safe import safe
from rescind.errors import UsageError
from rescind.guard.guard import Guard

APP_VARIABLE = "RESCIND_APP"

WHAT_APP_IS = "the module that declares your guarded tools, such as `--app shop.tools` or `--app shop.tools:guard`"


def load_guard(app: str) -> Guard:
    """The guard that `app` names, with all its declarations complete.

    Raises: UsageError, which names the place and the remedy, if the module cannot be imported, has no guard or several,
        or has incomplete declarations.
    """
    module_name, _, guard_name = app.partition(":")
    if module_name.endswith(".py"):
        dotted = ".".join(Path(module_name).with_suffix("").parts).strip(".")
        raise UsageError(f"--app {app!r} is a file, and --app takes a module: leave out .py, such as `--app {dotted}`")
    if not module_name or any(not part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"--app {app!r} is no module; give {WHAT_APP_IS}")
    module = import_program(module_name)
    guard = _named_guard(module, guard_name) if guard_name else _only_guard(module)
    guard.check()
    return guard


def import_program(name: str, *, said: str = "--app") -> ModuleType:
    """A module of the user's, imported from the current folder as its owner would.

    Args:
        name: Its dotted name.
        said: Where it was named, for messages.

    Raises: UsageError, which names the place and the remedy.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{said}: there is no module {error.name!r} here or among the installed ones. Looked in {here} first; "
                "run the command where your program runs, in its environment"
            ) from error
        raise _broken(name, error, said) from error
    except UsageError:
        raise  # an action declared twice, for example; it names its own place
    except (Exception, SystemExit) as error:  # whatever a program of somebody else's may raise
        raise _broken(name, error, said) from error


def _broken(name: str, error: BaseException, said: str) -> UsageError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""
    if isinstance(error, SyntaxError):
        where = f" at {error.filename}:{error.lineno}"
    return UsageError(
        f"{said}: importing {name} failed{where}: {type(error).__name__}: {safe(error)}. "
        f"Does `python -c 'import {name}'` work here? The module must be importable without side effects"
    )


def _named_guard(module: ModuleType, name: str) -> Guard:
    found = getattr(module, name, None)
    if isinstance(found, Guard):
        return found
    guards = _guards(module)
    there = f"its guards are: {', '.join(guards)}" if guards else "it has none"
    if not hasattr(module, name):
        raise UsageError(f"--app: {module.__name__} ({_place(module)}) has no guard {name!r}; {there}")
    raise UsageError(f"--app: {module.__name__}:{name} is a {type(found).__name__} and no rescind.Guard; {there}")


def _only_guard(module: ModuleType) -> Guard:
    guards = _guards(module)
    distinct = {id(guard): guard for guard in guards.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not guards:
        raise UsageError(
            f"--app: {module.__name__} ({_place(module)}) holds no rescind.Guard; name the module that has one"
        )
    choices = " or ".join(f"--app {module.__name__}:{name}" for name in guards)
    raise UsageError(f"--app: {module.__name__} holds {len(distinct)} guards; say which: {choices}")


def _guards(module: ModuleType) -> dict[str, Guard]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Guard)}


def _place(module: ModuleType) -> str:
    return str(Path(module.__file__)) if module.__file__ else "no file"
