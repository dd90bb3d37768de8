#!/bin/sh
# What Bytewax's Helm chart runs before that, in all pods at once, on the volume that they share.
exec python -m ops.recovery "$BYTEWAX_RECOVERY_DIRECTORY"
