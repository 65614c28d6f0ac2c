#!/bin/sh
# Records the corpus anew: record.sh <corpus> <major>=<programs of the server> ...
corpus=$1; shift
for one; do timeout 120 setpriv --reuid=postgres --regid=postgres --clear-groups /usr/bin/python3 "$(dirname "$0")/record.py" "${one#*=}" "${one%%=*}" "$corpus" || exit 1; done
