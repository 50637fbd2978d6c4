#!/bin/bash
# usage: bazel/build.sh library|binary|test ENV OUT PACKAGE TAGS MANIFEST
#
# Builds one Go package for Bazel: copies the files that MANIFEST names to a
# directory of their own, so that nothing undeclared is seen, and runs the Go
# command that ENV names there, offline.
set -eu -o pipefail
kind=$1 env=$2 out=$PWD/$3 package=$4 tags=$5 manifest=$6
# shellcheck source=/dev/null # made by local_go.bzl
. "$env"
export CGO_ENABLED=0 GOENV=off GOPROXY=off GOSUMDB=off GOTOOLCHAIN=local GOWORK=off
export GOFLAGS='-mod=readonly -buildvcs=false -trimpath'

# Bazel removes neither the directory of a build that was killed, nor minds it.
work=$out.work
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/module" "$work/tmp"
export TMPDIR=$work/tmp
xargs -d '\n' cp -L --parents -t "$work/module" <"$manifest"
cd "$work/module"

# As in the Makefile: the version that a checkpoint must match to be restored, also
# that of the shim.
version=$(sed -n 's/^\tgvisor.dev\/gvisor v//p' go.mod)
case $kind in
library) command=(build) ;;
binary) command=(build -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$version+fsva -X github.com/containerd/containerd/v2/version.Version=$version+fsva") ;;
test) command=(test -c -ldflags "-s -w") ;;
esac
status=0
"$GOROOT/bin/go" "${command[@]}" -tags "$tags" -o "$out" "$package" 2>"$work/log" || status=$?
cat "$work/log" >&2
if grep -q 'GOPROXY=off' "$work/log"; then
	echo "build.sh: a module is not in $GOMODCACHE: run scripts/setup build, or go mod download" >&2
fi
if grep -qE 'package fsva/.* is not in std|no required module provides package fsva/|cannot find package' "$work/log"; then
	echo "build.sh: the deps of //${package#./} do not name what it imports: run make bazel" >&2
fi
exit "$status"
