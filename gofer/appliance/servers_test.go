// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/appliance"
)

// serverCase is one appliance with a server of its own.
type serverCase struct {
	name string
	// make returns a volume whose root has hello.txt, its hard link link.txt where the format knows hard links, and the
	// directory sub.
	make func(t *testing.T) appliance.VolumeSpec
	// filled says that the source holds those files; they are made through the server otherwise.
	filled    bool
	readOnly  bool
	stableIno bool
	// owners, hardLinks, symlinks and xattrs are what the server supports natively.
	owners, hardLinks, symlinks, xattrs bool
	// check looks at the source after the server has ended.
	check func(t *testing.T, v appliance.VolumeSpec)
}

var serverCases = []serverCase{
	{
		name: "squashfs", filled: true, readOnly: true, stableIno: true, hardLinks: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			image := filepath.Join(t.TempDir(), "x.squashfs")
			command(t, "mksquashfs", tree(t), image, "-quiet", "-no-progress")
			return appliance.VolumeSpec{Source: image}
		},
	},
	{
		name: "ext4", filled: true, owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			image := filepath.Join(t.TempDir(), "x.ext4")
			command(t, "mkfs.ext4", "-q", "-d", tree(t), image, "64M")
			// As often as not it belongs to a user.
			if err := errors.Join(os.Chown(image, 1000, 1000), os.Chmod(image, 0o600)); err != nil {
				t.Fatal(err)
			}
			return appliance.VolumeSpec{Source: image}
		},
		check: func(t *testing.T, v appliance.VolumeSpec) { command(t, "e2fsck", "-f", "-n", v.Source) },
	},
	{
		name: "exfat",
		make: func(t *testing.T) appliance.VolumeSpec {
			image := filepath.Join(t.TempDir(), "x.exfat")
			write(t, image, "", 0o600)
			if err := os.Truncate(image, 64<<20); err != nil {
				t.Fatal(err)
			}
			command(t, "mkfs.exfat", image)
			return appliance.VolumeSpec{Source: image}
		},
		check: func(t *testing.T, v appliance.VolumeSpec) { command(t, "fsck.exfat", "-n", v.Source) },
	},
	{
		name: "iso", filled: true, readOnly: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			image := filepath.Join(t.TempDir(), "x.iso")
			command(t, "genisoimage", "-quiet", "-R", "-J", "-o", image, tree(t))
			return appliance.VolumeSpec{Source: image}
		},
	},
	{
		name: "mergerfs", filled: true, owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			return appliance.VolumeSpec{Source: t.TempDir(), Options: []string{"branch=" + tree(t), "branch=" + t.TempDir(), "min-free-space=1M"}}
		},
	},
	{
		name: "fuse-overlayfs", filled: true, owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			return appliance.VolumeSpec{Source: tree(t), Options: []string{"layer=" + t.TempDir(), "layer=" + t.TempDir(), "changes=" + t.TempDir()}}
		},
	},
	{
		name: "bindfs", filled: true, owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec { return appliance.VolumeSpec{Source: tree(t)} },
	},
	{
		name: "gocryptfs", stableIno: true, owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			dir := t.TempDir()
			password, source := filepath.Join(dir, "password"), filepath.Join(dir, "source")
			write(t, password, "secret\n", 0o600)
			if err := os.Mkdir(source, 0o755); err != nil {
				t.Fatal(err)
			}
			command(t, "gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", password, source)
			return appliance.VolumeSpec{Source: source, Options: []string{"passfile=" + password}}
		},
	},
	{
		name: "rclone", filled: true,
		make: func(t *testing.T) appliance.VolumeSpec { return appliance.VolumeSpec{Source: tree(t)} },
	},
	{name: "sshfs", filled: true, owners: true, hardLinks: true, symlinks: true, make: sshServer},
	{
		name: "ntfs", owners: true, hardLinks: true, symlinks: true, xattrs: true,
		make: func(t *testing.T) appliance.VolumeSpec {
			image := filepath.Join(t.TempDir(), "x.ntfs")
			write(t, image, "", 0o600)
			if err := os.Truncate(image, 64<<20); err != nil {
				t.Fatal(err)
			}
			command(t, "mkntfs", "-F", "-q", image)
			return appliance.VolumeSpec{Source: image}
		},
		check: func(t *testing.T, v appliance.VolumeSpec) { command(t, "ntfsfix", "--no-action", v.Source) },
	},
}

// TestServers starts each server as it is, without a change, and uses it through its channel.
func TestServers(t *testing.T) {
	needRoot(t)
	for _, tc := range serverCases {
		for _, isolation := range []string{appliance.IsolationProcess, appliance.IsolationGVisor} {
			t.Run(tc.name+"/"+isolation, func(t *testing.T) {
				v := tc.make(t)
				v.Name, v.Isolation, v.StateDir = "test", isolation, t.TempDir()
				if !tc.readOnly {
					t.Run("read-write", func(t *testing.T) { tc.run(t, v) })
					t.Run("again", func(t *testing.T) { tc.again(t, v) })
					if tc.check != nil {
						tc.check(t, v)
					}
				}
				v.ReadOnly = true
				t.Run("read-only", func(t *testing.T) { tc.run(t, v) })
			})
		}
	}
}

// start starts the server for a volume.
func (tc *serverCase) start(t *testing.T, v appliance.VolumeSpec) *server {
	t.Helper()
	m, err := appliance.Load(tc.name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Resolve(v)
	if err != nil {
		t.Fatal(err)
	}
	if p.StableIno != tc.stableIno {
		t.Errorf("stable inode numbers: got %v, want %v", p.StableIno, tc.stableIno)
	}
	for _, dir := range p.Make {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if p.StateDir != "" {
		if err := os.MkdirAll(p.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, p)
}

// again starts the server once more and looks for what change left.
func (tc *serverCase) again(t *testing.T, v appliance.VolumeSpec) {
	s := tc.start(t, v)
	sub := s.lookup(fuse.FUSE_ROOT_ID, "sub")
	renamed := s.lookup(sub.NodeId, "renamed")
	if got := s.content(renamed.NodeId); got != "written\n" {
		t.Errorf("renamed, after a restart: got %q", got)
	}
	root := header(fuse.FUSE_ROOT_ID)
	var out fuse.EntryOut
	if st := s.Lookup(nil, &root, "new", &out); st.Ok() && out.NodeId != 0 {
		t.Error("after a restart the file is there by its old name too")
	}
}

// run starts the server and tries what an application would.
func (tc *serverCase) run(t *testing.T, v appliance.VolumeSpec) {
	s := tc.start(t, v)
	init := s.InitOut()
	t.Logf("%s: FUSE 7.%d, flags %#x, MaxWrite %d, MaxRead %d", tc.name, init.Minor, init.Flags, s.MaxWrite(), s.MaxRead())
	if !tc.filled && !v.ReadOnly {
		s.fill(tc)
	}
	s.readAll(tc)
	if v.ReadOnly {
		var out fuse.EntryOut
		if st := s.Mkdir(nil, &fuse.MkdirIn{InHeader: header(fuse.FUSE_ROOT_ID), Mode: 0o755}, "no", &out); st != fuse.EROFS {
			t.Errorf("mkdir on a read-only volume: got %v, want EROFS", st)
		}
		return
	}
	s.change(tc)
}

// header is that of the gofer's own requests: from root.
func header(node uint64) fuse.InHeader { return fuse.InHeader{NodeId: node} }

// must fails the test when an operation did.
func (s *server) must(st fuse.Status, op string, args ...any) {
	s.t.Helper()
	if !st.Ok() {
		s.t.Fatalf("%s: %v", fmt.Sprintf(op, args...), st)
	}
}

func (s *server) lookup(parent uint64, name string) fuse.EntryOut {
	s.t.Helper()
	var out fuse.EntryOut
	h := header(parent)
	s.must(s.Lookup(nil, &h, name, &out), "lookup %s", name)
	return out
}

// create makes a file as an application of uid and gid 1000 would see it done: the request carries them, and an owner
// that the server did not set is changed afterwards.
func (s *server) create(tc *serverCase, parent uint64, name, text string) fuse.EntryOut {
	s.t.Helper()
	in := fuse.CreateIn{InHeader: header(parent), Flags: uint32(os.O_RDWR | os.O_CREATE), Mode: 0o100640}
	in.Uid, in.Gid = 1000, 1000
	var out fuse.CreateOut
	s.must(s.Create(nil, &in, name, &out), "create %s", name)
	n, st := s.Write(nil, &fuse.WriteIn{InHeader: header(out.NodeId), Fh: out.Fh, Size: uint32(len(text))}, []byte(text))
	s.must(st, "write %s", name)
	if int(n) != len(text) {
		s.t.Errorf("write %s: got %d bytes, want %d", name, n, len(text))
	}
	s.must(s.Flush(nil, &fuse.FlushIn{InHeader: header(out.NodeId), Fh: out.Fh}), "flush %s", name)
	s.Release(nil, &fuse.ReleaseIn{InHeader: header(out.NodeId), Fh: out.Fh})
	if tc.owners {
		e := s.lookup(parent, name)
		s.t.Logf("created by 1000:1000, owner %d:%d, mode %o", e.Uid, e.Gid, e.Mode)
		var attr fuse.AttrOut
		set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(e.NodeId), Valid: fuse.FATTR_UID | fuse.FATTR_GID, Owner: fuse.Owner{Uid: 1000, Gid: 1000}}}
		s.must(s.SetAttr(nil, &set, &attr), "chown %s", name)
		if attr.Uid != 1000 || attr.Gid != 1000 {
			s.t.Errorf("owner of %s: got %d:%d, want 1000:1000", name, attr.Uid, attr.Gid)
		}
	}
	return out.EntryOut
}

// fill makes what tree makes, through the server.
func (s *server) fill(tc *serverCase) {
	s.t.Helper()
	file := s.create(tc, fuse.FUSE_ROOT_ID, "hello.txt", "hello\n")
	var out fuse.EntryOut
	if tc.hardLinks {
		s.must(s.Link(nil, &fuse.LinkIn{InHeader: header(fuse.FUSE_ROOT_ID), Oldnodeid: file.NodeId}, "link.txt", &out), "link")
	} else {
		s.create(tc, fuse.FUSE_ROOT_ID, "link.txt", "")
	}
	s.must(s.Mkdir(nil, &fuse.MkdirIn{InHeader: header(fuse.FUSE_ROOT_ID), Mode: 0o755}, "sub", &out), "mkdir")
}

// readAll looks at what tree or fill made.
func (s *server) readAll(tc *serverCase) {
	s.t.Helper()
	var attr fuse.AttrOut
	s.must(s.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(fuse.FUSE_ROOT_ID)}, &attr), "getattr of the root")
	if !attr.IsDir() {
		s.t.Errorf("mode of the root: got %o, want a directory", attr.Mode)
	}
	var statfs fuse.StatfsOut
	root := header(fuse.FUSE_ROOT_ID)
	s.must(s.StatFs(nil, &root, &statfs), "statfs")
	names := s.names()
	for _, name := range []string{"hello.txt", "link.txt", "sub"} {
		if !slices.Contains(names, name) {
			s.t.Errorf("names: got %q, without %s", names, name)
		}
	}
	hello, link := s.lookup(fuse.FUSE_ROOT_ID, "hello.txt"), s.lookup(fuse.FUSE_ROOT_ID, "link.txt")
	s.t.Logf("hello.txt: node %d, ino %d, nlink %d, owner %d:%d, mode %o; link.txt: node %d, ino %d; root: ino %d", hello.NodeId, hello.Ino, hello.Nlink, hello.Uid, hello.Gid, hello.Mode, link.NodeId, link.Ino, attr.Ino)
	if tc.stableIno && (hello.Ino != link.Ino || hello.Ino == 0) {
		s.t.Errorf("inode numbers of two names of a file: got %d and %d, want the same", hello.Ino, link.Ino)
	}
	if sub := s.lookup(fuse.FUSE_ROOT_ID, "sub"); sub.Ino == hello.Ino || !sub.IsDir() {
		s.t.Errorf("sub: got ino %d and mode %o, want a directory with an ino other than %d", sub.Ino, sub.Mode, hello.Ino)
	}
	if tc.hardLinks && tc.stableIno && hello.Nlink != 2 {
		s.t.Errorf("nlink: got %d, want 2", hello.Nlink)
	}
	if got := s.content(hello.NodeId); got != "hello\n" {
		s.t.Errorf("hello.txt: got %q", got)
	}
	var none fuse.EntryOut
	if st := s.Lookup(nil, &root, "missing", &none); st != fuse.ENOENT && !(st.Ok() && none.NodeId == 0) {
		s.t.Errorf("lookup of a missing file: got %v, want ENOENT", st)
	}
}

// names lists the root.
func (s *server) names() []string {
	s.t.Helper()
	var open fuse.OpenOut
	s.must(s.OpenDir(nil, &fuse.OpenIn{InHeader: header(fuse.FUSE_ROOT_ID)}, &open), "opendir")
	var names []string
	for offset := uint64(0); ; {
		list := fuse.NewDirEntryList(make([]byte, 64<<10), offset)
		s.must(s.ReadDir(nil, &fuse.ReadIn{InHeader: header(fuse.FUSE_ROOT_ID), Fh: open.Fh, Offset: offset, Size: 64 << 10}, list), "readdir")
		entries, err := fuse.ParseDirEntries(list.Bytes())
		if err != nil {
			s.t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			names = append(names, e.Name)
			offset = e.Off
		}
	}
	s.ReleaseDir(&fuse.ReleaseIn{InHeader: header(fuse.FUSE_ROOT_ID), Fh: open.Fh})
	return names
}

// content reads a small file.
func (s *server) content(node uint64) string {
	s.t.Helper()
	var open fuse.OpenOut
	s.must(s.Open(nil, &fuse.OpenIn{InHeader: header(node)}, &open), "open")
	buf := make([]byte, 4096)
	r, st := s.Read(nil, &fuse.ReadIn{InHeader: header(node), Fh: open.Fh, Size: uint32(len(buf))}, buf)
	s.must(st, "read")
	data, st := r.Bytes(buf)
	s.must(st, "read")
	text := string(data)
	r.Done()
	s.Release(nil, &fuse.ReleaseIn{InHeader: header(node), Fh: open.Fh})
	return text
}

// change does what a read-write volume is for.
func (s *server) change(tc *serverCase) {
	s.t.Helper()
	root := header(fuse.FUSE_ROOT_ID)
	sub := s.lookup(fuse.FUSE_ROOT_ID, "sub")
	file := s.create(tc, fuse.FUSE_ROOT_ID, "new", "written\n")
	var attr fuse.AttrOut
	var out fuse.EntryOut
	// The file is open while it is truncated, as rclone cannot truncate by name what it has not uploaded yet.
	var open fuse.OpenOut
	s.must(s.Open(nil, &fuse.OpenIn{InHeader: header(file.NodeId), Flags: uint32(os.O_RDWR)}, &open), "open for writing")
	set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(file.NodeId), Valid: fuse.FATTR_SIZE, Size: 7}}
	s.must(s.SetAttr(nil, &set, &attr), "truncate")
	if attr.Size != 7 {
		s.t.Errorf("truncated: got %d bytes, want 7", attr.Size)
	}
	set.Size = 8
	s.must(s.SetAttr(nil, &set, &attr), "truncate up")
	if got := s.content(file.NodeId); got != "written\x00" {
		s.t.Errorf("truncated twice: got %q", got)
	}
	_, st := s.Write(nil, &fuse.WriteIn{InHeader: header(file.NodeId), Fh: open.Fh, Offset: 7, Size: 1}, []byte("\n"))
	s.must(st, "write in the middle")
	if st := s.Fsync(nil, &fuse.FsyncIn{InHeader: header(file.NodeId), Fh: open.Fh}); !st.Ok() && st != fuse.ENOSYS {
		s.t.Errorf("fsync: %v", st)
	}
	s.must(s.Flush(nil, &fuse.FlushIn{InHeader: header(file.NodeId), Fh: open.Fh}), "flush")
	s.Release(nil, &fuse.ReleaseIn{InHeader: header(file.NodeId), Fh: open.Fh})
	if tc.hardLinks {
		s.must(s.Link(nil, &fuse.LinkIn{InHeader: root, Oldnodeid: file.NodeId}, "second", &out), "link")
		s.must(s.Unlink(nil, &root, "second"), "unlink")
	}
	if tc.symlinks {
		s.must(s.Symlink(nil, &root, "sub/renamed", "symlink", &out), "symlink")
		h := header(out.NodeId)
		target, st := s.Readlink(nil, &h)
		s.must(st, "readlink")
		if string(target) != "sub/renamed" {
			s.t.Errorf("symlink: got %q", target)
		}
	}
	if tc.xattrs {
		s.must(s.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: header(file.NodeId)}, "user.fsva", []byte("value")), "setxattr")
		buf := make([]byte, 64)
		h := header(file.NodeId)
		n, st := s.GetXAttr(nil, &h, "user.fsva", buf)
		s.must(st, "getxattr")
		if string(buf[:n]) != "value" {
			s.t.Errorf("xattr: got %q", buf[:n])
		}
	}
	if tc.owners {
		set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(file.NodeId), Valid: fuse.FATTR_MODE, Mode: 0o100755}}
		s.must(s.SetAttr(nil, &set, &attr), "chmod")
		if attr.Mode&0o7777 != 0o755 {
			s.t.Errorf("chmod: got %o, want 755", attr.Mode)
		}
	}
	s.must(s.Rename(nil, &fuse.RenameIn{InHeader: root, Newdir: sub.NodeId}, "new", "renamed"), "rename")
	renamed := s.lookup(sub.NodeId, "renamed")
	if got := s.content(renamed.NodeId); got != "written\n" {
		s.t.Errorf("renamed: got %q", got)
	}
	big := strings.Repeat("0123456789abcdef", s.MaxWrite()/16)
	s.create(tc, fuse.FUSE_ROOT_ID, "big", big)
	if e := s.lookup(fuse.FUSE_ROOT_ID, "big"); e.Size != uint64(len(big)) {
		s.t.Errorf("big: got %d bytes, want %d", e.Size, len(big))
	}
	s.must(s.Mkdir(nil, &fuse.MkdirIn{InHeader: root, Mode: 0o755}, "gone", &out), "mkdir")
	s.must(s.Rmdir(nil, &root, "gone"), "rmdir")
}

// tree makes the files that a filled volume has.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "hello.txt"), "hello\n", 0o644)
	if err := os.Link(filepath.Join(dir, "hello.txt"), filepath.Join(dir, "link.txt")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// sshServer starts an sshd for one key and one directory on the loopback interface.
func sshServer(t *testing.T) appliance.VolumeSpec {
	t.Helper()
	dir, source := t.TempDir(), tree(t)
	for _, key := range []string{"host", "user"} {
		command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
	}
	public, err := os.ReadFile(filepath.Join(dir, "user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "authorized"), string(public), 0o600)
	// We listen ourselves and start sshd -i, so no other process can take the port in between.
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	hostKey, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "known"), fmt.Sprintf("[127.0.0.1]:%d %s", port, hostKey), 0o644)
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { serveSSH(t, &running, listener, dir) })
	t.Cleanup(func() {
		listener.Close()
		running.Wait() // each sshd ends with its client
	})
	return appliance.VolumeSpec{
		Source: "root@127.0.0.1:" + source, Network: appliance.NetworkHost,
		Options: []string{"identity=" + filepath.Join(dir, "user"), "known-hosts=" + filepath.Join(dir, "known"), "port=" + strconv.Itoa(port)},
	}
}

// serveSSH runs one sshd for each connection until the listener is closed, and adds them to running.
func serveSSH(t *testing.T, running *sync.WaitGroup, listener *net.TCPListener, dir string) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		file, err := conn.File()
		conn.Close()
		if err != nil {
			t.Error(err)
			return
		}
		cmd := exec.Command("/usr/sbin/sshd", "-i", "-e", "-f", "/dev/null",
			"-h", filepath.Join(dir, "host"), "-o", "AuthorizedKeysFile="+filepath.Join(dir, "authorized"),
			"-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "Subsystem=sftp internal-sftp")
		cmd.Stdin, cmd.Stdout = file, file
		err = cmd.Start()
		file.Close()
		if err != nil {
			t.Error(err)
			return
		}
		running.Go(func() { _ = cmd.Wait() }) // the client has noticed if it failed
	}
}
