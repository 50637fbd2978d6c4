// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusechannel

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusewire"
)

// recorder is a Notifier that writes down what it is told.
type recorder struct {
	lines chan string
	store fuse.Status
}

func (r *recorder) InvalInode(id uint64, off, length int64) {
	r.lines <- fmt.Sprintf("inval_inode %d %d %d", id, off, length)
}

func (r *recorder) InvalEntry(parent uint64, name string, expire bool) {
	r.lines <- fmt.Sprintf("inval_entry %d %s %v", parent, name, expire)
}

func (r *recorder) Delete(parent, child uint64, name string) {
	r.lines <- fmt.Sprintf("delete %d %d %s", parent, child, name)
}

func (r *recorder) Store(id, off uint64, data []byte) fuse.Status {
	r.lines <- fmt.Sprintf("store %d %d %q", id, off, data)
	return r.store
}

func (r *recorder) Retrieve(id, off uint64, size uint32) ([]byte, fuse.Status) {
	r.lines <- fmt.Sprintf("retrieve %d %d %d", id, off, size)
	if id != 2 {
		return nil, fuse.ENOENT
	}
	return bytes.Repeat([]byte("d"), int(size)+5), fuse.OK // more than asked for
}

func (r *recorder) IncEpoch()          { r.lines <- "inc_epoch" }
func (r *recorder) Prune(ids []uint64) { r.lines <- fmt.Sprintf("prune %d", ids) }

func TestNotifications(t *testing.T) {
	replies := make(chan request, 4)
	s := &script{serve: func(s *script, r request) {
		if r.opcode == fusewire.OpNotifyReply {
			replies <- r
		}
	}}
	rec := &recorder{lines: make(chan string)}
	c := s.open(t, Options{Notify: rec})
	// Nobody has a request under way: the background reader has to see them.
	s.notify(fusewire.NotePoll, enc(uint64(1)))
	s.notify(fusewire.NoteInvalInode, enc(fuse.NotifyInvalInodeOut{Ino: 2, Off: -1, Length: -7}))
	s.notify(fusewire.NoteInvalEntry, enc(fuse.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), []byte("abc\x00"))
	s.notify(fusewire.NoteInvalEntry, enc(fuse.NotifyInvalEntryOut{Parent: 1, NameLen: 3, Flags: fuse.EXPIRE_ONLY}), []byte("abd\x00"))
	s.notify(fusewire.NoteDelete, enc(fuse.NotifyInvalDeleteOut{Parent: 1, Child: 2, NameLen: 1}), []byte("x\x00"))
	s.notify(fusewire.NoteStore, enc(fuse.NotifyStoreOut{Nodeid: 2, Offset: 4096, Size: 4}), []byte("data"))
	s.notify(fusewire.NoteIncEpoch)
	s.notify(fusewire.NotePrune, enc(fuse.NotifyPruneOut{Count: 2}), enc([2]uint64{8, 9}))
	s.notify(fusewire.NoteResend)
	s.notify(fusewire.NoteRetrieve, enc(fuse.NotifyRetrieveOut{NotifyUnique: 42, Nodeid: 2, Offset: 10, Size: 20}))
	s.notify(fusewire.NoteRetrieve, enc(fuse.NotifyRetrieveOut{NotifyUnique: 43, Nodeid: 3, Size: 1 << 31}))
	for _, w := range []string{"inval_inode 2 -1 -7", "inval_entry 1 abc false", "inval_entry 1 abd true", "delete 1 2 x",
		`store 2 4096 "data"`, "inc_epoch", "prune [8 9]", "retrieve 2 10 20", "retrieve 3 0 131072"} {
		if got := <-rec.lines; got != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
	for _, w := range []struct {
		unique uint64
		in     fuse.NotifyRetrieveIn
		n      int
	}{{42, fuse.NotifyRetrieveIn{Offset: 10, Size: 20}, 20}, {43, fuse.NotifyRetrieveIn{}, 0}} {
		r := <-replies
		if r.unique != w.unique || !bytes.Equal(r.body, append(bytesOf(&w.in)[fusewire.InHeaderSize:], bytes.Repeat([]byte("d"), w.n)...)) {
			t.Errorf("NOTIFY_REPLY %d with %x", r.unique, r.body)
		}
	}
	st := c.Stats()
	if st.Malformed != 0 || st.Notifications["INVAL_ENTRY"] != 2 || st.Refused != 2 {
		t.Errorf("stats: %+v", st)
	}
}

func TestRetrieveWithoutNotifier(t *testing.T) {
	replies := make(chan request, 1)
	s := &script{serve: func(s *script, r request) { replies <- r }}
	s.open(t, Options{})
	s.notify(fusewire.NoteInvalInode, enc(fuse.NotifyInvalInodeOut{Ino: 2}))
	s.notify(fusewire.NoteRetrieve, enc(fuse.NotifyRetrieveOut{NotifyUnique: 42, Nodeid: 2, Size: 20}))
	if r := <-replies; r.opcode != fusewire.OpNotifyReply || r.unique != 42 || len(r.body) != 40 {
		t.Errorf("%s %d with %d bytes", fusewire.OpNames[r.opcode], r.unique, len(r.body))
	}
}

// callBack is a Notifier that uses the channel from within.
type callBack struct {
	recorder
	c    *Channel
	done chan fuse.Status
}

func (n *callBack) InvalInode(id uint64, off, length int64) {
	_, st := getattr(n.c, id)
	n.done <- st
}

// TestNotifierCallsChannel: the reader does not wait for a notifier, so that may wait for the reader.
func TestNotifierCallsChannel(t *testing.T) {
	s := &script{serve: func(s *script, r request) { s.ok(r, enc(goodAttr(unix.S_IFREG))) }}
	c := s.open(t, Options{})
	n := &callBack{c: c, done: make(chan fuse.Status)}
	c.SetNotifier(n)
	for range 10 {
		s.notify(fusewire.NoteInvalInode, enc(fuse.NotifyInvalInodeOut{Ino: 2}))
	}
	for range 10 {
		must(t, "GETATTR within a notification", <-n.done)
		_, st := getattr(c, 2)
		must(t, "GETATTR meanwhile", st)
	}
}

func TestNotifyQueue(t *testing.T) {
	var q notifyQueue
	q.init()
	dead := make(chan struct{})
	big := notification{code: fusewire.NoteStore, data: make([]byte, noteBytesMax)}
	if err := q.put(big, dead); err != nil {
		t.Fatal(err)
	}
	// Full: a second one has to wait until the first is taken.
	put := make(chan error)
	go func() { put <- q.put(notification{code: fusewire.NoteInvalInode, node: 5}, dead) }()
	if n, ok := q.get(dead); !ok || n.code != fusewire.NoteStore {
		t.Errorf("got %d %v", n.code, ok)
	}
	if err := <-put; err != nil {
		t.Error(err)
	}
	if n, ok := q.get(dead); !ok || n.node != 5 {
		t.Errorf("got node %d %v", n.node, ok)
	}
	if q.bytes != 0 {
		t.Errorf("%d bytes left", q.bytes)
	}
	// Full, and nobody takes anything.
	q.deadline = time.Millisecond
	for range notesMax {
		if err := q.put(notification{}, dead); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.put(notification{}, dead); !errors.Is(err, errNotesStuck) {
		t.Errorf("put into a full queue: %v", err)
	}
	close(dead)
	if err := q.put(notification{}, dead); err != nil {
		t.Errorf("put into a full queue of a dead channel: %v", err)
	}
	if _, ok := q.get(dead); ok {
		t.Error("got a notification of a dead channel")
	}
}
