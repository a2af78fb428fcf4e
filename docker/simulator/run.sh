#!/bin/sh
# What the image runs, under the name that it has in the real one.
exec gateway-simulator "$@"
