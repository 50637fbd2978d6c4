// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Options say what to show.
type Options struct {
	Interval time.Duration
	Order    Order
	// Take takes a sample.
	Take func(context.Context) (Sample, error)
}

// Batch writes count tables to w, an interval apart, or tables until ctx ends if count
// is 0.
func Batch(ctx context.Context, w io.Writer, count int, o Options) error {
	earlier, err := o.Take(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		later, err := o.Take(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		all := rows(earlier, later)
		o.Order.sort(all)
		text := summary(later.At, all) + "\n" + strings.Join(table(all), "\n") + "\n"
		if n > 1 {
			text = "\n" + text
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		if n == count {
			return nil
		}
		earlier = later
	}
}

// Terminal control sequences.
const (
	enter    = "\x1b[?1049h\x1b[?25l" // the alternate screen, no cursor
	leave    = "\x1b[?25h\x1b[?1049l"
	home     = "\x1b[H"
	toEOL    = "\x1b[K"
	toEnd    = "\x1b[J"
	inverted = "\x1b[7m"
	plain    = "\x1b[0m"
)

const help = "q quit   R reverse   j k scroll   sort: "

// Live shows the volumes on a terminal until q or ^C is pressed, or ctx ends, and then
// leaves the terminal as it found it. tty must be the calling process's own open file,
// not one that it shares with its parent: it is made non-blocking.
func Live(ctx context.Context, tty *os.File, o Options) (err error) {
	fd, err := descriptor(tty)
	if err != nil {
		return err
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("prepare the terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &screen{tty: tty, fd: fd, order: o.Order, interval: o.Interval, updates: make(chan update), keys: make(chan byte)}
	sampled, read := make(chan struct{}), make(chan struct{})
	defer func() {
		// Also after a panic.
		cancel()
		_, werr := tty.WriteString(leave)
		err = errors.Join(err, werr, term.Restore(fd, before))
		// A read that waits for a key ends now.
		err = errors.Join(err, tty.SetReadDeadline(time.Now()))
		<-sampled
		<-read
	}()
	go func() {
		defer close(sampled)
		sample(ctx, o, s.updates)
	}()
	go func() {
		defer close(read)
		s.readKeys(ctx)
	}()
	if _, err := tty.WriteString(enter); err != nil {
		return err
	}
	return s.run(ctx)
}

// descriptor returns the descriptor of a file without making the file blocking, as
// os.File.Fd does.
func descriptor(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// update is a sample, or why there is none.
type update struct {
	sample Sample
	err    error
}

// sample takes samples until ctx ends: at the beginning of each interval, or later if
// the one before took longer.
func sample(ctx context.Context, o Options, updates chan<- update) {
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		s, err := o.Take(ctx)
		select {
		case updates <- update{s, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// screen is the state of the view. All of it but the channels is run's.
type screen struct {
	tty      *os.File
	fd       int
	interval time.Duration
	updates  chan update
	keys     chan byte

	earlier, later Sample
	err            error // of the last sample
	order          Order
	top            int // volumes above the screen
}

// readKeys passes on what is typed, until ctx ends and its read is ended.
func (s *screen) readKeys(ctx context.Context) {
	defer close(s.keys)
	buf := make([]byte, 64)
	for {
		n, err := s.tty.Read(buf)
		for _, key := range keys(buf[:n]) {
			select {
			case s.keys <- key:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return // the terminal is gone, or we are
		}
	}
}

// keys are the keys in what was read: arrows become j and k, other sequences nothing.
func keys(typed []byte) []byte {
	text := string(typed)
	for from, to := range map[string]string{"\x1b[A": "k", "\x1bOA": "k", "\x1b[B": "j", "\x1bOB": "j"} {
		text = strings.ReplaceAll(text, from, to)
	}
	text, _, _ = strings.Cut(text, "\x1b")
	return []byte(text)
}

// run draws at every change until it is told to quit.
func (s *screen) run(ctx context.Context) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	for {
		if err := s.draw(); err != nil {
			return err
		}
		select {
		case u := <-s.updates:
			if s.err = u.err; u.err == nil {
				s.earlier, s.later = s.later, u.sample
			}
		case key, ok := <-s.keys:
			if !ok || s.press(key) {
				return nil
			}
		case <-resized:
		case <-ctx.Done():
			return nil
		}
	}
}

// press does what a key asks for and reports whether that is to quit.
func (s *screen) press(key byte) (quit bool) {
	switch key {
	case 'q', 'Q', 'C' - '@', 'D' - '@':
		return true
	case 'R':
		s.order.Reverse = !s.order.Reverse
	case 'j':
		s.top++
	case 'k':
		s.top--
	default:
		for i, c := range columns {
			if c.press == key {
				s.order = Order{column: i}
			}
		}
	}
	return false
}

// draw writes a frame in one piece.
func (s *screen) draw() error {
	width, height, err := term.GetSize(s.fd)
	if err != nil {
		return fmt.Errorf("size of the terminal: %w", err)
	}
	_, err = s.tty.WriteString(s.frame(width, height))
	return err
}

// frame returns what the screen shows, which is never more than fits.
func (s *screen) frame(width, height int) string {
	all := rows(s.earlier, s.later)
	s.order.sort(all)
	lines := table(all)
	title, body := lines[0], lines[1:]
	room := max(0, height-3)
	s.top = max(0, min(s.top, len(body)-room))
	body = body[s.top:min(len(body), s.top+room)]

	first := summary(s.later.At, all)
	switch {
	case s.err != nil:
		first = s.err.Error()
	case s.later.At.IsZero():
		first = "asking the volumes"
	}
	last := help
	for i, c := range columns {
		if i > 0 {
			last += " "
		}
		last += string(c.press) + ":" + c.key
	}
	direction := ""
	if s.order.Reverse {
		direction = ", reversed"
	}
	first = fmt.Sprintf("fsva top  %s  by %s%s, every %v", first, columns[s.order.column].key, direction, s.interval)

	shown := append([]string{cut(first, width), inverted + pad(title, width) + plain}, body...)
	for i := 2; i < len(shown); i++ {
		shown[i] = cut(shown[i], width)
	}
	shown = append(shown, cut(last, width))
	shown = shown[:min(len(shown), height)]
	return home + strings.Join(shown, toEOL+"\r\n") + toEOL + toEnd
}

// cut shortens a line to the width of the screen. Wide characters are not in it: all
// but ASCII is replaced.
func cut(line string, width int) string {
	ascii := strings.Map(func(r rune) rune {
		if r == 'µ' {
			return 'u'
		}
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line)
	return ascii[:min(len(ascii), max(width, 0))]
}

func pad(line string, width int) string {
	line = cut(line, width)
	return line + strings.Repeat(" ", max(0, width-len(line)))
}
