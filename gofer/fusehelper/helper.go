// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fusehelper plays fusermount and fusermount3 inside an FS server's root. A FUSE library that may not mount(2)
// starts that helper and expects an open FUSE device back over a socket; this one mounts nothing and sends the FUSE
// channel that the server inherited, so the server speaks to the gofer.
//
// The caller is the FS server, which is not trusted, but the helper runs with the server's own rights and holds nothing
// that the server does not hold already: it needs to be correct, not defensive.
package fusehelper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// ChannelEnv overrides the descriptor of the FUSE channel.
	ChannelEnv = "FSVA_CHANNEL_FD"
	// CommEnv has the descriptor of the socket on which the library waits for the device.
	CommEnv = "_FUSE_COMMFD"

	defaultChannel = 100
	// version is what libraries that ask get: the newest release whose command line we follow.
	version = "3.17.4"
)

// Names are the names under which a binary should call Main.
var Names = []string{"fusermount", "fusermount3"}

// Main is the whole program. args is os.Args: args[0] is the name it was called by. It returns the exit status; errors
// are one line on standard error.
func Main(args []string) int { return run(args, os.Getenv, os.Stdout, os.Stderr) }

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	name := "fusermount3"
	if len(args) > 0 {
		name = filepath.Base(args[0])
		args = args[1:]
	}
	r, err := parse(args)
	switch {
	case err != nil:
	case r.version:
		fmt.Fprintf(stdout, "%s version: %s\n", name, version)
	case r.help:
		fmt.Fprintf(stdout, "usage: %s [-u] [-z] [-q] [-o OPTIONS] MOUNTPOINT\nIt hands the FUSE channel of this appliance to the caller; nothing is mounted.\n", name)
	case r.unmount:
		// There is no mount. The channel ends when the server closes it.
	default:
		err = sendChannel(r, getenv)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// request is a command line.
type request struct {
	help, version, unmount bool
	commFD                 string
	mountpoint             string
}

// parse follows the helper's command line as libfuse 2 and 3 use it. Mount options are accepted and mean nothing here.
func parse(args []string) (request, error) {
	var r request
	onlyOperands := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		next := func() (string, error) {
			if i+1 >= len(args) {
				return "", fmt.Errorf("%s needs a value", a)
			}
			i++
			return args[i], nil
		}
		var err error
		switch {
		case onlyOperands || a == "-" || !strings.HasPrefix(a, "-"):
			if r.mountpoint != "" {
				return r, fmt.Errorf("extra argument %q", a)
			}
			r.mountpoint = a
		case a == "--":
			onlyOperands = true
		case a == "--help":
			r.help = true
		case a == "--version":
			r.version = true
		case a == "--unmount":
			r.unmount = true
		case a == "--lazy", a == "--quiet", a == "--auto-unmount":
		case a == "--options":
			_, err = next()
		case strings.HasPrefix(a, "--options="):
		case a == "--comm-fd":
			r.commFD, err = next()
		case strings.HasPrefix(a, "--comm-fd="):
			r.commFD = strings.TrimPrefix(a, "--comm-fd=")
		case strings.HasPrefix(a, "--"):
			return r, fmt.Errorf("unknown option %s", a)
		default:
			err = r.short(a, next)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// short takes a group of one-letter options; the last may have its value attached or in the next argument.
func (r *request) short(group string, next func() (string, error)) error {
	for i := 1; i < len(group); i++ {
		switch c := group[i]; c {
		case 'h':
			r.help = true
		case 'V':
			r.version = true
		case 'u':
			r.unmount = true
		case 'z', 'q', 'U':
		case 'o', 'c':
			value := group[i+1:]
			if value == "" {
				v, err := next()
				if err != nil {
					return err
				}
				value = v
			}
			if c == 'c' {
				r.commFD = value
			}
			return nil
		default:
			return fmt.Errorf("unknown option -%c", c)
		}
	}
	return nil
}

// sendChannel does what a mount is for: one byte and the descriptor, over the library's socket.
func sendChannel(r request, getenv func(string) string) error {
	if r.mountpoint == "" {
		return errors.New("the mountpoint is missing")
	}
	where, text := "--comm-fd", r.commFD
	if text == "" {
		where, text = CommEnv, getenv(CommEnv)
	}
	if text == "" {
		return fmt.Errorf("%s is not set: only a FUSE library can use this program", CommEnv)
	}
	comm, err := descriptor(where, text)
	if err != nil {
		return err
	}
	channel := defaultChannel
	if text := getenv(ChannelEnv); text != "" {
		if channel, err = descriptor(ChannelEnv, text); err != nil {
			return err
		}
	}
	if _, err := unix.FcntlInt(uintptr(channel), unix.F_GETFD, 0); err != nil {
		return fmt.Errorf("the FUSE channel, descriptor %d, was not inherited: %w", channel, err)
	}
	for {
		err := unix.Sendmsg(comm, []byte{0}, unix.UnixRights(channel), nil, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send the FUSE channel over descriptor %d: %w", comm, err)
		}
		return nil
	}
}

// descriptor reads a descriptor's number.
func descriptor(where, text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%s is %q, not a descriptor", where, text)
	}
	return int(n), nil
}
