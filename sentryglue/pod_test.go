// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/gofer/attach"
)

// pod is a sandbox with containers that join it, by the annotations of
// Kubernetes.
type pod struct {
	t       *testing.T
	sandbox *bundle
	id      string
}

// newPod starts the sandbox, with a runsc of the given name.
func newPod(t *testing.T, name string, mounts ...mountSpec) *pod {
	t.Helper()
	p := &pod{t: t, id: "pod", sandbox: newBundle(t, "sleep 1000", mounts...)}
	p.sandbox.spec["annotations"] = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	p.sandbox.write(t)
	t.Cleanup(func() { p.sandbox.delete(t, p.id) })
	p.must(name, "create", "--bundle", p.sandbox.dir, p.id)
	p.must(name, "start", p.id)
	return p
}

// try runs runsc, without pipes, which a container would keep open.
func (p *pod) try(name string, args ...string) error {
	p.t.Helper()
	cmd := p.sandbox.command(p.t, name, nil, args...)
	stderr, err := os.Create(filepath.Join(p.t.TempDir(), "stderr"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, readFile(p.t, stderr.Name()))
	}
	return nil
}

func (p *pod) must(name string, args ...string) {
	p.t.Helper()
	if err := p.try(name, args...); err != nil {
		p.t.Fatal(err)
	}
}

// container makes the bundle of a container of the pod.
func (p *pod) container(script string, mounts ...mountSpec) *bundle {
	p.t.Helper()
	b := newBundle(p.t, script, mounts...)
	b.root = p.sandbox.root
	b.spec["annotations"] = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id}
	b.write(p.t)
	return b
}

// start creates and starts a container of the pod.
func (p *pod) start(id, script string, mounts ...mountSpec) error {
	p.t.Helper()
	p.t.Cleanup(func() { p.sandbox.delete(p.t, id) })
	if err := p.try("runsc", "create", "--bundle", p.container(script, mounts...).dir, id); err != nil {
		return err
	}
	return p.try("runsc", "start", id)
}

// awaitFile waits until a file has a text.
func awaitFile(t *testing.T, path, want string) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s with %q", filepath.Base(path), want), func() bool {
		got, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(got), want)
	})
}

// TestPod mounts volumes of both kinds in the containers of a pod, and starts
// one of them anew.
func TestPod(t *testing.T) {
	needRunsc(t)
	shared := startGofer(t, attach.Info{Name: "shared", Coherence: attach.Shared})
	one := startGofer(t, attach.Info{Name: "one", Coherence: attach.Exclusive})
	two := startGofer(t, attach.Info{Name: "two", Coherence: attach.Exclusive, DentryCache: 4321})
	p := newPod(t, "runsc")

	plain := t.TempDir()
	const script = `
echo "from $0" > /s/$0
grep -E ' /(s|x|plain) ' /proc/mounts > /plain/$0
/sentryglue-helper mmap /x/mapped && echo done > /x/done
while [ ! -e /s/end ]; do sleep 0.1; done
`
	named := func(name string) string { return strings.ReplaceAll(script, "$0", name) }
	mounts := func(x *testGofer) []mountSpec {
		return []mountSpec{bind(shared.dir, "/s"), bind(plain, "/plain"), bind(x.dir, "/x"), helperMount(t)}
	}
	if err := p.start("a", named("a"), mounts(one)...); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(one.backing, "done"), "done")
	if err := p.start("b", named("b"), mounts(two)...); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(two.backing, "done"), "done")
	for _, name := range []string{"a", "b"} {
		awaitFile(t, filepath.Join(shared.backing, name), "from "+name)
		for line := range strings.Lines(readFile(t, filepath.Join(plain, name))) {
			want := map[string]string{"/s": "remote_revalidating", "/x": "", "/plain": "directfs"}
			for dest, option := range want {
				if !strings.Contains(line, " "+dest+" ") {
					continue
				}
				if !strings.Contains(line, option) || dest != "/plain" && strings.Contains(line, "directfs") ||
					dest == "/x" && strings.Contains(line, "remote_revalidating") {
					t.Errorf("container %s: %s", name, line)
				}
			}
		}
	}
	// What the one writes, the other sees: the volume is one.
	writeFile(t, filepath.Join(shared.backing, "end"), "")
	for _, id := range []string{"a", "b"} {
		waitFor(t, id+" stopped", func() bool {
			return strings.Contains(output(t, p.sandbox.command(t, "runsc", nil, "state", id)).stdout, `"stopped"`)
		})
	}

	// As a kubelet starts a container that has ended: a new one in the same
	// sandbox. Its volume has lost the client that had it.
	p.must("runsc", "delete", "a")
	if err := os.Remove(filepath.Join(one.backing, "done")); err != nil {
		t.Fatal(err)
	}
	if err := p.start("a2", named("a2"), mounts(one)...); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(one.backing, "done"), "done")
	waitFor(t, "a2 stopped", func() bool {
		return strings.Contains(output(t, p.sandbox.command(t, "runsc", nil, "state", "a2")).stdout, `"stopped"`)
	})
	for _, r := range two.seen() {
		if r.Op == attach.OpAttach && r.Container != "b" {
			t.Errorf("attached by %+v", r)
		}
	}
	for _, r := range one.seen() {
		if r.Op == attach.OpAttach && r.Descriptors == 0 {
			t.Errorf("no room for descriptors: %+v", r)
		}
	}
}

// TestPodRefused: what cannot work says so, when the container is created or
// started, and the pod's other containers go on.
func TestPodRefused(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Exclusive})
	const prefix = `cannot mount volume "vol" at "/data": `
	wantError := func(t *testing.T, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), prefix+want) {
			t.Errorf("got %v, want %q", err, prefix+want)
		}
	}
	t.Run("another runsc's pod", func(t *testing.T) {
		p := newPod(t, "stock")
		wantError(t, p.start("a", "true", bind(g.dir, "/data")), "the pod's sandbox pod was made by another runsc")
	})
	t.Run("at start", func(t *testing.T) {
		p := newPod(t, "runsc")
		for _, op := range []string{attach.OpCheck, attach.OpAttach} {
			id := "at-" + op
			p.t.Cleanup(func() { p.sandbox.delete(t, id) })
			g.setRefusal("", nil)
			b := p.container("true", bind(g.dir, "/data"))
			p.must("runsc", "create", "--bundle", b.dir, id)
			g.setRefusal(op, errors.New("in use by container c0"))
			wantError(t, p.try("runsc", "start", id), "in use by container c0")
		}
		g.setRefusal("", nil)
		if err := p.start("after", "echo x > /data/x", bind(g.dir, "/data")); err != nil {
			t.Fatal(err)
		}
		awaitFile(t, filepath.Join(g.backing, "x"), "x")
	})
}

// TestPodSandboxWithVolume: the first container may have volumes, too.
func TestPodSandboxWithVolume(t *testing.T) {
	needRunsc(t)
	g := startGofer(t, attach.Info{Name: "vol", Coherence: attach.Shared})
	writeFile(t, filepath.Join(g.backing, "in"), "")
	p := newPod(t, "runsc", bind(g.dir, "/data"))
	if err := p.start("a", "cp /data/in /data/out && echo ok > /data/ok", bind(g.dir, "/data")); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(g.backing, "ok"), "ok")
	seen := g.seen()
	if first, last := seen[1], seen[len(seen)-1]; first.Op != attach.OpAttach || last.Op != attach.OpAttach || first.Descriptors <= last.Descriptors {
		t.Errorf("requests %+v, want the first container to have room for more descriptors than the second", seen)
	}
}
