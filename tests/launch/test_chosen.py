"""Which study and store are meant; mistakes in that are one sentence, before anything starts."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts.common.environment import LAUNCH
from scripts.common.errors import UserError
from scripts.launch import chosen
from scripts.launch.launch import frozen_launch, launch_by_hand, new_launch
from scripts.launch.site import Site
from scripts.store.fingerprint import canonical
from scripts.store.store import Store
from tests.conftest import ROOT, House, copy_checkout


def test_a_store_is_expanded_wherever_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert chosen.store_of("$SCRATCH/store/") == f"{tmp_path}/store"
    assert chosen.store_of("${SCRATCH}/store") == f"{tmp_path}/store"
    assert chosen.store_of("~/store") == f"{tmp_path}/me/store"
    assert chosen.store_of(None, Site(store="$SCRATCH/site")) == f"{tmp_path}/site"
    monkeypatch.setenv("FORGETTING_STORE", "~/site")
    assert new_launch("smoke", None).store_root == f"{tmp_path}/me/site"
    assert launch_by_hand("smoke", "$SCRATCH/store").store_root == f"{tmp_path}/store"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("$NOT_SET/store", "store $NOT_SET/store: the environment variable NOT_SET is not set"),
        ("/a/${NOT_SET}", "store /a/${NOT_SET}: the environment variable NOT_SET is not set"),
        ("~nobody-here/store", "store ~nobody-here/store: there is no home directory ~nobody-here"),
        ("a{b}", "store 'a{b}': a store's name has no '{'"),
        ("", "the store must be a directory, not ''"),
        (["a"], "the store must be a directory, not ['a']"),
        (True, "the store must be a directory, not True"),
        ("README.md", "store README.md: is no directory"),
        ("README.md/store", f"store README.md/store: cannot be made: {ROOT}/README.md is no directory"),
        ("s" * 300, f"store {'s' * 300}: File name too long"),
    ],
)
def test_what_is_no_store_is_one_sentence(said: object, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        new_launch("smoke", said)
    assert str(raised.value) == sentence


def test_a_place_where_nothing_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as as_another_user:
        as_another_user.setattr(os, "access", lambda *_: False)
        with pytest.raises(UserError) as raised:
            chosen.store_of(str(tmp_path / "a" / "store"))
        assert str(raised.value) == f"store {tmp_path}/a/store: cannot be made: {tmp_path} is not writable"
        # what is there can be planned and drawn from
        assert chosen.store_of(str(tmp_path)) == str(tmp_path)
    # whose place only says no when something is made
    with pytest.raises(UserError, match=r"^store /proc/store: nothing can be made there \(.*\)$"):
        Store(Path("/proc/store")).require_writable()


def test_a_link_to_nowhere_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="store: is no directory"):
        chosen.store_of(str(tmp_path / "store"))


def test_a_chosen_store_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "stroe"
    launch_by_hand("smoke", str(store))
    assert capsys.readouterr().err == f"store {store} is new: nothing is in it yet\n"
    store.mkdir()
    launch_by_hand("smoke", str(store))
    chosen.say_if_new(chosen.STORE)  # nobody chose that one
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "[1]",
        "{}",
        '{"name": "smoke"}',
        '{"study": {}, "code": {}, "data_lock": {}, "store_root": "", "head": 1}',
    ],
)
def test_an_environment_that_holds_no_launch(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH, text)
    with pytest.raises(UserError, match="FORGETTING_LAUNCH holds no launch of this version of the code; `unset"):
        frozen_launch()


def test_a_launch_of_another_version_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = asdict(launch_by_hand("smoke", str(tmp_path)))
    monkeypatch.setenv(LAUNCH, canonical(launch))
    assert frozen_launch() is not None
    monkeypatch.setenv(LAUNCH, json.dumps(launch | {"study": launch["study"] | {"invented": 1}}))
    with pytest.raises(UserError, match="holds no launch of this version"):
        frozen_launch()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(copy_checkout(ROOT, tmp_path / "house"))


def errors(said: str) -> list[str]:
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error:")]


def snakemake(house: House, *config: str) -> str:
    words = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "results/figures/fig2.pdf",
        *(["--config", *config] if config else []),
    ]
    done = subprocess.run(words, cwd=house.root, env=house.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_slip_of_the_pen_in_a_stores_name_is_said_and_a_real_store_is_not(house: House) -> None:
    line = "store scratch/stroe is new: nothing is in it yet"
    assert snakemake(house, "store=scratch/stroe").splitlines().count(line) == 1
    assert "is new" not in snakemake(house)
    (house.root / "scratch/stroe").mkdir(parents=True)
    assert "is new" not in snakemake(house, "store=scratch/stroe")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("study=", "the name of the study is empty; config/config.yaml or the command line must say one, such as demo"),
        ("study=[a]", "the name of the study must be text, not ['a']"),
        ("study=2024", "study '2024' is unknown: config/studies/2024.yaml does not exist; known studies are"),
        ("store=", "the store is empty; config/config.yaml or the command line must say a directory, or nothing of it"),
        ("store=$NOT_SET/x", "store $NOT_SET/x: the environment variable NOT_SET is not set"),
    ],
)
def test_snakemake_says_it_in_one_line(config: str, sentence: str, house: House) -> None:
    (said,) = errors(snakemake(house, config))
    assert said.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[demo]", "config/config.yaml: must hold keys and values, such as `study: demo`"),
        ("{}", "the name of the study is empty"),
        ("? [a, b]\n: 1", "config/config.yaml, line 1: not valid YAML (the key ['a', 'b'] is no text"),
        ("study: demo\nstore:", "the store is empty"),
    ],
)
def test_a_configuration_that_is_none(text: str, sentence: str, house: House) -> None:
    (house.root / "config/config.yaml").write_text(text)
    (said,) = errors(house.python("-m", "scripts.artifacts.listing", ok=False))
    assert said.startswith(f"error: {sentence}")


def test_a_store_in_which_nothing_can_be_made_ends_a_launch_and_a_command(house: House) -> None:
    house.store_root = "/proc/store"
    (said,) = errors(house.snakemake(ok=False))
    assert said.startswith("error: store /proc/store: ")
    key = next(product.key for product in launch_by_hand("smoke", "nowhere").grid if product.kind == "records")
    command = ("-m", "scripts.data.products", key, "--study", "smoke", "--store", "/proc/store")
    said = errors(house.python(*command, ok=False))[0]
    assert said.startswith("error: store /proc/store: ")
