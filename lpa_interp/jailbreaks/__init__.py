"""Attacks at evaluation time. `catalogue` lists them, `registry` makes them, by name."""
