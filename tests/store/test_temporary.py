"""What a killed process has left in the temporary directory goes with the next one's start, and nothing else does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.store import temporary
from scripts.store.temporary import temporary_directory

ROOT = Path(__file__).parents[2]
MAKE = """
import sys
from scripts.store.temporary import temporary_directory
with temporary_directory() as directory:
    (directory / "below").mkdir()
    (directory / "below" / "file").write_text("half")
    print(directory, flush=True)
    sys.stdin.read()
"""


def maker() -> tuple[subprocess.Popen[str], Path]:
    """A process that has made a directory, and works on until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    killed, left = maker()
    alive, kept = maker()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (left / "below" / "file").read_text() == "half"

    place, number, started = kept.name.split("-")[2:5]
    reused = tmp_path / f"lora-forgets-{place}-{number}-{int(started) - 1}-abcdefgh"  # its number is another's now
    elsewhere = tmp_path / f"lora-forgets-0123456789ab-{killed.pid}-1-abcdefgh"  # of another host, where it may live
    others = tmp_path / "lora-forgets"
    aimed = tmp_path / "aimed"
    for directory in (reused, elsewhere, others, aimed):
        directory.mkdir()
    link = tmp_path / left.name.replace(left.name[-8:], "abcdefgh")
    link.symlink_to(aimed)

    with temporary_directory() as own:
        assert own.parent == tmp_path
        assert set(tmp_path.iterdir()) == {own, kept, elsewhere, others, aimed, link}
        assert (kept / "below" / "file").read_text() == "half"
    assert not own.exists()
    alive.communicate()
    assert not kept.exists()  # who ends in order deletes its own


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_another_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    killed, left = maker()
    killed.kill()
    killed.wait()
    os.chown(left, 65534, 65534)
    with temporary_directory():
        assert left.exists()
