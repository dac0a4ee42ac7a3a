#!/usr/bin/env bash
# The main process of a container: runs python so that a cluster can tell "finished" from
# "interrupted".
#
# Usage: launch/container_main.sh -m MODULE ARGUMENTS
#
# When a pod is evicted, the trainer gets SIGTERM, saves and ends with 0, as if it had finished.
# This script then ends with 143, so that the job is restarted (launch/xpk.sh).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
[[ ${1:-} != --help ]] || usage
require_command "$@"

stopped=''
trap 'stopped=yes; kill -TERM $! 2>/dev/null || true' TERM # only this process gets it
"${PYTHON:-python}" "$@" &
code=0
wait $! || code=$?
while kill -0 $! 2>/dev/null; do # a signal ended the wait, not python
    code=0
    wait $! || code=$?
done
[[ -z $stopped ]] || code=143
exit "$code"
