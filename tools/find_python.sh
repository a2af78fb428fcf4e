#!/bin/sh
# Print a Python that can make a virtual environment: the first that is 3.11 or newer, or the one whose version is given as
# an argument (also one of pyenv's that is not switched on). Say in one sentence what is missing when there is none.
version=${1:-}
wanted='import sys; sys.exit(sys.version_info < (3, 11))'
candidates="python3 python3.11 python3.12 python3.13 python3.14 python"
if [ -n "$version" ]; then
    wanted="import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"
    candidates="python3 python$version $HOME/.pyenv/versions/$version.*/bin/python3"
fi
if [ -n "${PYTHON:-}" ]; then
    candidates=$PYTHON
fi
too_old=""
without_venv=""
for python in $candidates; do
    "$python" -c "$wanted" 2>/dev/null || {
        too_old=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) || too_old=""
        continue
    }
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
    without_venv="$python"
done
install="install one, or name it with make PYTHON=/path/to/python3."
if [ -n "$without_venv" ]; then
    echo "$without_venv can't make a virtual environment: install its venv package (Debian, Ubuntu: apt install python3-venv)." >&2
elif [ -n "${PYTHON:-}" ] && [ -n "$too_old" ]; then
    echo "$PYTHON is Python $too_old, and 3.11 or newer is needed: $install" >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON is no Python that runs: $install" >&2
else
    echo "Python ${version:-3.11 or newer} is needed and none was found: $install" >&2
fi
exit 1
