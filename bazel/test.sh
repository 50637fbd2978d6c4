# Runs a Go test for Bazel. Sourced by the script that go.bzl writes, which has
# set runfiles, binary, package, in_tree and Go's environment.
# shellcheck shell=bash disable=SC2154

# The variables of Bazel's tests, as flags of Go's. The timeout comes a little
# before Bazel's own, so that there are stacks of what hung.
flags=()
[ -z "${TESTBRIDGE_TEST_ONLY:-}" ] || flags+=("-test.run=$TESTBRIDGE_TEST_ONLY")
[ -z "${TEST_TIMEOUT:-}" ] || flags+=("-test.timeout=$((TEST_TIMEOUT - TEST_TIMEOUT / 20))s")

# TMPDIR stays what it was: paths of unix sockets below Bazel's are too long.
export CGO_ENABLED=0 GOFLAGS='-buildvcs=false' PATH=$GOROOT/bin:$PATH
if [ -n "$in_tree" ]; then
	cd "$(dirname "$(readlink -f "$runfiles/go.mod")")/$package"
else
	cd "$runfiles/$package"
fi
exec "$binary" "${flags[@]}" "$@"
