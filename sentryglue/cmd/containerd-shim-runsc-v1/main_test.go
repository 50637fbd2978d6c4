// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestStartPlainly(t *testing.T) {
	for _, tc := range []struct {
		out, want string
		ok        bool
	}{
		{`{"version":2,"address":"unix:///run/s/1","protocol":"ttrpc"}`, "unix:///run/s/1", true},
		{"unix:///run/s/1", "unix:///run/s/1", true},
		{`{"version":3,"address":"unix:///run/s/1","protocol":"grpc"}`, "", false},
		{`{"version":2}`, "", false},
		{`{`, "", false},
	} {
		stdout := os.Stdout
		var got strings.Builder
		err := startPlainly(&got, func() { fmt.Print(tc.out) })
		if os.Stdout != stdout {
			t.Fatal("standard output is not what it was")
		}
		if got.String() != tc.want || (err == nil) != tc.ok {
			t.Errorf("%s: got %q, %v", tc.out, got.String(), err)
		}
	}
}
