// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/config"
)

// When the gofer extension fails, the process that creates the container only
// finds its gofer gone, and reports that. The reason is in the error log
// (--log), which the gofer shares; but container managers show the last error
// in there. So the creator repeats the gofer's error in place of its own.

// maxLogTail bounds how much of the log is searched for the gofer's error.
const maxLogTail = 1 << 20

// explainErrors arranges that an error of this process is reported with the
// reason that its gofer has logged, if there is one. It is called when gVisor
// has set up its logs, and before the gofer is started.
func explainErrors(conf *config.Config) error {
	w := &reasonWriter{next: util.ErrorLogger, stderr: os.Stderr}
	switch next := util.ErrorLogger.(type) {
	case nil:
		// No --log: the gofer's goes to a file that only this process reads.
		fd, err := unix.MemfdCreate("runsc-log", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("create a log for the gofer: %w", err)
		}
		w.log = os.NewFile(uintptr(fd), "gofer's log")
		conf.LogFilename = fmt.Sprintf("/proc/self/fd/%d", fd)
	case *os.File:
		st, err := next.Stat()
		if err != nil {
			return fmt.Errorf("stat %s: %w", next.Name(), err)
		}
		if !st.Mode().IsRegular() {
			return nil // a pipe or terminal: its reader sees all errors
		}
		w.start = st.Size()
		if w.log, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", next.Fd())); err != nil {
			return fmt.Errorf("open %s for reading: %w", next.Name(), err)
		}
	default:
		return fmt.Errorf("gVisor logs errors to a %T", next)
	}
	util.ErrorLogger = w
	return nil
}

// reasonWriter receives the JSON errors of this process.
type reasonWriter struct {
	next   io.Writer   // where they go, or nil
	stderr io.Writer   // gets the reason, too
	log    io.ReaderAt // where the gofer's errors are
	start  int64       // the log's size before there was a gofer
}

// Write takes one JSON object.
func (w *reasonWriter) Write(data []byte) (int, error) {
	out := data
	if reason := goferReason(io.NewSectionReader(w.log, w.start, maxLogTail)); reason != "" {
		fmt.Fprintln(w.stderr, reason)
		changed, err := replaceMessage(data, reason)
		if err != nil {
			return 0, err
		}
		out = changed
	}
	if w.next != nil {
		if _, err := w.next.Write(out); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// goferReason returns the first error about a volume in a log, from where it
// names the volume.
func goferReason(log io.Reader) string {
	for d := json.NewDecoder(log); ; {
		var entry struct {
			Msg string `json:"msg"`
		}
		if err := d.Decode(&entry); err != nil {
			return "" // the end, or a log that gVisor did not write
		}
		if i := strings.Index(entry.Msg, cannotMount); i >= 0 {
			return entry.Msg[i:]
		}
	}
}

// replaceMessage returns the JSON error entry with another message.
func replaceMessage(entry []byte, msg string) ([]byte, error) {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(entry, &fields); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(msg)
	if err != nil {
		return nil, err
	}
	fields["msg"] = raw
	return json.Marshal(fields)
}
