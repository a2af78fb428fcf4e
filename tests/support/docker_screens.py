"""The simulator's image with a real screen (TigerVNC's X server, all of one colour), as users' images have Xvfb and x11vnc.

Everything is of this machine, copied with what it is linked to.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from support.docker_http import DockerApi
from support.docker_images import Generation, add_text, built_image, derived_image, linked_to, simulator_image
from support.real_parts import need
from support.vnc import INSTALL

_PROGRAMS = ("Xvnc", "xsetroot", "vncpasswd", "xkbcomp")
_KEYBOARDS = "usr/share/X11/xkb"
_DOCKERFILE = "FROM {base}\nCOPY screen/ /\n"
_RUN = """\
#!/bin/sh
# As in the real images: the screen begins beside the gateway where its password is given.
if [ -n "${VNC_SERVER_PASSWORD_FILE:-}" ]; then
  {
    vncpasswd -f <"$VNC_SERVER_PASSWORD_FILE" >/tmp/screen-password
    Xvnc :0 -rfbport 5900 -SecurityTypes VncAuth -PasswordFile /tmp/screen-password -geometry 640x480 -depth 24 &
    until xsetroot -display :0 -solid "$SCREEN_COLOUR"; do sleep 0.1; done
  } </dev/null >/tmp/screen.log 2>&1 &
fi
exec gateway-simulator "$@"
"""


def screen_image(
    api: DockerApi, generation: Generation, colour: tuple[int, ...], environment: Mapping[str, str] | None = None
) -> str:
    """The name of such an image on this engine; the other arguments as for `simulator_image`."""
    dockerfile = _DOCKERFILE.format(base=simulator_image(api, generation))
    mark = hashlib.sha256((dockerfile + _RUN).encode()).hexdigest()[:12]
    image = built_image(api, f"screen-{mark}", lambda: _context(dockerfile))
    return derived_image(api, image, {"SCREEN_COLOUR": f"#{bytes(colour).hex()}", **(environment or {})})


def _context(dockerfile: str) -> bytes:
    programs = [Path(shutil.which(each) or need(each, INSTALL)) for each in _PROGRAMS]
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        add_text(archive, "Dockerfile", dockerfile)
        add_text(archive, "screen/home/ibgateway/scripts/run.sh", _RUN, mode=0o755)
        for program in programs:
            archive.add(program, arcname=f"screen/usr/bin/{program.name}")
        for library in linked_to(programs):
            archive.add(library, arcname=f"screen/{str(library).lstrip('/')}")
        archive.add(f"/{_KEYBOARDS}", arcname=f"screen/{_KEYBOARDS}")
    return buffer.getvalue()
