// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vsockpeer is a small service on streams, and its client, to test what is between the two: data that is a function
// of its position, in both directions, with half-closes. The same code runs in guests and on their host.
//
// A connection begins with a line that the client sends: "source N" has the service send N bytes, "sink" has it read to
// the end and answer how many they were, "echo" sends back what comes. All end with the service's end of file.
package vsockpeer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Conn is a connection that can be closed for writing only.
type Conn interface {
	net.Conn
	CloseWrite() error
}

const blockSize = 256 << 10

// fill makes b, whose length is a multiple of 8, the data of a stream from off on.
func fill(b []byte, off uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], (off+uint64(i))*0x9e3779b97f4a7c15)
	}
}

// send sends the first n bytes of the data.
func send(w io.Writer, n uint64) error {
	b := make([]byte, blockSize)
	for off := uint64(0); off < n; off += blockSize {
		fill(b, off)
		if _, err := w.Write(b[:min(blockSize, n-off)]); err != nil {
			return fmt.Errorf("at byte %d: %w", off, err)
		}
	}
	return nil
}

// receive reads to the end, and compares what comes with the data.
func receive(r io.Reader) (n uint64, err error) {
	got, want := make([]byte, blockSize), make([]byte, blockSize)
	for {
		m, err := io.ReadFull(r, got)
		if fill(want, n); !bytes.Equal(got[:m], want[:m]) {
			return n, fmt.Errorf("the data from byte %d to %d is wrong", n, n+uint64(m))
		}
		n += uint64(m)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, nil
		} else if err != nil {
			return n, fmt.Errorf("at byte %d: %w", n, err)
		}
	}
}

// Serve serves the connections of l until that fails. Errors of a connection go to report.
func Serve(l net.Listener, report func(error)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := serve(c.(Conn)); err != nil {
				report(err)
			}
		}()
	}
}

func serve(c Conn) error {
	line, err := readLine(c)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var n uint64
	switch {
	case line == "echo":
		_, err = io.Copy(c, c)
	case line == "sink":
		if n, err = receive(c); err == nil {
			_, err = fmt.Fprintln(c, n)
		}
	case strings.HasPrefix(line, "source "):
		if _, err = fmt.Sscanf(line, "source %d", &n); err == nil {
			err = send(c, n)
		}
	default:
		err = errors.New("not a request")
	}
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	return c.CloseWrite()
}

// readLine reads a line and nothing behind it.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < 64 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("the line is too long")
}

// Download has the service send n bytes, and checks them.
func Download(c Conn, n uint64) error {
	if _, err := fmt.Fprintf(c, "source %d\n", n); err != nil {
		return err
	}
	got, err := receive(c)
	if err == nil && got != n {
		err = fmt.Errorf("the stream ended after %d bytes of %d", got, n)
	}
	return err
}

// Upload sends n bytes, closes the connection for writing and has the service say that it got them.
func Upload(c Conn, n uint64) error {
	if _, err := io.WriteString(c, "sink\n"); err != nil {
		return err
	}
	if err := send(c, n); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(c, 64))
	if want := fmt.Sprintln(n); err == nil && string(answer) != want {
		err = fmt.Errorf("the service answered %q, want %q", answer, want)
	}
	return err
}

// Ping sends one byte n times and waits for it to come back each time. It returns the median time that took.
func Ping(c Conn, n int) (time.Duration, error) {
	if _, err := io.WriteString(c, "echo\n"); err != nil {
		return 0, err
	}
	var b [1]byte
	times := make([]time.Duration, 0, n)
	for i := range n {
		start := time.Now()
		b[0] = byte(i)
		if _, err := c.Write(b[:]); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return 0, err
		} else if b[0] != byte(i) {
			return 0, fmt.Errorf("byte %d came back as %d", byte(i), b[0])
		}
		times = append(times, time.Since(start))
	}
	if err := c.CloseWrite(); err != nil {
		return 0, err
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		return 0, fmt.Errorf("%d bytes and %v instead of the end", len(rest), err)
	}
	slices.Sort(times)
	return times[n/2], nil
}
