// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// MirrorEnv names the variable with the address of the Debian mirror that Build uses instead of Debian's own.
const MirrorEnv = "FSVA_MIRROR"

// Recipe is what Build makes an image from.
type Recipe struct {
	Name     string
	Suite    string   // a Debian release
	Packages []string // Debian packages; what they depend on comes with them
}

// basePackages are in every image: libc-bin has the locale C.UTF-8.
var basePackages = []string{"libc-bin"}

// text is the recipe as the image's configuration has it. It tells apart all that make different images.
func (r *Recipe) text() string {
	packages := slices.Clone(r.Packages)
	slices.Sort(packages)
	return fmt.Sprintf("v1 %s/%s %s", r.Suite, runtime.GOARCH, strings.Join(packages, " "))
}

// Built reports whether the store's image of that name was made from this recipe. It may have been made from older
// versions of the packages.
func (s *Store) Built(r Recipe) (bool, error) {
	i, err := s.Inspect(r.Name)
	if errors.As(err, new(*NotFoundError)) {
		return false, nil
	}
	return err == nil && i.Recipe == r.text(), err
}

// Build makes an image from Debian packages with mmdebstrap, and puts it into the store as Import does. Packages are
// unpacked, not configured: none of their scripts runs. The same packages in the same versions make the same image, with
// the same digest. When it fails, or ctx is done, the store is as it was.
func (s *Store) Build(ctx context.Context, r Recipe, progress Progress) (_ Info, err error) {
	if err := CheckName(r.Name); err != nil {
		return Info{}, err
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return Info{}, errors.New("mmdebstrap, which builds images, is not installed: apt-get install mmdebstrap")
	}
	c, err := s.begin()
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	if err := c.build(ctx, r, progress); err != nil {
		return Info{}, fmt.Errorf("build image %q: %w", r.Name, s.withPlace(err))
	}
	return s.Inspect(r.Name)
}

func (c *change) build(ctx context.Context, r Recipe, progress Progress) error {
	root, packages, err := c.debootstrap(ctx, r, progress)
	if err != nil {
		return err
	}
	progress("packing")
	blob, diffID, err := c.pack(ctx, root)
	if err != nil {
		return err
	}
	config := v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		Config: v1.Config{Labels: map[string]string{labelRecipe: r.text(), labelPackages: strings.Join(packages, " ")}},
	}
	src := &source{layers: []layer{{open: func() (io.ReadCloser, error) { return os.Open(blob) }}}}
	if src.config, err = json.Marshal(config); err != nil {
		return err
	}
	return c.add(ctx, r.Name, src, progress)
}

// steps are what mmdebstrap says it does, and what we say then.
var steps = map[string]string{
	"I: running apt-get update...":         "reading package lists",
	"I: downloading packages with apt...":  "downloading packages",
	"I: extracting archives...":            "unpacking packages",
	"I: creating tarball...":               "packing",
	"I: cleaning package lists and apt ca": "cleaning up",
}

// debootstrap returns the tar file of a root file system, and the packages in it.
func (c *change) debootstrap(ctx context.Context, r Recipe, progress Progress) (root string, packages []string, err error) {
	work := filepath.Join(c.dir, "build")
	root = filepath.Join(work, "debian.tar")
	list := filepath.Join(work, "packages")
	args := []string{
		"--variant=extract", "--format=tar",
		"--include=" + strings.Join(append(slices.Clone(basePackages), r.Packages...), ","),
		// The directory is nobody's but root's.
		"--aptopt=APT::Sandbox::User \"root\"",
		// The packages are files there when this hook runs.
		`--extract-hook=ls "$1/var/cache/apt/archives" >"$FSVA_PACKAGES"`,
		r.Suite, root,
	}
	if mirror := os.Getenv(MirrorEnv); mirror != "" {
		args = append(args, mirror)
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Dir = work
	cmd.Env = append(proxies(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "TMPDIR="+work, "SOURCE_DATE_EPOCH=0", "FSVA_PACKAGES="+list)
	// A group of its own, so that all of it gets the signal, and no mount of it outlives it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Unshareflags: unix.CLONE_NEWNS}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("mmdebstrap: %w", err)
	}
	said, full := readOutput(out, progress, func() bool { return noRoomIn(work) })
	err = cmd.Wait()
	if kill := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); kill != nil && !errors.Is(kill, unix.ESRCH) {
		return "", nil, kill
	}
	if ctx.Err() != nil {
		return "", nil, ctx.Err()
	}
	if err != nil {
		if full {
			return "", nil, unix.ENOSPC
		}
		return "", nil, buildError(r, said, err)
	}
	data, err := readFile(list)
	if err != nil {
		return "", nil, fmt.Errorf("mmdebstrap: its list of packages: %w", plain(err))
	}
	return root, packageNames(string(data)), nil
}

// proxies returns the variables by which users name their proxies.
func proxies() []string {
	var env []string
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// maxSaid bounds the lines of mmdebstrap that are kept for a message.
const maxSaid = 1000

// readOutput reads what mmdebstrap says to its end, and returns the lines that may tell why it failed, and whether
// isFull said yes at one of them: there may be room again when mmdebstrap has ended.
func readOutput(r io.Reader, progress Progress, isFull func() bool) (said []string, full bool) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		line = strings.TrimSpace(line)
		for prefix, step := range steps {
			if strings.HasPrefix(line, prefix) {
				progress(step)
			}
		}
		if len(said) < maxSaid && line != "" && !strings.HasPrefix(line, "I: ") {
			said = append(said, clip(line))
			full = full || isFull()
		}
		if err != nil {
			return said, full
		}
	}
}

// littleRoom is what may be left of a full disk, in bytes: less than anything that is written.
const littleRoom = 64 << 10

// noRoomIn reports whether the disk with a directory is full. Of the programs that mmdebstrap runs each has words of its
// own for that, and some have none.
func noRoomIn(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false // which is not why
	}
	return st.Bavail*uint64(st.Bsize) < littleRoom || st.Files > 0 && st.Ffree == 0
}

var (
	noPackage = regexp.MustCompile(`^E: (?:Unable to locate package (\S+)|Package '?([^ ']+)'? has no installation candidate)`)
	noSuite   = regexp.MustCompile(`^E: The repository '([^']*)' does not have a Release file`)
	noFetch   = regexp.MustCompile(`^E: Failed to fetch (\S+) +(.*)`)
	noRoom    = regexp.MustCompile(`(?i)no space left on device|you don't have enough free space`)
)

// buildError says in one line why mmdebstrap failed.
func buildError(r Recipe, said []string, exit error) error {
	match := func(re *regexp.Regexp) []string {
		for _, line := range said {
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
		}
		return nil
	}
	if match(noRoom) != nil {
		return unix.ENOSPC
	}
	if m := match(noPackage); m != nil {
		return fmt.Errorf("Debian %s has no package %q", r.Suite, m[1]+m[2])
	}
	if m := match(noSuite); m != nil {
		return fmt.Errorf("there is no Debian release %q (%s)", r.Suite, m[1])
	}
	if m := match(noFetch); m != nil {
		return fmt.Errorf("cannot fetch %s: %s", m[1], strings.TrimSuffix(m[2], ":"))
	}
	for _, line := range said {
		if reason, ok := strings.CutPrefix(line, "E: "); ok {
			return fmt.Errorf("mmdebstrap: %s", reason)
		}
	}
	return fmt.Errorf("mmdebstrap: %w", exit)
}

var debPattern = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]*)_([^_/]+)_[a-z0-9-]+\.deb$`)

// packageNames turns the names of package files into NAME=VERSION, sorted.
func packageNames(files string) []string {
	var names []string
	for _, f := range strings.Fields(files) {
		if m := debPattern.FindStringSubmatch(f); m != nil {
			names = append(names, m[1]+"="+strings.ReplaceAll(m[2], "%3a", ":"))
		}
	}
	slices.Sort(names)
	return names
}

// pack turns the tar file that mmdebstrap made into a compressed layer.
func (c *change) pack(ctx context.Context, root string) (blob string, diffID v1.Hash, err error) {
	in, err := os.Open(root)
	if err != nil {
		return "", v1.Hash{}, err
	}
	defer in.Close()
	blob = filepath.Join(c.dir, "build", "layer.tar.gz")
	out, err := os.OpenFile(blob, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", v1.Hash{}, plain(err)
	}
	defer out.Close()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return "", v1.Hash{}, err
	}
	sum := sha256.New()
	counted := &countedReader{r: in, u: &unpacker{ctx: ctx, limits: c.s.limits}}
	if err := rewrite(counted, io.MultiWriter(z, sum)); err != nil {
		return "", v1.Hash{}, plain(err)
	}
	if err := errors.Join(z.Close(), out.Close(), os.Remove(root)); err != nil {
		return "", v1.Hash{}, plain(err)
	}
	return blob, hashOf(sum), nil
}
