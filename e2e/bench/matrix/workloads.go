// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
)

// What the volumes hold.
const (
	smallFiles    = 5000
	smallFileSize = 2048
	bigFileSize   = 512 << 20
)

// Workloads returns all workloads, in the order of the table.
func Workloads() []Workload {
	find, lslr := []string{"find", "files"}, []string{"ls", "-lR", "files"}
	cat := []string{"xargs", "-a", "{bench}/names", "cat"}
	bbcat := []string{"xargs", "-a", "{bench}/names", "busybox", "cat"}
	seq := []string{"dd", "if=big", "of=/dev/null", "bs=1M"}
	return []Workload{
		{Name: "find", Server: Squashfs, Tools: [][]string{{"find", "{bench}/empty"}}, Steps: []Step{
			{Args: find, Cold: true, Row: &Row{Name: "find-cold", Title: "find, 5,000 files, cold", MinPick: 4, MinLimit: 0.8}},
			{Args: find, Times: 5, Row: &Row{Name: "find-warm", Title: "find, 5,000 files, warm"}},
		}},
		{Name: "lslr", Server: Squashfs, Tools: [][]string{{"ls", "-lR", "{bench}/empty"}}, Steps: []Step{
			{Args: lslr, Cold: true, Row: &Row{Name: "lslr-cold", Title: "ls -lR, 5,000 files, cold", MinPick: 2.5, MinLimit: 0.8}},
			{Args: lslr, Times: 3, Row: &Row{Name: "lslr-warm", Title: "ls -lR, 5,000 files, warm"}},
		}},
		{Name: "cat", Server: Squashfs, Tools: [][]string{{"xargs", "-a", "{bench}/names", "true"}, {"cat", "/dev/null"}}, Steps: []Step{
			{Args: cat, Cold: true, Row: &Row{Name: "cat-cold", Title: "cat, 5,000 files of 2 KiB, cold", MinPick: 1.3}},
			{Args: cat, Times: 3, Row: &Row{Name: "cat-warm", Title: "cat, 5,000 files of 2 KiB, warm", MinPick: 3.5, MinLimit: 0.9}},
		}},
		// With system calls for the files only: coreutils' also maps and unmaps a buffer for each.
		{Name: "bbcat", Server: Squashfs, Tools: [][]string{{"xargs", "-a", "{bench}/names", "true"}, {"busybox", "cat", "/dev/null"}}, Steps: []Step{
			{Args: bbcat, Cold: true, Row: &Row{Name: "bbcat-cold", Title: "busybox cat, 5,000 files of 2 KiB, cold", MinPick: 1.3}},
			{Args: bbcat, Times: 5, Row: &Row{Name: "bbcat-warm", Title: "busybox cat, 5,000 files of 2 KiB, warm", MinPick: 3.5, MinLimit: 0.9}},
		}},
		{Name: "seq", Server: Squashfs, Tools: [][]string{{"dd", "if=/dev/zero", "of=/dev/null", "bs=1M", "count=1"}}, Steps: []Step{
			{Args: seq, Cold: true, Row: &Row{Name: "seq-cold", Title: "sequential read, 512 MiB, cold", MinPick: 0.9}},
			{Args: seq, Times: 3, Row: &Row{Name: "seq-warm", Title: "sequential read, 512 MiB, warm", MinPick: 1.5, MinLimit: 0.95}},
		}},
		{Name: "rand", Server: Squashfs, Steps: []Step{
			{Args: seq}, // all in memory, where it can be
			{Args: randomRead("psync"), Value: fioIOPS,
				Row: &Row{Name: "rand-psync", Title: "fio 4 KiB random read, psync, warm", Rate: true, MinPick: 1, MinLimit: 0.95}},
			{Args: randomRead("mmap"), Value: fioIOPS,
				Row: &Row{Name: "rand-mmap", Title: "fio 4 KiB random read, mmap, warm", Rate: true, MinPick: 1, MinLimit: 0.95}},
		}},

		{Name: "create", Server: Bindfs, Steps: []Step{
			{Args: []string{"{bench}/driver", "create", ".", "5000", "2048"},
				Row: &Row{Name: "create", Title: "create and write 5,000 files of 2 KiB", MinPick: 1}},
		}},
		{Name: "untar", Server: Bindfs, Slow: true, Steps: []Step{
			{Args: []string{"tar", "-xf", "{bench}/source.tar"}, Row: &Row{Name: "untar", Title: "untar a source tree", MinPick: 1}},
		}},
		{Name: "gitstatus", Server: Bindfs, Data: DataGit, Slow: true, Steps: []Step{
			{Args: gitStatus}, // reads every file, because the mount gives it another inode number, and writes the index
			{Args: gitStatus, Times: 3, Row: &Row{Name: "gitstatus", Title: "git status of a source tree"}},
		}},
		{Name: "gobuild", Server: Bindfs, Data: DataGo, Slow: true, Steps: []Step{
			{Args: goCommand("build", "./..."), Row: &Row{Name: "gobuild", Title: "go build of a module"}},
		}},
		{Name: "cbuild", Server: Bindfs, Slow: true, Steps: []Step{
			{Args: []string{"sh", "-ec", "tar -xf {bench}/program.tar; cd zlib-*; ./configure; make -j2"},
				Row: &Row{Name: "cbuild", Title: "unpack, configure and make of zlib"}},
		}},
		{Name: "postmark", Server: Bindfs, Slow: true, Steps: []Step{
			{Args: []string{"postmark", "{bench}/postmark"}, Row: &Row{Name: "postmark", Title: "Postmark, 500 files, 5,000 transactions"}},
		}},
	}
}

// postmark is the configuration of Postmark. The sizes are its default; buffering would be that of the C library.
const postmark = `set number 500
set transactions 5000
set size 500 10000
set buffering false
run
quit
`

var gitStatus = []string{"env", "GIT_CONFIG_GLOBAL=/dev/null", "git", "-C", "tree", "status", "--porcelain"}

// goCommand is a go command in the module of DataGo, which uses nothing of the user's and no network.
func goCommand(args ...string) []string {
	return append([]string{"env", "CGO_ENABLED=0", "GOCACHE={data}/cache", "GOPATH={data}/gopath", "GOENV=off", "GOFLAGS=", "GOWORK=off",
		"GOPROXY=off", "GOTOOLCHAIN=local", "go", args[0], "-C", "module"}, args[1:]...)
}

// randomRead is a fio command. It must not drop the caches (invalidate=0), nor write what is missing (readonly).
func randomRead(engine string) []string {
	return []string{"fio", "--name=random", "--filename=big", "--readonly", "--rw=randread", "--bs=4k", "--ioengine=" + engine,
		"--invalidate=0", "--time_based", "--runtime={seconds}", "--output-format=json"}
}

// fioIOPS returns the reads per second of the one job in fio's JSON output.
func fioIOPS(output string) (float64, error) {
	var result struct {
		Jobs []struct {
			Read struct {
				IOPS float64 `json:"iops"`
			} `json:"read"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(output), &result); err != nil {
		return 0, fmt.Errorf("output of fio: %w", err)
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Read.IOPS <= 0 {
		return 0, errors.New("output of fio: not one job that has read")
	}
	return result.Jobs[0].Read.IOPS, nil
}
