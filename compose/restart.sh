#!/bin/sh
# What `keylane worker exec` runs here for every item: a stand-in for your own work, in two steps.
set -eu
echo "$KEYLANE_ACTION of $KEYLANE_RESOURCE under token $KEYLANE_TOKEN"
sleep 1
echo '{"progress": {"drained": true}}'
sleep 1
printf '{"result": {"done": "%s", "attempt": %s}}\n' "$KEYLANE_ACTION" "$KEYLANE_ATTEMPT"
