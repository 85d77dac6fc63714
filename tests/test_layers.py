from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lpa_interp", "probes", "figures", "experiments")
MAY_IMPORT = {
    "lpa_interp": {"lpa_interp"},
    "probes": {"lpa_interp", "probes"},
    "figures": {"lpa_interp", "figures"},
    "experiments": set(PACKAGES),
}
ONLY_IMPORTER = {"transformer_lens": "lpa_interp/model.py", "sae_lens": "probes/features.py"}
FIGURES_MAY_IMPORT = {"lpa_interp.records", "lpa_interp.runs", "lpa_interp.errors"}
HEAVY = ("torch", "transformers", "transformer_lens", "sae_lens")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top, in a function or for its types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_packages_import_only_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(path)} & {*PACKAGES, "tests"}
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("library", ONLY_IMPORTER)
def test_a_library_with_one_door_is_imported_there_only(library: str) -> None:
    importers = {
        identify(path)
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert importers <= {ONLY_IMPORTER[library]}


def test_figures_see_records_and_runs_but_no_model() -> None:
    for path in (path for path in FILES if identify(path).startswith("figures/")):
        names = set(imports(path))
        ours = {name for name in names if name.startswith("lpa_interp")}
        assert ours <= FIGURES_MAY_IMPORT, identify(path)
        assert not {name.split(".")[0] for name in names} & set(HEAVY), identify(path)


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n    import torch.nn\n    from probes.linear import fit\n")
    assert list(imports(path)) == ["torch.nn", "probes.linear"]


@pytest.mark.parametrize(
    "module",
    ["lpa_interp", "lpa_interp.config", "lpa_interp.records", "lpa_interp.runs", "experiments.cli"],
)
def test_importing_the_top_loads_no_torch(module: str) -> None:
    if not (ROOT / module.replace(".", "/")).with_suffix(".py").exists():
        assert (ROOT / module.replace(".", "/") / "__init__.py").exists()
    code = f"import sys, {module}; print([n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import lpa_interp

    for name in lpa_interp.__all__:
        assert getattr(lpa_interp, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = lpa_interp.nothing_like_it
