"""``lpa traits``, ``benchmarks``, ``methods`` and ``attacks``: what there is, as table or JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

TEMPLATE_SOURCES = ("template", "wild")
"""Attacks whose files are fetched like a benchmark's."""


def show_sets(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Prints the statement or prompt sets."""
    if options.command == "traits":
        from lpa_interp.traits import trait_sources

        rows = trait_sources()
    else:
        from lpa_interp.benchmarks import list_benchmarks, load_benchmark

        if options.download in TEMPLATE_SOURCES:
            from lpa_interp.jailbreaks.templates import load_templates

            load_templates(options.download, download=True)
        elif options.download:
            load_benchmark(options.download, download=True)
        rows = list_benchmarks(options.names or None)
    if options.json:
        print(json.dumps(rows, indent=2, default=str))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("name, size", no_wrap=True)
    table.add_column("licence; source; on this machine", overflow="fold")
    for row in rows:
        sides = ", ".join(f"{n} {side}" for side, n in (row["sides"] or {}).items() if n)
        state = "here" if row["available"] else f"not here: {row.get('reason', '')}"
        about = (row["licence"], row.get("citation", row["source"]), row.get("note"), state)
        table.add_row(f"{row['name']}\n  {sides or 'unknown'}", "\n".join(filter(None, about)))
    Console().print(table, markup=False)


def show_tasks(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Prints the public tasks that utility is measured on."""
    from lpa_interp.utility import list_tasks

    rows = list_tasks()
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("name, items", no_wrap=True)
    table.add_column("licence; source; on this machine", overflow="fold")
    for row in rows:
        state = "here" if row["available"] else f"not here: {row['reason']}"
        about = (row["licence"], row["citation"], row["note"], state)
        table.add_row(f"{row['name']}\n  {row['n'] or ''}", "\n".join(filter(None, about)))
    Console().print(table, markup=False)


def show_methods(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Prints the training methods: what each is, its source and the settings it fixes."""
    from lpa_interp.methods import METHODS

    rows: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        tables = {"traits": method.traits, "train": method.train}
        fixed = {f"{t}.{key}": value for t, part in tables.items() for key, value in part.items()}
        rows.append(
            {"name": name, "summary": method.summary, "source": method.source, "fixes": fixed}
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is, source")
    table.add_column("settings it fixes", overflow="fold")
    for row in rows:
        fixes = "\n".join(f"{key} = {json.dumps(v)}" for key, v in row["fixes"].items())
        table.add_row(row["name"], f"{row['summary']} ({row['source']})", fixes or "none")
    Console().print(table, markup=False)


def show_attacks(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Prints the attacks: what each does, its source, its argument and what it needs."""
    from lpa_interp.jailbreaks.catalogue import ATTACKS

    if options.json:
        print(json.dumps([{"name": n} | asdict(listed) for n, listed in ATTACKS.items()], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it does, source")
    table.add_column("needs", overflow="fold")
    for name, listed in ATTACKS.items():
        argument = ""
        if listed.argument:
            argument = f"\n:{listed.argument}" + (f" ({listed.default})" if listed.default else "")
        source = f" ({listed.citation})" if listed.citation else ""
        table.add_row(name + argument, listed.summary + source, listed.needs)
    Console().print(table, markup=False)
