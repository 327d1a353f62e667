#!/bin/bash
# Runs the command of this run in its work directory and leaves its exit code beside it. The code goes through a file, since
# the exit code of the shell's client says 255 for its own failures too.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /var/lib/lane/out
cd /var/lib/lane/out || exit 1
bash /etc/lane/command
code=$?
sync
echo "$code" >/var/lib/lane/code
