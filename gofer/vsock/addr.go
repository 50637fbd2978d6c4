// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vsock

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind is the way in which an address is reached. Its value is what an address
// starts with.
type Kind string

// The kinds of addresses.
const (
	Kernel    Kind = "vsock"
	Unix      Kind = "unix"
	Hybrid    Kind = "hybrid-vsock"
	VhostUser Kind = "vhost-user-vsock"
)

// CIDs with a meaning of their own. Guests have numbers from CIDFirstGuest on.
const (
	CIDLocal      uint32 = 1 // loopback, inside one machine
	CIDHost       uint32 = 2
	CIDFirstGuest uint32 = 3
	// CIDNone is the CID of a peer that has none, or whose CID nobody told us: at
	// the other end of a unix socket. In an [Addr] it stands for any local CID.
	CIDNone uint32 = 0xffffffff
)

// DefaultPort is where a volume listens on transports whose addresses have no
// port: hybrid and vhost-user vsock.
const DefaultPort uint32 = 3782

// maxPath is what sun_path of a sockaddr_un holds besides the final zero.
const maxPath = 107

// Addr is an address to listen on or to connect to. It implements net.Addr.
type Addr struct {
	Kind Kind
	// CID and Port are those of AF_VSOCK. With Kernel both are part of the
	// written form; CID may be CIDNone, for listening.
	CID, Port uint32
	// Path is the unix socket of the other kinds. For Hybrid it is the VMM's own
	// socket, without the port number that sockets for guests have.
	Path string
}

// Network implements net.Addr.
func (a Addr) Network() string { return string(a.Kind) }

// String returns the form that ParseAddr takes.
func (a Addr) String() string {
	switch {
	case a.Kind != Kernel:
		return string(a.Kind) + ":" + a.Path
	case a.CID == CIDNone:
		return fmt.Sprintf("%s:%d", a.Kind, a.Port)
	default:
		return fmt.Sprintf("%s:%d:%d", a.Kind, a.CID, a.Port)
	}
}

// ParseAddr parses vsock:PORT, vsock:CID:PORT, unix:PATH, hybrid-vsock:PATH or
// vhost-user-vsock:PATH. Numbers are decimal, without leading zeros, from 1 to
// 4294967294. A path is at most 107 bytes long and names a file: abstract
// sockets have no permissions.
func ParseAddr(s string) (Addr, error) {
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Addr{}, fmt.Errorf("address %q: want vsock:[CID:]PORT, unix:PATH, hybrid-vsock:PATH or vhost-user-vsock:PATH", s)
	}
	a := Addr{Kind: Kind(kind), CID: CIDNone}
	switch a.Kind {
	case Kernel:
		cid, port, both := strings.Cut(rest, ":")
		if !both {
			cid, port = "", rest
		}
		if both {
			n, err := parseNumber(cid)
			if err != nil {
				return Addr{}, fmt.Errorf("address %q: CID: %w", s, err)
			}
			a.CID = n
		}
		n, err := parseNumber(port)
		if err != nil {
			return Addr{}, fmt.Errorf("address %q: port: %w", s, err)
		}
		a.Port = n
		return a, nil
	case Unix, Hybrid, VhostUser:
		a.Path = rest
		if err := checkPath(rest); err != nil {
			return Addr{}, fmt.Errorf("address %q: %w", s, err)
		}
		return a, nil
	}
	return Addr{}, fmt.Errorf("address %q: %q is none of vsock, unix, hybrid-vsock and vhost-user-vsock", s, kind)
}

// parseNumber parses a CID or a port, in its one written form.
func parseNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == uint64(CIDNone) || s[0] == '0' {
		return 0, fmt.Errorf("%q is not a decimal number from 1 to %d", s, CIDNone-1)
	}
	return uint32(n), nil
}

func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("the path of the socket is missing")
	case len(path) > maxPath:
		return fmt.Errorf("the path of a socket has at most %d bytes, this one has %d", maxPath, len(path))
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return fmt.Errorf("abstract sockets have no permissions; name a file")
	}
	return nil
}
