"""The price side: accuracy of public tasks by log-likelihood, and divergence from the base model.

The names load on first use, so that the tasks can be listed without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpa_interp.utility.accuracy import task_verdicts as task_verdicts
    from lpa_interp.utility.divergence import kl_to_base as kl_to_base
    from lpa_interp.utility.divergence import reference_log_probs as reference_log_probs
    from lpa_interp.utility.likelihood import likelihoods as likelihoods
    from lpa_interp.utility.loading import find_task as find_task
    from lpa_interp.utility.loading import list_tasks as list_tasks
    from lpa_interp.utility.loading import load_task as load_task
    from lpa_interp.utility.task import Item as Item
    from lpa_interp.utility.task import Task as Task
    from lpa_interp.utility.tasks import TASKS as TASKS

_HOMES = {
    "TASKS": "tasks",
    "Item": "task",
    "Task": "task",
    "find_task": "loading",
    "kl_to_base": "divergence",
    "likelihoods": "likelihood",
    "list_tasks": "loading",
    "load_task": "loading",
    "reference_log_probs": "divergence",
    "task_verdicts": "accuracy",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lpa_interp.utility' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lpa_interp.utility.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
