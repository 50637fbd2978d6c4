// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package goferproto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrMalformed is wrapped by errors for messages that are not well formed.
var ErrMalformed = errors.New("malformed message")

// Conn is one end of the socketpair. One goroutine may send while another
// receives; neither side may be used by two at once. Only read(2), write(2),
// recvmsg(2) and epoll are needed by a gofer once it exists.
type Conn struct {
	f   *os.File
	buf []byte // used by the receiving goroutine
}

// Socketpair returns both ends of a new connection, close-on-exec. The caller
// owns them.
func Socketpair() (supervisor, gofer int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("create control socketpair: %w", err)
	}
	return p[0], p[1], nil
}

// NewConn takes ownership of fd, a SOCK_SEQPACKET socket, and makes it
// non-blocking.
func NewConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	unix.CloseOnExec(fd)
	return &Conn{f: os.NewFile(uintptr(fd), "control"), buf: make([]byte, MaxMessage+1)}, nil
}

// Close wakes whoever waits in Send or Recv.
func (c *Conn) Close() error { return c.f.Close() }

// SetReadDeadline bounds the wait of receives, current and later; the zero time
// removes the bound. A wait that ends so returns os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.f.SetReadDeadline(t) }

// SetWriteDeadline does the same for sends.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.f.SetWriteDeadline(t) }

// SendConfig is the supervisor's first message.
func (c *Conn) SendConfig(cfg Config) error { return c.send(cfg) }

// RecvConfig returns the supervisor's first message.
func (c *Conn) RecvConfig() (Config, error) {
	var cfg Config
	if err := c.recv(&cfg); err != nil {
		return Config{}, err
	}
	if err := cfg.check(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// SendRequest sends a request to the gofer, with r.Memory if there is one.
func (c *Conn) SendRequest(r Request) error {
	if r.Memory == nil {
		return c.send(r)
	}
	b, err := encode(r)
	if err != nil {
		return err
	}
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(r.Memory.Fd()))
	var serr error
	if err := raw.Write(func(fd uintptr) bool {
		for serr = unix.EINTR; serr == unix.EINTR; {
			serr = unix.Sendmsg(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
		}
		return serr != unix.EAGAIN
	}); err != nil {
		serr = err
	}
	if serr != nil {
		return fmt.Errorf("send message: %w", serr)
	}
	return nil
}

// RecvRequest returns the next request. io.EOF says that the supervisor is gone.
func (c *Conn) RecvRequest() (Request, error) {
	n, memory, err := c.recvWithFile()
	if err != nil {
		return Request{}, err
	}
	r := Request{}
	if err = decode(c.buf[:n], &r); err == nil && r.ID == 0 {
		err = fmt.Errorf("%w: request without an id", ErrMalformed)
	}
	if err != nil {
		if memory != nil {
			memory.Close()
		}
		return Request{}, err
	}
	r.Memory = memory
	return r, nil
}

// recvWithFile receives into buf, and the descriptor that came with the message,
// if there was one. The supervisor, which is trusted, sends one at most.
func (c *Conn) recvWithFile() (n int, f *os.File, err error) {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	if perr := raw.Read(func(fd uintptr) bool {
		for err = unix.EINTR; err == unix.EINTR; {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), c.buf, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return err != unix.EAGAIN
	}); perr != nil {
		err = perr
	}
	if err == unix.ECONNRESET || err == nil && n == 0 && oobn == 0 {
		return 0, nil, io.EOF
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receive message: %w", err)
	}
	if oobn == 0 {
		return n, nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return 0, nil, fmt.Errorf("%w: control message", ErrMalformed)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return 0, nil, fmt.Errorf("%w: control message", ErrMalformed)
	}
	return n, os.NewFile(uintptr(fds[0]), "memory"), nil
}

// SendReply sends a reply to the supervisor. Texts are made one bounded line
// each.
func (c *Conn) SendReply(r Reply) error {
	if r.Stat != nil {
		s := r.Stat.Bound()
		r.Stat = &s
	}
	r.Error = Line(r.Error, maxText)
	r.Failed = Line(r.Failed, maxText)
	return c.send(r)
}

// RecvReply returns the gofer's next reply. io.EOF says that the gofer is gone;
// ErrMalformed that it cannot be trusted to make sense any more.
func (c *Conn) RecvReply() (Reply, error) {
	var r Reply
	if err := c.recv(&r); err != nil {
		return Reply{}, err
	}
	if err := r.sanitize(); err != nil {
		return Reply{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return r, nil
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes exceeds %d", len(b), MaxMessage)
	}
	return b, nil
}

func (c *Conn) send(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	if _, err := c.f.Write(b); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

func (c *Conn) recv(v any) error {
	n, err := c.f.Read(c.buf)
	if errors.Is(err, unix.ECONNRESET) {
		err = io.EOF
	}
	if err != nil {
		if err == io.EOF {
			return io.EOF
		}
		return fmt.Errorf("receive message: %w", err)
	}
	return decode(c.buf[:n], v)
}

// decode fills v from one message: a single JSON object, known fields only.
func decode(b []byte, v any) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxMessage)
	}
	if b = bytes.TrimLeft(b, " \t\r\n"); len(b) == 0 || b[0] != '{' {
		return fmt.Errorf("%w: not an object", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: data after the object", ErrMalformed)
	}
	return nil
}
