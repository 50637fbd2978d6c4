// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the stage, and the helper inside of it.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "fs-server" {
		os.Exit(Main())
	}
	if filepath.Base(os.Args[0]) == "fusermount3" {
		if len(os.Args) == 2 && os.Args[1] == "echo" {
			os.Exit(echo())
		}
		if len(os.Args) == 3 && os.Args[1] == "dial" {
			os.Exit(dial(os.Args[2]))
		}
		fmt.Println("this is the helper")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dial is a server that copies what it gets from an address to its output.
func dial(addr string) int {
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		_, err = io.Copy(os.Stdout, conn)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// echo is an FS server that answers each message with the same message and ends
// with the channel.
func echo() int {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(ServerFD, buf)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if n == 0 {
			fmt.Println("end of channel")
			return 0
		}
		if _, err := unix.Write(ServerFD, buf[:n]); err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

// stage is a running stage, or what it became.
type stage struct {
	cmd     *exec.Cmd
	channel int // the kernel's end of the FUSE channel
	out     bytes.Buffer
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
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

// newConfig is complete but for Argv.
func newConfig(t *testing.T, isolation string) Config {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Spec:      Spec{Root: HostRoot},
		Volume:    "test.vol_1",
		Isolation: isolation,
		RootDir:   filepath.Join(dir, "root"),
		BundleDir: filepath.Join(dir, "bundle"),
		Hide:      []string{filepath.Join(dir, "hidden")},
		Helper:    exe,
	}
	for _, d := range []string{c.RootDir, c.BundleDir, c.Hide[0]} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if isolation == IsolationGVisor {
		c.Runsc = Runsc{Path: testRunsc(t), Root: filepath.Join(dir, "runsc"), ContainerID: "fsva-test", Platform: "systrap"}
	}
	return c
}

// start starts a stage; the test's end kills it.
func start(t *testing.T, c Config) *stage {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server := os.NewFile(uintptr(pair[1]), "channel")
	defer server.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := &stage{channel: pair[0]}
	s.cmd = exec.Command("/proc/self/exe", "fs-server")
	s.cmd.ExtraFiles = []*os.File{r, server}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: CloneFlags(c.Isolation, c.HostNetwork)}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(s.channel)
		s.cmd.Process.Kill()
		s.cmd.Wait()
		if c.Runsc.Path != "" {
			out, err := exec.Command(c.Runsc.Path, "--root="+c.Runsc.Root, "delete", "--force", c.Runsc.ContainerID).CombinedOutput()
			if err != nil {
				t.Errorf("runsc delete: %v: %s", err, out)
			}
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), filepath.Dir(c.RootDir)) {
			t.Errorf("mounts are left behind:\n%s", mounts)
		}
	})
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// wait returns the output and exit status.
func (s *stage) wait(t *testing.T) (string, int) {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	s.cmd.Wait()
	return s.out.String(), s.cmd.ProcessState.ExitCode()
}

// forBoth runs f under either isolation.
func forBoth(t *testing.T, f func(t *testing.T, c Config)) {
	for _, isolation := range []string{IsolationProcess, IsolationGVisor} {
		t.Run(isolation, func(t *testing.T) { f(t, newConfig(t, isolation)) })
	}
}

// script runs a shell script in place of an FS server.
func script(t *testing.T, c Config, text string) string {
	t.Helper()
	c.Argv = []string{"sh", "-c", text}
	out, code := start(t, c).wait(t)
	if code != 0 {
		t.Fatalf("exit status %d:\n%s", code, out)
	}
	return out
}

func TestServerSeesOnlyItsRoot(t *testing.T) {
	// Unlike the tree of a machine that runs tests, the root of an FS server has
	// nothing of these.
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	forBoth(t, func(t *testing.T, c Config) {
		out := script(t, c, `
			ls -A / | tr '\n' ' '; echo
			for d in /home /mnt /boot /etc/shadow /etc/ssh/ssh_host_rsa_key /work `+secret+` `+c.RootDir+`; do
				test ! -e $d || echo "visible: $d"
			done
			for d in /tmp /root /run /var /source /volume; do
				test -z "$(ls -A $d 2>/dev/null)" || echo "not empty: $d: $(ls -A $d | head -3)"
			done
			for d in / /usr /etc /volume /fsva /fsva/bin; do
				touch $d/new 2>/dev/null && echo "writable: $d"
			done
			for d in /tmp /root /run /var; do
				touch $d/new || echo "not writable: $d"
			done
			if test "$(cat /proc/1/comm)" != sh -a "$(cat /proc/1/cmdline | tr '\0' ' ' | cut -d' ' -f1)" != sh; then echo "not alone: $(cat /proc/1/cmdline)"; fi
			for p in $(ls /proc | grep '^[0-9]'); do echo $p; done | wc -l
		`)
		for _, bad := range []string{"visible:", "not empty:", "writable: ", "not writable:", "not alone:"} {
			if strings.Contains(out, bad) {
				t.Errorf("%s", out)
				break
			}
		}
		names := strings.Fields(strings.SplitN(out, "\n", 2)[0])
		for _, n := range names {
			if n == "sys" && c.Isolation == IsolationGVisor {
				continue // the sentry's, not the host's
			}
			if !slices.Contains([]string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt", "etc", "dev", "proc", "tmp", "run", "root", "var", "volume", "fsva"}, n) {
				t.Errorf("unexpected /%s", n)
			}
		}
	})
}

func TestServerPrivileges(t *testing.T) {
	forBoth(t, func(t *testing.T, c Config) {
		c.Capabilities = []string{"CHOWN", "CAP_DAC_OVERRIDE"}
		out := script(t, c, `grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Uid|Groups)' /proc/self/status; ls /proc/self/fd | tr '\n' ' '; hostname; cat /proc/net/dev`)
		for _, want := range []string{"CapPrm:\t0000000000000003", "CapEff:\t0000000000000003", "CapBnd:\t0000000000000003", "test-vol-1"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
		if strings.Contains(out, "NoNewPrivs:\t0") {
			t.Errorf("no_new_privs is not set:\n%s", out)
		}
		for _, line := range strings.Split(out, "\n") {
			if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.Contains(line, " 0 ") && name != "lo" {
				t.Errorf("network interface: %s", line)
			}
		}
	})
}

func TestHostNetwork(t *testing.T) {
	forBoth(t, func(t *testing.T, c Config) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		accepted := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = conn.Write([]byte("hello from the host"))
				conn.Close()
			}
			accepted <- err
		}()
		c.HostNetwork = true
		c.Argv = []string{"fusermount3", "dial", l.Addr().String()}
		if out, code := start(t, c).wait(t); code != 0 || out != "hello from the host" {
			t.Errorf("status %d: %s", code, out)
		}
		if err := <-accepted; err != nil {
			t.Error(err)
		}
		c.HostNetwork = false
		c.RootDir += "2"
		if err := os.Mkdir(c.RootDir, 0o700); err != nil {
			t.Fatal(err)
		}
		c.Runsc.ContainerID += "2"
		if out, code := start(t, c).wait(t); code == 0 {
			t.Errorf("the host was reached without its network: %s", out)
		}
	})
}

func TestServerDescriptors(t *testing.T) {
	forBoth(t, func(t *testing.T, c Config) {
		out := script(t, c, `for i in 3 4 5 6 7 8 9; do test ! -e /dev/fd/$i || echo open: $i; done; test -e /dev/fd/100 && echo channel`)
		if strings.Contains(out, "open:") || !strings.Contains(out, "channel") {
			t.Errorf("descriptors:\n%s", out)
		}
	})
}

func TestChannelReachesServer(t *testing.T) {
	forBoth(t, func(t *testing.T, c Config) {
		c.Argv = []string{"fusermount3", "echo"}
		s := start(t, c)
		if _, err := unix.Write(s.channel, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		n, err := unix.Read(s.channel, buf)
		if err != nil || string(buf[:n]) != "ping" {
			t.Fatalf("read %d bytes of %q, %v", n, buf, err)
		}
		if err := unix.Shutdown(s.channel, unix.SHUT_RDWR); err != nil {
			t.Fatal(err)
		}
		if out, code := s.wait(t); !strings.Contains(out, "end of channel") || code != 0 {
			t.Errorf("end of the channel was not noticed: status %d, %s", code, out)
		}
	})
}

func TestHelperComesFirst(t *testing.T) {
	forBoth(t, func(t *testing.T, c Config) {
		c.Env = []string{"PATH=/usr/bin:/bin", "X=1"}
		out := script(t, c, `fusermount3; test ! -e /usr/bin/fusermount3 || /usr/bin/fusermount3; echo "$PATH $X $HOME"; exec 3<>/dev/fuse && echo fuse opened`)
		want := 1
		if _, err := os.Stat("/usr/bin/fusermount3"); err == nil {
			want = 2
		}
		if n := strings.Count(out, "this is the helper"); n != want {
			t.Errorf("helper ran %d times, want %d:\n%s", n, want, out)
		}
		if !strings.Contains(out, "/fsva/bin:/usr/bin:/bin 1 /root") || !strings.Contains(out, "fuse opened") {
			t.Errorf("environment:\n%s", out)
		}
	})
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("contents"), 0o644); err != nil {
		t.Fatal(err)
	}
	forBoth(t, func(t *testing.T, c Config) {
		c.Binds = []Bind{
			{Host: dir, Target: "/source"},
			{Host: filepath.Join(dir, "f"), Target: "/fsva/files/key", ReadOnly: true},
			{Host: dir, Target: "/other/place", ReadOnly: true},
		}
		out := script(t, c, `cat /source/f /fsva/files/key /other/place/f; echo changed > /source/new
			echo x 2>/dev/null >> /fsva/files/key && echo BAD; touch /other/place/no 2>/dev/null && echo BAD; true`)
		if out != "contentscontentscontents" {
			t.Errorf("output %q", out)
		}
		b, err := os.ReadFile(filepath.Join(dir, "new"))
		if err != nil || string(b) != "changed\n" {
			t.Errorf("writable source: %q, %v", b, err)
		}
		os.Remove(filepath.Join(dir, "new"))
	})
}

// TestHostileImage has links that would lead out of the image if they were
// followed by path on the host.
func TestHostileImage(t *testing.T) {
	victim := t.TempDir()
	img := t.TempDir()
	for _, d := range []string{"etc", "real/bin"} {
		if err := os.MkdirAll(filepath.Join(img, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := busybox(t)
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(img, "real/bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"usr": "../../../.." + victim, "lib": "/real", "var": victim, "bin": "real/bin", "real/bin/sh": "busybox",
		"real/bin/fusermount3": "../../../../.." + victim + "/x", "out": "/proc/self/root",
	} {
		if err := os.Symlink(to, filepath.Join(img, name)); err != nil {
			t.Fatal(err)
		}
	}
	forBoth(t, func(t *testing.T, c Config) {
		c.Root = img
		c.Argv = []string{"/bin/sh", "-c", "/bin/busybox ls /"}
		out, code := start(t, c).wait(t)
		left, err := os.ReadDir(victim)
		if err != nil || len(left) != 0 {
			t.Errorf("the host was touched: %v, %v", left, err)
		}
		// A dangling link where a directory is needed is refused.
		if code == 0 {
			t.Errorf("accepted: %s", out)
		} else if !strings.HasPrefix(out, "fsva: ") || strings.Count(out, "\n") != 1 {
			t.Errorf("status %d, not one line: %s", code, out)
		}
	})
}

// TestImage runs a server from a directory that holds nothing but itself.
func TestImage(t *testing.T) {
	img := t.TempDir()
	b, err := os.ReadFile(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"usr/bin", "home", "sys", "hidden"} {
		if err := os.MkdirAll(filepath.Join(img, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"usr/bin/busybox", "usr/bin/fusermount3"} {
		if err := os.WriteFile(filepath.Join(img, f), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(img, "hidden/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/bin", filepath.Join(img, "bin")); err != nil {
		t.Fatal(err)
	}
	forBoth(t, func(t *testing.T, c Config) {
		c.Root = img
		c.Hide = append(c.Hide, filepath.Join(img, "hidden"), filepath.Join(img, "absent"))
		c.Argv = []string{"busybox", "sh", "-c", "busybox ls /; busybox ls /hidden; /bin/fusermount3"}
		out, code := start(t, c).wait(t)
		got := strings.Fields(out)
		if c.Isolation == IsolationGVisor { // gVisor always has it
			got = slices.DeleteFunc(got, func(s string) bool { return s == "sys" })
		}
		want := strings.Fields("bin dev fsva hidden home proc root run tmp usr var volume this is the helper")
		if code != 0 || !slices.Equal(got, want) {
			t.Errorf("status %d, got %q, want %q", code, got, want)
		}
	})
}

// busybox is a static program with a shell.
func busybox(t *testing.T) string {
	t.Helper()
	p, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox (apt install busybox-static)")
	}
	if out, err := exec.Command("ldd", p).CombinedOutput(); err == nil {
		t.Skipf("needs a static busybox (apt install busybox-static): %s", out)
	}
	return p
}

func TestStageErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no such program", func(c *Config) { c.Argv = []string{"no-such-server"} }, "no-such-server: not found"},
		{"no such program by path", func(c *Config) { c.Argv = []string{"/no/such"} }, "/no/such: not found"},
		{"no such source", func(c *Config) { c.Binds = []Bind{{Host: "/no/such", Target: "/source"}} }, "/no/such"},
		{"no such root", func(c *Config) { c.Root = "/no/such" }, "appliance root"},
		{"bad bind", func(c *Config) { c.Binds = []Bind{{Host: "/etc", Target: "/source/../x"}} }, "cannot bind"},
		{"capability", func(c *Config) { c.Capabilities = []string{"SYS_MODULE"} }, "SYS_MODULE"},
		{"no shim", func(c *Config) { c.Preload = true }, "libfsvamount.so"},
		{"no command", func(c *Config) { c.Argv = nil }, "no command"},
		{"isolation", func(c *Config) { c.Isolation = "none" }, "isolation"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newConfig(t, IsolationProcess)
			c.Argv = []string{"true"}
			tc.change(&c)
			out, code := start(t, c).wait(t)
			if code != StageFailed || !strings.HasPrefix(out, "fsva: ") || !strings.Contains(out, tc.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("status %d, output %q; want one line with %q", code, out, tc.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	c := Config{Spec: Spec{Preload: true, Env: []string{"A=1", "PATH=/x", "A=2", "HOME=/h", "LD_PRELOAD=evil"}}}
	want := []string{"PATH=/fsva/bin:/x", "HOME=/h", "A=2", "LD_PRELOAD=/fsva/bin/libfsvamount.so"}
	if got := c.environ(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// Batches are worth having, not worth failing for.
	for shim, want := range map[string][]string{
		"":     {"HOME=/h", "FSVA_BATCH=1"},
		"/lib": {"HOME=/h", "LD_PRELOAD=/fsva/bin/libfsvamount.so", "FSVA_BATCH=1"},
	} {
		c := Config{Spec: Spec{Batch: true, Env: []string{"HOME=/h"}}, Shim: shim}
		if got := c.environ()[1:]; !slices.Equal(got, want) {
			t.Errorf("batch with shim %q: got %q, want %q", shim, got, want)
		}
	}
}

func TestRunscArguments(t *testing.T) {
	c := Config{
		Spec:      Spec{Argv: []string{"x"}, Root: HostRoot, Capabilities: []string{"CHOWN"}, Binds: []Bind{{Host: "/h", Target: "/t", ReadOnly: true}}},
		RootDir:   "/r",
		BundleDir: "/b",
		Runsc:     Runsc{Path: "/p", Root: "/rr", ContainerID: "id", Platform: "ptrace", DebugLog: "/d/"},
	}
	args := strings.Join(runscArgs(&c), " ")
	want := "runsc --root=/rr --network=none --platform=ptrace --ignore-cgroups --overlay2=none --debug --debug-log=/d/ run --bundle=/b --pass-fd=100:100 id"
	if args != want {
		t.Errorf("got  %s\nwant %s", args, want)
	}
	c.HostNetwork = true
	if args := strings.Join(runscArgs(&c), " "); !strings.Contains(args, "--network=host") {
		t.Errorf("got %s", args)
	}
	s := bundleSpec(&c)
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == "network" {
			t.Error("own network namespace with the host's network")
		}
	}
	if !s.Root.Readonly || !slices.Equal(s.Process.Capabilities.Bounding, []string{"CAP_CHOWN"}) || len(s.Process.Capabilities.Ambient) != 0 {
		t.Errorf("privileges: %+v %+v", s.Root, s.Process.Capabilities)
	}
	if m := s.Mounts[len(s.Mounts)-1]; m.Destination != "/t" || !slices.Contains(m.Options, "ro") {
		t.Errorf("bind: %+v", m)
	}
}
