// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tiedEnv makes TestTied the process that starts others.
const tiedEnv = "FSVA_TEST_TIED"

// Whatever way the process that runs tests ends, the ones that it started end, too.
func TestTied(t *testing.T) {
	if os.Getenv(tiedEnv) != "" {
		r, err := Try(time.Minute, "sh", "-c", "exec sleep 0.01")
		if err != nil || r.Code != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		p := startProcess(t, nil, "sleep", "600")
		// The thread of a goroutine that ends locked ends; that must not be the one that matters.
		other := make(chan *process)
		go func() {
			runtime.LockOSThread()
			other <- startProcess(t, nil, "sleep", "600")
		}()
		fmt.Println("pid", (<-other).pid())
		fmt.Println("pid", p.pid())
		fmt.Println("ready")
		select {}
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTied$", "-test.v")
		cmd.Env = append(os.Environ(), tiedEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := startTied(cmd); err != nil {
			t.Fatal(err)
		}
		var procs []Proc
		ready := false
		lines := bufio.NewScanner(out)
		for !ready && lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
				pid, err := strconv.Atoi(text)
				p, ok := readProc(pid)
				if err != nil || !ok {
					t.Fatalf("pid %q is not there: %v", text, err)
				}
				procs = append(procs, p)
			}
			ready = lines.Text() == "ready"
		}
		if !ready || len(procs) != 2 {
			t.Fatalf("it started %v: %v", procs, lines.Err())
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if left := awaitGone(procs, time.Now().Add(20*time.Second)); len(left) > 0 {
			t.Errorf("after %v: still there: %v", sig, left)
		}
	}
}
