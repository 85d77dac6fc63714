from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpa_interp.chat import chat_rows
from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement
from probes.directions import load_direction, load_directions, save_directions
from probes.linear import (
    statement_labels,
    statement_rows,
    trait_direction,
)
from tests.planted import HOOK, grouped_data
from tests.tiny import tiny_model


def test_statements_are_read_as_training_formats_them() -> None:
    model = tiny_model()
    statement = TraitStatement(
        id="a",
        text="I keep my promises.",
        side="positive",
        factor="conscientiousness",
        facet="dutifulness",
        keying="plus",
        desired="I agree.",
        undesired="I do not agree.",
    )
    assert statement_rows(model, [statement], "Be kind.") == chat_rows(
        model, ["I keep my promises."], "Be kind."
    )
    labels, groups = statement_labels([statement])
    assert labels.tolist() == [True] and groups == ["conscientiousness/dutifulness"]
    # A source that repeats a statement under two factors names one facet for both.
    repeated = replace(statement, facet="openness/0001")
    assert statement_labels([repeated])[1] == ["openness/0001"]


def test_a_direction_survives_the_disk_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    activations, labels, _, planted = grouped_data(0, strength=3.0, n_groups=100)
    base, lpa = (
        trait_direction(activations, labels, HOOK, model=label) for label in ("base", "lpa")
    )
    assert base.vector @ planted > 0.9 and base.raw_norm == pytest.approx(6, rel=0.2)
    path = tmp_path / "directions.safetensors"
    save_directions(path, [base, lpa])
    loaded = load_direction(path, "trait", "lpa")
    np.testing.assert_array_equal(loaded.vector, lpa.vector)
    assert (loaded.model, loaded.raw_norm, loaded.n) == ("lpa", lpa.raw_norm, 300)
    assert len(load_directions(path)) == 2
    for name, model, message in (("trait", None, "more than one"), ("x", "lpa", "no direction")):
        with pytest.raises(InputError, match=message):
            load_direction(path, name, model)
    with pytest.raises(InputError, match="two directions"):
        save_directions(path, [base, base])
    with pytest.raises(InputError, match="no such file"):
        load_directions(tmp_path / "none")
    path.write_bytes(b"not directions")
    with pytest.raises(InputError, match="does not hold directions"):
        load_directions(path)


def test_importing_probes_loads_neither_torch_nor_sae_lens() -> None:
    import subprocess
    import sys

    code = (
        "import sys, probes; dir(probes); assert not {'torch', 'sae_lens', 'transformer_lens'} "
        "& set(sys.modules); assert probes.load_direction and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
