// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
)

// machine is Definitions and Processes in memory.
type machine struct {
	mu      sync.Mutex
	defined map[string]volume.Definition
	served  map[string]supervisor.Status
	onHost  map[string]bool // by directory
	used    map[string]bool // by containers
	starts  int
	nextPID int
	// startErr and stopErr are what the next Start and Stop answer.
	startErr, stopErr error
	// starting is called in Start, before it has any effect.
	starting func(context.Context)
}

func newMachine() *machine {
	return &machine{defined: map[string]volume.Definition{}, served: map[string]supervisor.Status{}, onHost: map[string]bool{}, used: map[string]bool{}, nextPID: 100}
}

func (m *machine) Create(d volume.Definition) (volume.Definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.defined[d.Name]; ok {
		return d, fmt.Errorf("volume %q: %w", d.Name, volume.ErrExists)
	}
	d, err := d.Absolute()
	if err == nil {
		m.defined[d.Name] = d
	}
	return d, err
}

func (m *machine) Get(name string) (volume.Definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.defined[name]
	if !ok {
		return d, fmt.Errorf("volume %q: %w", name, volume.ErrNotDefined)
	}
	return d, nil
}

func (m *machine) List() ([]volume.Definition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []volume.Definition
	for _, d := range m.defined {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b volume.Definition) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (m *machine) Remove(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.defined, name)
	return nil, nil
}

func (m *machine) MountDir(name string) string { return "/dedicated/" + name }

func (m *machine) Start(ctx context.Context, name, _ string) error {
	if m.starting != nil {
		m.starting(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.startErr != nil {
		return m.startErr
	}
	if _, ok := m.served[name]; ok {
		return errors.New("already served")
	}
	m.starts++
	m.nextPID++
	m.served[name] = supervisor.Status{Name: name, State: supervisor.Serving, PID: m.nextPID}
	return nil
}

func (m *machine) Stop(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopErr != nil {
		return m.stopErr
	}
	delete(m.served, name)
	return nil
}

func (m *machine) Status(_ context.Context, name string) (supervisor.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.served[name]
	if !ok {
		return s, supervisor.ErrUnknownVolume
	}
	return s, nil
}

func (m *machine) MountOnHost(_ context.Context, _, _, dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onHost[dir] = true
	return nil
}

func (m *machine) Unmount(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.onHost, dir)
	return nil
}

func (m *machine) Used(_ context.Context, d volume.Definition, _ string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used[d.Name], nil
}

func (m *machine) Mounted(dir string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.onHost[dir]
}

// wantServed fails the test unless exactly these volumes are being served.
func (m *machine) wantServed(t *testing.T, names ...string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var got []string
	for name := range m.served {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, names) {
		t.Fatalf("served are %q, want %q", got, names)
	}
}

// client is dockerd.
type client struct {
	t    *testing.T
	http http.Client
}

// start starts a plugin as the command does, and returns how to talk to it. stop ends it.
func start(t *testing.T, m *machine, run string) (c *client, stop func()) {
	t.Helper()
	p, err := New(t.Context(), Config{
		Dirs: supervisor.Dirs{Run: run}, Definitions: m, Processes: m, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.Close()
	})
	t.Cleanup(stop)
	return &client{t, http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}}, stop
}

// post sends a body and returns the status and the answer.
func (c *client) post(ctx context.Context, method, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/"+method, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(bytes.TrimSpace(b)), err
}

// call makes a request that must succeed and returns the answer.
func (c *client) call(method string, request any) string {
	c.t.Helper()
	status, answer := c.try(method, request)
	if status != http.StatusOK {
		c.t.Fatalf("%s %v: status %d: %s", method, request, status, answer)
	}
	return answer
}

// refused makes a request that must fail, with the words in the error.
func (c *client) refused(method string, request any, words ...string) {
	c.t.Helper()
	status, answer := c.try(method, request)
	var e errorReply
	if err := json.Unmarshal([]byte(answer), &e); err != nil || status == http.StatusOK || e.Err == "" {
		c.t.Fatalf("%s %v: status %d, %s: want an error", method, request, status, answer)
	}
	for _, w := range words {
		if !strings.Contains(e.Err, w) {
			c.t.Errorf("%s %v: %q does not say %q", method, request, e.Err, w)
		}
	}
}

func (c *client) try(method string, request any) (int, string) {
	c.t.Helper()
	b, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	status, answer, err := c.post(c.t.Context(), method, string(b))
	if err != nil {
		c.t.Fatal(err)
	}
	return status, answer
}

type (
	named  = map[string]string
	create struct {
		Name string
		Opts map[string]string
	}
)

// mem is a volume that every machine can have.
func (c *client) mem(name string, options ...string) {
	c.t.Helper()
	opts := map[string]string{"appliance": "mem"}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		opts[k] = v
	}
	c.call("VolumeDriver.Create", create{name, opts})
}

func (c *client) mount(name, id string) string {
	c.t.Helper()
	var r mountReply
	if err := json.Unmarshal([]byte(c.call("VolumeDriver.Mount", named{"Name": name, "ID": id})), &r); err != nil {
		c.t.Fatal(err)
	}
	return r.Mountpoint
}

func (c *client) unmount(name, id string) {
	c.t.Helper()
	c.call("VolumeDriver.Unmount", named{"Name": name, "ID": id})
}

// dirOf returns the mount point that docker would show.
func (c *client) dirOf(name string) string {
	c.t.Helper()
	var r getReply
	if err := json.Unmarshal([]byte(c.call("VolumeDriver.Get", named{"Name": name})), &r); err != nil {
		c.t.Fatal(err)
	}
	return r.Volume.Mountpoint
}

func TestProtocol(t *testing.T) {
	c, _ := start(t, newMachine(), t.TempDir())
	c.mem("v")
	for _, tc := range []struct{ method, request, answer string }{
		{"Plugin.Activate", "", `{"Implements":["VolumeDriver"]}`},
		{"VolumeDriver.Capabilities", "{}", `{"Capabilities":{"Scope":"local"}}`},
		{"VolumeDriver.List", "{}", `{"Volumes":[{"Name":"v"}]}`},
		{"VolumeDriver.Get", `{"Name":"v"}`, `{"Volume":{"Name":"v","Status":{"appliance":"mem","mounts":0,"state":"not served"}}}`},
		{"VolumeDriver.Path", `{"Name":"v"}`, `{"Mountpoint":""}`},
		{"VolumeDriver.Unmount", `{"Name":"v","ID":"none"}`, `{}`},
		{"VolumeDriver.Remove", `{"Name":"v","Later":1}`, `{}`},
		{"VolumeDriver.List", "{}", `{"Volumes":[]}`},
	} {
		status, answer, err := c.post(t.Context(), tc.method, tc.request)
		if err != nil || status != http.StatusOK || answer != tc.answer {
			t.Errorf("%s %s: got %d %s, %v; want %s", tc.method, tc.request, status, answer, err, tc.answer)
		}
	}
}

func TestBadRequests(t *testing.T) {
	c, _ := start(t, newMachine(), t.TempDir())
	for name, body := range map[string]string{
		"not JSON":   "Name",
		"two values": `{"Name":"v"} {"Name":"w"}`,
		"wrong type": `{"Name":7}`,
		"cut off":    `{"Name":"v`,
		"too long":   `{"Name":"` + strings.Repeat("v", maxRequest) + `"}`,
		"no volume":  `{"Name":"v"}`,
		"bad name":   `{"Name":"../v"}`,
		"empty":      "",
	} {
		status, answer, err := c.post(t.Context(), "VolumeDriver.Mount", body)
		var e errorReply
		if jerr := json.Unmarshal([]byte(answer), &e); err != nil || status < 400 || jerr != nil || e.Err == "" || strings.Contains(e.Err, "\n") {
			t.Errorf("%s: got %d %s, %v; want an error of one line", name, status, answer, err)
		}
	}
	status, _, err := c.post(t.Context(), "VolumeDriver.Nothing", "{}")
	if err != nil || status != http.StatusNotFound {
		t.Errorf("an unknown method: got %d, %v; want 404, docker's sign for that", status, err)
	}
}

func TestCreateTwice(t *testing.T) {
	c, _ := start(t, newMachine(), t.TempDir())
	c.mem("v", "size=1M", "readonly")
	c.mem("v", "size=1M", "readonly=true")
	c.call("VolumeDriver.Create", create{"v", nil})
	for _, other := range []map[string]string{
		{"appliance": "mem", "size": "2M", "readonly": ""},
		{"appliance": "mem", "readonly": ""},
		{"appliance": "mem", "size": "1M"},
		{"appliance": "mem", "size": "1M", "readonly": "", "coherence": "shared"},
		{"appliance": "dir", "size": "1M", "readonly": ""},
	} {
		c.refused("VolumeDriver.Create", create{"v", other}, `volume "v" is defined with another`)
	}
}

func TestBadOptions(t *testing.T) {
	m := newMachine()
	c, _ := start(t, m, t.TempDir())
	for words, opts := range map[string]map[string]string{
		"-o appliance=":              {"source": "/x"},
		"fsva volume create":         nil,
		`option readonly`:            {"appliance": "mem", "readonly": "maybe"},
		`option cpus: "two"`:         {"appliance": "mem", "cpus": "two"},
		"both dedicated":             {"appliance": "mem", "runc": "", "dedicated": ""},
		`unknown appliance "memory"`: {"appliance": "memory"},
		"not the name of an opt":     {"appliance": "mem", "a=b": "c"},
	} {
		c.refused("VolumeDriver.Create", create{"v", opts}, words)
	}
	if len(m.defined) != 0 {
		t.Errorf("defined are %v, want none", m.defined)
	}
}

func TestMountCounts(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v")
	m.wantServed(t)
	dir := filepath.Join(run, "volumes", "v")
	for _, id := range []string{"a", "b", "b"} {
		if got := c.mount("v", id); got != dir {
			t.Errorf("mount %s: got %s, want %s", id, got, dir)
		}
	}
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "in use", "2 containers")
	if got := c.dirOf("v"); got != dir {
		t.Errorf("mount point while mounted: got %q, want %q", got, dir)
	}
	c.unmount("v", "b")
	c.unmount("v", "b")
	m.wantServed(t, "v")
	c.unmount("v", "a")
	m.wantServed(t)
	if got := c.dirOf("v"); got != "" {
		t.Errorf("mount point of what is not mounted: %q", got)
	}
	c.call("VolumeDriver.Remove", named{"Name": "v"})
	if m.starts != 1 {
		t.Errorf("started %d times, want once", m.starts)
	}
	wantNoRecords(t, run)
}

// wantNoRecords fails the test if the plugin remembers a mount.
func wantNoRecords(t *testing.T, run string) {
	t.Helper()
	for _, dir := range []string{"mounts", "host"} {
		entries, err := os.ReadDir(filepath.Join(run, "plugin", dir))
		if err != nil || len(entries) != 0 {
			t.Errorf("%s: left %v, %v", dir, entries, err)
		}
	}
}

// A plugin that is started again knows what is mounted.
func TestRestart(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, stop := start(t, m, run)
	c.mem("v")
	c.mem("w", "runc=true")
	c.mount("v", "a")
	c.mount("w", "a")
	stop()
	m.wantServed(t, "v", "w")
	c, _ = start(t, m, run)
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "in use")
	c.mount("v", "b")
	c.unmount("v", "a")
	m.wantServed(t, "v", "w")
	c.unmount("v", "b")
	c.unmount("w", "a")
	m.wantServed(t)
	wantNoRecords(t, run)
}

// A plugin that was killed while it started a volume has nobody who unmounts it.
func TestKilledWhileStarting(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, stop := start(t, m, run)
	c.mem("v")
	c.mem("w")
	stop()
	for _, name := range []string{"v", "w"} {
		unfinished := filepath.Join(run, "plugin", "mounts", "."+name+".json.fsva-new-1")
		if err := os.WriteFile(unfinished, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (records{filepath.Join(run, "plugin", "mounts")}).save(name, record{Version: recordVersion, Owned: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Start(t.Context(), "v", ""); err != nil {
		t.Fatal(err)
	}
	c, _ = start(t, m, run)
	m.wantServed(t)
	wantNoRecords(t, run)
	c.call("VolumeDriver.Remove", named{"Name": "v"})
}

// A dockerd that was killed has not unmounted. Its mounts count for as long as containers
// use the volume.
func TestForgotten(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, stop := start(t, m, run)
	for _, name := range []string{"unused", "used", "half"} {
		c.mem(name)
		c.mount(name, "a")
	}
	c.mount("half", "b")
	stop()
	table := records{filepath.Join(run, "plugin", "mounts")}
	for _, name := range []string{"unused", "used", "half"} {
		r, err := table.load(name)
		if err != nil {
			t.Fatal(err)
		}
		if by := r.Mounts[0].By; by.PID != os.Getpid() || !by.alive() {
			t.Errorf("%s was mounted by %+v, want this process", name, by)
		}
		r.Mounts[0].By.Start-- // another process, before this one
		if err := table.save(name, r); err != nil {
			t.Fatal(err)
		}
	}
	m.used["used"] = true
	p, err := New(t.Context(), Config{Dirs: supervisor.Dirs{Run: run}, Definitions: m, Processes: m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	check := func(want ...string) {
		t.Helper()
		for _, name := range []string{"unused", "used", "half"} {
			if err := p.check(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
		m.wantServed(t, want...)
	}
	check("half", "used")
	m.used["used"] = false
	if err := p.Remove(t.Context(), "used"); err != nil {
		t.Error(err)
	}
	check("half")
	if err := p.Unmount(t.Context(), "half", "b"); err != nil {
		t.Error(err)
	}
	m.wantServed(t)
	wantNoRecords(t, run)
}

func TestSecondPlugin(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	start(t, m, run)
	_, err := New(t.Context(), Config{Dirs: supervisor.Dirs{Run: run}, Definitions: m, Processes: m, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "another fsva volume-plugin") {
		t.Errorf("a second plugin: %v", err)
	}
}

// What somebody else serves is used, and left alone.
func TestServedByOthers(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v")
	c.mem("w", "runc=true")
	for _, name := range []string{"v", "w"} {
		if err := m.Start(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
	}
	c.mount("v", "a")
	c.unmount("v", "a")
	m.wantServed(t, "v", "w")
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "in use", "fsva stop v")
	c.refused("VolumeDriver.Mount", named{"Name": "w", "ID": "a"}, "for runc", "fsva stop w")
	m.wantServed(t, "v", "w")
	wantNoRecords(t, run)
}

// A volume whose supervisor was killed is served again for the next container, and
// one that has failed, too.
func TestServedAgain(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v")
	c.mount("v", "a")
	delete(m.served, "v")
	c.mount("v", "b")
	m.wantServed(t, "v")
	m.served["v"] = supervisor.Status{State: supervisor.Failed, Reason: "no disk", PID: m.served["v"].PID}
	c.mount("v", "c")
	if s := m.served["v"]; s.State != supervisor.Serving {
		t.Errorf("got %v, want it served again", s)
	}
	// Somebody else's.
	m.served["v"] = supervisor.Status{State: supervisor.Failed, Reason: "no disk", PID: 7}
	c.refused("VolumeDriver.Mount", named{"Name": "v", "ID": "d"}, "no disk", "fsva stop v")
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "3 containers")
	for _, id := range []string{"a", "b", "c"} {
		c.unmount("v", id)
	}
	m.wantServed(t, "v")
	wantNoRecords(t, run)
}

func TestStartFails(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v")
	m.startErr = errors.New("the FS server ended:\nno such disk")
	c.refused("VolumeDriver.Mount", named{"Name": "v", "ID": "a"}, "the FS server ended:; no such disk")
	wantNoRecords(t, run)
	m.startErr = nil
	c.mount("v", "a")
	m.stopErr = errors.New("it hangs")
	c.refused("VolumeDriver.Unmount", named{"Name": "v", "ID": "a"}, "it hangs")
	m.wantServed(t, "v")
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "it hangs")
	m.stopErr = nil
	c.call("VolumeDriver.Remove", named{"Name": "v"})
	m.wantServed(t)
	wantNoRecords(t, run)
}

// When dockerd dies while a volume starts, nobody will unmount it.
func TestCallerGone(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, stop := start(t, m, run)
	c.mem("v")
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	m.starting = func(ctx context.Context) {
		close(begun)
		<-callerOf(ctx).request.Done()
	}
	go func() {
		<-begun
		cancel()
	}()
	if _, _, err := c.post(ctx, "VolumeDriver.Mount", `{"Name":"v","ID":"a"}`); err == nil {
		t.Error("want the call to be cancelled")
	}
	stop()
	m.wantServed(t)
	wantNoRecords(t, run)
}

func TestRunc(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v", "runc=true")
	dir := filepath.Join(run, "plugin", "host", "v")
	if got := c.mount("v", "a"); got != dir || !m.onHost[dir] {
		t.Errorf("got %s, on the host %v; want %s", got, m.onHost, dir)
	}
	delete(m.onHost, dir) // its process died
	if got := c.mount("v", "b"); got != dir || !m.onHost[dir] {
		t.Errorf("got %s, on the host %v; want %s again", got, m.onHost, dir)
	}
	c.unmount("v", "a")
	if !m.onHost[dir] {
		t.Error("unmounted too early")
	}
	c.unmount("v", "b")
	m.wantServed(t)
	if len(m.onHost) != 0 {
		t.Errorf("on the host are %v", m.onHost)
	}
	wantNoRecords(t, run)
}

func TestDedicated(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v", "dedicated=true", "memory=128M", "cpus=0.5", "pids=100")
	if got := c.mount("v", "a"); got != "/dedicated/v" {
		t.Errorf("got %s", got)
	}
	m.wantServed(t)
	if l := m.defined["v"].Limits; l.CPU != 0.5 || l.Memory != 128<<20 || l.Pids != 100 {
		t.Errorf("limits: got %+v", l)
	}
	c.refused("VolumeDriver.Remove", named{"Name": "v"}, "1 container")
	c.unmount("v", "a")
	c.call("VolumeDriver.Remove", named{"Name": "v"})
	wantNoRecords(t, run)
}

// Many containers at once start a volume once, and the last one stops it.
func TestConcurrentMounts(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, _ := start(t, m, run)
	c.mem("v")
	c.mount("v", "first")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			body := fmt.Sprintf(`{"Name":"v","ID":"%d"}`, i)
			for _, method := range []string{"VolumeDriver.Mount", "VolumeDriver.Unmount"} {
				if status, answer, err := c.post(t.Context(), method, body); err != nil || status != http.StatusOK {
					t.Errorf("%s %s: %d %s %v", method, body, status, answer, err)
				}
			}
		})
	}
	wg.Wait()
	m.wantServed(t, "v")
	c.unmount("v", "first")
	m.wantServed(t)
	if m.starts != 1 {
		t.Errorf("started %d times, want once", m.starts)
	}
	wantNoRecords(t, run)
}

// A damaged record is an error for its volume, and no other.
func TestDamagedRecord(t *testing.T) {
	m := newMachine()
	run := t.TempDir()
	c, stop := start(t, m, run)
	c.mem("v")
	c.mem("w")
	stop()
	path := filepath.Join(run, "plugin", "mounts", "v.json")
	for _, text := range []string{`{"version":2}`, `{"version":1`, ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, stop = start(t, m, run)
		for _, method := range []string{"VolumeDriver.Mount", "VolumeDriver.Unmount", "VolumeDriver.Remove", "VolumeDriver.Path"} {
			c.refused(method, named{"Name": "v", "ID": "a"}, path, "remove the file")
		}
		c.mount("w", "a")
		c.unmount("w", "a")
		stop()
	}
	m.wantServed(t)
}

func TestListenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Errorf("a second time: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // killed
	l.Close()
	l, err = Listen(path)
	if err != nil {
		t.Fatalf("in place of a dead one: %v", err)
	}
	l.Close()
}
