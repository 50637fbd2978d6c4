// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
)

// idleServer serves a client until the test lets it go.
type idleServer struct{ end chan struct{} }

func (s *idleServer) Serve(fd int, c Client) error {
	<-s.end
	return unix.Close(fd)
}

func newTable(t *testing.T, v attach.Info) (*Table, *idleServer) {
	s := &idleServer{end: make(chan struct{})}
	table := New(v, s, slog.New(slog.DiscardHandler))
	table.handover = time.Millisecond
	return table, s
}

// sockets returns what an attach comes with, and the far end of its conn.
func sockets(t *testing.T) (lisafs int, conn, far *os.File) {
	t.Helper()
	var fds [4]int
	for i := 0; i < 4; i += 2 {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds[i], fds[i+1] = p[0], p[1]
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	far = os.NewFile(uintptr(fds[3]), "far")
	t.Cleanup(func() { far.Close() })
	return fds[0], os.NewFile(uintptr(fds[2]), "conn"), far
}

func TestAdmission(t *testing.T) {
	rw, ro := attach.Request{Container: "c1"}, attach.Request{Container: "c1", ReadOnly: true}
	for _, tc := range []struct {
		name          string
		coherence     string
		readOnly      bool
		first, second attach.Request
		refused       bool
	}{
		{"shared", attach.Shared, false, rw, rw, false},
		{"exclusive, two writers", attach.Exclusive, false, rw, rw, true},
		{"exclusive, a reader beside a writer", attach.Exclusive, false, rw, ro, true},
		{"exclusive, a writer beside a reader", attach.Exclusive, false, ro, rw, true},
		{"exclusive, two readers", attach.Exclusive, false, ro, ro, false},
		{"exclusive read-only volume", attach.Exclusive, true, rw, rw, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, server := newTable(t, attach.Info{Name: "v", Coherence: tc.coherence, ReadOnly: tc.readOnly})
			fd, conn, far := sockets(t)
			if err := table.Attach(tc.first, fd, conn); err != nil {
				t.Fatal(err)
			}
			err := table.Check(tc.second)
			if got := err != nil; got != tc.refused {
				t.Fatalf("the second client: got %v, want refused = %v", err, tc.refused)
			}
			if err != nil && (!strings.Contains(err.Error(), `"v"`) || !strings.Contains(err.Error(), "c1")) {
				t.Errorf("%q does not name the volume and its user", err)
			}
			if got := len(table.Stats().Clients); got != 1 {
				t.Errorf("%d clients listed, want 1", got)
			}
			table.Refuse()
			close(server.end)
			table.Wait()
			// The end of the conversation tells runsc's stub.
			if n, err := far.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the attach connection is still open: %d, %v", n, err)
			}
			if err := table.Check(tc.first); err == nil {
				t.Error("a stopping volume accepts clients")
			}
		})
	}
}

func TestClientLeavesRoomForTheNext(t *testing.T) {
	table, server := newTable(t, attach.Info{Name: "v", Coherence: attach.Exclusive})
	for range 3 {
		fd, conn, _ := sockets(t)
		if err := table.Attach(attach.Request{Container: "c"}, fd, conn); err != nil {
			t.Fatal(err)
		}
		close(server.end)
		table.Wait()
		server.end = make(chan struct{})
	}
	if s := table.Stats(); s.Attaches != 3 || s.Refused != 0 || len(s.Clients) != 0 {
		t.Errorf("got %+v, want 3 attaches, none refused, none left", s)
	}
}

// A client waits for the one before to go, or for the end of the volume.
func TestHandover(t *testing.T) {
	for name, stop := range map[string]bool{"the other leaves": false, "the volume stops": true} {
		t.Run(name, func(t *testing.T) {
			table, server := newTable(t, attach.Info{Name: "v", Coherence: attach.Exclusive})
			table.handover = time.Hour
			fd, conn, _ := sockets(t)
			if err := table.Attach(attach.Request{Container: "c"}, fd, conn); err != nil {
				t.Fatal(err)
			}
			checked := make(chan error)
			go func() { checked <- table.Check(attach.Request{Container: "d"}) }()
			select {
			case err := <-checked:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(10 * time.Millisecond):
			}
			if stop {
				table.Refuse()
			} else {
				close(server.end)
			}
			if err := <-checked; stop != (err == errStopping) || !stop && err != nil {
				t.Errorf("got %v", err)
			}
			if stop {
				close(server.end)
			}
			table.Wait()
		})
	}
}

// The rules do not ask whether a client is a sandbox or a guest.
func TestGuestsAreClients(t *testing.T) {
	guest := Client{Guest: "cid 3", Via: "vsock:1"}
	reader := guest
	reader.ReadOnly = true
	for _, tc := range []struct {
		name             string
		coherence        string
		readOnly         bool
		sandbox          attach.Request
		guest            Client
		refused, readsIt bool
	}{
		{"shared", attach.Shared, false, attach.Request{}, guest, false, false},
		{"exclusive, two writers", attach.Exclusive, false, attach.Request{}, guest, true, false},
		{"exclusive, two readers", attach.Exclusive, false, attach.Request{ReadOnly: true}, reader, false, true},
		{"exclusive, a reader beside a writer", attach.Exclusive, false, attach.Request{}, reader, true, true},
		{"exclusive read-only volume", attach.Exclusive, true, attach.Request{}, guest, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, server := newTable(t, attach.Info{Name: "v", Coherence: tc.coherence, ReadOnly: tc.readOnly})
			entered, leave, err := table.Enter(tc.guest)
			if err != nil {
				t.Fatal(err)
			}
			if entered.ReadOnly != tc.readsIt {
				t.Errorf("guest is read-only: %v, want %v", entered.ReadOnly, tc.readsIt)
			}
			err = table.Check(tc.sandbox)
			if got := err != nil; got != tc.refused {
				t.Fatalf("the sandbox: got %v, want refused = %v", err, tc.refused)
			}
			if err != nil && !strings.Contains(err.Error(), "guest cid 3") {
				t.Errorf("%q does not name the guest", err)
			}
			leave()
			// Now the other way round.
			fd, conn, _ := sockets(t)
			if err := table.Attach(tc.sandbox, fd, conn); err != nil {
				t.Fatal(err)
			}
			_, leave, err = table.Enter(tc.guest)
			if got := err != nil; got != tc.refused {
				t.Fatalf("the guest: got %v, want refused = %v", err, tc.refused)
			}
			close(server.end)
			if err == nil {
				if s := table.Stats(); len(s.Clients) == 0 {
					t.Error("the guest is not listed")
				}
				leave()
			}
			table.Refuse()
			table.Wait()
			if _, _, err := table.Enter(tc.guest); err == nil {
				t.Error("a stopping volume accepts guests")
			}
		})
	}
}
