// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e || bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// rounds is how often each side of a comparison runs.
const rounds = 11

// side is one side of a comparison.
type side struct {
	name string
	run  func() time.Duration
}

// alternate runs the sides in turn, once unmeasured and then rounds times, and returns the median of each.
func alternate(b *testing.B, sides ...side) []time.Duration {
	b.Helper()
	times := make([][]time.Duration, len(sides))
	for round := range rounds + 1 {
		for i, s := range sides {
			took := s.run()
			if round > 0 {
				times[i] = append(times[i], took)
			}
		}
	}
	medians := make([]time.Duration, len(sides))
	for i := range sides {
		slices.Sort(times[i])
		medians[i] = times[i][len(times[i])/2]
		b.Logf("%s: median %v of %d, %v to %v", sides[i].name, medians[i].Round(time.Microsecond), rounds,
			times[i][0].Round(time.Microsecond), times[i][rounds-1].Round(time.Microsecond))
	}
	return medians
}

// BenchmarkContainerStart compares `docker run … true` with one volume against the same with a plain bind mount, both
// under our runsc.
func BenchmarkContainerStart(b *testing.B) {
	harness.NeedRoot(b)
	d := env.Docker(b)
	plain := env.TempDir(b)
	for _, tc := range []struct{ name, appliance string }{{"dir", "dir"}, {"bindfs", "bindfs"}} {
		b.Run(tc.name, func(b *testing.B) {
			if tc.appliance == "bindfs" {
				harness.NeedCommand(b, "bindfs", "bindfs")
			}
			v := env.Serve(b, "bench-start-"+tc.name, "--appliance", tc.appliance, "--source", env.TempDir(b))
			start := func(mount string) func() time.Duration {
				return func() time.Duration {
					r := d.Run(b, harness.Container{Mounts: []string{mount}, Args: []string{"true"}})
					if r.Code != 0 {
						b.Fatalf("exit code %d: %s", r.Code, r.Stderr)
					}
					return r.Elapsed
				}
			}
			for b.Loop() {
				m := alternate(b, side{"bind mount", start(plain + ":/data")}, side{"volume", start(v.Mount("/data"))})
				b.ReportMetric(ms(m[0]), "ms-bind")
				b.ReportMetric(ms(m[1]), "ms-volume")
				b.ReportMetric(float64(m[1])/float64(m[0]), "ratio")
			}
		})
	}
}

// BenchmarkSquashfs lists and reads 5,000 files of 2 KiB: on a volume served by squashfuse_ll in gVisor isolation, and
// on the same image mounted by squashfuse_ll on the kernel and bound into stock runsc.
func BenchmarkSquashfs(b *testing.B) {
	harness.NeedRoot(b)
	harness.NeedCommand(b, "squashfuse_ll", "squashfuse")
	mk := harness.NeedCommand(b, "mksquashfs", "squashfs-tools")
	d := env.Docker(b)
	dir := env.TempDir(b)
	img := filepath.Join(dir, "files.squashfs")
	makeFiles(b, filepath.Join(dir, "files"))
	harness.Must(b, mk, filepath.Join(dir, "files"), img, "-quiet", "-no-progress")
	native := env.Native(b, "squashfuse_ll", "-f", "-o", "allow_other", img, "MNT")
	v := env.Serve(b, "bench-squashfs", "--appliance", "squashfs", "--source", img)

	// Inside one container each, so that its start is not measured; a new container for each round, so that its caches
	// are cold. The container times itself, to 10 ms.
	work := map[string]string{
		"ls-lR": "ls -lR /data >/dev/null",
		"cat":   "find /data -type f -exec cat {} + >/dev/null",
	}
	for _, name := range []string{"ls-lR", "cat"} {
		b.Run(name, func(b *testing.B) {
			measure := func(runtime, mount string) func() time.Duration {
				return func() time.Duration {
					out := d.Must(b, harness.Container{Runtime: runtime, Mounts: []string{mount},
						Args: []string{"sh", "-ec", "time -p sh -c '" + work[name] + "' 2>&1"}})
					return realTime(b, out)
				}
			}
			for b.Loop() {
				m := alternate(b,
					side{"kernel FUSE mount + stock runsc", measure(harness.RuntimeStock, native+":/data:ro")},
					side{"volume, gvisor isolation", measure(harness.RuntimeOurs, v.Mount("/data"))})
				b.ReportMetric(ms(m[0]), "ms-kernel")
				b.ReportMetric(ms(m[1]), "ms-volume")
				b.ReportMetric(float64(m[1])/float64(m[0]), "ratio")
			}
		})
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// realTime reads the line "real SECONDS" of time -p.
func realTime(b *testing.B, out string) time.Duration {
	b.Helper()
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "real "); ok {
			s, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				b.Fatal(err)
			}
			return time.Duration(s * float64(time.Second))
		}
	}
	b.Fatalf("no time in %q", out)
	return 0
}

func makeFiles(b *testing.B, dir string) {
	b.Helper()
	content := make([]byte, 2048)
	for i := range 5000 {
		p := filepath.Join(dir, fmt.Sprintf("d%02d", i/100), fmt.Sprintf("f%04d", i))
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		for j := range content {
			content[j] = byte(i * (j + 7))
		}
		if err := os.WriteFile(p, content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
