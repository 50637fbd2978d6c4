// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fsva/e2e/harness"
)

// inPackageSystem runs commands on a copy-on-write copy of this machine's root file system that is the root for real,
// because runsc refuses to work in a chroot. Its mounts end with it.
const inPackageSystem = `set -eu
cd "$1"
mount -t tmpfs none .
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=upper,workdir=work" none root
cp "$2" root/fsva.deb
cd root
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs none run
mount -t tmpfs none tmp
mkdir old
pivot_root . old
umount -l old
unset FSVA_RUNDIR FSVA_STATEDIR FSVA_RUNSC FSVA_IMAGES
hash -r
eval "$3"
`

// The Debian package is the same when it is made twice, installs, works, and leaves nothing when it is purged.
func TestDebianPackage(t *testing.T) {
	harness.NeedRoot(t)
	harness.NeedCommand(t, "gcc", "gcc")
	harness.NeedCommand(t, "strip", "binutils")
	harness.NeedCommand(t, "dpkg-deb", "dpkg")
	dir := env.TempDir(t)
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fsva", "runsc", "containerd-shim-runsc-v1"} {
		if err := os.Symlink(env.Binary(t, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	harness.Must(t, filepath.Join(env.Root, "gofer/mountshim/build.sh"), filepath.Join(bin, "libfsvamount.so"))

	const version = "9.8.7"
	var packages [2][]byte
	var sums [2]string
	var file string
	for i, name := range []string{"first", "second"} {
		vars := []string{"FSVA_BIN_DIR=" + bin, "SOURCE_DATE_EPOCH=1700000000", "DEB_COMPRESSION=none"}
		r := harness.Run(t, 4*time.Minute, vars, filepath.Join(env.Root, "scripts/deb"), version, filepath.Join(dir, name))
		if r.Code != 0 {
			t.Fatalf("scripts/deb: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		file = strings.TrimSpace(r.Stdout)
		var err error
		if packages[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		sums[i] = harness.Must(t, "sh", "-c", `dpkg-deb --ctrl-tarfile "$0" | tar -xO ./md5sums`, file)
	}
	if !bytes.Equal(packages[0], packages[1]) {
		t.Errorf("the package is another one when it is made again; sums of files (-first +second):\n%s", cmp.Diff(
			strings.Split(sums[0], "\n"), strings.Split(sums[1], "\n")))
	}
	packages = [2][]byte{}

	system := func(name, commands string) string {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		r := harness.Run(t, 4*time.Minute, nil, "unshare", "--mount", "bash", "-c", inPackageSystem, "system", at, file, commands)
		if r.Code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	// With the capabilities of the unit, sandboxes can be made.
	unit, err := os.ReadFile(filepath.Join(env.Root, "packaging/systemd/fsva@.service"))
	if err != nil {
		t.Fatal(err)
	}
	dropped := regexp.MustCompile(`(?m)^CapabilityBoundingSet=~(.*)$`).FindSubmatch(unit)
	if dropped == nil {
		t.Fatal("the unit drops no capabilities")
	}
	set := "-" + strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(string(dropped[1]), "CAP_", "")), " ", ",-")

	out := system("install", `
dpkg -i /fsva.deb >/dev/null
dpkg-query -W fsva
/usr/bin/fsva --version
for f in $(dpkg -L fsva | grep -v '^/\.$'); do [ -e "$f" ] || [ -L "$f" ] || echo "missing: $f"; done
readlink -e /usr/lib/fsva/images /usr/sbin/mount.fuse.fsva
bash -n /usr/share/bash-completion/completions/fsva
zcat /usr/share/man/man1/fsva-serve.1.gz | head -n 3
zcat /usr/share/doc/fsva/third-party-licenses.gz | grep -c '^== gvisor.dev/gvisor '
if command -v systemd-analyze >/dev/null; then
	systemd-analyze verify --man=no fsva@photos.service fsva-metrics.service fsva-volume-plugin.service fsva-volume-plugin.socket 2>&1 |
		sed 's/^/verify: /'
fi
[ ! -e /run/fsva ] || echo "something was started"
setpriv --bounding-set=`+set+` /usr/bin/fsva demo
mkdir -p /var/lib/fsva/volumes/mine
dpkg --purge fsva >/dev/null
ls -d /var/lib/fsva/volumes/mine
find / -xdev -path /work -prune -o -path '*fsva*' -newer /fsva.deb \( -path '/usr/*' -o -path '/etc/*' -o -path '/lib/*' \) -print | sed 's/^/left: /'
`)
	for _, want := range []string{
		"fsva\t" + version + "\n", "\ngVisor v", "/usr/share/fsva/images\n/usr/lib/fsva/bin/fsva\n", `.TH "FSVA-SERVE" "1" "Nov 2023"`,
		"\n1\n", "Both volumes are stopped", "/var/lib/fsva/volumes/mine\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, bad := range []string{"missing: ", "verify: ", "something was started", "left: "} {
		if strings.Contains(out, bad) {
			t.Errorf("there is %q", bad)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}
