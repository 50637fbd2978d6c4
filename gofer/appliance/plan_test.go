// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// planManifest has every kind of option; its server is a program that each machine has.
const planManifest = `name = "demo"
description = "a demonstration"
command = ["sh", "-f", "${options}", "${source}", "${mountpoint}"]
mount = "helper"
isolation = "gvisor"
coherence = "exclusive"
source = "file"
root = "host"
capabilities = ["FOWNER", "CHOWN"]
stable-ino = true
read-only-args = ["-o", "ro"]
read-write-args = ["-o", "rw"]
env = { MODE = "quiet", PATH = "/evil" }

[[option]]
name = "label"
description = "a word"
type = "string"
args = ["-o", "label=${value}"]

[[option]]
name = "word"
description = "a word"
type = "string"
args = ["${value}"]

[[option]]
name = "offset"
description = "where it starts"
type = "int"
min = 0
max = 9
default = "7"
args = ["-o", "offset=${value}"]

[[option]]
name = "loud"
description = "say more"
type = "bool"
args = ["-v"]

[[option]]
name = "how"
description = "how it is done"
type = "enum"
values = ["well", "badly"]
args = ["--how=${value}"]
value-args = { badly = ["--oops"] }

[[option]]
name = "key"
description = "a key"
type = "secret-file"
args = ["-k", "${value}"]

[[option]]
name = "list"
description = "a list"
type = "file"
args = ["-l", "${value}"]

[[option]]
name = "cache"
description = "a cache"
type = "dir"
writable = true
args = ["-c", "${value}"]
`

func parseForTest(t *testing.T, text string) Manifest {
	t.Helper()
	m, err := Parse("demo.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// files makes a directory with an image, a private key, a public file, a directory, a fifo and a link to the image.
func files(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"disk.img": 0o644, "od,d.img": 0o644, "key": 0o600, "open": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("disk.img", dir+"/link.img"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestResolve(t *testing.T) {
	dir := files(t)
	m := parseForTest(t, planManifest)
	env := []string{
		"FSVA_CHANNEL_FD=100", "HOME=/tmp", "LANG=C.UTF-8", "MODE=quiet",
		"PATH=/fsva/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp",
	}
	t.Run("defaults", func(t *testing.T) {
		got, err := m.Resolve(VolumeSpec{Name: "v", Source: dir + "/disk.img"})
		if err != nil {
			t.Fatal(err)
		}
		want := Plan{
			Name: "v", Appliance: "demo", Source: dir + "/disk.img", Settings: map[string]string{"offset": "7"},
			Argv:         []string{"sh", "-f", "-o", "rw", "-o", "offset=7", "/source/disk.img", "/volume"},
			Env:          env,
			Binds:        []Bind{{dir + "/disk.img", "/source/disk.img", false}},
			Capabilities: []string{"CHOWN", "FOWNER"},
			Mount:        MountHelper, Mountpoint: "/volume", Root: RootHost,
			Isolation: IsolationGVisor, Coherence: CoherenceExclusive, StableIno: true,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
	})
	t.Run("everything", func(t *testing.T) {
		got, err := m.Resolve(VolumeSpec{
			Name: "v", Source: dir + "/link.img", Isolation: IsolationProcess, Coherence: CoherenceShared, Network: NetworkHost, ReadOnly: true,
			Options: []string{"cache=" + dir + "/sub", "key=" + dir + "/key", "list=" + dir + "/open", "how=badly", "loud", "offset=3", "label=a=b c", "word=w"},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := Plan{
			Name: "v", Appliance: "demo", Source: dir + "/disk.img",
			Settings: map[string]string{
				"offset": "3", "loud": "true", "how": "badly", "label": "a=b c", "word": "w",
				"cache": dir + "/sub", "key": dir + "/key", "list": dir + "/open",
			},
			Argv: []string{
				"sh", "-f", "-o", "ro", "-o", "label=a=b c", "w", "-o", "offset=3", "-v", "--oops",
				"-k", "/fsva/files/key", "-l", "/fsva/files/list", "-c", "/fsva/files/cache", "/source/link.img", "/volume",
			},
			Env: env,
			Binds: []Bind{
				{dir + "/disk.img", "/source/link.img", true},
				{dir + "/key", "/fsva/files/key", true},
				{dir + "/open", "/fsva/files/list", true},
				{dir + "/sub", "/fsva/files/cache", false},
			},
			Capabilities: []string{"CHOWN", "FOWNER"}, Network: true,
			Mount: MountHelper, Mountpoint: "/volume", Root: RootHost,
			Isolation: IsolationProcess, Coherence: CoherenceShared, ReadOnly: true, StableIno: true,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
	})
	t.Run("a name that mount options could misread", func(t *testing.T) {
		got, err := m.Resolve(VolumeSpec{Source: dir + "/od,d.img"})
		if err != nil {
			t.Fatal(err)
		}
		if want := (Bind{dir + "/od,d.img", "/source/image", false}); got.Binds[0] != want {
			t.Errorf("bind: got %v, want %v", got.Binds[0], want)
		}
	})
	t.Run("state", func(t *testing.T) {
		m := parseForTest(t, strings.Replace(planManifest, `"${mountpoint}"]`, `"${mountpoint}", "--state=${state}"]`+"\nstate = true", 1))
		if _, err := m.Resolve(VolumeSpec{Source: dir + "/disk.img"}); err == nil || err.Error() != `appliance "demo" keeps data between runs and was given no directory for it (FSVA_STATEDIR)` {
			t.Errorf("without a directory: got %v", err)
		}
		one, err := m.Resolve(VolumeSpec{Source: dir + "/disk.img", StateDir: "/state/v"})
		if err != nil {
			t.Fatal(err)
		}
		if want := (Bind{one.StateDir, "/fsva/state", false}); !strings.HasPrefix(one.StateDir, "/state/v/demo-") || one.Binds[1] != want || one.Argv[len(one.Argv)-1] != "--state=/fsva/state" {
			t.Errorf("got %q, %v, %q", one.StateDir, one.Binds, one.Argv)
		}
		other, err := m.Resolve(VolumeSpec{Source: dir + "/key", StateDir: "/state/v"})
		if err != nil {
			t.Fatal(err)
		}
		if other.StateDir == one.StateDir {
			t.Errorf("two sources share their state, %s", one.StateDir)
		}
	})
	t.Run("lists", func(t *testing.T) {
		m := parseForTest(t, strings.Replace(planManifest, "env = {", "max-read = 61440\nenv = {", 1)+`
[[option]]
name = "branch"
description = "more of the source"
type = "dir"
list = true
source = true
args = ["-o", "branches=+>${value}=RW"]

[[option]]
name = "layer"
description = "layers"
type = "dir"
list = true
separator = ":"
args = ["-o", "lowerdir=${value}:/source"]

[[option]]
name = "changes"
description = "changes"
type = "dir"
writable = true
make = ["upper", "work"]
args = ["-o", "upperdir=${value}/upper,workdir=${value}/work"]
`)
		spec := VolumeSpec{Source: dir + "/disk.img", Options: []string{
			"layer=" + dir + "/sub", "branch=" + dir + "/sub", "changes=" + dir, "branch=" + dir, "layer=" + dir,
		}}
		got, err := m.Resolve(spec)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{
			"-o", "branches=+>/fsva/files/branch/0=RW", "-o", "branches=+>/fsva/files/branch/1=RW",
			"-o", "lowerdir=/fsva/files/layer/0:/fsva/files/layer/1:/source",
			"-o", "upperdir=/fsva/files/changes/upper,workdir=/fsva/files/changes/work",
		}
		if text := strings.Join(got.Argv, " "); !strings.Contains(text, strings.Join(args, " ")) {
			t.Errorf("command: got %q, without %q", got.Argv, args)
		}
		binds := []Bind{
			{dir + "/disk.img", "/source/disk.img", false},
			{dir + "/sub", "/fsva/files/branch/0", false}, {dir, "/fsva/files/branch/1", false},
			{dir + "/sub", "/fsva/files/layer/0", true}, {dir, "/fsva/files/layer/1", true},
			{dir, "/fsva/files/changes", false},
		}
		if diff := cmp.Diff(binds, got.Binds); diff != "" {
			t.Errorf("binds (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{dir + "/upper", dir + "/work"}, got.Make); diff != "" {
			t.Errorf("directories to make (-want +got):\n%s", diff)
		}
		if got.Settings["layer"] != dir+"/sub:"+dir || got.MaxRead != 61440 {
			t.Errorf("got setting %q and reads of %d bytes", got.Settings["layer"], got.MaxRead)
		}
		spec.ReadOnly = true
		if got, err = m.Resolve(spec); err != nil {
			t.Fatal(err)
		}
		for i := range binds {
			binds[i].ReadOnly = binds[i].Path != "/fsva/files/changes"
		}
		if diff := cmp.Diff(binds, got.Binds); diff != "" {
			t.Errorf("binds of a read-only volume (-want +got):\n%s", diff)
		}
	})
	t.Run("mount by system call", func(t *testing.T) {
		m := m
		m.Mount = MountSyscall
		got, err := m.Resolve(VolumeSpec{Source: dir + "/disk.img"})
		if err != nil {
			t.Fatal(err)
		}
		if env := strings.Join(got.Env, " "); !strings.Contains(env, "LD_PRELOAD=/fsva/bin/libfsvamount.so") || !strings.Contains(env, "FSVA_MOUNTPOINT=/volume") {
			t.Errorf("environment: got %q", env)
		}
	})
	t.Run("mount on a descriptor", func(t *testing.T) {
		m := m
		m.Mount = MountFD
		got, err := m.Resolve(VolumeSpec{Source: dir + "/disk.img"})
		if err != nil {
			t.Fatal(err)
		}
		if got.Mountpoint != "/dev/fd/100" || got.Argv[len(got.Argv)-1] != "/dev/fd/100" {
			t.Errorf("mountpoint: got %q in %q", got.Mountpoint, got.Argv)
		}
	})
}

// TestSourceOfAnother checks that uid 0 gets no more than it needs to open an image.
func TestSourceOfAnother(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changing an image's owner needs root")
	}
	dir := files(t)
	m := parseForTest(t, planManifest)
	m.Capabilities = nil
	for _, tc := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
		readOnly bool
		want     string
	}{
		{"root's own", 0, 0, 0o600, false, ""},
		{"root's own, no mode", 0, 0, 0, false, "DAC_OVERRIDE"},
		{"a user's private", 1000, 1000, 0o600, false, "DAC_OVERRIDE"},
		{"a user's private, read-only", 1000, 1000, 0o600, true, "DAC_READ_SEARCH"},
		{"a user's readable, read-only", 1000, 1000, 0o644, true, ""},
		{"a user's readable", 1000, 1000, 0o644, false, "DAC_OVERRIDE"},
		{"root's group", 1000, 0, 0o660, false, ""},
		{"everybody's", 1000, 1000, 0o666, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			image := dir + "/disk.img"
			if err := os.Chown(image, tc.uid, tc.gid); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(image, tc.mode); err != nil {
				t.Fatal(err)
			}
			p, err := m.Resolve(VolumeSpec{Source: image, ReadOnly: tc.readOnly})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.Capabilities, " "); got != tc.want {
				t.Errorf("capabilities: got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestResolveMistakes(t *testing.T) {
	dir := files(t)
	if err := os.Chmod(dir+"/open", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	image := dir + "/disk.img"
	for _, tc := range []struct {
		name    string
		replace [2]string // in planManifest
		spec    VolumeSpec
		want    string
	}{
		{name: "no source", want: `appliance "demo" needs a source: add --source FILE`},
		{name: "missing source", spec: VolumeSpec{Source: "/no/such"}, want: `source /no/such: no such file or directory: appliance "demo" needs a file`},
		{name: "directory", spec: VolumeSpec{Source: dir}, want: `source DIR is a directory: appliance "demo" needs a file`},
		{name: "fifo", spec: VolumeSpec{Source: dir + "/fifo"}, want: `source DIR/fifo is a fifo: appliance "demo" needs a file`},
		{name: "device", spec: VolumeSpec{Source: "/dev/null"}, want: `source /dev/null is a character device: appliance "demo" needs a file`},
		{name: "file for a directory", replace: [2]string{`source = "file"`, `source = "directory"`}, spec: VolumeSpec{Source: image}, want: `source DIR/disk.img is a file: appliance "demo" needs a directory`},
		{name: "loop of links", spec: VolumeSpec{Source: dir + "/loop"}, want: `source DIR/loop: too many levels of symbolic links: appliance "demo" needs a file`},
		{name: "wrong ending", replace: [2]string{`source = "file"`, `source = "file"` + "\n" + `source-suffixes = [".zip", ".jar"]`}, spec: VolumeSpec{Source: image}, want: `source DIR/disk.img: appliance "demo" needs a file whose name ends in .zip, .jar`},
		{name: "source where none is", replace: [2]string{`source = "file"`, `source = "none"`}, spec: VolumeSpec{Source: image}, want: `appliance "demo" takes no source: remove --source DIR/disk.img`},
		{name: "local for remote", replace: [2]string{`source = "file"`, `source = "remote"`}, spec: VolumeSpec{Source: "/data"}, want: `source "/data" is not of the kind that appliance "demo" needs: [USER@]NAME:[PATH]`},
		{name: "remote that is an argument", replace: [2]string{`source = "file"`, `source = "remote"`}, spec: VolumeSpec{Source: "-oProxyCommand=x:/"}, want: `source "-oProxyCommand=x:/" has a dash where a name starts, so it would be taken for an argument`},
		{name: "bracketed remote that is an argument", replace: [2]string{`source = "file"`, `source = "remote"`}, spec: VolumeSpec{Source: "[-oProxyCommand=x]:/"}, want: `source "[-oProxyCommand=x]:/" has a dash where a name starts, so it would be taken for an argument`},
		{name: "unknown option", spec: VolumeSpec{Options: []string{"ofset=1"}}, want: `appliance "demo" has no option "ofset"; did you mean offset? (it has label, word, offset, loud, how, key, list, cache)`},
		{name: "option twice", spec: VolumeSpec{Options: []string{"offset=1", "offset=1"}}, want: `option "offset" is given twice`},
		{name: "option without a name", spec: VolumeSpec{Options: []string{"=1"}}, want: `option "=1" has no name: write --option NAME=VALUE`},
		{name: "no number", spec: VolumeSpec{Options: []string{"offset=1k"}}, want: `option offset of appliance "demo": "1k" is not a whole number`},
		{name: "number too large", spec: VolumeSpec{Options: []string{"offset=10"}}, want: `option offset of appliance "demo": 10 is above the largest allowed, 9`},
		{name: "no bool", spec: VolumeSpec{Options: []string{"loud=1"}}, want: `option loud of appliance "demo": "1" is neither true nor false`},
		{name: "no such value", spec: VolumeSpec{Options: []string{"how=wel"}}, want: `option how of appliance "demo": "wel" is not one of well, badly; did you mean well?`},
		{name: "no size", replace: [2]string{`type = "string"`, `type = "size"`}, spec: VolumeSpec{Options: []string{"label=lots"}}, want: `option label of appliance "demo": "lots" is not a number of bytes such as 512M`},
		{name: "no mode", replace: [2]string{`type = "string"`, `type = "mode"`}, spec: VolumeSpec{Options: []string{"label=rwx"}}, want: `option label of appliance "demo": "rwx" is not permission bits in octal such as 022`},
		{name: "mode too large", replace: [2]string{`type = "string"`, `type = "mode"`}, spec: VolumeSpec{Options: []string{"label=10000"}}, want: `option label of appliance "demo": "10000" is not permission bits in octal such as 022`},
		{name: "second mount option", spec: VolumeSpec{Options: []string{"label=a,allow_root"}}, want: `option label of appliance "demo": "a,allow_root" contains a comma or a backslash, which would end the mount option`},
		{name: "escaped", spec: VolumeSpec{Options: []string{`label=a\`}}, want: `option label of appliance "demo": "a\\" contains a comma or a backslash, which would end the mount option`},
		{name: "second argument", spec: VolumeSpec{Options: []string{"word=-x"}}, want: `option word of appliance "demo": "-x" starts with a dash, so it would be taken for an argument`},
		{name: "newline", spec: VolumeSpec{Options: []string{"word=a\nb"}}, want: `option word of appliance "demo": "a\nb" contains a control character`},
		{name: "empty", spec: VolumeSpec{Options: []string{"word="}}, want: `option word of appliance "demo": is empty`},
		{name: "value with the separator", replace: [2]string{`type = "string"`, "type = \"string\"\nlist = true\nseparator = \":\""}, spec: VolumeSpec{Options: []string{"label=a", "label=b:c"}}, want: `option label of appliance "demo": "b:c" contains ":", which separates the values of the list`},
		{name: "missing file", spec: VolumeSpec{Options: []string{"list=/no/such"}}, want: `option list of appliance "demo": /no/such: no such file or directory`},
		{name: "directory for a file", spec: VolumeSpec{Options: []string{"list=" + dir}}, want: `option list of appliance "demo": DIR is a directory, not a file`},
		{name: "file for a directory option", spec: VolumeSpec{Options: []string{"cache=" + image}}, want: `option cache of appliance "demo": DIR/disk.img is a file, not a directory`},
		{name: "open secret", spec: VolumeSpec{Options: []string{"key=" + dir + "/open"}}, want: `option key of appliance "demo": DIR/open holds a secret but everybody may use it (mode 0644): chmod o= DIR/open`},
		{name: "required", replace: [2]string{`type = "secret-file"`, `type = "secret-file"` + "\nrequired = true"}, want: `appliance "demo" needs the option "key": add --option key=SECRET-FILE (a key)`},
		{name: "isolation", spec: VolumeSpec{Isolation: "gvsor"}, want: `isolation "gvsor" is not one of gvisor, process that appliance "demo" can have; did you mean gvisor?`},
		{name: "isolation none", spec: VolumeSpec{Isolation: IsolationNone}, want: `appliance "demo" starts a server of its own: its isolation is gvisor or process, not none`},
		{name: "coherence", spec: VolumeSpec{Coherence: "share"}, want: `coherence "share" is not one of exclusive, shared; did you mean shared?`},
		{name: "looser coherence", replace: [2]string{`coherence = "exclusive"`, `coherence = "shared"`}, spec: VolumeSpec{Coherence: CoherenceExclusive}, want: `appliance "demo" is shared, because its files can change elsewhere: a volume cannot make it exclusive`},
		{name: "cache", spec: VolumeSpec{Cache: "write-back"}, want: `cache "write-back" is not one of writethrough, writeback; did you mean writeback?`},
		{name: "shared and write-back", spec: VolumeSpec{Name: "v", Coherence: CoherenceShared, Cache: CacheWriteback}, want: `volume "v" is shared: its cache cannot be writeback`},
		{name: "read-only and write-back", spec: VolumeSpec{Name: "v", ReadOnly: true, Cache: CacheWriteback}, want: `volume "v" is read-only: its cache cannot be writeback`},
		{name: "network", replace: [2]string{`source = "file"`, `source = "file"` + "\nnetwork = true"}, want: `appliance "demo" needs the network: add --network host`},
		{name: "network of no kind", spec: VolumeSpec{Network: "bridge"}, want: `network "bridge" is neither none nor host`},
		{name: "server missing", replace: [2]string{`"sh", "-f"`, `"no-such-server"`}, want: `server of appliance "demo": no-such-server is not installed`},
		{name: "server missing, with package", replace: [2]string{`command = ["sh"`, "package = \"some-server\"\ncommand = [\"no-such-server\""}, want: `server of appliance "demo": no-such-server is not installed: apt-get install some-server`},
		{name: "root missing", replace: [2]string{`root = "host"`, `root = "/no/such"`}, want: `root of appliance "demo": /no/such: no such file or directory`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := parseForTest(t, strings.Replace(planManifest, tc.replace[0], tc.replace[1], 1))
			v := tc.spec
			if v.Source == "" && tc.name != "no source" {
				v.Source = image
			}
			_, err := m.Resolve(v)
			if err == nil {
				t.Fatal("got no error")
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); got != tc.want {
				t.Errorf("\ngot  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestResolveCache(t *testing.T) {
	dir := files(t)
	for _, tc := range []struct {
		manifest string
		spec     VolumeSpec
		want     bool
	}{
		{"", VolumeSpec{}, false},
		{"", VolumeSpec{Cache: CacheWriteback}, true},
		{CacheWriteback, VolumeSpec{}, true},
		{CacheWriteback, VolumeSpec{Cache: CacheWritethrough}, false},
		{CacheWritethrough, VolumeSpec{}, false},
		// The appliance's wish is for those who can have it.
		{CacheWriteback, VolumeSpec{Coherence: CoherenceShared}, false},
		{CacheWriteback, VolumeSpec{ReadOnly: true}, false},
	} {
		m := parseForTest(t, planManifest)
		m.Cache = tc.manifest
		tc.spec.Source = dir + "/disk.img"
		p, err := m.Resolve(tc.spec)
		if err != nil {
			t.Fatal(err)
		}
		if p.WriteBack != tc.want {
			t.Errorf("manifest %q, volume %+v: write-back is %v", tc.manifest, tc.spec, p.WriteBack)
		}
	}
}

func TestResolveInProcess(t *testing.T) {
	dir := files(t)
	m, err := Load("dir")
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Resolve(VolumeSpec{Name: "v", Source: dir + "/sub", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Name: "v", Appliance: "dir", InProcess: InProcessDir, Source: dir + "/sub", Settings: map[string]string{},
		Isolation: IsolationNone, Coherence: CoherenceExclusive, ReadOnly: true, StableIno: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	for _, tc := range []struct {
		spec VolumeSpec
		want string
	}{
		{VolumeSpec{Isolation: IsolationGVisor}, `appliance "dir" runs inside the gofer: its isolation is none, not gvisor`},
		{VolumeSpec{Network: NetworkHost}, `appliance "dir" runs inside the gofer, which has no network: remove --network`},
		{VolumeSpec{Options: []string{"x=1"}}, `appliance "dir" has no options, so not "x" either`},
	} {
		tc.spec.Source = dir
		if _, err := m.Resolve(tc.spec); err == nil || err.Error() != tc.want {
			t.Errorf("\ngot  %v\nwant %s", err, tc.want)
		}
	}
}

// FuzzOption: whatever the value, an option adds the arguments that its manifest lists, no more and no less, and in a
// list of mount options it stays one option.
func FuzzOption(f *testing.F) {
	m, err := Parse("demo.toml", []byte(planManifest))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"a", "-x", "a,b", `a\,b`, "${value}", "a\x00b", "=", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, name := range []string{"label", "word"} {
			p := Plan{Settings: map[string]string{}}
			args, err := m.optionArgs(VolumeSpec{Options: []string{name + "=" + value}}, &p)
			if err != nil {
				continue
			}
			args = args[:len(args)-2] // offset, which has a default
			switch {
			case name == "label" && (len(args) != 4 || args[2] != "-o" || args[3] != "label="+value || strings.Contains(args[3], ",")):
				t.Errorf("label: got %q", args)
			case name == "word" && (len(args) != 3 || args[2] != value || strings.HasPrefix(args[2], "-")):
				t.Errorf("word: got %q", args)
			}
		}
	})
}
