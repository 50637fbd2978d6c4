// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// probe runs scenes, each with a file of its own, and prints a line "SCENE: STEP: RESULT" for each step. A result is ok
// or the name of an errno. It returns an error only if it cannot go on.
type probe struct {
	dir    string // on the file system under test
	source string // the server's, where it is told what to do and where the data ends up
	scene  string
	err    error // the first of what must not fail
}

var scenes = []struct {
	name string
	run  func(*probe)
}{
	{"fsync", (*probe).fsync},
	{"close after fsync", (*probe).closeAfterFsync},
	{"O_SYNC", (*probe).oSync},
	{"syncfs", (*probe).syncfs},
	{"write", (*probe).write},
	{"close", (*probe).close},
	{"flush", (*probe).flush},
	{"two files, WRITE fails", func(p *probe) { p.two("WRITE ENOSPC") }},
	{"two files, FSYNC fails", func(p *probe) { p.two("FSYNC EIO") }},
	{"read-only file", (*probe).readOnly},
	{"map", (*probe).maps},
}

func (p *probe) run() error {
	for _, s := range scenes {
		p.scene = s.name
		p.heal()
		s.run(p)
		if p.err != nil {
			return fmt.Errorf("%s: %w", p.scene, p.err)
		}
	}
	return nil
}

// result prints how a step went.
func (p *probe) result(step string, err error) {
	text := "ok"
	var errno unix.Errno
	if errors.As(err, &errno) {
		text = unix.ErrnoName(errno)
	} else if err != nil {
		text = err.Error()
	}
	fmt.Printf("%s: %s: %s\n", p.scene, step, text)
}

// must notes an error of what cannot fail.
func (p *probe) must(err error) {
	if p.err == nil {
		p.err = err
	}
}

// fail has the server fail from now on.
func (p *probe) fail(what string) {
	path := filepath.Join(p.source, faultsFile)
	// In one step: the server must not see half a file.
	p.must(os.WriteFile(path+".new", []byte(what+"\n"), 0o644))
	p.must(os.Rename(path+".new", path))
}

// heal has it fail no more.
func (p *probe) heal() {
	if err := os.Remove(filepath.Join(p.source, faultsFile)); !errors.Is(err, fs.ErrNotExist) {
		p.must(err)
	}
}

func (p *probe) path() string { return filepath.Join(p.dir, p.scene) }

// open opens the scene's file.
func (p *probe) open(flags int) int {
	fd, err := unix.Open(p.path(), flags, 0o644)
	p.must(err)
	return fd
}

// put is write(2) of a text.
func (p *probe) put(step string, fd int, text string) {
	n, err := unix.Write(fd, []byte(text))
	if err == nil && n != len(text) {
		err = fmt.Errorf("%d of %d bytes", n, len(text))
	}
	p.result(step, err)
}

// stored says whether the file's data has got to where the server keeps it.
func (p *probe) stored(want string) {
	data, err := os.ReadFile(filepath.Join(p.source, treeDir, p.scene))
	if err == nil && string(data) != want {
		err = fmt.Errorf("%q", data)
	}
	p.result("stored", err)
}

func (p *probe) fsync() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.put("write", fd, "one ")
	p.fail("FSYNC EIO")
	p.result("fsync", unix.Fsync(fd))
	p.result("fdatasync", unix.Fdatasync(fd))
	p.heal()
	p.put("write, healed", fd, "two ")
	p.put("second write", fd, "three")
	p.result("fsync, healed", unix.Fsync(fd))
	p.result("fdatasync, healed", unix.Fdatasync(fd))
	p.result("close", unix.Close(fd))
}

func (p *probe) closeAfterFsync() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.put("write", fd, "data")
	p.fail("FSYNC EIO")
	p.result("fsync", unix.Fsync(fd))
	p.heal()
	p.result("close", unix.Close(fd))
	p.stored("data")
}

func (p *probe) oSync() {
	for _, f := range []struct {
		name string
		flag int
	}{{"O_SYNC", unix.O_SYNC}, {"O_DSYNC", unix.O_DSYNC}} {
		fd := p.open(unix.O_WRONLY | unix.O_CREAT | f.flag)
		p.fail("FSYNC EIO")
		p.put(f.name+" write", fd, "data")
		p.heal()
		p.result(f.name+" close", unix.Close(fd))
		fd = p.open(unix.O_WRONLY | f.flag)
		p.put(f.name+" write, healed", fd, "data")
		p.stored("data")
		p.result(f.name+" close, healed", unix.Close(fd))
	}
}

func (p *probe) syncfs() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.put("write", fd, "data")
	p.fail("FSYNC EIO")
	p.result("syncfs", unix.Syncfs(fd))
	p.heal()
	p.result("close", unix.Close(fd))
	p.stored("data")
}

func (p *probe) write() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.fail("WRITE ENOSPC")
	p.put("write", fd, "one-")
	p.result("fsync", unix.Fsync(fd))
	p.result("fsync, still failing", unix.Fsync(fd))
	p.heal()
	p.result("fsync, healed", unix.Fsync(fd))
	p.put("write, healed", fd, "two")
	p.result("second fsync, healed", unix.Fsync(fd))
	data := make([]byte, 16)
	n, err := unix.Pread(fd, data, 0)
	p.must(err)
	p.stored(string(data[:n]))
	fmt.Printf("%s: content: %q\n", p.scene, data[:n])
	p.result("close", unix.Close(fd))
}

func (p *probe) close() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.fail("WRITE ENOSPC")
	p.put("write", fd, "data")
	p.result("close", unix.Close(fd))
	p.heal()
	fd = p.open(unix.O_RDWR)
	p.result("fsync, healed", unix.Fsync(fd))
	p.result("second fsync, healed", unix.Fsync(fd))
	size, err := unix.Seek(fd, 0, unix.SEEK_END)
	p.must(err)
	p.stored("data"[:size])
	fmt.Printf("%s: size: %d\n", p.scene, size)
	p.result("second close", unix.Close(fd))
}

func (p *probe) flush() {
	fd := p.open(unix.O_RDWR | unix.O_CREAT)
	p.put("write", fd, "data")
	p.fail("FLUSH EIO")
	p.result("close", unix.Close(fd))
	p.stored("data")
}

// two has two open files of one file, and a third that is opened when the failure has been reported.
func (p *probe) two(fault string) {
	a := p.open(unix.O_RDWR | unix.O_CREAT)
	b := p.open(unix.O_RDWR)
	p.fail(fault)
	p.put("a write", a, "data")
	p.result("a fsync", unix.Fsync(a))
	p.heal()
	c := p.open(unix.O_RDWR)
	p.result("c fsync, healed", unix.Fsync(c))
	p.result("b fsync, healed", unix.Fsync(b))
	p.result("b second fsync", unix.Fsync(b))
	p.result("a second fsync", unix.Fsync(a))
	for _, fd := range []int{a, b, c} {
		p.result("close", unix.Close(fd))
	}
}

// readOnly syncs through a file that is open for reading only.
func (p *probe) readOnly() {
	w := p.open(unix.O_WRONLY | unix.O_CREAT)
	p.put("write", w, "data")
	r := p.open(unix.O_RDONLY)
	p.fail("FSYNC EIO")
	p.result("fsync", unix.Fsync(r))
	p.heal()
	p.result("close", unix.Close(r))
	p.result("close of the writer", unix.Close(w))
	p.stored("data")
}

// maps maps a file that has just been written, and writes to it.
func (p *probe) maps() {
	page := os.Getpagesize()
	w := p.open(unix.O_RDWR | unix.O_CREAT)
	fill := func(c byte) {
		if _, err := unix.Pwrite(w, bytes.Repeat([]byte{c}, 2*page), 0); err != nil {
			p.must(err)
		}
	}
	fill('1')
	r := p.open(unix.O_RDONLY)
	var views [][]byte
	for _, m := range []struct {
		name            string
		fd, prot, flags int
	}{
		{"shared", r, unix.PROT_READ, unix.MAP_SHARED},
		{"private", r, unix.PROT_READ, unix.MAP_PRIVATE},
		{"of a writable file, shared", w, unix.PROT_READ, unix.MAP_SHARED},
		{"of a writable file, private", w, unix.PROT_READ, unix.MAP_PRIVATE},
		{"writable, shared", w, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED},
	} {
		view, err := unix.Mmap(m.fd, 0, 2*page, m.prot, m.flags)
		p.result(m.name, err)
		if err == nil {
			views = append(views, view)
		}
	}
	for _, c := range []byte{'1', '2', '3'} {
		if c != '1' {
			fill(c)
		}
		var err error
		for i, view := range views {
			if !bytes.Equal(view, bytes.Repeat([]byte{c}, 2*page)) {
				err = fmt.Errorf("mapping %d has %q and %q", i, view[0], view[page])
			}
		}
		p.result(fmt.Sprintf("all show write %c", c), err)
	}
	for _, view := range views {
		p.must(unix.Munmap(view))
	}
	p.result("close", errors.Join(unix.Close(w), unix.Close(r)))
}

// count creates a file, writes 3 times and syncs 3 times; writes once with O_SYNC; maps it and reads it there; and closes
// each of the 3 open files.
func count(dir string) error {
	path := filepath.Join(dir, "counted")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	for _, sync := range []func(int) error{unix.Fsync, unix.Fsync, unix.Fdatasync} {
		if _, err := unix.Write(fd, []byte("data")); err != nil {
			return err
		}
		if err := sync(fd); err != nil {
			return err
		}
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if fd, err = unix.Open(path, unix.O_WRONLY|unix.O_SYNC, 0); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("sync")); err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if fd, err = unix.Open(path, unix.O_RDONLY, 0); err != nil {
		return err
	}
	view, err := unix.Mmap(fd, 0, 12, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if string(view) != "syncdatadata" {
		return fmt.Errorf("mapped %q", view)
	}
	return errors.Join(unix.Munmap(view), unix.Close(fd))
}
