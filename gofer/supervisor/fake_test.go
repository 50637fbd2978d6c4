// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/fsserver"
	"fsva/gofer/latency"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/vsockdevice"
)

// TestMain lets the test binary be the processes that a supervisor starts: the
// real stage, and a gofer and an FS server that are fakes.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "fs-server":
			os.Exit(fsserver.Main())
		case "gofer":
			os.Exit(fakeGofer())
		case "vsock-device":
			os.Exit(fakeDevice())
		}
	}
	if filepath.Base(os.Args[0]) == "fusermount3" && len(os.Args) == 2 {
		os.Exit(fakeServer(os.Args[1]))
	}
	if os.Getenv("FSVA_TEST_SERVE") != "" {
		os.Exit(serveForTest())
	}
	os.Exit(m.Run())
}

// fakeDevice tells whoever connects to its socket what it was told.
func fakeDevice() int {
	b := make([]byte, 1000)
	n, err := unix.Read(vsockdevice.FDHandoff, b)
	var l net.Listener
	if err == nil {
		l, err = net.FileListener(os.NewFile(vsockdevice.FDListener, "socket"))
	}
	for err == nil {
		var conn net.Conn
		if conn, err = l.Accept(); err == nil {
			_, err = conn.Write(b[:n])
			conn.Close()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// fakeGofer speaks goferproto and, on the channel, FUSE's INIT and DESTROY.
// Config.Options["gofer"] says how it misbehaves.
func fakeGofer() int {
	conn, err := goferproto.NewConn(goferproto.FDControl)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg, err := conn.RecvConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	windows := 0
	// takeWindow is what a gofer does with a window.
	takeWindow := func(r goferproto.Request) {
		if r.Memory != nil && r.Memory.Close() == nil {
			windows++
		}
	}
	for range cfg.Windows {
		r, err := conn.RecvRequest()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		takeWindow(r)
	}
	how := cfg.Options["gofer"]
	ready := goferproto.Ready{}
	cache := goferproto.Cache{Limit: cfg.CacheLimit, Resident: 100 << 20, Donated: 64 << 20}
	switch how {
	case "die":
		fmt.Fprintln(os.Stderr, "gofer: something is wrong")
		return 3
	case "refuse":
		conn.SendReply(goferproto.Reply{Error: "no such source"})
		return 1
	case "malformed":
		conn.SendReply(goferproto.Reply{ID: 1, Stat: &goferproto.Stat{Clients: -1}})
		time.Sleep(time.Hour)
	}
	if cfg.InProcess == "" {
		if ready, err = initFUSE(time.Duration(cfg.InitTimeoutMs) * time.Millisecond); err != nil {
			conn.SendReply(goferproto.Reply{Error: err.Error()})
			return 1
		}
		go func() { // the end of the channel
			if _, err := unix.Read(goferproto.FDChannel, make([]byte, 1<<17)); err == nil && how != "deaf" {
				conn.SendReply(goferproto.Reply{Failed: "the FS server closed the FUSE channel"})
			}
		}()
	}
	ready.Cache = how == "cache"
	conn.SendReply(goferproto.Reply{Ready: &ready})
	if how == "fail twice" {
		conn.SendReply(goferproto.Reply{Failed: "once"})
		conn.SendReply(goferproto.Reply{Failed: "twice"})
	}
	for {
		r, err := conn.RecvRequest()
		if err != nil {
			if err != io.EOF {
				fmt.Fprintln(os.Stderr, err)
			}
			return 1
		}
		switch r.Op {
		case goferproto.OpStat:
			if how == "die last on stat" {
				// The FS server ends, which is announced above.
				if err := unix.Shutdown(goferproto.FDChannel, unix.SHUT_WR); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
				time.Sleep(100 * time.Millisecond) // mostly enough for the supervisor to see it first
				return 4
			}
			if how == "die on stat" {
				return 4
			}
			clients := 1
			if how == "abandoned" {
				clients = 0
			}
			conn.SendReply(goferproto.Reply{ID: r.ID, Stat: &goferproto.Stat{
				Clients: clients, Attached: []goferproto.Client{{Container: "c1", Destination: "/data", Since: 1}}, Requests: 17,
				Cache: &cache, Windows: windows, Guests: guestSockets(cfg),
			}})
			if how == "leave" && cfg.ReportIdle {
				how = "abandoned"
				conn.SendReply(goferproto.Reply{Idle: true})
			}
		case goferproto.OpWindow:
			takeWindow(r)
			conn.SendReply(goferproto.Reply{ID: r.ID})
		case goferproto.OpWindowGone:
			windows--
			conn.SendReply(goferproto.Reply{ID: r.ID})
		case goferproto.OpRPCs:
			conn.SendReply(goferproto.Reply{ID: r.ID, Ops: map[string]latency.Op{"PRead": {Requests: 5}}})
		case goferproto.OpGuests:
			conn.SendReply(goferproto.Reply{ID: r.ID, Ops: map[string]latency.Op{"LOOKUP": {Requests: 2}}})
		case goferproto.OpFUSE:
			conn.SendReply(goferproto.Reply{ID: r.ID, Ops: map[string]latency.Op{"READ": {Requests: 3, Errors: 1}}})
		case goferproto.OpCacheLimit:
			cache.Limit = r.Bytes
			cache.Resident = max(cache.Donated, min(cache.Resident, r.Bytes))
			conn.SendReply(goferproto.Reply{ID: r.ID, Cache: &cache})
		case goferproto.OpStop:
			switch how {
			case "hang on stop":
				time.Sleep(time.Hour)
			case "flush error":
				conn.SendReply(goferproto.Reply{ID: r.ID, Error: "flush of 1 file: input/output error"})
				return 0
			}
			if cfg.InProcess == "" {
				unix.Write(goferproto.FDChannel, fuseRequest(38 /* DESTROY */, nil))
			}
			conn.SendReply(goferproto.Reply{ID: r.ID})
			return 0
		}
	}
}

// guestSockets returns how many of the listening sockets are there.
func guestSockets(cfg goferproto.Config) int {
	n := 0
	for i := range cfg.Listen {
		if v, err := unix.GetsockoptInt(goferproto.FDGuests+i, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && v == 1 {
			n++
		}
	}
	return n
}

// fuseRequest is a request with a header and a body.
func fuseRequest(opcode uint32, body []byte) []byte {
	b := make([]byte, 40)
	binary.LittleEndian.PutUint32(b[0:], uint32(40+len(body)))
	binary.LittleEndian.PutUint32(b[4:], opcode)
	binary.LittleEndian.PutUint64(b[8:], 2) // unique
	return append(b, body...)
}

// initFUSE does INIT on the channel.
func initFUSE(timeout time.Duration) (goferproto.Ready, error) {
	body := make([]byte, 64)
	binary.LittleEndian.PutUint32(body[0:], 7)
	binary.LittleEndian.PutUint32(body[4:], 38)
	binary.LittleEndian.PutUint32(body[8:], 1<<17)
	if _, err := unix.Write(goferproto.FDChannel, fuseRequest(26 /* INIT */, body)); err != nil {
		return goferproto.Ready{}, fmt.Errorf("send FUSE INIT: %w", err)
	}
	pfd := []unix.PollFd{{Fd: goferproto.FDChannel, Events: unix.POLLIN}}
	deadline := time.Now().Add(timeout)
	for {
		n, err := unix.Poll(pfd, int(time.Until(deadline).Milliseconds())+1)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return goferproto.Ready{}, fmt.Errorf("no answer to FUSE INIT within %v", timeout)
		}
		break
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(goferproto.FDChannel, buf)
	if n == 0 || err != nil {
		return goferproto.Ready{}, errors.New("the FS server closed the FUSE channel")
	}
	if n < 40 {
		return goferproto.Ready{}, errors.New("short answer to FUSE INIT")
	}
	return goferproto.Ready{FuseMinor: binary.LittleEndian.Uint32(buf[20:]), MaxWrite: binary.LittleEndian.Uint32(buf[36:])}, nil
}

// fakeServer is an FS server inside its root, named as the helper because that
// is how the test binary gets there.
func fakeServer(how string) int {
	fmt.Println("fake server:", how)
	switch how {
	case "exit":
		fmt.Fprintln(os.Stderr, "first line\nno such\x1b[2J image")
		return 7
	case "silent":
		time.Sleep(time.Hour) // holds the channel, answers nothing
	}
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fsserver.ServerFD, buf)
		if err != nil || n == 0 {
			fmt.Println("short read on fuse device")
			return 0
		}
		switch opcode := binary.LittleEndian.Uint32(buf[4:]); {
		case opcode == 26:
			reply := make([]byte, 16+64)
			binary.LittleEndian.PutUint32(reply[0:], uint32(len(reply)))
			copy(reply[8:16], buf[8:16])
			binary.LittleEndian.PutUint32(reply[16:], 7)
			binary.LittleEndian.PutUint32(reply[20:], 31)
			binary.LittleEndian.PutUint32(reply[36:], 1<<17)
			if _, err := unix.Write(fsserver.ServerFD, reply); err != nil {
				return 1
			}
			switch how {
			case "die later":
				time.Sleep(50 * time.Millisecond)
				fmt.Println("assertion failed")
				return 9
			case "stubborn":
				time.Sleep(time.Hour)
			}
		case opcode == 38:
			os.WriteFile("/source/destroyed", nil, 0o644)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newTestConfig is a volume "vol" of a fake server that behaves as how says.
func newTestConfig(t *testing.T, isolation, how string) Config {
	t.Helper()
	needRoot(t)
	dirs := Dirs{Run: filepath.Join(t.TempDir(), "run"), State: filepath.Join(t.TempDir(), "state")}
	runsc := ""
	if isolation == IsolationGVisor {
		runsc = testRunsc(t)
	}
	c := testConfigFor(dirs, isolation, runsc)
	if c.Server != nil {
		c.Server.Argv = []string{"fusermount3", how}
		c.Server.Binds = []fsserver.Bind{{Host: t.TempDir(), Target: "/source"}}
	}
	return c
}

func testConfigFor(dirs Dirs, isolation, runsc string) Config {
	c := Config{
		Dirs:         dirs,
		Info:         attach.Info{Version: attach.Version, Name: "vol", Appliance: "fake", Coherence: attach.Exclusive},
		Isolation:    isolation,
		Source:       "somewhere",
		StartTimeout: 20 * time.Second,
		Gofer:        goferproto.Config{Options: map[string]string{}},
		Runsc:        runsc,
	}
	if isolation == IsolationNone {
		c.Gofer.InProcess = "mem"
		return c
	}
	c.Server = &fsserver.Spec{Argv: []string{"fusermount3", "serve"}, Root: fsserver.HostRoot}
	return c
}

// testRunsc is a runsc that knows --pass-fd.
func testRunsc(t *testing.T) string {
	t.Helper()
	p := os.Getenv("FSVA_TEST_RUNSC")
	if p == "" {
		p = "/tmp/runsc0"
	}
	if _, err := os.Stat(p); err != nil {
		t.Skipf("needs a runsc (FSVA_TEST_RUNSC): %v", err)
	}
	return p
}

// noLeftovers checks that a volume of c has left nothing.
func noLeftovers(t *testing.T, c Config) {
	t.Helper()
	err := filepath.WalkDir(c.Dirs.Run, func(p string, d os.DirEntry, err error) error {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		rel, _ := filepath.Rel(c.Dirs.Run, p)
		switch rel {
		case ".", "volumes", "control", "locks", "private", "runsc":
		default:
			t.Errorf("left behind: %s", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), c.Dirs.Run) {
		t.Errorf("mounts left behind:\n%s", mounts)
	}
	for _, p := range processesOf(t, c) {
		t.Errorf("process left behind: %s", p)
	}
}

// processesOf lists living processes of the volume: its sandbox, and children
// of this process.
func processesOf(t *testing.T, c Config) []string {
	t.Helper()
	var found []string
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue // just gone
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		mine := fields[1] == fmt.Sprint(os.Getpid())
		if mine || strings.Contains(string(cmdline), c.Dirs.Run) {
			found = append(found, dir+" "+fields[0]+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}
