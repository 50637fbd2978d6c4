package sentryglue

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// When the gofer extension fails, all that the creating process learns is that
// its gofer is gone, and that is what it would tell the container manager. So
// it offers a pipe for the reason. gVisor lets no descriptor through to the
// gofer, but gives it /proc, where the pipe can be opened by name.

// maxReason bounds the message.
const maxReason = 4096

// reasonTimeout bounds the gofer's wait for the creator to have taken note.
const reasonTimeout = 2 * time.Second

// announce leaves p, with a pipe for the reason of a failure, to the gofer that
// this process will start. The pipe and its reader live as long as the process.
func announce(p *plan) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	p.Creator, p.ReasonFD = os.Getpid(), int(w.Fd())
	if err := p.setEnv(); err != nil {
		r.Close()
		w.Close()
		return err
	}
	go func() {
		text, err := bufio.NewReader(io.LimitReader(r, maxReason)).ReadString('\n')
		if err == nil {
			text = strings.TrimSuffix(text, "\n")
			fmt.Fprintln(os.Stderr, text)
			if util.ErrorLogger != nil {
				// gVisor's code uses the variable next when it has found its gofer
				// dead, and the gofer waits for the end of this pipe before it dies.
				util.ErrorLogger = &reasonWriter{next: util.ErrorLogger, reason: text}
			}
		}
		r.Close()
		w.Close()
	}()
	return nil
}

// reasonWriter gives the JSON errors that pass through it another message.
type reasonWriter struct {
	next   io.Writer
	reason string
}

// Write takes one JSON object.
func (w *reasonWriter) Write(data []byte) (int, error) {
	var entry map[string]json.RawMessage
	if err := json.Unmarshal(data, &entry); err != nil {
		return w.next.Write(data)
	}
	msg, err := json.Marshal(w.reason)
	if err != nil {
		return 0, err
	}
	entry["msg"] = msg
	changed, err := json.Marshal(entry)
	if err != nil {
		return 0, err
	}
	if _, err := w.next.Write(changed); err != nil {
		return 0, err
	}
	return len(data), nil
}

// tell gives the creator of p the reason for a failure and waits until it has
// been noted. procDir is where the procfs is.
func (p *plan) tell(procDir string, reason error) error {
	fd, err := unix.Open(fmt.Sprintf("%s/%d/fd/%d", procDir, p.Creator, p.ReasonFD), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the creator's pipe: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat the creator's pipe: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return fmt.Errorf("descriptor %d of process %d is no pipe", p.ReasonFD, p.Creator)
	}
	line := strings.ReplaceAll(reason.Error(), "\n", " ")
	if len(line) > maxReason-1 {
		line = line[:maxReason-1]
	}
	if _, err := unix.Write(fd, []byte(line+"\n")); err != nil {
		return fmt.Errorf("write to the creator's pipe: %w", err)
	}
	// POLLERR: the reading end is closed.
	deadline := time.Now().Add(reasonTimeout)
	for {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("the creator took no note for %v", reasonTimeout)
		}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("poll the creator's pipe: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}
