// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// holdable gives the configuration a Hold, and returns what holds it.
func holdable(t *testing.T, c *Config) (holder *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	c.Hold = r
	return w
}

// An instance ends when nobody holds it and its last client has gone, and not before.
func TestInstanceEndsWithItsClients(t *testing.T) {
	for _, how := range []string{"leave", "abandoned"} {
		t.Run(how, func(t *testing.T) {
			c := newTestConfig(t, IsolationNone, "serve")
			c.Gofer.Options = map[string]string{"gofer": how}
			holder := holdable(t, &c)
			r := serve(t, c)
			select {
			case <-r.done:
				t.Fatalf("ended while it was held: %v", r.err)
			default:
			}
			holder.Close()
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// With a client an instance goes on when nobody holds it; when its gofer dies, it ends
// and is not started again.
func TestInstanceEndsWithItsGofer(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			c := newTestConfig(t, isolation, "serve")
			holder := holdable(t, &c)
			r := serve(t, c)
			holder.Close()
			s := r.waitStatus(t, "with its client", func(s Status) bool { return s.Gofer != nil && s.Gofer.Clients == 1 })
			if err := unix.Kill(s.GoferPID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
		})
	}
}
