// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// TestWorkloads runs what people run, with the machine's own programs, on a read-write volume.
func TestWorkloads(t *testing.T) {
	d := env.Docker(t)
	for _, appliance := range []string{"dir", "ext4", "bindfs", "ntfs"} {
		t.Run(appliance, func(t *testing.T) {
			t.Parallel()
			v := serve(t, volumeName(t), appliance)
			in := env.TempDir(t) // what the workloads read, from the host
			run := func(t *testing.T, timeout time.Duration, script string) string {
				t.Helper()
				return d.Must(t, harness.Container{
					Image: harness.ImageHost, Mounts: []string{harness.MountUsr, in + ":/in:ro", v.Mount("/data")},
					Env: []string{"HOME=/root", "PATH=/usr/local/go/bin:/usr/bin:/bin"}, Workdir: "/data", Timeout: timeout,
					Args: []string{"sh", "-ec", script},
				})
			}
			t.Run("git", func(t *testing.T) { workGit(t, in, run) })
			if appliance == "bindfs" || appliance == "ntfs" {
				return // there for git, which makes hard links
			}
			t.Run("tar", func(t *testing.T) { workTar(t, in, run) })
			t.Run("sqlite", func(t *testing.T) { workSQLite(t, run) })
			t.Run("go-build", func(t *testing.T) { workGo(t, in, run) })
		})
	}
}

type runner func(t *testing.T, timeout time.Duration, script string) string

// workGit clones a repository of the host, commits to the clone, and lets git check it.
func workGit(t *testing.T, in string, run runner) {
	git := harness.NeedCommand(t, "git", "git")
	repo := filepath.Join(in, "repo")
	if err := os.Mkdir(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		p := filepath.Join(repo, fmt.Sprintf("dir%d", i%10), fmt.Sprintf("file%d.txt", i))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	identity := "-c user.name=e2e -c user.email=e2e@example.com -c safe.directory=*"
	harness.Must(t, "sh", "-ec", fmt.Sprintf("cd %s; g='%s %s'; $g init -q; $g add .; $g commit -qm one", repo, git, identity))
	want := harness.Must(t, "sh", "-ec", fmt.Sprintf("cd %s; %s %s rev-parse HEAD^{tree}", repo, git, identity))
	out := run(t, 2*time.Minute, `
		g="git `+identity+`"
		$g clone -q /in/repo clone 2>&1
		cd clone
		$g rev-parse HEAD^{tree}
		echo change >>dir1/file1.txt; $g mv dir2 moved; $g commit -qam two
		[ -z "$($g status --porcelain)" ]
		$g fsck --full --strict 2>&1
		find . -name '.fuse_hidden*' # git links objects from temporary names
		$g gc -q; $g fsck 2>&1; $g log --oneline | wc -l`)
	if want += "2\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// workTar unpacks 5,000 files and compares each with its checksum.
func workTar(t *testing.T, in string, run runner) {
	tree := filepath.Join(in, "tree")
	for i := range 5000 {
		p := filepath.Join(tree, fmt.Sprintf("d%02d", i/100), fmt.Sprintf("f%04d", i))
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(p, []byte(strings.Repeat(fmt.Sprint(i), i%700)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	harness.Must(t, "sh", "-ec", fmt.Sprintf("cd %s; find . -type f | sort | xargs sha256sum >../sums; tar -czf ../tree.tar.gz .; rm -r ../tree", tree))
	out := run(t, 3*time.Minute, `
		mkdir tree; cd tree
		tar xzf /in/tree.tar.gz
		sha256sum --quiet -c /in/sums
		find . -type f | wc -l
		cd ..; rm -r tree; ls`)
	if lines := strings.Fields(out); len(lines) == 0 || lines[0] != "5000" {
		t.Errorf("output %q", out)
	}
}

// workSQLite uses a database with each journal, by two processes at once, and reads it again in a new container.
func workSQLite(t *testing.T, run runner) {
	harness.NeedCommand(t, "sqlite3", "sqlite3")
	for _, journal := range []string{"delete", "wal"} {
		out := run(t, 2*time.Minute, `
			db=`+journal+`.db
			[ "$(sqlite3 $db 'pragma journal_mode=`+journal+`')" = `+journal+` ]
			sqlite3 $db 'create table t(id integer primary key, who text, body blob)'
			work() { for i in $(seq 1 25); do
				echo ".timeout 20000
					begin immediate; insert into t(who, body) select '$1', randomblob(1000) from (select 1 union select 2 union select 3 union select 4); commit;"
			done | sqlite3 $db; }
			work a & first=$!
			work b; wait $first
			sqlite3 $db 'delete from t where id % 7 = 0; pragma integrity_check; select who, count(*) > 0 from t group by who; select count(*) from t'`)
		if want := "ok\na|1\nb|1\n172\n"; out != want {
			t.Errorf("%s: output %q, want %q", journal, out, want)
		}
		out = run(t, time.Minute, "sqlite3 "+journal+".db 'pragma journal_mode; pragma integrity_check; select count(*) from t'")
		if want := journal + "\nok\n172\n"; out != want {
			t.Errorf("%s, in a new container: output %q, want %q", journal, out, want)
		}
	}
}

// workGo builds and runs a program, with sources, cache, temporary files and the executable on the volume.
func workGo(t *testing.T, in string, run runner) {
	harness.NeedCommand(t, "go", "golang")
	if _, err := os.Stat("/usr/local/go/bin/go"); err != nil {
		t.Skip("missing: Go in /usr/local/go, where the container sees it")
	}
	src := filepath.Join(in, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod":       "module built\n\ngo 1.21\n",
		"main.go":      "package main\n\nimport (\n\t\"os\"\n\t\"built/word\"\n)\n\nfunc main() { os.Stdout.WriteString(word.Word + \"\\n\") }\n",
		"word/word.go": "package word\n\nconst Word = \"built on the volume\"\n",
	} {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, 5*time.Minute, `
		cp -r /in/src go; mkdir cache tmp; cd go
		export GOCACHE=/data/cache GOTMPDIR=/data/tmp GOPATH=/data/gopath GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOTELEMETRY=off CGO_ENABLED=0
		go build -o built .
		./built
		sed -i 's/built on/rebuilt on/' word/word.go
		go build -o built . && ./built
		[ -z "$(ls /data/tmp)" ]`)
	if want := "built on the volume\nrebuilt on the volume\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
}
