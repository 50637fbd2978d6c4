#!/bin/sh
# Copyright 2026 The FSVA Authors.
# SPDX-License-Identifier: Apache-2.0
#
# usage: build.sh [OUTPUT]
#
# Builds libfsvamount.so (see mountshim.c) with $CC, or cc. OUTPUT is ../../bin/libfsvamount.so by default. The result
# depends on the compiler and this directory only.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here/../../bin/libfsvamount.so}
mkdir -p "$(dirname "$output")"
# Under a name of its own first: a server may have the old file loaded.
"${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Werror -fPIC -ffreestanding -fno-builtin -fno-stack-protector \
	-fvisibility=hidden -shared -nostdlib -Wl,-z,relro,-z,now -Wl,--build-id=none \
	-Wl,-soname,libfsvamount.so -o "$output.new.$$" "$here/mountshim.c" || { rm -f "$output.new.$$"; exit 1; }
mv -f "$output.new.$$" "$output"
