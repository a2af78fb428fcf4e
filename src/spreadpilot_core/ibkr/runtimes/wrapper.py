"""The shell program that every gateway's container starts with: it takes the secret in, runs the image's command, and guards it.

The guard ends the container when its controller logs in again and again, for the hours in which no manager watches. It
reads the one stream that the controller logs to, and nothing else of the container:

    image's command --log--> tee --> the container's own output, byte for byte
                              └----> grep --> a word for each login typed, completed or begun anew --> the count

Two logins typed, none completed and the controller about to begin anew, or three typed: that is a loop; where the launch
said that a single one is left of the user's budget, one typed, or two. It then looks at the API's port, and ends nothing
that listens. What the shell can't do by itself shapes the rest: a command that runs
beside a shell (`&`) could not be interrupted (SIGINT stays ignored in it for ever), so it is the first part of a pipeline
whose shell is killed; and whoever ends must not take lines with it that are still on their way, so the shell that was
started first stays, hands signals on, and goes last with the command's own exit code.

Any POSIX shell runs it: dash in the real images, busybox in others. Where a tool is missing the command runs unguarded.
"""

from __future__ import annotations

from typing import Final

from spreadpilot_core.ibkr.controller_log.exit_codes import LOGIN_LOOP, NO_SECRET, NO_SETTINGS
from spreadpilot_core.ibkr.runtimes.images import (
    IBC,
    IBCONTROLLER,
    PASSWORD_FILE,
    SCREEN_PASSWORD_FILE,
    SECRET_DIRECTORY,
)

_TAKE_SECRET = f"""\
set -u
if ! [ -w "$1" ]; then
  echo "gateway-manager: the settings volume at $1 does not belong to this user" >&2
  exit {NO_SETTINGS}
fi
shift
if [ -n "${{VNC_SERVER_PASSWORD_FILE:-}}" ]; then
  (umask 077; LC_ALL=C tr -dc a-zA-Z0-9 </dev/urandom | head -c 8 >{SCREEN_PASSWORD_FILE})
fi
read -r expected || expected=
(umask 077; cat >{PASSWORD_FILE})
got=$(wc -c <{PASSWORD_FILE})
if ! [ "$got" -eq "$expected" ] 2>/dev/null; then
  rm -f {PASSWORD_FILE}
  echo "gateway-manager: the secret did not come whole" >&2
  exit {NO_SECRET}
fi
"""

LOGINS_LEFT_VARIABLE: Final = "GATEWAY_MANAGER_LOGINS_LEFT"
"""How many logins may fail in this container."""

_API_PORTS: Final = "|".join(
    f"{port:04X}" for port in sorted({*IBC.api_ports.values(), *IBCONTROLLER.api_ports.values()})
)

_CHOOSE_STREAM = f"""\
exec </dev/null
dir={SECRET_DIRECTORY}
if [ -n "${{{IBCONTROLLER.password_file_variable}:-}}" ]; then
  watched=err stamp='????-??-?? ??:??:??,??? * ibcontroller.*: IBController > '
  typed_words='credentials submitted' completed_words='login completed' again_words='-- relaunching'
elif [ -n "${{{IBC.password_file_variable}:-}}" ]; then
  watched=out stamp='????-??-?? ??:??:??:??? IBC: '
  typed_words='Login attempt: ' completed_words='Login has completed' again_words='Cold restart in progress'
else
  exec "$@"
fi
for tool in mkfifo tee grep awk; do
  command -v $tool >/dev/null || eval "$tool() {{ busybox $tool \\"\\$@\\"; }}"
done
if ! mkfifo -m 600 "$dir/log" "$dir/copy" "$dir/news"; then
  echo "gateway-manager: nothing in this container ends a login loop" >&2
  exec "$@"
fi
api_listens() {{
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qE ':({_API_PORTS}) [0-9A-F]+:0000 0A '
  [ $? -ne 1 ]  # only a certain no is a no
}}
code_of_a_loop={LOGIN_LOOP}
most_failed=2
[ "${{{LOGINS_LEFT_VARIABLE}:-2}}" != 1 ] || most_failed=1
unset {LOGINS_LEFT_VARIABLE}
"""

_GUARD = r"""
exec 3<>"$dir/news" 5>&1 6>&2 7>&2 8<>"$dir/copy" 9<>"$dir/log"
rm -f "$dir/log" "$dir/copy" "$dir/news"  # whoever has them open needs no name
if [ $watched = out ]; then exec 4>&1; else exec 4>&2; fi
exec 2>/dev/null

# Each opens its own end anew: who held both ends would wait for ever for a reader that is gone.
# To the container's own output, and a copy; `cat` goes on should `tee` be killed.
{
  exec </proc/self/fd/9 9<&-
  exec 9>/proc/self/fd/8 8<&-
  trap '' PIPE
  tee /proc/self/fd/9 >&4 || cat >&4
} 3>&- 5>&- 6>&- 7>&- &
relay=$!
sieve() { grep --line-buffered -aF -e "$typed_words" -e "$completed_words" -e "$again_words"; }
echo | sieve >/dev/null
[ $? -eq 1 ] || sieve() {  # busybox: its grep keeps lines back, its awk does not
  awk -v t="$typed_words" -v c="$completed_words" -v a="$again_words" \
    'index($0, t) || index($0, c) || index($0, a) { print; fflush() }' || cat
}
{ exec </proc/self/fd/8 8<&-; sieve; } 4>&- 5>&- 6>&- 7>&- 9<&- | while IFS= read -r line; do
  case $line in
    $stamp"$typed_words"*) echo typed ;;
    $stamp"$completed_words"*) echo completed ;;
    $stamp*"$again_words"*) echo again ;;
  esac
done >&3 4>&- 5>&- 6>&- 7>&- 8<&- 9<&- &
if [ $watched = out ]; then exec 5>/proc/self/fd/9; else exec 6>/proc/self/fd/9; fi
exec 8<&- 9<&-

sh -c '{
    sh -c "echo started \$\$ >&3; exec 3>&-; exec \"\$@\"" gateway-manager "$@"
    echo "ended $?" >&3
  } >&5 2>&6 4>&- 5>&- 6>&- 7>&- | kill -s KILL $$' gateway-manager "$@"
exec 5>&- 6>&-

typed=0
while :; do
  read -r word value <&3 || continue  # a signal came
  case $word in
    started)
      for name in HUP INT QUIT USR1 USR2 ALRM TERM CONT WINCH; do trap "kill -s $name $value" $name; done ;;
    ended) code=$value; break ;;
    completed) typed=0 most_failed=2 ;;
    typed) typed=$((typed + 1)); [ $typed -le $most_failed ] || api_listens || { code=$code_of_a_loop; break; } ;;
    again) [ $typed -lt $most_failed ] || api_listens || { code=$code_of_a_loop; break; } ;;
  esac
done
trap '' HUP INT QUIT USR1 USR2 ALRM TERM CONT WINCH

# What still writes there would be killed with this shell anyway; now the relay comes to the end of what was written. A
# command may end before the relay has begun: until its input is the pipe, whoever holds another's would be killed for it.
while [ -e "/proc/$relay/fd/0" ] && ! [ -p "/proc/$relay/fd/0" ]; do :; done
for held in /proc/[0-9]*/fd/[1-9]*; do
  [ "$held" -ef "/proc/$relay/fd/0" ] || continue
  held=${held#/proc/}
  kill -s KILL "${held%%/*}"
done
{ sleep 3; kill -s KILL $relay; } >/dev/null 3>&- 4>&- 7>&- &
wait $relay
if [ $code = $code_of_a_loop ]; then
  [ $typed = 1 ] && were='login was' || were='logins were'
  echo "gateway-manager: $typed $were typed, none completed: the container is ended" >&7
fi
exit $code
"""

WRAPPER: Final = _TAKE_SECRET + _CHOOSE_STREAM + _GUARD
"""Runs before and around the image's own command. Its arguments are the settings' directory, which must be writable, and that
command; the secret's length and a newline come by standard input, then the secret.
"""
