// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package attach is the meeting point of a sandbox and a volume: the
// directory RUNDIR/volumes/NAME, which users bind-mount into containers, and
// the short conversation on the socket in it that gives the volume's gofer
// the sandbox's lisafs socket.
//
// The directory holds volume.json (Info) and gofer.sock. The conversation is
// one JSON line each way: a Request, accompanied by the lisafs socket
// (SCM_RIGHTS) when it asks to attach, and a reply that is empty or carries a
// refusal. After an accepted attach the gofer keeps the connection open for
// exactly as long as it serves the lisafs socket; the stub left behind in
// runsc's own gofer waits for its end and then exits.
//
// Who is trusted: the directory is writable by root only, so whoever reaches
// the socket is root's runsc. Neither side relies on that. The gofer's side
// bounds what a peer sends in size, descriptors and time. runsc's side takes
// a volume.json only from a file that root or its own user owns, never follows
// a symbolic link to the socket (a container may have had the directory
// mounted read-write as plain data), and cleans the text of a refusal.
//
// The package has no locks and starts goroutines in Serve only, which waits
// for them.
package attach

import (
	"errors"
	"fmt"
)

const (
	// InfoName is the file that makes a directory a volume directory.
	InfoName = "volume.json"
	// SocketName is the socket beside it on which the gofer listens.
	SocketName = "gofer.sock"

	// Version is the version of Info and Request that this package speaks.
	Version = 1
)

// maxLine bounds volume.json, a request line and a reply line.
const maxLine = 64 << 10

var (
	// ErrNotVolume says that a directory holds no volume.json of ours.
	ErrNotVolume = errors.New("not a volume directory")
	// ErrNotRunning says that nobody answers on the volume's socket.
	ErrNotRunning = errors.New("the volume's gofer is not running")
)

// RefusedError is the gofer's "no".
type RefusedError struct {
	// Text is one printable line from the gofer.
	Text string
}

// Error implements error.
func (e *RefusedError) Error() string { return e.Text }

// protocolError is a request or a reply that breaks the rules of this package.
type protocolError struct{ text string }

func (e *protocolError) Error() string { return e.text }

func protocolErrorf(format string, args ...any) error {
	return &protocolError{text: fmt.Sprintf(format, args...)}
}
