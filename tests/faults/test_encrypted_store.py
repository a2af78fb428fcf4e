"""The embedded credential store, damaged, fought over and killed while it is written: nothing is lost, nothing guessed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted import keys
from spreadpilot_core.ibkr.credentials.sources.encrypted.keys import Passphrase
from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import CredentialStoreError, CredentialsUnavailableError
from spreadpilot_core.ibkr.system import whole_files

SLOW_DISK = 240.0
"""Seconds for sixty writes: a busy disk may take more than one for each."""
PASSWORDS = {f"ibkr/f{number}": f"päss\\word {number}" for number in range(5)}


@pytest.fixture
def store(tmp_path: Path) -> EncryptedCredentials:
    return filled(EncryptedCredentials.at(tmp_path))


def filled(store: EncryptedCredentials) -> EncryptedCredentials:
    for ref, password in PASSWORDS.items():
        store.set(ref, "edemo", password)
    return store


def all_of(store: EncryptedCredentials) -> dict[str, str]:
    return {entry.ref: store.read(entry.ref).password for entry in store.list()}


def test_a_file_cut_anywhere_is_an_error(store: EncryptedCredentials) -> None:
    """However much is missing from its end, the store says that it is damaged, and what to do."""
    whole = store.path.read_bytes()
    for length in range(0, len(whole) - 2, 37):
        store.path.write_bytes(whole[:length])
        with pytest.raises(CredentialStoreError, match=r"are damaged: .*backup"):
            store.read("ibkr/f1")
        with pytest.raises(CredentialStoreError, match="are damaged"):
            store.set("ibkr/new", "u", "p")
        assert store.path.read_bytes() == whole[:length]


def test_a_flipped_bit_never_gives_another_password(store: EncryptedCredentials) -> None:
    """Whichever bit flips, a read gives the right password or an error that says damaged."""
    whole = store.path.read_bytes()
    chosen = random.Random(4)  # the same damage each time
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        store.path.write_bytes(damaged)
        try:
            assert store.read("ibkr/f1").password == PASSWORDS["ibkr/f1"]
        except CredentialStoreError as error:
            assert "damaged" in error.what  # noqa: PT017  # either way is right


def test_a_wrong_key_is_told_from_damage(store: EncryptedCredentials, tmp_path: Path) -> None:
    """Another key, no key, half a key, another passphrase, or the other kind of key: each has its sentence."""
    key = tmp_path / "credentials.key"
    right = key.read_bytes()
    EncryptedCredentials.at(tmp_path / "other").set("a", "u", "p")
    for content, sentence in (
        ((tmp_path / "other" / "credentials.key").read_bytes(), "is not the one that sealed"),
        (right[:20], "holds no key"),
        (b"", "holds no key"),
    ):
        key.write_bytes(content)
        with pytest.raises(CredentialStoreError, match=sentence):
            store.read("ibkr/f1")
        with pytest.raises(CredentialStoreError, match=sentence):
            store.set("ibkr/f1", "u", "p")
    key.unlink()
    with pytest.raises(CredentialStoreError, match=r"key .* is missing"):
        store.set("ibkr/f1", "u", "p")
    assert not key.exists(), "no second key may be made over a store that another sealed"
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("words")
    with pytest.raises(CredentialStoreError, match="sealed with a key file, not with a passphrase"):
        EncryptedCredentials.at(tmp_path, passphrase_file=passphrase).read("ibkr/f1")
    key.write_bytes(right)
    assert all_of(store) == PASSWORDS


def test_a_wrong_passphrase_is_told(tmp_path: Path) -> None:
    """Another passphrase, an empty file and a missing one are told apart."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("right")
    EncryptedCredentials.at(tmp_path, passphrase_file=passphrase).set("a", "u", "p")
    for content, sentence in (("wrong", "not the one that sealed"), ("\n", "is empty")):
        passphrase.write_text(content)
        with pytest.raises(CredentialStoreError, match=sentence):
            EncryptedCredentials.at(tmp_path, passphrase_file=passphrase).read("a")
    with pytest.raises(CredentialStoreError, match="can't be read"):
        EncryptedCredentials.at(tmp_path, passphrase_file=tmp_path / "none").read("a")


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes that each store ten logins, and remove some, leave exactly what they should."""
    program = (
        "import sys; from pathlib import Path\n"
        "from spreadpilot_core.ibkr.credentials.sources.encrypted import source as encrypted\n"
        "from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials\n"
        f"encrypted._LOCK_PATIENCE = {SLOW_DISK}\n"  # each of three others may hold it for as long as the disk takes
        "store = EncryptedCredentials.at(Path(sys.argv[1]))\n"
        "for number in range(10):\n"
        "    store.set(f'w{sys.argv[2]}/{number}', 'u', f'p{number}')\n"
        "    if number % 2: store.remove(f'w{sys.argv[2]}/{number}')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)]) for n in range(4)]
    assert [writer.wait(SLOW_DISK) for writer in writers] == [0] * 4
    assert all_of(EncryptedCredentials.at(tmp_path)) == {
        f"w{writer}/{number}": f"p{number}" for writer in range(4) for number in range(0, 10, 2)
    }


def test_a_writer_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of steady writing leaves a store that opens, with everything that was acknowledged."""
    program = (
        "import sys; from pathlib import Path\n"
        "from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials\n"
        "store = EncryptedCredentials.at(Path(sys.argv[1]))\n"
        "for number in range(100000):\n"
        "    store.set(f'a{number % 7}', 'u', f'p{number}')\n"
        "    print(number, flush=True)\n"
    )
    for round_ in range(6):
        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=-1, text=True) as writer:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(8 + round_)]
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        found = all_of(EncryptedCredentials.at(tmp_path))
        last = acknowledged[-1]
        newest = {f"a{number % 7}": f"p{number}" for number in range(last + 1)}
        unacknowledged = {f"a{(last + 1) % 7}": f"p{last + 1}"}
        assert found in (newest, newest | unacknowledged)
        (tmp_path / "credentials.json").unlink()


class _Crash(BaseException):
    """The process ends here."""


class DyingPaths:
    """Lets so many renames and removals happen, then ends the process instead of the next."""

    def __init__(self, allowed: int, patched: pytest.MonkeyPatch) -> None:
        self._left = allowed
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, self._counted(getattr(Path, name)))

    def _counted(self, real: Callable[..., object]) -> Callable[..., object]:
        def act(path: Path, *args: object, **options: object) -> object:
            if not self._left:
                raise _Crash
            self._left -= 1
            return real(path, *args, **options)

        return act


def dies(store: EncryptedCredentials, step: int) -> bool:
    with pytest.MonkeyPatch.context() as patched:
        DyingPaths(step, patched)
        try:
            store.rotate_key()
        except _Crash:
            return True
    return False


def test_changing_the_key_survives_a_crash_at_every_step(store: EncryptedCredentials, tmp_path: Path) -> None:
    """Whatever step a key change dies at, everything opens, and the next change (from that state) goes well."""
    before = (tmp_path / "credentials.key").read_bytes()
    steps = 0
    while dies(store, steps):
        assert all_of(EncryptedCredentials.at(tmp_path)) == PASSWORDS
        steps += 1
    assert steps >= 4
    assert (tmp_path / "credentials.key").read_bytes() != before
    assert not (tmp_path / "credentials.key.new").exists()
    assert all_of(store) == PASSWORDS
    store.set("ibkr/more", "u", "p")
    assert EncryptedCredentials.at(tmp_path).read("ibkr/more").password == "p"


def test_the_old_key_opens_nothing_after_a_change(store: EncryptedCredentials, tmp_path: Path) -> None:
    """A changed key is a changed key: the old one opens nothing; versions and dates stay."""
    key = tmp_path / "credentials.key"
    old, entries = key.read_bytes(), store.list()
    store.rotate_key()
    assert store.list() == entries
    assert all_of(store) == PASSWORDS
    key.write_bytes(old)
    with pytest.raises(CredentialStoreError, match="not the one that sealed"):
        EncryptedCredentials.at(tmp_path).read("ibkr/f1")


def test_from_key_file_to_passphrase_and_to_another(store: EncryptedCredentials, tmp_path: Path) -> None:
    """The store can be moved under a passphrase, and from one passphrase to another."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("first words")
    two.write_text("second words")
    store.rotate_key(Passphrase(one))
    assert all_of(EncryptedCredentials.at(tmp_path, passphrase_file=one)) == PASSWORDS
    EncryptedCredentials.at(tmp_path, passphrase_file=one).rotate_key(Passphrase(two))
    assert all_of(EncryptedCredentials.at(tmp_path, passphrase_file=two)) == PASSWORDS
    with pytest.raises(CredentialStoreError):
        EncryptedCredentials.at(tmp_path, passphrase_file=one).read("ibkr/f1")


def test_a_half_finished_key_change_is_finished_by_the_next_write(store: EncryptedCredentials, tmp_path: Path) -> None:
    """A crash after the store was sealed anew leaves two key files; reads work, the next write puts the right one in place."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys.KeyFile, "settle", lambda *_, **__: (_ for _ in ()).throw(_Crash()))
        with pytest.raises(_Crash):
            store.rotate_key()
    again = EncryptedCredentials.at(tmp_path)
    assert all_of(again) == PASSWORDS
    again.set("ibkr/f0", "edemo", PASSWORDS["ibkr/f0"])
    assert not (tmp_path / "credentials.key.new").exists()
    assert all_of(EncryptedCredentials.at(tmp_path)) == PASSWORDS


def test_reads_go_on_while_the_key_changes(
    store: EncryptedCredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in another process never sees a store that it can't open, however often the key changes meanwhile."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no reader sees it, and a busy disk takes minutes for them all
    program = (
        "import sys; from pathlib import Path\n"
        "from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    assert EncryptedCredentials.at(Path(sys.argv[1])).read('ibkr/f1').password.endswith('1')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=-1, stderr=-1, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for _ in range(40):
            store.rotate_key()
        assert reader.poll() is None
        reader.kill()
        assert reader.stderr is not None
        assert reader.stderr.read() == ""


def test_a_full_disk_leaves_the_old_store(
    store: EncryptedCredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that the disk refuses is an error that may pass, and the store is as it was."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CredentialsUnavailableError, match="No space left on device"):
            store.set("ibkr/f1", "u", "new")
    assert all_of(EncryptedCredentials.at(tmp_path)) == PASSWORDS
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob(".*.part"))


def test_parts_of_a_crashed_write_are_swept(tmp_path: Path) -> None:
    """What a crash left beside a file goes with the next write of it."""
    (tmp_path / ".a.0011.part").write_text("half")
    whole_files.write_whole(tmp_path / "a", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
