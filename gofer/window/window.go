// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package window is memory that the gofer shares with one guest: a memfd that
// the guest's hypervisor maps as a PCI BAR (package ivshmem). Data of reads and
// writes goes through it instead of the connection, which then carries offsets.
//
// The supervisor makes a window for each hypervisor that asks for one (Create) and
// keeps it for as long as that one is there, so a window outlives the gofer. The
// gofer maps it (Set.Add) and lends it to the one connection whose guest names its
// ID (Set.Claim): the ID is random, and in the window, so only who has the window
// knows it. A window belongs to one guest and is never the cache: what a guest
// writes into it, it writes over its own data.
//
// The peer, the guest, is hostile. It may write any byte of a window at any time,
// also between two reads of ours. So what is in a window is copied out once, and
// only the copy is looked at; what the gofer has to remember of a window (its ID,
// its size, what is leased) is in memory of its own. The memfd is sealed, so
// nobody can make it shorter under a mapping.
//
// The guest's side is Devices and Device.
//
// Lock order: Set.mu, then Leases.mu.
package window

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"fsva/gofer/bytesize"
)

const (
	// HeaderSize is the size in bytes of the part of a window, its beginning, that
	// holds no data. Offsets of leases are at least that.
	HeaderSize = 4096
	// MinSize and MaxSize bound the size of a window in bytes, the header
	// included. A PCI BAR's size is a power of two, so that of a window is, too.
	MinSize = 1 << 20
	MaxSize = 4 << 30
	// DefaultSize has room for 64 requests of 1 MiB, less one for the header.
	DefaultSize = 64 << 20
)

// magic begins the header: what a guest recognises one of our windows by. The rest
// of the header, in the order of the CPU that both sides run on, which is little
// endian wherever gVisor runs: the size (8 bytes) and the ID.
const magic = "FSVA-W1\x00"

const (
	sizeAt = len(magic)
	idAt   = sizeAt + 8
)

// ID identifies a window and is what a guest shows that it has it. It is a secret
// of that guest.
type ID [16]byte

// IsZero reports whether id is no window's.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText encodes id in hexadecimal.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText decodes what MarshalText has encoded.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return errors.New("a window's ID has 32 hexadecimal digits")
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// CheckSize reports why no window can have that size.
func CheckSize(size int64) error {
	if size < MinSize || size > MaxSize || size&(size-1) != 0 {
		return fmt.Errorf("a window of %s: want a power of two from %s to %s",
			bytesize.Format(size), bytesize.Format(MinSize), bytesize.Format(MaxSize))
	}
	return nil
}

// Create makes a window of size bytes with a new ID. The memfd cannot change its
// size any more; the caller owns it. Pages that nobody has touched take no memory.
func Create(size int64) (*os.File, ID, error) {
	if err := CheckSize(size); err != nil {
		return nil, ID{}, err
	}
	var id ID
	rand.Read(id[:]) // never fails
	header := make([]byte, idAt, idAt+len(id))
	copy(header, magic)
	binary.LittleEndian.PutUint64(header[sizeAt:], uint64(size))
	header = append(header, id[:]...)

	fd, err := unix.MemfdCreate("fsva-window", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, ID{}, fmt.Errorf("create a window: %w", err)
	}
	f := os.NewFile(uintptr(fd), "window")
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, ID{}, fmt.Errorf("create a window: %w", err)
	}
	if _, err := f.WriteAt(header, 0); err != nil {
		f.Close()
		return nil, ID{}, fmt.Errorf("create a window: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, ID{}, fmt.Errorf("seal a window: %w", err)
	}
	return f, id, nil
}

// seals are what a mapping depends on: an access beyond the end of a memfd is a
// SIGBUS.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// mapFD maps size bytes of the window fd, which it borrows.
func mapFD(fd int, size int64) ([]byte, error) {
	if err := CheckSize(size); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	if st.Size != size {
		return nil, fmt.Errorf("a window of %d bytes, said to have %d", st.Size, size)
	}
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("seals: %w", err)
	}
	if got&seals != seals {
		return nil, errors.New("a window that can be made shorter")
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return mem, nil
}
