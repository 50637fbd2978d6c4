// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	boardMagic = 0x6673766164726f62
	blocks     = 48 // of a file, at most
	slotsEach  = 5  // slots of a worker
	placesEach = 7  // names that its slots may have

	// Words of the board.
	wordMagic  = 0
	wordSeed   = 1
	wordOwners = 2
	wordStop   = 3 // not 0: somebody has found something, or time is up
	wordFailed = 4 // the slot where it was found, plus 1
	wordHeader = 8

	slotHeader = 4
	rowWords   = 3 * blocks
	slotWords  = slotHeader + 2*rowWords
)

// state is what a block is in one version.
type state uint64

const (
	absent state = iota // beyond the end of the file
	zeros
	data
)

// version is a state of a block: a number that only grows, and what it is.
type version uint64

func makeVersion(seq uint64, s state) version { return version(seq<<2 | uint64(s)) }
func (v version) seq() uint64                 { return uint64(v) >> 2 }
func (v version) state() state                { return state(v & 3) }

func (v version) String() string {
	return fmt.Sprintf("%d (%s)", v.seq(), [...]string{"absent", "zeros", "data", "?"}[v&3])
}

// name says which file a slot is, counting from 1, and at which of its worker's
// places it is found, counting from 1; place 0: nowhere. It also counts changes:
// two names are the same only if nothing has changed in between.
type name uint64

const placeBits, countBits = 8, 28

// next is the name after n.
func (n name) next(file uint64, place int) name {
	count := (uint64(n)>>placeBits + 1) & (1<<countBits - 1)
	return name(file<<(placeBits+countBits) | count<<placeBits | uint64(place))
}

func (n name) file() uint64 { return uint64(n) >> (placeBits + countBits) }
func (n name) place() int   { return int(n & (1<<placeBits - 1)) }

// board is the memory that all processes share. Its words are atomic.
type board struct {
	words []atomic.Uint64
	seed  uint64 // immutable
	slots []slot // immutable
}

// slot is one file under test, and those that have taken its place.
//
// A file's versions are in row file%2, so that those of the last file stay for
// readers which have it open. files is the newest file of which that is true.
type slot struct {
	id, worker  int
	size        int // of a block, in bytes
	seed        uint64
	started     *atomic.Uint64 // name
	acked       *atomic.Uint64 // name
	files       *atomic.Uint64
	rows        [2]row
	changedLate bool // from behind: acknowledged when it must be visible
}

// row holds the versions of one file's blocks.
type row struct{ started, acked, synced []atomic.Uint64 }

// blockSizes of the slots of a worker: pages, sectors, an odd size, several pages.
var blockSizes = [slotsEach]int{4096, 512, 3001, 16384, 4096}

// hugeBlock is the block size of one slot: its file is larger than what is copied
// or read ahead in one piece.
const hugeBlock = 256 << 10

// openBoard maps a board.
func openBoard(path string) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < wordHeader*8 {
		return nil, fmt.Errorf("%s is not a board", path)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	b := &board{words: wordsOf(mem)}
	owners, late := int(b.words[wordOwners].Load()&0xffff), int(b.words[wordOwners].Load()>>16)
	if b.words[wordMagic].Load() != boardMagic || len(b.words) != boardWords(owners) {
		return nil, fmt.Errorf("%s is not a board", path)
	}
	b.seed = b.words[wordSeed].Load()
	for id := range owners * slotsEach {
		at := b.words[wordHeader+id*slotWords:]
		s := slot{
			id: id, worker: id / slotsEach, size: blockSizes[id%slotsEach],
			seed: b.seed, started: &at[0], acked: &at[1], files: &at[2],
			changedLate: id/slotsEach >= owners-late,
		}
		if id == slotsEach-1 {
			s.size = hugeBlock
		}
		for i := range s.rows {
			r := at[slotHeader+i*rowWords:]
			s.rows[i] = row{r[:blocks], r[blocks : 2*blocks], r[2*blocks : 3*blocks]}
		}
		b.slots = append(b.slots, s)
	}
	return b, nil
}

func boardWords(owners int) int { return wordHeader + owners*slotsEach*slotWords }

// createBoard makes a board for so many owners, the last few of which change their
// files from behind.
func createBoard(path string, seed uint64, owners, late int) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(int64(boardWords(owners)*8)), f.Chmod(0o666)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	head := make([]byte, 0, 24)
	for _, w := range []uint64{boardMagic, seed, uint64(late<<16 | owners)} {
		head = binary.NativeEndian.AppendUint64(head, w)
	}
	_, err = f.Write(head)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return openBoard(path)
}

// workers returns how many workers have slots.
func (b *board) workers() int { return len(b.slots) / slotsEach }

// of returns the slots of a worker.
func (b *board) of(worker int) []slot { return b.slots[worker*slotsEach : (worker+1)*slotsEach] }

func (b *board) stopped() bool { return b.words[wordStop].Load() != 0 }

// stop ends all processes; slot is where something is wrong, or nil.
func (b *board) stop(s *slot) {
	if s != nil {
		b.words[wordFailed].CompareAndSwap(0, uint64(s.id+1))
	}
	b.words[wordStop].Store(1)
}

func (s *slot) row(file uint64) *row { return &s.rows[file%2] }

// place returns the path of a worker's place below the directory under test.
func place(worker, n int) string {
	return filepath.Join(placeDir(worker, n), fmt.Sprintf("n%d", n))
}

// placeDir returns the directory of a place.
func placeDir(worker, n int) string {
	return filepath.Join(fmt.Sprintf("w%d", worker), string('a'+rune(n%2)))
}

func (s *slot) String() string {
	return fmt.Sprintf("slot %d (worker %d, blocks of %d)", s.id, s.worker, s.size)
}

// newest returns the largest version number in either row.
func (s *slot) newest() (seq uint64) {
	for i := range s.rows {
		for b := range s.rows[i].started {
			seq = max(seq, version(s.rows[i].started[b].Load()).seq())
		}
	}
	return seq
}

// length returns the length of a file, in blocks, by what is acknowledged.
func (r *row) length() int {
	for b := range blocks {
		if version(r.acked[b].Load()).state() == absent {
			return b
		}
	}
	return blocks
}
