// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"fsva/gofer/conformance"
	"fsva/gofer/fusemount"
	"fsva/gofer/inprocess"
)

// The tests of this file mount a file system. Nobody may use a mount that it serves,
// so the gofer's side and the shim are processes of their own: this test binary, with
// the role in the environment.

const roleVar = "FSVA_FUSESTREAM_TEST"

// role is what a process of the test does.
type role struct {
	Shim       bool
	Socket     string
	Dir        string // that is served, or where it is mounted
	Info       Info
	WriteBack  bool
	WindowFile string // memory that both share; "": none
	Standby    bool   // waits for a line before it listens
}

func TestMain(m *testing.M) {
	conformance.Helper()
	unix.Umask(0)
	if text := os.Getenv(roleVar); text != "" {
		var r role
		err := json.Unmarshal([]byte(text), &r)
		if err == nil {
			err = r.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func (r role) run() error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var window *testWindow
	if r.WindowFile != "" {
		var err error
		if window, err = openTestWindow(r.WindowFile); err != nil {
			return err
		}
	}
	if r.Shim {
		o := RelayOptions{
			Dial: func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", r.Socket)
			},
			Log: log,
		}
		if window != nil {
			o.Windows = map[[16]byte]GuestWindow{{1}: window}
		}
		relay, err := Connect(context.Background(), o)
		if err != nil {
			return err
		}
		// The mount is for us and the test alone: a copy of it, in a mount namespace that
		// somebody makes meanwhile, would outlive it.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		fd, err := fusemount.Mount(context.Background(), r.Dir, fusemount.Options{Source: "test", Type: "fsva", Flags: unix.MS_NODEV})
		if err != nil {
			return err
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		go func() {
			<-stop
			if err := fusemount.Unmount(r.Dir, false); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}()
		return relay.Serve(context.Background(), fd, func() { fmt.Println("ready") })
	}
	files, err := inprocess.Open("dir", r.Dir, inprocess.Options{Shared: !r.Info.Exclusive, Log: log})
	if err != nil {
		return err
	}
	o := Options{Volume: "test", Info: r.Info, WriteBack: r.WriteBack, Log: log}
	if window != nil {
		o.Claim = func(id [16]byte) (Window, error) {
			if id != [16]byte{1} {
				return nil, errors.New("no such window")
			}
			return window, nil
		}
	}
	srv := NewServer(files, o)
	if r.Standby {
		fmt.Println("ready")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
	}
	os.Remove(r.Socket)
	l, err := net.Listen("unix", r.Socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			err := srv.Serve(context.Background(), conn, nil)
			log.Info("client gone", "err", err, "leased", window.used())
		}()
	}
}

// testWindow is a window of slots of 1 MiB.
type testWindow struct {
	mem []byte
	mu  sync.Mutex
	out map[int64]bool
	all atomic.Int64 // leases so far
}

func openTestWindow(path string) (*testWindow, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return &testWindow{mem: mem, out: map[int64]bool{}}, err
}

func (w *testWindow) used() int64 {
	if w == nil {
		return -1
	}
	return w.all.Load()
}

func (w *testWindow) Size() int64 { return int64(len(w.mem)) }

func (w *testWindow) Lease(n int) (int64, []byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slots := int64(n+1<<20-1) >> 20
	for off := int64(0); off+slots<<20 <= int64(len(w.mem)); off += 1 << 20 {
		free := true
		for i := range slots {
			free = free && !w.out[off+i<<20]
		}
		if !free {
			continue
		}
		for i := range slots {
			w.out[off+i<<20] = true
		}
		w.all.Add(1)
		return off, w.mem[off : off+int64(n) : off+int64(n)], true
	}
	return 0, nil, false
}

func (w *testWindow) Release(off int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ok := w.out[off]
	delete(w.out, off)
	return ok
}

func (w *testWindow) Data(off int64, n int) []byte {
	if off < 0 || n < 0 || off > int64(len(w.mem)) || int64(n) > int64(len(w.mem))-off {
		return nil
	}
	return w.mem[off : off+int64(n) : off+int64(n)]
}

func (w *testWindow) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.out)
	return nil
}

// process is one of the test's processes.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.Writer
	out     *bufio.Reader
	exited  chan error
	started bool
	killed  bool
	log     *bytes.Buffer
}

// start starts a process and waits until it is ready.
func (r role) start(t *testing.T) *process {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, exited: make(chan error, 1), log: new(bytes.Buffer)}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), roleVar+"="+string(text))
	p.cmd.Stderr = p.log
	if r.Shim {
		p.cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	}
	p.in, err = p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	p.ready()
	return p
}

// ready waits until the process says that it is.
func (p *process) ready() {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if !p.started {
		p.started = true
		go func() { p.exited <- p.cmd.Wait() }()
	}
	if line != "ready\n" {
		p.t.Fatalf("%q, %v; %v\n%s", line, err, <-p.exited, p.log)
	}
}

// proceed lets one that stands by begin.
func (p *process) proceed() *process {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatal(err)
	}
	p.ready()
	return p
}

func (p *process) kill() {
	p.t.Helper()
	if p.killed {
		return
	}
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Error(err)
	}
	<-p.exited
	if strings.Contains(p.log.String(), "panic") || strings.Contains(p.log.String(), "DATA RACE") {
		p.t.Errorf("%s", p.log)
	}
}

// fixture is a directory, its server and a mount of it.
type fixture struct {
	t            *testing.T
	dir, mnt     string
	server, shim *process
	serverRole   role
}

func mount(t *testing.T, server role, window bool) *fixture {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse")
	}
	tmp := t.TempDir()
	f := &fixture{t: t, dir: filepath.Join(tmp, "dir"), mnt: filepath.Join(tmp, "mnt")}
	for _, d := range []string{f.dir, f.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	server.Socket, server.Dir = filepath.Join(tmp, "sock"), f.dir
	shim := role{Shim: true, Socket: server.Socket, Dir: f.mnt}
	if window {
		path := filepath.Join(tmp, "window")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
		server.WindowFile, shim.WindowFile = path, path
	}
	f.serverRole = server
	f.server = server.start(t)
	t.Cleanup(func() { f.server.kill() })
	f.shim = shim.start(t)
	// As the shim sees it.
	f.mnt = fmt.Sprintf("/proc/%d/root%s", f.shim.cmd.Process.Pid, f.mnt)
	t.Cleanup(func() {
		if err := f.shim.cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := <-f.shim.exited; err != nil {
			t.Errorf("shim: %v", err)
		}
		if t.Failed() {
			t.Logf("shim:\n%.20000s\nserver:\n%.20000s", f.shim.log, f.server.log)
		}
	})
	return f
}

// standby starts a process that can take the server's place.
func (f *fixture) standby() *process {
	r := f.serverRole
	r.Standby = true
	p := r.start(f.t)
	f.t.Cleanup(func() {
		if p != f.server { // not needed
			p.kill()
		}
	})
	return p
}

// variants are the ways in which a volume is mounted.
var variants = []struct {
	name   string
	server role
	window bool
}{
	{"shared", role{}, false},
	{"shared, window", role{}, true},
	{"exclusive", role{Info: Info{Exclusive: true, StableIno: true}}, false},
	{"exclusive, free opens", role{Info: Info{Exclusive: true, StableIno: true, FreeOpens: true}}, false},
	{"exclusive, free opens, write-back, window", role{Info: Info{Exclusive: true, StableIno: true, FreeOpens: true}, WriteBack: true}, true},
}

// TestConformance runs the directory-level checks on a mount, and those that fail there
// on the directory itself.
func TestConformance(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			f := mount(t, v.server, v.window)
			byName := map[string]conformance.Check{}
			var checks []conformance.Check
			for _, c := range conformance.WriteChecks() {
				// The end-to-end tests have time for the large ones.
				if c.Name != "limit/10000-files" {
					byName[c.Name] = c
					checks = append(checks, c)
				}
			}
			ran := 0
			_, err := conformance.Run(checks, f.mnt, false, func(o conformance.Outcome) {
				ran++
				if o.Err == "" {
					return
				}
				control := t.TempDir()
				if err := byName[o.Name].Run(control); err != nil {
					return // nor does the host
				}
				t.Errorf("%s: %s", o.Name, o.Err)
			})
			if err != nil {
				t.Fatal(err)
			}
			if ran == 0 {
				t.Error("no check ran")
			}
		})
	}
}

// TestData writes and reads a large file and many small ones.
func TestData(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			f := mount(t, v.server, v.window)
			data := make([]byte, 12<<20+1234)
			rng := rand.NewChaCha8([32]byte{1})
			rng.Read(data)
			if err := os.WriteFile(filepath.Join(f.mnt, "large"), data, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{f.dir, f.mnt} {
				got, err := os.ReadFile(filepath.Join(dir, "large"))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes, which differ", dir, len(got))
				}
			}
			// What another writes is seen (shared), and many readers get what is there.
			other := bytes.Repeat([]byte("other"), 1<<18)
			name := "large"
			if v.server.Info.Exclusive {
				name = "new" // of the one that is known it need not be seen
			}
			if err := os.WriteFile(filepath.Join(f.dir, name), other, 0o644); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					got, err := os.ReadFile(filepath.Join(f.mnt, name))
					if err != nil || !bytes.Equal(got, other) {
						t.Errorf("reader: %d bytes of %d, %v", len(got), len(other), err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestRestart kills the gofer's side again and again under processes that read, list,
// write, keep files open and wait for them.
func TestRestart(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			server := v.server
			server.Info.StableIno = true
			server.Info.KeepsWrites = true // they are in the host's page cache
			f := mount(t, server, v.window)
			// Started before there are open files: to execute a program is to close
			// them, which waits for the gofer that it would be.
			servers := make([]*process, 5)
			for i := range servers {
				servers[i] = f.standby()
			}
			const files = 20
			want := make([][32]byte, files)
			for i := range files {
				data := make([]byte, 100_000+i*10_000)
				rand.NewChaCha8([32]byte{byte(i)}).Read(data)
				want[i] = sha256.Sum256(data)
				dir := filepath.Join(f.dir, fmt.Sprintf("d%d", i%3), "deep")
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			path := func(i int) string { return filepath.Join(f.mnt, fmt.Sprintf("d%d", i%3), "deep", fmt.Sprint(i)) }
			open := make([]*os.File, files)
			for i := range open {
				var err error
				if open[i], err = os.Open(path(i)); err != nil {
					t.Fatal(err)
				}
				defer open[i].Close()
			}
			log, err := os.OpenFile(filepath.Join(f.mnt, "log"), os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()

			stop := make(chan struct{})
			var rounds [3]atomic.Int64
			var wg sync.WaitGroup
			work := func(k int, do func(round int64) error) {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if err := do(rounds[k].Load()); err != nil {
							t.Errorf("worker %d, round %d: %v", k, rounds[k].Load(), err)
							return
						}
						rounds[k].Add(1)
					}
				})
			}
			work(0, func(round int64) error { // through files that were open all the time
				i := int(round) % files
				// Not from the kernel's cache.
				if err := unix.Fadvise(int(open[i].Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
					return err
				}
				h := sha256.New()
				if _, err := io.Copy(h, io.NewSectionReader(open[i], 0, 1<<30)); err != nil {
					return err
				}
				if [32]byte(h.Sum(nil)) != want[i] {
					return fmt.Errorf("file %d has other content", i)
				}
				return nil
			})
			work(1, func(round int64) error { // by path
				i := int(round) % files
				data, err := os.ReadFile(path(i))
				if err != nil {
					return err
				}
				if sha256.Sum256(data) != want[i] {
					return fmt.Errorf("file %d has other content", i)
				}
				_, err = os.ReadDir(filepath.Dir(path(i)))
				return err
			})
			work(2, func(round int64) error { // writes, and waits for them
				if _, err := log.WriteAt(fmt.Appendf(nil, "%015d\n", round), round*16); err != nil {
					return err
				}
				if round%10 == 9 {
					return log.Sync()
				}
				return nil
			})
			for _, next := range servers {
				var before [3]int64
				for k := range before {
					before[k] = rounds[k].Load()
				}
				f.server.kill()
				f.server = next.proceed()
				for k := range before { // all of them go on
					for rounds[k].Load() < before[k]+20 && !t.Failed() {
						unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
					}
				}
			}
			close(stop)
			wg.Wait()
			if err := log.Sync(); err != nil {
				t.Error(err)
			}
			got, err := os.ReadFile(filepath.Join(f.dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			for i := range rounds[2].Load() {
				if string(got[i*16:i*16+16]) != fmt.Sprintf("%015d\n", i) {
					t.Fatalf("line %d of the log: %q", i, got[i*16:i*16+16])
				}
			}
			t.Logf("rounds: %d %d %d", rounds[0].Load(), rounds[1].Load(), rounds[2].Load())
		})
	}
}

// TestLostWrites has the gofer die with writes that are not synced, on a volume that
// does not keep them: one fsync fails, and the next does not.
func TestLostWrites(t *testing.T) {
	f := mount(t, role{Info: Info{Exclusive: true, StableIno: true}}, false)
	next := f.standby()
	w, err := os.Create(filepath.Join(f.mnt, "w"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	synced, err := os.Create(filepath.Join(f.mnt, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	defer synced.Close()
	for _, file := range []*os.File{w, synced} {
		if _, err := file.WriteString("data"); err != nil {
			t.Fatal(err)
		}
	}
	if err := synced.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdir(filepath.Join(f.mnt, "gone"), 0o755); err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Open(filepath.Join(f.mnt, "gone"))
	if err != nil {
		t.Fatal(err)
	}
	defer cwd.Close()
	f.server.kill()
	if err := os.Remove(filepath.Join(f.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	f.server = next.proceed()
	if err := w.Sync(); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync after loss: %v", err)
	}
	if err := w.Sync(); err != nil {
		t.Errorf("fsync after that: %v", err)
	}
	if err := synced.Sync(); err != nil {
		t.Errorf("fsync of what was synced: %v", err)
	}
	if _, err := cwd.ReadDir(0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a directory that is gone: %v", err)
	}
}
