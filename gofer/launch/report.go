// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

const (
	maxReport = 16 << 10
	maxReason = 4 << 10
)

// errNoReport says that the child ended without one.
var errNoReport = errors.New("no report")

// report is what a started supervisor tells its starter, once. An empty Error means
// that it is ready.
type report struct {
	Error   string `json:"error"`
	Running bool   `json:"running,omitempty"` // another one serves the name
}

// Child is the started supervisor's side.
type Child struct{ w *os.File }

// NewChild returns the side of this process, which was started by Start, and, if it
// was by StartInstance, the pipe that holds it.
func NewChild(instance bool) (*Child, *os.File, error) {
	fds := []int{fdReport}
	if instance {
		fds = append(fds, fdHold)
	}
	files := []*os.File{nil, nil}
	for i, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			return nil, nil, fmt.Errorf("--%s is not for use by hand", FlagLaunched)
		}
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil { // so that a read can be called off
			return nil, nil, err
		}
		files[i] = os.NewFile(uintptr(fd), "launch")
	}
	return &Child{files[0]}, files[1], nil
}

// Ready tells the starter that the volume is ready.
func (c *Child) Ready() { c.send(report{}) }

// Failed tells the starter why it will not be, unless it has been ready.
func (c *Child) Failed(err error) {
	c.send(report{Error: goferproto.Line(err.Error(), maxReason), Running: errors.Is(err, supervisor.ErrInUse)})
}

// send sends the first report. A starter that is gone does not matter.
func (c *Child) send(r report) {
	if c.w == nil {
		return
	}
	if data, err := json.Marshal(r); err == nil {
		c.w.Write(append(data, '\n'))
	}
	c.w.Close()
	c.w = nil
}

// receive reads the report.
func receive(f io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(f, maxReport))
	if err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return errNoReport
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("the report is malformed: %w", err)
	}
	switch {
	case r.Error == "":
		return nil
	case r.Running:
		return &runningError{r.Error}
	}
	return errors.New(r.Error)
}

// runningError is ErrRunning in the supervisor's words.
type runningError struct{ text string }

func (e *runningError) Error() string        { return e.text }
func (e *runningError) Is(target error) bool { return target == ErrRunning }
