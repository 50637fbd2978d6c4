// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Container says what to run. The zero value of each field means the default.
type Container struct {
	Runtime string   // RuntimeOurs
	Image   string   // ImageBase
	Mounts  []string // -v arguments, SOURCE:DEST[:ro]
	Flags   []string // further docker flags
	Env     []string
	User    string
	Workdir string
	Timeout time.Duration // 2 minutes
	Stdin   []byte
	Args    []string
}

func (c Container) flags() []string {
	runtime := c.Runtime
	if runtime == "" {
		runtime = RuntimeOurs
	}
	flags := []string{"--runtime=" + runtime, "--network=none"}
	for _, m := range c.Mounts {
		flags = append(flags, "-v", m)
	}
	for _, kv := range c.Env {
		flags = append(flags, "-e", kv)
	}
	if c.User != "" {
		flags = append(flags, "--user", c.User)
	}
	if c.Workdir != "" {
		flags = append(flags, "--workdir", c.Workdir)
	}
	return append(flags, c.Flags...)
}

func (c Container) image() string {
	if c.Image == "" {
		return ImageBase
	}
	return c.Image
}

func (c Container) timeout() time.Duration {
	if c.Timeout == 0 {
		return 2 * time.Minute
	}
	return c.Timeout
}

// Run runs a container to its end and removes it. It does not judge the exit code.
func (d *Docker) Run(t testing.TB, c Container) Result {
	t.Helper()
	r, err := d.Try(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Try is Run for any goroutine: it returns an error if the container cannot be started or takes too long.
func (d *Docker) Try(c Container) (Result, error) {
	name := fmt.Sprintf("%s-%d", d.cgroup, d.nextID.Add(1))
	args := append([]string{"run", "--rm", "--name", name}, c.flags()...)
	if c.Stdin != nil {
		args = append(args, "-i")
	}
	args = append(append(args, c.image()), c.Args...)
	r, err := d.command(c.timeout(), c.Stdin, args...)
	if err != nil {
		logs, _ := d.command(10*time.Second, nil, "logs", name) // best effort, for the message
		rmErr := d.must("rm", "-f", name)
		err = fmt.Errorf("docker %s: %w (removal: %v)\n%s%s%s", strings.Join(args, " "), err, rmErr, r.Stdout, r.Stderr, tail(logs.Stderr))
	}
	return r, err
}

// Must runs a container, fails the test unless it exits with 0, and returns its stdout.
func (d *Docker) Must(t testing.TB, c Container) string {
	t.Helper()
	r := d.Run(t, c)
	if r.Code != 0 {
		t.Fatalf("container %q: exit code %d\nstdout: %s\nstderr: %s", c.Args, r.Code, tail(r.Stdout), tail(r.Stderr))
	}
	return r.Stdout
}

// Shell runs a busybox script in a container with the mounts, and fails the test unless it succeeds.
func (d *Docker) Shell(t testing.TB, script string, mounts ...string) string {
	t.Helper()
	return d.Must(t, Container{Mounts: mounts, Args: []string{"sh", "-ec", script}})
}

// Running is a container in the background.
type Running struct {
	d    *Docker
	name string
}

// Start starts a container that waits until it is stopped, which the test's clean-up does.
func (d *Docker) Start(t testing.TB, c Container) *Running {
	t.Helper()
	r := &Running{d: d, name: fmt.Sprintf("%s-%d", d.cgroup, d.nextID.Add(1))}
	args := append([]string{"run", "-d", "--name", r.name}, c.flags()...)
	args = append(args, c.image())
	if len(c.Args) == 0 {
		c.Args = []string{"sleep", "3600"}
	}
	t.Cleanup(func() { r.Stop(t) })
	if err := d.must(append(args, c.Args...)...); err != nil {
		t.Fatal(err)
	}
	return r
}

// Exec runs a command in the container. It does not judge the exit code.
func (r *Running) Exec(t testing.TB, args ...string) Result {
	t.Helper()
	res, err := r.d.command(2*time.Minute, nil, append([]string{"exec", r.name}, args...)...)
	if err != nil {
		t.Fatalf("docker exec %q: %v\n%s", args, err, res.Stderr)
	}
	return res
}

// Shell runs a busybox script in the container and fails the test unless it succeeds.
func (r *Running) Shell(t testing.TB, script string) string {
	t.Helper()
	res := r.Exec(t, "sh", "-ec", script)
	if res.Code != 0 {
		t.Fatalf("in %s: %s: exit code %d\n%s%s", r.name, script, res.Code, res.Stdout, res.Stderr)
	}
	return res.Stdout
}

// Restart ends the container by its stop signal, unless it has ended, and starts it again.
func (r *Running) Restart(t testing.TB) {
	t.Helper()
	if err := r.d.must("restart", "-t", "5", r.name); err != nil {
		t.Fatal(err)
	}
}

// Stop ends and removes the container, once.
func (r *Running) Stop(t testing.TB) {
	t.Helper()
	if r.name == "" {
		return
	}
	res, err := r.d.command(time.Minute, nil, "rm", "-f", r.name)
	if err != nil || (res.Code != 0 && !strings.Contains(res.Stderr, "No such container")) {
		t.Errorf("docker rm -f %s: %v %s", r.name, err, res.Stderr)
	}
	r.name = ""
}

// tail returns the last part of a long text.
func tail(s string) string {
	if len(s) > 4000 {
		return "[…]" + s[len(s)-4000:]
	}
	return s
}

// ID returns the container's full id.
func (r *Running) ID(t testing.TB) string {
	t.Helper()
	res, err := r.d.command(10*time.Second, nil, "inspect", "-f", "{{.Id}}", r.name)
	if err != nil || res.Code != 0 {
		t.Fatalf("docker inspect %s: %v %s", r.name, err, res.Stderr)
	}
	return strings.TrimSpace(res.Stdout)
}
