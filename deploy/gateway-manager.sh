#!/bin/sh
# /usr/local/bin/gateway-manager: the commands as the service's user, with the service's settings and environment.
[ "$(id -un)" = gateway-manager ] || exec sudo -H -u gateway-manager /usr/local/bin/gateway-manager "$@"
export GATEWAY_MANAGER_CONFIG=/etc/gateway-manager/settings.toml
export GATEWAY_MANAGER_STATE_DIR=/var/lib/gateway-manager
file=/etc/gateway-manager/environment

refuse() {
    echo "gateway-manager: $file can't be read: $1" >&2
    exit 1
}

# The file that systemd reads for the unit: a NAME=VALUE on each line, bare or in quotes. Nothing in it is run, and what systemd might
# read in another way is refused.
if [ -e "$file" ]; then
    [ -r "$file" ] || refuse "permission denied. \`chgrp gateway-manager $file && chmod 0640 $file\` as root cures it."
    number=0
    while read -r line || [ -n "$line" ]; do
        number=$((number + 1)) name=${line%%=*} value=${line#*=}
        case $line in '' | '#'* | ';'*) continue ;; esac
        case $name in "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*) refuse "line $number is no NAME=VALUE." ;; esac
        case $value in
            *\\* | *[[:cntrl:]]* | ' '* | \"*\"?* | \'*\'?*) refuse "line $number needs a plain value, or one in quotes." ;;
            \"*\" | \'*\') value=${value#?} value=${value%?} ;;
            \"* | \'*) refuse "line $number has a quote without its other end." ;;
        esac
        export "$name=$value"
    done <"$file"
fi
exec /opt/gateway-manager/bin/gateway-manager "$@"
