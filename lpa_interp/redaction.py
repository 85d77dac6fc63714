"""What is kept on disk of a completion that may be harmful."""

from __future__ import annotations

from dataclasses import replace

from lpa_interp.records import Completion

KEPT_CHARACTERS = 40
"""What a redacted completion keeps of its text."""


def redact(completion: Completion) -> Completion:
    """Keeps the first 40 characters of the text; ``sha256`` and the rest stay as they are."""
    kept = completion.text[:KEPT_CHARACTERS]
    return replace(completion, text=kept, redacted=completion.redacted or kept != completion.text)
