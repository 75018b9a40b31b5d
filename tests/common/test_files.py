"""Every YAML file of the project is read by one function, whose mistakes are one sentence with file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.common.files import read_yaml
from scripts.launch.site import load_site
from scripts.plan.registry import load_registry
from scripts.store.codelock import read_code_lock
from scripts.study import datalock

READERS: dict[str, Callable[[Path], object]] = {
    "site": lambda path: load_site({}, path),
    "registry": load_registry,
    "code lock": read_code_lock,
    "data lock": datalock.read,
    "any": read_yaml,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", ["? [a, b]", "? {a: b}", "12", "~", "true", "2026-11-27"])
def test_a_key_that_is_no_text_is_one_sentence(reader: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(f"a: 1\n{key}\n: 2\n" if key.startswith("?") else f"a: 1\n{key}: 2\n")
    with pytest.raises(UserError) as raised:
        READERS[reader](path)
    assert str(raised.value).startswith(f"{path}, line 2: not valid YAML (the key ")
    assert "is no text" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_in_quotes_is_text(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("'12': 1\n\"true\": 2\n")
    assert read_yaml(path) == {"12": 1, "true": 2}
