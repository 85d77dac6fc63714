"""The run-time type checker that the tests put on every function with shapes in its signature."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
