#!/bin/sh
# What Bytewax's Helm chart runs in a pod. exec, so that SIGTERM arrives and the exit code is seen.
exec python -m ops.supervise python -m bytewax.run dataflow \
    -r "${BYTEWAX_RECOVERY_DIRECTORY:?set configuration.recovery.enabled}/partitions"
