// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package listen says where guests reach a volume: what `fsva serve --listen`
// takes, and the sockets that are made of it. The supervisor binds them (Bind) and
// keeps them; the gofer gets descriptors and accepts.
//
// The text is the administrator's and trusted. Who connects is not; what a listener
// lets in is decided in the gofer, by packages vsock, vhostuser and fusesession.
package listen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fsva/gofer/vsock"
)

// Virtiofs is the kind of a virtio-fs device, a vhost-user socket that a
// hypervisor connects to. The other kinds are those of package vsock.
const Virtiofs vsock.Kind = "virtiofs"

// Max bounds the listeners of one volume.
const Max = 32

// Spec is one --listen.
type Spec struct {
	Kind vsock.Kind `json:"kind"`
	// Path is the socket's, absolute; empty for vsock.Kernel.
	Path string `json:"path,omitempty"`
	// Port is the vsock port; 0 for unix and virtiofs.
	Port uint32 `json:"port,omitempty"`
	// CIDs are those of the guests that may connect: any number for vsock.Kernel,
	// where AnyCID stands for all; the guest's own for vsock.VhostUser; what the
	// guest is shown as for vsock.Hybrid, or none.
	CIDs []uint32 `json:"cids,omitempty"`
	// ReadOnly refuses what guests would change.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Secret, if it is not empty, is what `fsva mount` has to know. It is for the
	// gofer alone: neither String nor a volume's files have it.
	Secret []byte `json:"secret,omitempty"`
}

// AnyCID in Spec.CIDs lets every guest of the machine connect.
const AnyCID = vsock.CIDNone

// Forms says what Parse takes, for messages.
const Forms = "vsock:PORT,cid=CID, unix:PATH, vhost-user-vsock:PATH, hybrid-vsock:PATH or virtiofs:PATH"

// Parse parses KIND:ADDRESS[,OPTION…]. The options are port=N (vhost-user-vsock and
// hybrid-vsock), cid=N (all with vsock in their names; cid=any and more than one for
// vsock only), secret-file=PATH (all but virtiofs), which is read at once, and ro. A path
// is made absolute; it has no comma.
func Parse(text string) (Spec, error) {
	parts := strings.Split(text, ",")
	kind, address, found := strings.Cut(parts[0], ":")
	if !found {
		return Spec{}, fmt.Errorf("listen on %q: want %s", text, Forms)
	}
	s := Spec{Kind: vsock.Kind(kind)}
	switch s.Kind {
	case vsock.Kernel:
		port, err := number(address)
		if err != nil {
			return Spec{}, fmt.Errorf("listen on %q: port: %w", text, err)
		}
		s.Port = port
	case vsock.Hybrid, vsock.VhostUser, vsock.Unix, Virtiofs:
		if address == "" {
			return Spec{}, fmt.Errorf("listen on %q: the path of the socket is missing", text)
		}
		path, err := filepath.Abs(address)
		if err != nil {
			return Spec{}, fmt.Errorf("listen on %q: %w", text, err)
		}
		s.Path = path
	default:
		return Spec{}, fmt.Errorf("listen on %q: %q is none of %s", text, kind, Forms)
	}
	for _, option := range parts[1:] {
		if err := s.set(option); err != nil {
			return Spec{}, fmt.Errorf("listen on %q: %w", text, err)
		}
	}
	if err := s.complete(); err != nil {
		return Spec{}, fmt.Errorf("listen on %q: %w", text, err)
	}
	return s, nil
}

// set applies one option.
func (s *Spec) set(option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch {
	case option == "ro":
		s.ReadOnly = true
		return nil
	case name == "port" && (s.Kind == vsock.Hybrid || s.Kind == vsock.VhostUser):
		port, err := number(value)
		if err != nil {
			return fmt.Errorf("port: %w", err)
		}
		s.Port = port
		return nil
	case name == "cid" && value == "any" && s.Kind == vsock.Kernel:
		s.CIDs = append(s.CIDs, AnyCID)
		return nil
	case name == "cid" && (s.Kind == vsock.Kernel || s.Kind == vsock.Hybrid || s.Kind == vsock.VhostUser):
		cid, err := number(value)
		if err != nil {
			return fmt.Errorf("cid: %w", err)
		}
		s.CIDs = append(s.CIDs, cid)
		return nil
	case name == "secret-file" && s.Kind != Virtiofs:
		secret, err := ReadSecret(value)
		if err != nil {
			return fmt.Errorf("secret-file: %w", err)
		}
		s.Secret = secret
		return nil
	}
	return fmt.Errorf("option %q is not one of %s", option, s.Kind)
}

// complete applies defaults and refuses what is missing or too much.
func (s *Spec) complete() error {
	switch s.Kind {
	case vsock.Kernel:
		// Every guest of the machine can connect to a vsock port of the host.
		if len(s.CIDs) == 0 {
			return errors.New("say which guests may connect: cid=N, more than once if need be, or cid=any")
		}
		if slices.Contains(s.CIDs, AnyCID) && len(s.CIDs) > 1 {
			return errors.New("cid=any and others do not go together")
		}
	case vsock.Hybrid, vsock.VhostUser:
		if len(s.CIDs) > 1 {
			return errors.New("there is one guest behind the socket, with one cid")
		}
		if s.Port == 0 {
			s.Port = vsock.DefaultPort
		}
		if s.Kind == vsock.VhostUser && len(s.CIDs) == 0 {
			s.CIDs = []uint32{vsock.CIDFirstGuest}
		}
		if s.Kind == vsock.VhostUser && s.CIDs[0] < vsock.CIDFirstGuest {
			return fmt.Errorf("cid %d is not a guest's: they begin at %d", s.CIDs[0], vsock.CIDFirstGuest)
		}
	}
	return nil
}

// number parses a CID or a port.
func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 || uint32(n) == vsock.CIDNone {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", text, vsock.CIDNone-1)
	}
	return uint32(n), nil
}

// String returns the address of s as Parse takes it, without options.
func (s Spec) String() string {
	if s.Kind == vsock.Kernel {
		return fmt.Sprintf("%s:%d", s.Kind, s.Port)
	}
	return string(s.Kind) + ":" + s.Path
}

// Addr returns s for package vsock. A virtio-fs device's socket is one of
// vhost-user, too.
func (s Spec) Addr() vsock.Addr {
	a := vsock.Addr{Kind: s.Kind, CID: vsock.CIDNone, Port: s.Port, Path: s.Path}
	if s.Kind == Virtiofs {
		a.Kind = vsock.VhostUser
	}
	return a
}

// Options returns what package vsock wants to know beside the address.
func (s Spec) Options() vsock.Options {
	o := vsock.Options{Port: s.Port}
	switch {
	case s.Kind == vsock.Kernel:
		if !slices.Contains(s.CIDs, AnyCID) {
			o.Allow = s.CIDs
		}
	case len(s.CIDs) == 1:
		o.CID = s.CIDs[0]
	}
	return o
}

// Bind makes the listening socket, mode 0600 if it is a file. The caller owns it,
// and removes the file SocketPath when it is done.
func (s Spec) Bind() (*os.File, error) { return vsock.Bind(s.Addr(), s.Options()) }

// SocketPath returns the file that Bind makes, or "".
func (s Spec) SocketPath() string { return vsock.SocketPath(s.Addr(), s.Options()) }
