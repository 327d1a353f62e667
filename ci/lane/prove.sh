#!/bin/sh
# What is proven of machines, where they can be had: the tests on the real smolvm, then what is named of the conformance matrix, in
# both columns, known-leaky bottles first. Every part runs, whatever the others came to.
#   prove.sh [PATTERN...]    probes or cells
set -u
failed=
part() { # NAME COMMAND...
    name=$1
    shift
    echo "::: $name"
    "$@" || failed="$failed, $name ($?)"
}
BOTTLE_TEST_SMOLVM=1
BOTTLE_PARTS_DIR=$(dirname "$(command -v bottle-bundle)")
export BOTTLE_TEST_SMOLVM BOTTLE_PARTS_DIR
part "tests on the real smolvm" ./real --nocapture --test-threads 1
rm real
if [ $# -gt 0 ]; then
    part "self-test of both columns" bottle-conform self-test --backend docker,smolmachines "$@"
    part "both columns" bottle-conform run --backend docker,smolmachines "$@"
fi
if [ -n "$failed" ]; then
    echo "failed: ${failed#, }"
    exit 1
fi
