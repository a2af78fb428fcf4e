#!/bin/sh
# /usr/local/bin/gateway-manager: the commands as the service's user, with the service's settings.
export GATEWAY_MANAGER_CONFIG=/etc/gateway-manager/settings.toml
exec sudo -H --preserve-env=GATEWAY_MANAGER_CONFIG -u gateway-manager /opt/gateway-manager/bin/gateway-manager "$@"
