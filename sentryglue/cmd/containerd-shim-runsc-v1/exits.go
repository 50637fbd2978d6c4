// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"gvisor.dev/gvisor/pkg/shim/v1/extension"
	"gvisor.dev/gvisor/pkg/shim/v1/runsccmd"
)

// exitTimeout bounds the wait for the end of a sandbox of which runsc says that it
// has ended.
const exitTimeout = 10 * time.Second

// exits knows how containers ended that were gone when they were asked.
//
// gVisor's shim learns an exit status from `runsc wait`, which it starts when the
// container runs. The first container of a sandbox takes it along when it ends; if that
// is before `runsc wait` has connected to it, nobody can say the status any more, and
// the shim reports 128. But the sandbox's process is a child of the shim once `runsc
// create` has ended, and exits with the same status. So exits stands between the shim
// and its commands, notes the process of each new sandbox, and answers for `runsc wait`.
type exits struct {
	runsccmd.ProcessMonitor // runs the commands
	children                subscription
	timeout                 time.Duration

	mu        sync.Mutex
	sandboxes map[string]*sandbox // by the ID of the first container; guarded by mu
}

// subscription is where the ends of the shim's children are announced.
type subscription interface {
	Subscribe() chan runc.Exit
	Unsubscribe(chan runc.Exit)
}

// sandbox is a process that will end.
type sandbox struct {
	pid    int
	ended  chan struct{} // closed when it has
	status int           // valid then
}

// watchExits makes the shim's commands go through an exits. It is called before each
// container is created, and leaves the rest to gVisor's shim.
var watchExits = func() func(context.Context, extension.TaskServiceExt, *task.CreateTaskRequest) (extension.TaskServiceExt, error) {
	var once sync.Once
	return func(context.Context, extension.TaskServiceExt, *task.CreateTaskRequest) (extension.TaskServiceExt, error) {
		once.Do(func() {
			runsccmd.Monitor = &exits{ProcessMonitor: runsccmd.Monitor, children: reaper.Default,
				timeout: exitTimeout, sandboxes: map[string]*sandbox{}}
		})
		return nil, nil
	}
}()

// Wait implements runsccmd.ProcessMonitor.
func (x *exits) Wait(cmd *exec.Cmd, ch chan runc.Exit) (int, error) {
	status, err := x.ProcessMonitor.Wait(cmd, ch)
	if err != nil {
		return status, err
	}
	args := cmd.Args[1:]
	for len(args) > 0 && strings.HasPrefix(args[0], "-") { // runsc's own flags have their values with them
		args = args[1:]
	}
	if len(args) < 2 {
		return status, nil
	}
	id := args[len(args)-1]
	switch command := args[0]; {
	case command == "create" && status == 0:
		if i := slices.Index(args, "--pid-file"); i > 0 {
			x.watch(id, args[i+1])
		}
	case command == "wait" && len(args) == 2 && status != 0:
		s := x.get(id)
		if s == nil {
			break
		}
		select {
		case <-s.ended:
			if err := json.NewEncoder(cmd.Stdout).Encode(map[string]any{"id": id, "exitStatus": s.status}); err != nil {
				return status, fmt.Errorf("report the exit status: %w", err)
			}
			return 0, nil
		case <-time.After(x.timeout): // it has failed for another reason
		}
	case command == "delete" && status == 0:
		x.mu.Lock()
		delete(x.sandboxes, id)
		x.mu.Unlock()
	}
	return status, nil
}

func (x *exits) get(id string) *sandbox {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sandboxes[id]
}

// watch notes the sandbox whose pid is in the file, unless there is one of this pid: then
// the container is not its first. A sandbox that ends before this returns cannot be started, so
// that nobody waits for it.
func (x *exits) watch(id, pidFile string) {
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		log.L.WithError(err).Warnf("the sandbox of container %q", id)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.sandboxes {
		if s.pid == pid {
			return
		}
	}
	s := &sandbox{pid: pid, ended: make(chan struct{})}
	x.sandboxes[id] = s
	events := x.children.Subscribe()
	go func() {
		defer x.children.Unsubscribe(events)
		for e := range events {
			if e.Pid == pid {
				s.status = e.Status
				close(s.ended)
				return
			}
		}
	}()
}
