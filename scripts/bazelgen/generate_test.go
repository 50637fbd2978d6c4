// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// module is a module with one package of each sort. The rest of the file is its BUILD.bazel files.
var module = map[string]string{
	"go.mod":            "module example\n\ngo 1.26\n",
	"notes/README.md":   "no package\n",
	"_old/a.go":         "package old\n",
	"a/testdata/x/x.go": "package x\n",
	"other/go.mod":      "module other\n",
	"other/o.go":        "package other\n",
	"hand/h.go":         "package hand\n",
	"hand/BUILD.bazel":  "# By hand.\n",

	"a/a.go":                "package a\n\nimport (\n\t\"embed\"\n\t_ \"example/b\"\n\t_ \"golang.org/x/sys/unix\"\n)\n\n//go:embed *.txt all:tree LICENSE\nvar FS embed.FS\n",
	"a/a_arm64.go":          "package a\n\nimport _ \"example/only/arm\"\n",
	"a/a_windows.go":        "package a\n\nimport _ \"example/never\"\n",
	"a/a_test.go":           "package a\n\n//bazel:data //notes:all\n//bazel:tags manual\n\nimport _ \"example/c\"\n",
	"a/x_test.go":           "package a_test\n\nimport (\n\t_ \"example/a\"\n\t_ \"example/b\"\n)\n",
	"a/tagged_test.go":      "//go:build e2e\n\npackage a\n\nimport _ \"example/d\"\n",
	"a/hello.txt":           "hello\n",
	"a/tree/leaf":           "leaf\n",
	"cmd/tool/main.go":      "package main\n\nimport _ \"example/a\"\n\nfunc main() {}\n",
	"e2e/e2e_test.go":       "//go:build e2e\n\npackage e2e\n",
	"only/arm/arm.go":       "package arm\n",
	"b/b.go":                "package b\n",
	"c/c.go":                "package c\n",
	"d/d.go":                "package d\n",
	"c/BUILD.bazel":         header + "old\n",
	"gone/away/BUILD.bazel": header + "old\n",
}

const wantA = header + `
load("//bazel:go.bzl", "go_library", "go_test")

go_library(
    name = "a",
    embedsrcs = ["LICENSE"] + glob([
        "*.txt",
        "tree/**",
    ]),
    deps = [
        "//b",
        "//only/arm",
    ],
)

go_test(
    name = "a_test",
    data = ["//notes:all"],
    library = ":a",
    tags = ["manual"],
    deps = [
        "//b",
        "//c",
    ],
)

go_test(
    name = "a_e2e_test",
    data = ["//notes:all"],
    gotags = ["e2e"],
    library = ":a",
    tags = ["manual"],
    deps = [
        "//b",
        "//c",
        "//d",
    ],
)

filegroup(
    name = "files",
    srcs = glob(
        ["**"],
        exclude = [
            "**/*.go",
            "BUILD.bazel",
        ],
    ),
    visibility = ["//visibility:public"],
)
`

const wantTool = header + `
load("//bazel:go.bzl", "go_binary")

go_binary(
    name = "tool",
    deps = ["//a"],
)
`

const wantE2E = header + `
load("//bazel:go.bzl", "go_test")

go_test(
    name = "e2e_test",
    gotags = ["e2e"],
)
`

func writeModule(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range module {
		write(t, root, name, content)
	}
	return root
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGenerate(t *testing.T) {
	files, err := generate(writeModule(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a/BUILD.bazel", "b/BUILD.bazel", "c/BUILD.bazel", "cmd/tool/BUILD.bazel", "d/BUILD.bazel", "e2e/BUILD.bazel", "hand/BUILD.bazel", "only/arm/BUILD.bazel"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"a": wantA, "cmd/tool": wantTool, "e2e": wantE2E} {
		if diff := cmp.Diff(want, files[name+"/BUILD.bazel"]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRun(t *testing.T) {
	root := writeModule(t)
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return ""
		}
		return string(content)
	}

	if err := run(root, true); err == nil {
		t.Error("-check: no error though nothing is up to date")
	}
	if read("c/BUILD.bazel") != module["c/BUILD.bazel"] || read("a/BUILD.bazel") != "" {
		t.Error("-check wrote a file")
	}

	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Errorf("-check of what was just written: %v", err)
	}
	if read("a/BUILD.bazel") != wantA {
		t.Error("a/BUILD.bazel was not written")
	}
	if read("hand/BUILD.bazel") != module["hand/BUILD.bazel"] {
		t.Error("a file without the header was changed")
	}
	if _, err := os.Stat(filepath.Join(root, "gone/away/BUILD.bazel")); err == nil {
		t.Error("the file of a package that is gone was kept")
	}

	write(t, root, "b/b.go", "package b\n\nimport _ \"example/d\"\n")
	if err := run(root, true); err == nil {
		t.Error("-check: no error after an import was added")
	}
}

func TestGenerateErrors(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"directive":    {"b/b_test.go", "package b\n\n//bazel:date //x\n", "b_test.go: //bazel:date //x: want"},
		"no value":     {"b/b_test.go", "package b\n\n//bazel:data\n", "b_test.go: //bazel:data: want"},
		"two packages": {"b/c.go", "package c\n", "b: found packages"},
		"syntax":       {"b/c.go", "pakcage b\n", "c.go:1:1"},
		"go.mod":       {"go.mod", "go 1.26\n", "no module line"},
	} {
		t.Run(name, func(t *testing.T) {
			root := writeModule(t)
			write(t, root, c.file, c.content)
			if _, err := generate(root); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("generate: %v, want %q", err, c.want)
			}
		})
	}
}
