// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"archive/zip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
	"fsva/gofer/supervisor"
)

const (
	soakDefined = 50
	soakRunning = 20
	soakHolders = 5 // containers that keep the running volumes so, each some of them
	soakWorkers = 3
	// soakFDs is by how much a process's number of descriptors may differ between two quiet moments: those of
	// connections that are kept.
	soakFDs = 10
)

// soakEnv says how long TestVolumeSoak goes on, as time.ParseDuration reads it; short if it is not set.
const soakEnv = "FSVA_VOLUMES_DURATION"

// soakVolume is a volume that containers write to, or the one that they read.
type soakVolume struct {
	name     string
	readOnly bool
}

// soak is TestVolumeSoak while it runs.
type soak struct {
	*volumePlugin
	volumes []soakVolume
	holders []*harness.Running
	// quiet is held for writing while something is restarted or counted, for reading while a container runs.
	quiet sync.RWMutex
	runs  atomic.Int64
}

// TestVolumeSoak has 50 volumes defined and 20 running, and containers that start and stop against any of them, while
// the plugin, dockerd and supervisors are restarted. At quiet moments `fsva ls` names what runs, exactly, and there is
// no process, descriptor, mount, cgroup or runsc state more than before.
func TestVolumeSoak(t *testing.T) {
	duration, between := time.Duration(0), int64(soakWorkers)
	if text, ok := os.LookupEnv(soakEnv); ok {
		between *= 8
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakEnv, err)
		}
	}
	s := &soak{volumePlugin: startVolumePlugin(t)}
	t.Run("soak", func(t *testing.T) { s.run(t, duration, between) }) // the plugin is there until its volumes are removed
}

// run goes through the restarts until the duration is over, three of them at least, with so many containers between two.
func (s *soak) run(t *testing.T, duration time.Duration, between int64) {
	start := time.Now()
	s.define(t)
	s.hold(t)
	for _, v := range s.volumes[:soakDefined:soakDefined] {
		if v.readOnly { // one of those that are in a sandbox
			if err := s.use(v); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	before := s.count(t)
	t.Logf("%d volumes, %d of them running, after %v", soakDefined, soakRunning, time.Since(start))

	end := time.Now().Add(duration)
	var over atomic.Bool
	errs := make(chan error, soakWorkers)
	for range soakWorkers {
		go func() {
			var err error
			for err == nil && !over.Load() {
				s.quiet.RLock()
				err = s.use(s.volumes[rand.IntN(len(s.volumes))])
				s.quiet.RUnlock()
			}
			errs <- err
		}()
	}
	disturbances := []func(*testing.T){
		func(t *testing.T) { s.restart(t, unix.SIGKILL) },
		s.killSupervisor,
		func(t *testing.T) { s.restartDocker(t, unix.SIGKILL) },
		func(t *testing.T) { s.restart(t, unix.SIGTERM) },
		func(t *testing.T) { s.restartDocker(t, unix.SIGTERM) },
	}
	rounds := 0
	for ; rounds < 3 || time.Now().Before(end); rounds++ {
		next := s.runs.Load() + between
		harness.Await(t, 5*time.Minute, s.service, func() bool { return s.runs.Load() >= next || len(errs) > 0 })
		s.quiet.Lock()
		disturbances[rounds%len(disturbances)](t)
		s.wantHeld(t)
		s.quiet.Unlock()
	}
	over.Store(true)
	for range soakWorkers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	s.wantHeld(t)
	after := s.count(t)
	t.Logf("%d containers, %d restarts; before %v, after %v", s.runs.Load(), rounds, before, after)
	after.compare(t, before)

	for _, h := range s.holders {
		h.Stop(t)
	}
	s.wantServed(t)
	for _, v := range s.volumes {
		if err := s.env.NothingLeft(v.name); err != nil {
			t.Errorf("volume %s: %v", v.name, err)
		}
	}
	if below := harness.Below(s.service.PID()); len(below) > 0 {
		t.Errorf("the plugin has left %v", below)
	}
}

// define defines the volumes: directories, memory, archives, and archives that a server in a sandbox reads.
func (s *soak) define(t *testing.T) {
	dir := s.env.TempDir(t)
	archive := filepath.Join(dir, "archive.zip")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	w, err := z.Create("file")
	if err == nil {
		_, err = w.Write([]byte("hello\n"))
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	image := filepath.Join(dir, "image")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	harness.Must(t, "mksquashfs", tree, image, "-quiet", "-no-progress")
	s.env.Images(t)
	for i := range soakDefined {
		v := soakVolume{name: fmt.Sprintf("soak%02d", i)}
		var options []string
		switch i % 10 {
		case 0, 1, 2:
			options, v.readOnly = []string{"appliance=zip", "source=" + archive}, true
		case 3:
			options, v.readOnly = []string{"appliance=squashfs", "source=" + image}, true
		case 4, 5:
			options = []string{"appliance=mem", "coherence=shared", "size=1M"}
		default:
			source := filepath.Join(dir, v.name)
			if err := os.Mkdir(source, 0o755); err != nil {
				t.Fatal(err)
			}
			options = []string{"appliance=dir", "coherence=shared", "source=" + source}
		}
		s.create(t, v.name, options...)
		s.volumes = append(s.volumes, v)
	}
}

// held returns the volumes that holder i keeps running.
func (s *soak) held(i int) []soakVolume {
	const each = soakRunning / soakHolders
	return s.volumes[i*each : (i+1)*each]
}

// hold starts the containers that keep volumes running.
func (s *soak) hold(t *testing.T) {
	for i := range soakHolders {
		var mounts []string
		for _, v := range s.held(i) {
			mounts = append(mounts, v.name+":/"+v.name)
		}
		s.holders = append(s.holders, s.docker.Start(t, pause(mounts...)))
	}
	s.wantHeld(t)
}

// use runs a container that uses a volume, for any goroutine.
func (s *soak) use(v soakVolume) error {
	n := s.runs.Add(1)
	c := harness.Container{Mounts: []string{v.name + ":/data"}, Args: []string{"cat", "/data/file"}}
	want := "hello\n"
	if !v.readOnly {
		want = fmt.Sprintf("%d\n", n)
		c.Args = []string{"sh", "-ec", fmt.Sprintf("echo %d >/data/%d; cat /data/%d; rm /data/%d", n, n, n, n)}
	}
	r, err := s.docker.Try(c)
	if err == nil && (r.Code != 0 || r.Stdout != want) {
		err = fmt.Errorf("volume %s: exit code %d: %q, want %q: %s", v.name, r.Code, r.Stdout, want, r.Stderr)
	}
	return err
}

// wantHeld fails the test unless `fsva ls` says that the held volumes run, each with its container, and no other.
func (s *soak) wantHeld(t *testing.T) {
	t.Helper()
	var want []string
	for i := range soakHolders {
		for _, v := range s.held(i) {
			want = append(want, v.name)
		}
	}
	s.wantServed(t, want...)
	for name, st := range s.ls(t) {
		if st.Gofer == nil || st.Gofer.Clients != 1 {
			t.Errorf("fsva ls does not say that volume %s has one client: %+v %s", name, st.Gofer, st.GoferError)
		}
	}
}

// killSupervisor kills the supervisor of a volume. Its container finds it again when it is started again.
func (s *soak) killSupervisor(t *testing.T) {
	i := rand.IntN(soakHolders)
	name := s.held(i)[rand.IntN(len(s.held(i)))].name
	pid := s.ls(t)[name].PID
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.AwaitEnd(t, pid, 10*time.Second)
	if _, ok := s.ls(t)[name]; ok {
		t.Errorf("fsva ls says that volume %s runs", name)
	}
	s.holders[i].Restart(t)
}

// restartDocker restarts dockerd. That ends all containers, and the volumes with them.
func (s *soak) restartDocker(t *testing.T, how unix.Signal) {
	s.docker.Restart(t, how)
	harness.Await(t, time.Minute, s.service, func() bool { return len(s.ls(t)) == 0 })
	for _, h := range s.holders {
		h.Restart(t)
	}
}

// soakCounts are what may not grow.
type soakCounts struct {
	Processes, Mounts, Cgroups, RunscStates int
	// PluginFDs and VolumeFDs are descriptors: of the plugin, and of the volume's process that has most.
	PluginFDs, VolumeFDs int
}

// count counts what there is, while nothing but the held volumes runs.
func (s *soak) count(t *testing.T) soakCounts {
	t.Helper()
	c := soakCounts{}
	var names []string
	for _, st := range s.ls(t) {
		names = append(names, st.Name)
		for _, pid := range append([]int{st.PID}, pidsBelow(st)...) {
			c.Processes++
			fds, err := harness.FDs(pid)
			if err != nil {
				t.Fatal(err)
			}
			c.VolumeFDs = max(c.VolumeFDs, len(fds))
		}
	}
	// A plugin that was started again has not started the volumes: they are not below it.
	for _, p := range harness.Below(s.service.PID()) {
		if !strings.Contains(p.Cmdline, " serve soak") {
			continue
		}
		if i := slices.IndexFunc(names, func(n string) bool { return strings.Contains(p.Cmdline+" ", " "+n+" ") }); i < 0 {
			t.Errorf("a supervisor that fsva ls does not know: %v", p)
		}
	}
	fds, err := harness.FDs(s.service.PID())
	if err != nil {
		t.Fatal(err)
	}
	c.PluginFDs = len(fds)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	c.Mounts = strings.Count(string(mounts), s.env.Dir)
	states, err := s.env.RunscStates()
	if err != nil {
		t.Fatal(err)
	}
	c.RunscStates = len(states)
	if c.Cgroups, err = harness.Cgroups("fsva-soak", filepath.Base(s.env.Dir)); err != nil {
		t.Fatal(err)
	}
	return c
}

// pidsBelow are the processes below a volume's supervisor.
func pidsBelow(st supervisor.Status) []int {
	var pids []int
	for _, p := range harness.Below(st.PID) {
		pids = append(pids, p.PID)
	}
	return pids
}

// compare fails the test if there is more than before.
func (c soakCounts) compare(t *testing.T, before soakCounts) {
	t.Helper()
	for what, n := range map[string][3]int{
		"processes of volumes":     {before.Processes, c.Processes, 0},
		"mounts":                   {before.Mounts, c.Mounts, 0},
		"cgroups":                  {before.Cgroups, c.Cgroups, 0},
		"runsc states":             {before.RunscStates, c.RunscStates, 0},
		"the plugin's descriptors": {before.PluginFDs, c.PluginFDs, soakFDs},
		"a volume's descriptors":   {before.VolumeFDs, c.VolumeFDs, soakFDs},
	} {
		if n[1] > n[0]+n[2] {
			t.Errorf("%s: %d before, %d after", what, n[0], n[1])
		}
	}
}
