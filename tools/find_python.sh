#!/bin/sh
# Print the first Python that is 3.11 or newer and can make a virtual environment; say what is missing when there is none.
without_venv=""
for python in python3 python3.11 python3.12 python3.13 python3.14 python; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
    without_venv="$python"
done
if [ -n "$without_venv" ]; then
    echo "$without_venv can't make a virtual environment: install its venv package (Debian, Ubuntu: apt install python3-venv)." >&2
else
    echo "Python 3.11 or newer is needed and none was found: install one, or name it with make PYTHON=/path/to/python3." >&2
fi
exit 1
