#!/bin/sh
# Stands in for smolvm: keeps machines as files, runs their commands on this host, and goes wrong where it is told to.
# A file STEP.hang, STEP.kill, STEP.fail (what it says on standard error) or STEP.say (all that it says) beside it tells so.
site=$(dirname "$0")
case "$1" in
--version) step=version ;;
*) step=$2 ;;
esac
printf '%s\n' "$*" >>"$site/calls"
env >"$site/environment"
if [ -f "$site/$step.hang" ]; then exec sleep 600; fi
if [ -f "$site/$step.hang-once" ]; then rm "$site/$step.hang-once"; exec sleep 600; fi
if [ -f "$site/$step.kill" ]; then kill -9 $$; fi
if [ -f "$site/$step.fail" ]; then cat "$site/$step.fail" >&2; exit 1; fi
if [ -f "$site/$step.fail-once" ]; then cat "$site/$step.fail-once" >&2; rm "$site/$step.fail-once"; exit 1; fi
if [ -f "$site/$step.say" ]; then cat "$site/$step.say"; exit 0; fi
if [ "$step" = version ]; then echo "smolvm 1.32.2"; exit 0; fi
shift 2
name= image= cpus= mem= hosts= mounts=0
while [ $# -gt 0 ]; do
  case "$1" in
  --) shift; break ;;
  --name) name=$2; shift ;;
  --image) image=$2; shift ;;
  --cpus) cpus=$2; shift ;;
  --mem) mem=$2; shift ;;
  --allow-host) hosts=$2; shift ;;
  --volume) mounts=$((mounts + 1)); shift ;;
  --mount-socket | -u | -e | --state-dir | --error-format) shift ;;
  esac
  shift
done
vm=$site/vm/$name
not_there() { echo '{"error":{"code":"NOT_FOUND","message":"vm not found: '"$name"'"}}' >&2; exit 1; }
pack() { exec tar -c -C "$vm/disk$1" --transform "flags=r;s,^\.,$2," .; }
case "$step" in
create)
  mkdir -p "$vm"
  allowed=
  network=false
  if [ -n "$hosts" ]; then network=true; allowed="\"allowed_hosts\": [\"$hosts\"], \"allowed_cidrs\": [\"$hosts/32\"],"; fi
  echo "{ \"name\": \"$name\", $allowed \"network\": $network, \"image\": \"local-dir:$image\", \"cpus\": $cpus, \"memory_mib\": $mem, \"mounts\": $mounts, \"ports\": 0," >"$vm/listed"
  echo created >"$vm/state"
  ;;
start)
  [ -d "$vm" ] || not_there
  printf %s "$SMOLVM_INTERCEPTOR_TOKEN" >"$site/token"
  mkfifo "$vm/forever"
  sh "$site/boot.sh" _boot-vm "$vm" </dev/null >/dev/null 2>&1 &
  echo $! >"$vm/agent.pid"
  if [ -f "$site/start.late" ]; then exec sleep 600; fi
  if [ -f "$site/start.late-once" ]; then rm "$site/start.late-once"; exec sleep 600; fi
  echo running >"$vm/state"
  ;;
ls)
  first=true
  echo '['
  for one in "$site"/vm/*/; do
    [ -f "$one/listed" ] || continue
    $first || echo ','
    first=false
    sed -f "$site/drift.sed" "$one/listed"
    pid=null
    if [ -f "$one/agent.pid" ]; then pid=$(cat "$one/agent.pid"); fi
    state=$(cat "$one/state")
    if [ "$state" = running ] && [ -f "$site/ls.unreachable" ]; then
      state=$(cat "$site/ls.unreachable")
      if [ "$state" = once ]; then rm "$site/ls.unreachable"; fi
      state=unreachable
    fi
    echo "\"state\": \"$state\", \"pid\": $pid }"
  done
  echo ']'
  ;;
data-dir) echo "$vm" ;;
exec)
  [ "$(cat "$vm/state")" = running ] || { echo '{"error":{"code":"SMOLVM_ERROR","message":"machine is not running"}}' >&2; exit 1; }
  guest=$1
  if [ "$2" = --announce ]; then
    echo "bottle-guest: begun" >&2
    shift 2
    set -- "$guest" "$@"
  fi
  if [ "$2" = --pack ]; then
    if [ -f "$site/pack.cut" ]; then tar -c -C "$vm/disk$3" . | head -c 700; echo "bottle-guest: $3: no" >&2; exit 1; fi
    pack "$3" "$4"
  fi
  if [ "$2" = --signal ]; then exit 0; fi
  # Past the options of bottle-guest to its command.
  while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
  if [ $# -eq 0 ]; then exit 125; fi
  shift
  if [ "$1 $2" = "$guest --pack" ]; then pack "$3" tree; fi
  if [ "$1 $2" = "$guest --unpack" ]; then
    if [ -f "$site/unpack.hang" ]; then exec sleep 600; fi
    if [ -f "$site/unpack.fail" ]; then cat >/dev/null; cat "$site/unpack.fail" >&2; exit 1; fi
    mkdir -p "$vm/disk$3"
    exec tar -x -i -C "$vm/disk$3" --strip-components=1
  fi
  SITE=$site VM=$vm "$@"
  ;;
delete)
  [ -d "$vm" ] || not_there
  if [ -f "$vm/agent.pid" ] && [ ! -f "$site/delete.leaves" ]; then kill -9 "$(cat "$vm/agent.pid")" 2>/dev/null; fi
  rm -rf "$vm"
  ;;
*) echo "Error: unknown command $step" >&2; exit 2 ;;
esac
