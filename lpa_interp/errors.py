"""The two ways a user's run can end early; the command turns each into one line."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input is wrong. Names the place, the mistake and what is allowed.

    Example: ``study.toml: train.epsilon: -1.0 is not allowed (must be greater than 0)``.
    """

    def __init__(self, place: object, mistake: str, allowed: str = "") -> None:
        super().__init__(f"{place}: {mistake}" + (f" ({allowed})" if allowed else ""))


class NumericalError(ArithmeticError):
    """A loss or activation is NaN or infinite. Says at which step and hook point."""
