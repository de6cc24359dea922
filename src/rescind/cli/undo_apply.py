"""`rescind undo --apply`: one at a time, on runs that are still, and only what was shown."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rescind.cli.liveness import may_still_write
from rescind.cli.out import Out
from rescind.cli.plan_view import summary_of, words_of
from rescind.cli.safe import safe
from rescind.cli.shown import forget_shown, last_shown
from rescind.cli.undo_request import DIGITS_SHOWN
from rescind.cli.undo_session import Session, plan_as_json, show_plan
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Plan, check_digest
from rescind.compensation.execute import apply_plan
from rescind.compensation.port import ReviewReason
from rescind.compensation.result import StepResult, UndoResult
from rescind.errors import PlanOutdated, RunStillLive, UndoBusy
from rescind.journal.port import Query
from rescind.model.entry import PlanFinished, PlanStarted
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope, Term
from rescind.recovery.reading import every_entry
from rescind.switch.desk import place
from rescind.switch.presence import living_guards
