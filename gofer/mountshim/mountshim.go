// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package mountshim holds the C source of libfsvamount.so, which is preloaded into FS servers that call mount(2)
// themselves, or handle one request at a time; mountshim.c says what it does. `make build` builds it with build.sh. There
// is no Go code to import.
package mountshim
