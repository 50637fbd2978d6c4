// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the protocol's. There is one so far.
const Version = 1

const (
	helloMagic = "FSVA-FS\n"
	maxHello   = 4096
	// MaxSecret bounds a secret, in bytes.
	MaxSecret = 256
)

// clientHello is what the shim says first.
type clientHello struct {
	// Version is the highest version that the shim speaks.
	Version int `json:"version"`
	// Volume is the name of the volume it wants; "" is whichever it gets.
	Volume string `json:"volume,omitempty"`
	// Secret is what the administrator gave to both sides.
	Secret []byte `json:"secret,omitempty"`
	// ReadOnly says that the shim will not change anything.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Windows are the IDs of the windows that the guest has, in hexadecimal. The
	// gofer takes the first that it knows and that is free.
	Windows []string `json:"windows,omitempty"`
}

// serverHello is the answer.
type serverHello struct {
	// Error says why the gofer refuses; the connection ends then.
	Error string `json:"error,omitempty"`
	// Final says that another attempt will be refused, too.
	Final   bool   `json:"final,omitempty"`
	Version int    `json:"version"`
	Volume  string `json:"volume"`
	Info
	// Window is the ID of the window that is used, and Writes the part of it that
	// the shim puts the data of requests in.
	Window string `json:"window,omitempty"`
	Writes extent `json:"writes,omitzero"`
	// Compounds says that the gofer understands frames of that kind.
	Compounds bool `json:"compounds,omitempty"`
}

// Info is what a gofer tells its shims about a volume.
type Info struct {
	// ReadOnly: the volume refuses changes.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Exclusive: nobody else changes the files.
	Exclusive bool `json:"exclusive,omitempty"`
	// StableIno: inode numbers identify files, also after the gofer or its file
	// system have started anew.
	StableIno bool `json:"stableIno,omitempty"`
	// KeepsWrites: writes that were acknowledged are not lost when the gofer dies.
	KeepsWrites bool `json:"keepsWrites,omitempty"`
	// FreeOpens: to open a file for reading, or a directory, always works and changes
	// nothing. It can be put off until the file is read, or left out.
	FreeOpens bool `json:"freeOpens,omitempty"`
}

// extent is length bytes from off.
type extent struct {
	Off    int64 `json:"off"`
	Length int64 `json:"length"`
}

// ErrRefused is in the tree of errors that say that the gofer has refused a shim for
// good: another attempt makes no sense.
var ErrRefused = errors.New("refused")

// writeHello sends a hello in one piece.
func writeHello(w io.Writer, hello any) error {
	text, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	if len(text) > maxHello {
		return fmt.Errorf("a hello of %d bytes", len(text))
	}
	b := append([]byte(helloMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(helloMagic):], uint32(len(text)))
	_, err = w.Write(append(b, text...))
	return err
}

// readHello reads a hello into one of the structures above. Fields it does not know are
// another version's and ignored.
func readHello(r io.Reader, hello any) error {
	var head [len(helloMagic) + 4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read the hello: %w", err)
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return errors.New("the peer does not speak FUSE over a stream of ours")
	}
	n := binary.LittleEndian.Uint32(head[len(helloMagic):])
	if n > maxHello {
		return fmt.Errorf("a hello of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("read the hello: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(hello); err != nil {
		return fmt.Errorf("parse the hello: %w", err)
	}
	return nil
}

// sameSecret compares in a time that says nothing about either.
func sameSecret(got, want []byte) bool {
	a, b := sha256.Sum256(got), sha256.Sum256(want)
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
