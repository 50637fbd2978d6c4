// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusesession

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/fusewire"
)

// knows reports whether the client has the node.
func (s *Session) knows(nodeID uint64) bool {
	if s.opts.Notify == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateReady {
		return false
	}
	return nodeID == fuse.FUSE_ROOT_ID || s.tab.nodes[nodeID] != nil
}

// notify sends a message: header, structure, and a name with its NUL if there is one.
func (s *Session) notify(code uint32, body []byte, name string) {
	msg := make([]byte, fusewire.OutHeaderSize, fusewire.OutHeaderSize+len(body)+len(name)+1)
	msg = append(msg, body...)
	if name != "" {
		msg = append(msg, name...)
		msg = append(msg, 0)
	}
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], code)
	s.opts.Notify(msg)
}

// InvalInode makes the client drop what it keeps of a node: attributes, and data
// of length bytes from off on (0 is to the end); none if off is negative.
func (s *Session) InvalInode(nodeID uint64, off, length int64) {
	if s.knows(nodeID) {
		out := fuse.NotifyInvalInodeOut{Ino: nodeID, Off: off, Length: length}
		s.notify(fusewire.NoteInvalInode, bytesOf(&out), "")
	}
}

// InvalEntry makes the client drop a name; with expireOnly it looks the name up
// again before it uses it.
func (s *Session) InvalEntry(parent uint64, name string, expireOnly bool) {
	if name != "" && len(name) <= nameMax && s.knows(parent) {
		out := fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}
		s.mu.Lock()
		if expireOnly && s.flags&fuse.CAP_HAS_EXPIRE_ONLY != 0 {
			out.Flags = fuse.EXPIRE_ONLY
		}
		s.mu.Unlock()
		s.notify(fusewire.NoteInvalEntry, bytesOf(&out), name)
	}
}

// minorIncEpoch is the first minor of clients that know NoteIncEpoch: Linux 6.16.
const minorIncEpoch = 44

// IncEpoch makes the client look every name up again before it uses it. Clients that do
// not know this notification do so anyway, unless they are exclusive.
func (s *Session) IncEpoch() {
	if !s.knows(fuse.FUSE_ROOT_ID) {
		return
	}
	s.mu.Lock()
	minor := s.minor
	s.mu.Unlock()
	if minor >= minorIncEpoch {
		s.notify(fusewire.NoteIncEpoch, nil, "")
	}
}

// Delete tells the client that a file is gone.
func (s *Session) Delete(parent, child uint64, name string) {
	if name != "" && len(name) <= nameMax && s.knows(parent) {
		out := fuse.NotifyInvalDeleteOut{Parent: parent, Child: child, NameLen: uint32(len(name))}
		s.notify(fusewire.NoteDelete, bytesOf(&out), name)
	}
}
