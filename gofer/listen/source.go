// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"fsva/gofer/vsock"
)

// Source is where a virtual machine exports a directory, which is connected to.
type Source struct {
	Addr    vsock.Addr
	Options vsock.Options
	// rest is what follows the address in the text.
	rest string
}

// ParseSource parses vsock:CID:PORT, unix:PATH, hybrid-vsock:PATH[,port=PORT] (the
// VMM's own socket) or vhost-user-vsock:PATH[,port=PORT][,cid=CID], where the vsock
// device of the machine is to be served and PATH is the socket its VMM connects to.
// Paths become absolute.
func ParseSource(text string) (Source, error) {
	kind, _, _ := strings.Cut(text, ":")
	switch vsock.Kind(kind) {
	case vsock.Kernel:
		a, err := vsock.ParseAddr(text)
		if err == nil && a.CID == vsock.CIDNone {
			err = fmt.Errorf("address %q: the CID is missing: vsock:CID:PORT", text)
		}
		return Source{Addr: a}, err
	case vsock.Unix, vsock.Hybrid, vsock.VhostUser:
		s, err := Parse(text)
		if err == nil && s.ReadOnly {
			err = errors.New("a source has no option ro: use --readonly")
		}
		if err == nil && s.Secret != nil {
			err = errors.New("a source has no option secret-file: an export has no secret")
		}
		if err != nil {
			return Source{}, err
		}
		_, rest, found := strings.Cut(text, ",")
		if found {
			rest = "," + rest
		}
		return Source{Addr: s.Addr(), Options: s.Options(), rest: rest}, nil
	}
	return Source{}, fmt.Errorf("source %q: want vsock:CID:PORT, unix:PATH, hybrid-vsock:PATH or vhost-user-vsock:PATH", text)
}

// Path returns the socket of a source that has one, else "".
func (s Source) Path() string { return s.Addr.Path }

// Listens reports whether the server makes the socket, so that it must be able to
// write to its directory.
func (s Source) Listens() bool { return s.Addr.Kind == vsock.VhostUser }

// In returns the text of the same source, with its socket in directory dir.
func (s Source) In(dir string) string {
	if s.Addr.Path == "" {
		return s.Addr.String()
	}
	return string(s.Addr.Kind) + ":" + path.Join(dir, path.Base(s.Addr.Path)) + s.rest
}
