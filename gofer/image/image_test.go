// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func quiet(string) {}

// testStore returns an empty store, which does not wait for the disk.
func testStore(t testing.TB) *Store {
	s := Open(t.TempDir())
	s.sync = func(int) error { return nil }
	return s
}

// imageOf makes an image of layers with go-containerregistry.
func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	img = mutate.MediaType(img, types.OCIManifestSchema1)
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// layoutOf writes an OCI layout with the images, under the names 0, 1, ….
func layoutOf(t testing.TB, images ...v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p, err := ggcrlayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range images {
		if err := p.AppendImage(img, ggcrlayout.WithAnnotations(map[string]string{refName: fmt.Sprint(i)})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// savedOf writes what docker save does, with the tags i0:latest, i1:latest, ….
func savedOf(t testing.TB, images ...v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "saved.tar")
	refs := map[name.Reference]v1.Image{}
	for i, img := range images {
		tag, err := name.NewTag(fmt.Sprintf("i%d:latest", i))
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	if err := tarball.MultiRefWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
	return path
}

// fileOf writes a file.
func fileOf(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarDir makes a tar file of a directory.
func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// snapshot is the whole state of a store.
func snapshot(t testing.TB, s *Store) string {
	t.Helper()
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return tree(t, s.dir)
}

func mustImport(t testing.TB, s *Store, name, from, ref string) Info {
	t.Helper()
	i, err := s.Import(t.Context(), name, from, ref, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestImport imports the same root in every form that there is.
func TestImport(t *testing.T) {
	low := tarOf(t, dir("bin"), file("bin/server", "#!"), file("bin/old", "x"))
	high := tarOf(t, file("bin/.wh.old", ""), file("etc/hosts", "mine"), symlink("etc/resolv.conf", "/run/resolv.conf"))
	flat := tarOf(t, dir("bin"), file("bin/server", "#!"), file("etc/hosts", "mine"))
	const want = "bin/ bin/server=#! etc/ etc/hosts=mine etc/resolv.conf="
	img, other := imageOf(t, low, high), imageOf(t, tarOf(t, file("other", "")))
	layout := layoutOf(t, img)
	var z bytes.Buffer
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zw.Write(flat); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, from, ref string }{
		{"layout", layout, ""},
		{"layout with several", layoutOf(t, other, img), "1"},
		{"layout as a tar file", fileOf(t, tarDir(t, layout)), ""},
		{"docker save", savedOf(t, img), ""},
		{"docker save of several", savedOf(t, other, img), "i1:latest"},
		{"docker save, gzip", fileOf(t, gzipped(t, readAll(t, savedOf(t, img)))), ""},
		{"root", fileOf(t, flat), ""},
		{"root, gzip", fileOf(t, gzipped(t, flat)), ""},
		{"root, zstd", fileOf(t, z.Bytes()), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testStore(t)
			i := mustImport(t, s, "x", tc.from, tc.ref)
			if got := tree(t, i.Root); got != want {
				t.Errorf("\ngot  %s\nwant %s", got, want)
			}
			again := mustImport(t, s, "x", tc.from, tc.ref)
			if again.Digest != i.Digest {
				t.Errorf("digest %s, then %s", i.Digest, again.Digest)
			}
			var options []validate.Option
			if tc.name == "root" || tc.name == "root, zstd" {
				options = append(options, validate.Fast) // go-containerregistry reads gzip only
			}
			checkLayout(t, s, i, options...)
		})
	}
}

func readAll(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkLayout reads the store as the OCI layout that it is, with go-containerregistry.
func checkLayout(t *testing.T, s *Store, i Info, options ...validate.Option) {
	t.Helper()
	p, err := ggcrlayout.FromPath(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(i.Digest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := p.Image(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img, options...); err != nil {
		t.Error(err)
	}
}

// TestSharing: layers and roots are stored once, and go when nobody needs them.
func TestSharing(t *testing.T) {
	low := tarOf(t, file("low", "x"))
	one, two := layoutOf(t, imageOf(t, low, tarOf(t, file("f", "1")))), layoutOf(t, imageOf(t, low, tarOf(t, file("f", "2"))))
	s := testStore(t)
	mustImport(t, s, "a", one, "")
	mustImport(t, s, "b", two, "")
	mustImport(t, s, "c", one, "")
	count := func(dir string) int {
		entries, err := os.ReadDir(s.at(dir))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	// Three layers, and a manifest and a configuration for each of two images.
	if b, r := count("blobs/sha256"), count("roots"); b != 7 || r != 2 {
		t.Errorf("got %d blobs and %d roots, want 7 and 2", b, r)
	}
	for _, step := range []struct {
		name         string
		blobs, roots int
	}{{"a", 7, 2}, {"c", 4, 1}, {"b", 0, 0}} {
		if err := s.Remove(step.name); err != nil {
			t.Fatal(err)
		}
		if b, r := count("blobs/sha256"), count("roots"); b != step.blobs || r != step.roots {
			t.Errorf("without %s: got %d blobs and %d roots, want %d and %d", step.name, b, r, step.blobs, step.roots)
		}
	}
	if err := s.Remove("a"); !errors.As(err, new(*NotFoundError)) {
		t.Errorf("removed twice: %v", err)
	}
	if n := count("tmp"); n != 0 {
		t.Errorf("%d directories left in tmp", n)
	}
}

// TestLease: an image in use is not removed, and stays as it was for its user when it is replaced.
func TestLease(t *testing.T) {
	s := testStore(t)
	mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "1"))), "")
	root, release, err := s.Acquire("a")
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, s)
	if err := s.Remove("a"); err == nil || err.Error() != `image "a" is in use: stop the volumes that run in it first (fsva ls)` {
		t.Errorf("remove: got %v", err)
	}
	if snapshot(t, s) != before {
		t.Error("a refused removal changed the store")
	}
	if i, err := s.Inspect("a"); err != nil || !i.InUse {
		t.Errorf("in use: got %+v, %v", i, err)
	}
	i := mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "2"))), "")
	if i.InUse || i.Root == root {
		t.Errorf("the new image: %+v", i)
	}
	if got := tree(t, root); !strings.Contains(got, "f=1") {
		t.Errorf("the old root is %s", got)
	}
	release()
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"roots", "blobs/sha256"} {
		if left, err := os.ReadDir(s.at(dir)); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

func TestNotFound(t *testing.T) {
	s := Open(t.TempDir() + "/none")
	for what, f := range map[string]func() error{
		"acquire": func() error { _, _, err := s.Acquire("x"); return err },
		"inspect": func() error { _, err := s.Inspect("x"); return err },
		"remove":  func() error { return s.Remove("x") },
	} {
		if err := f(); !errors.As(err, new(*NotFoundError)) || err.Error() != `there is no image "x"` {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("list: got %v, %v", all, err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("looking made a store")
	}
}

// TestImportRefuses: one clear line, and a store with another image in it stays as it was.
func TestImportRefuses(t *testing.T) {
	good := tarOf(t, file("f", "x"))
	edit := func(img v1.Image, f func(dir string)) string {
		dir := layoutOf(t, img)
		f(dir)
		return dir
	}
	layerOf := func(dir string) string {
		img := imageOf(t, good)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		h, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "blobs/sha256", h.Hex)
	}
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	foreign, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "s390x", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err = mutate.AppendLayers(foreign, must(imageOf(t, good).Layers())...)
	if err != nil {
		t.Fatal(err)
	}
	lying, err := mutate.ConfigFile(imageOf(t, good), &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}}}})
	if err != nil {
		t.Fatal(err)
	}
	saved := func(manifest string, more ...entry) string {
		return fileOf(t, tarOf(t, append([]entry{file("manifest.json", manifest)}, more...)...))
	}
	for _, tc := range []struct{ name, from, ref, want string }{
		{"no such file", "/no/such/file", "", "no such file or directory"},
		{"not a layout", t.TempDir(), "", "the directory is not an OCI layout"},
		{"a device", "/dev/null", "", "neither a file nor a directory"},
		{"not a tar file", fileOf(t, bytes.Repeat([]byte("text "), 500)), "", "not a tar file, or a damaged one"},
		{"empty", fileOf(t, nil), "", "the tar file's end is missing"},
		{"zeros", fileOf(t, make([]byte, 8192)), "", "the image has no files"},
		{"an image without files", layoutOf(t, imageOf(t, tarOf(t))), "", "the image has no files"},
		{"a cut tar file", fileOf(t, tarOf(t, file("f", strings.Repeat("x", 9000)))[:3000]), "", "unexpected EOF"},
		{"a cut gzip file", fileOf(t, gzipped(t, good)[:60]), "", "unexpected EOF"},
		{"xz", fileOf(t, []byte("\xfd7zXZ\x00\x00")), "", "unpack it first"},
		{"a root that leaves itself", fileOf(t, tarOf(t, file("../../etc/passwd", "x"))), "", "leaves the image's root"},
		{"a reference into a root", fileOf(t, good), "v1", "nothing to choose with --ref"},
		{"corrupt layer", edit(imageOf(t, good), func(d string) { write(layerOf(d), gzipped(t, tarOf(t, file("f", "y")))) }), "", "is corrupt: it has"},
		{"cut layer", edit(imageOf(t, good), func(d string) { write(layerOf(d), readAll(t, layerOf(d))[:40]) }), "", "is corrupt: it has 40 bytes"},
		{"missing layer", edit(imageOf(t, good), func(d string) { os.Remove(layerOf(d)) }), "", "layer: no such file or directory"},
		{"layer that is not what the configuration says", layoutOf(t, lying), "", "layer 1 is corrupt: its contents are not what"},
		{"corrupt index", edit(imageOf(t, good), func(d string) { write(d+"/index.json", []byte("{")) }), "", "index: unexpected end of JSON input"},
		{"index with a bad digest", edit(imageOf(t, good), func(d string) {
			write(d+"/index.json", []byte(`{"manifests":[{"mediaType":"`+string(types.OCIManifestSchema1)+`","size":3,"digest":"sha256:../../../../etc/passwd"}]}`))
		}), "", "index: "},
		{"manifest that is too large", edit(imageOf(t, good), func(d string) {
			write(d+"/index.json", []byte(`{"manifests":[{"mediaType":"`+string(types.OCIManifestSchema1)+`","size":99999999,"digest":"sha256:`+strings.Repeat("a", 64)+`"}]}`))
		}), "", "has 99999999 bytes, more than"},
		{"no image", layoutOf(t), "", "there is no image for linux/" + runtime.GOARCH},
		{"several images", layoutOf(t, imageOf(t, good), imageOf(t, tarOf(t))), "", "there are 2 images in it: choose one with --ref (0, 1)"},
		{"a name that is not there", layoutOf(t, imageOf(t, good)), "7", `there is no image "7" in it (known are 0)`},
		{"another machine's", layoutOf(t, foreign), "", "the image is for linux/s390x, not linux/" + runtime.GOARCH},
		{"docker save without layers", saved(`[{"Config":"c","Layers":[]}]`, file("c", `{"os":"linux","architecture":"`+runtime.GOARCH+`"}`)), "", "the image has no layers"},
		{"docker save of a file that is not there", saved(`[{"Config":"c","Layers":["../../../etc/passwd"]}]`, file("c", `{"os":"linux","architecture":"`+runtime.GOARCH+`","rootfs":{"diff_ids":["sha256:`+strings.Repeat("a", 64)+`"]}}`)), "", `"etc/passwd" is not in it`},
		{"docker save with a loop of links", saved(`[{"Config":"c","Layers":["l"]}]`, symlink("c", "c")), "", `configuration: "c" is not in it`},
		{"docker save, nonsense", saved(`{"a":1}`), "", "manifest.json: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := testStore(t)
			mustImport(t, s, "a", layoutOf(t, imageOf(t, tarOf(t, file("before", "")))), "")
			before := snapshot(t, s)
			_, err := s.Import(t.Context(), "a", tc.from, tc.ref, quiet)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if after := snapshot(t, s); after != before {
				t.Errorf("the store has changed:\n%s\n%s", before, after)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestImportName(t *testing.T) {
	s := testStore(t)
	for _, name := range []string{"", "../x", "A", "a/b", "-a", strings.Repeat("a", 64)} {
		if _, err := s.Import(t.Context(), name, fileOf(t, tarOf(t)), "", quiet); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if got := snapshot(t, s); got != "" {
		t.Errorf("the store has %s", got)
	}
}

// TestInterrupted ends an import at each of its steps.
func TestInterrupted(t *testing.T) {
	s := testStore(t)
	mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "before"))), "")
	before := snapshot(t, s)
	from := layoutOf(t, imageOf(t, tarOf(t, file("f", "1")), tarOf(t, file("g", "2"))))
	var seen []string
	mustImport(t, testStore(t), "a", from, "")
	if _, err := testStore(t).Import(t.Context(), "a", from, "", func(step string) { seen = append(seen, step) }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 4 {
		t.Fatalf("steps: %q", seen)
	}
	for _, at := range seen {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Import(ctx, "a", from, "", func(step string) {
			if step == at {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", at, err)
		}
		if after := snapshot(t, s); after != before {
			t.Errorf("%s: the store has changed:\n%s\n%s", at, before, after)
		}
	}
}

// TestLeftovers: what a killed process left in tmp goes with the next change; what a living one has there stays.
func TestLeftovers(t *testing.T) {
	s := testStore(t)
	mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "1"))), "")
	if err := os.MkdirAll(s.at("tmp/dead/root/d"), 0o700); err != nil {
		t.Fatal(err)
	}
	alive, err := s.begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.at("tmp"))
	if err != nil || len(entries) != 1 || s.at("tmp", entries[0].Name()) != alive.dir {
		t.Errorf("in tmp: %v, %v", entries, err)
	}
	if err := alive.end(); err != nil {
		t.Error(err)
	}
}

// TestDamaged: a damaged image is said to be, and importing it again mends it.
func TestDamaged(t *testing.T) {
	s := testStore(t)
	from := fileOf(t, tarOf(t, file("f", "1")))
	i := mustImport(t, s, "a", from, "")
	for what, damage := range map[string]func() error{
		"root": func() error { return os.RemoveAll(i.Root) },
		"manifest": func() error {
			return os.WriteFile(s.at("blobs/sha256", strings.TrimPrefix(i.Digest, "sha256:")), []byte("{}"), 0o600)
		},
		"file": func() error { return os.WriteFile(i.Root+"/f", []byte("2"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		_, release, err := s.Acquire("a")
		if what == "file" { // which nobody looks for
			if err != nil {
				t.Fatal(err)
			}
			release()
		} else if err == nil || !strings.Contains(err.Error(), `image "a" is damaged (build or import it again)`) {
			t.Errorf("%s: got %v", what, err)
		}
		mustImport(t, s, "a", from, "")
		if got := readAll(t, i.Root+"/f"); string(got) != "1" {
			t.Errorf("%s: f is %q after another import", what, got)
		}
	}
}

// smallDisk returns a directory with a tmpfs.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk imports onto a file system that is too small.
func TestFullDisk(t *testing.T) {
	s := Open(smallDisk(t, "size=1m"))
	mustImport(t, s, "a", fileOf(t, tarOf(t, file("f", "1"))), "")
	before := snapshot(t, s)
	big := strings.Repeat("incompressible? no", 100_000)
	for what, from := range map[string]string{
		"as it is":   fileOf(t, tarOf(t, file("f", big))),
		"compressed": layoutOf(t, imageOf(t, tarOf(t, file("f", big)))),
	} {
		_, err := s.Import(t.Context(), "a", from, "", quiet)
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), s.dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want ENOSPC and the place in one line", what, err)
		}
		if after := snapshot(t, s); after != before {
			t.Errorf("%s: the store has changed", what)
		}
	}
}

// TestConcurrent imports, removes and acquires at the same time: each operation works or says that the image is not there
// or in use, and what was acquired stays whole.
func TestConcurrent(t *testing.T) {
	s := testStore(t)
	var from []string
	for i := range 3 {
		from = append(from, fileOf(t, tarOf(t, file("f", fmt.Sprint(i)), file("same", fmt.Sprint(i)))))
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			name := fmt.Sprintf("x%d", g%2)
			for i := range 15 {
				switch (g + i) % 3 {
				case 0:
					if _, err := s.Import(t.Context(), name, from[i%3], "", quiet); err != nil && !errors.As(err, new(*NotFoundError)) {
						t.Error(err)
					}
				case 1:
					if err := s.Remove(name); err != nil && !errors.As(err, new(*NotFoundError)) && !strings.Contains(err.Error(), "in use") {
						t.Error(err)
					}
				case 2:
					root, release, err := s.Acquire(name)
					if errors.As(err, new(*NotFoundError)) {
						continue
					}
					if err != nil {
						t.Error(err)
						continue
					}
					a, err1 := os.ReadFile(root + "/f")
					b, err2 := os.ReadFile(root + "/same")
					if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
						t.Errorf("acquired root: %q, %q, %v", a, b, err)
					}
					release()
				}
			}
		})
	}
	wg.Wait()
	infos, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if err := s.Remove(i.Name); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{"roots", "blobs/sha256", "tmp"} {
		if left, err := os.ReadDir(s.at(dir)); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

// TestListSorted: images are listed by name.
func TestListSorted(t *testing.T) {
	s := testStore(t)
	for _, name := range []string{"c", "a", "b"} {
		mustImport(t, s, name, fileOf(t, tarOf(t, file("f", name))), "")
	}
	infos, err := s.List()
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
	}
	if err != nil || !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("got %v, %v", names, err)
	}
	if _, err := json.Marshal(infos); err != nil {
		t.Error(err)
	}
}

// FuzzImport: nothing that a file says makes an import panic or leaves something behind.
func FuzzImport(f *testing.F) {
	img := imageOf(f, tarOf(f, file("f", "x")))
	f.Add(readAll(f, savedOf(f, img)))
	f.Add(tarDir(f, layoutOf(f, img)))
	f.Add(gzipped(f, tarOf(f, symlink("manifest.json", "manifest.json"), file("oci-layout", ""))))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := testStore(t)
		s.limits = Limits{Layers: 4, Files: 100, Bytes: 1 << 20}
		if _, err := s.Import(t.Context(), "x", fileOf(t, data), "", quiet); err != nil && strings.Contains(snapshot(t, s), "index.json") {
			t.Errorf("failed (%v) and left an index", err)
		}
		if left, err := os.ReadDir(s.at("tmp")); err != nil || len(left) != 0 {
			t.Errorf("left in tmp: %v, %v", left, err)
		}
	})
}
