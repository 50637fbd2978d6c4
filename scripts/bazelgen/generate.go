// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	fileName = "BUILD.bazel"
	// header is the first line of each file that is ours to write and to remove.
	header = "# Made by `make bazel`; do not edit.\n"
)

// otherFiles is what a package's directory has beside Go files.
const otherFiles = `glob(
        ["**"],
        exclude = [
            "**/*.go",
            "BUILD.bazel",
        ],
    )`

// integrationTags are the build tags whose tests are targets of their own.
var integrationTags = []string{"e2e", "bench"}

// goarches are the architectures whose imports are put together: a target must hold on each.
var goarches = []string{"amd64", "arm64"}

// goPackage is what there is to know of one directory under one set of build tags.
type goPackage struct {
	name        string   // of the package clause
	sources     bool     // has files that are not tests
	tests       []string // test files
	imports     []string // of the files that are not tests
	testImports []string
	embeds      []string // patterns
	testEmbeds  []string
}

// generate returns the content of every BUILD.bazel file of the module in root, by path below root.
func generate(root string) (map[string]string, error) {
	module, err := modulePath(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	dirs, err := directories(root)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, dir := range dirs {
		g := generator{root: root, module: module, dir: dir}
		content, err := g.file()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if content != "" {
			files[path.Join(dir, fileName)] = content
		}
	}
	return files, nil
}

// existing returns the BUILD.bazel files below root, without root's own, by path below root.
func existing(root string) (map[string]string, error) {
	dirs, err := directories(root)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, dir := range dirs {
		name := path.Join(dir, fileName)
		content, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[name] = string(content)
	}
	return files, nil
}

// directories returns the directories below root that the go command looks into, without root itself, sorted.
func directories(root string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || p == root {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
			return filepath.SkipDir
		}
		if p == filepath.Join(root, "bin") { // what make builds, while it is being built, too
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		dirs = append(dirs, filepath.ToSlash(rel))
		return nil
	})
	return dirs, err
}

// modulePath returns the path in a go.mod file's module line.
func modulePath(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(name), nil
		}
	}
	return "", fmt.Errorf("%s: no module line", file)
}

// generator writes the BUILD.bazel file of one directory.
type generator struct {
	root, module string
	dir          string // below root, with slashes
}

// file returns the content, or "" for a directory without Go files.
func (g *generator) file() (string, error) {
	plain, err := g.scan()
	if err != nil {
		return "", err
	}
	var rules []string
	uses := map[string]bool{}
	library := ""
	if plain.sources {
		kind := "go_library"
		if plain.name == "main" {
			kind = "go_binary"
		}
		uses[kind] = true
		library = path.Base(g.dir)
		rules = append(rules, rule(kind, attribute{"name", quote(library)},
			attribute{"embedsrcs", g.embedded(plain.embeds)}, attribute{"deps", list(g.labels(plain.imports))}))
	}

	test := func(name string, p goPackage, tags string) error {
		data, more, err := g.directives(p.tests)
		if err != nil {
			return err
		}
		attributes := []attribute{{"name", quote(name)}, {"data", list(data)}, {"embedsrcs", g.embedded(p.testEmbeds)}}
		if tags != "" {
			attributes = append(attributes, attribute{"gotags", list([]string{tags})})
		}
		if library != "" {
			attributes = append(attributes, attribute{"library", quote(":" + library)})
		}
		own := g.label(g.module + "/" + g.dir)
		deps := slices.DeleteFunc(g.labels(p.testImports), func(l string) bool { return l == own })
		attributes = append(attributes, attribute{"tags", list(more)}, attribute{"deps", list(deps)})
		uses["go_test"] = true
		rules = append(rules, rule("go_test", attributes...))
		return nil
	}
	base := path.Base(g.dir)
	if len(plain.tests) > 0 {
		if err := test(base+"_test", plain, ""); err != nil {
			return "", err
		}
	}
	for _, tag := range integrationTags {
		p, err := g.scan(tag)
		if err != nil {
			return "", err
		}
		if slices.Equal(p.tests, plain.tests) {
			continue
		}
		name := base + "_test"
		if len(plain.tests) > 0 || base != tag {
			name = base + "_" + tag + "_test"
		}
		// What files that are no tests and have the tag need, the library does not have.
		p.testImports = merge(p.testImports, without(p.imports, plain.imports))
		p.testEmbeds = merge(p.testEmbeds, without(p.embeds, plain.embeds))
		if err := test(name, p, tag); err != nil {
			return "", err
		}
	}
	if len(rules) == 0 {
		return "", nil
	}

	other, err := g.hasOtherFiles()
	if err != nil {
		return "", err
	}
	if other {
		rules = append(rules, rule("filegroup", attribute{"name", quote("files")},
			attribute{"srcs", otherFiles},
			attribute{"visibility", list([]string{"//visibility:public"})}))
	}
	load := "load(\"//bazel:go.bzl\""
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		load += ", " + quote(name)
	}
	return header + "\n" + load + ")\n\n" + strings.Join(rules, "\n"), nil
}

// scan reads the directory's Go files with the build tags given, for every architecture.
func (g *generator) scan(tags ...string) (goPackage, error) {
	var p goPackage
	for _, arch := range goarches {
		ctx := build.Default
		ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled, ctx.BuildTags = "linux", arch, false, tags
		found, err := ctx.ImportDir(filepath.Join(g.root, g.dir), 0)
		if none := (*build.NoGoError)(nil); errors.As(err, &none) {
			continue
		}
		if err != nil {
			return goPackage{}, err
		}
		p.name = found.Name
		p.sources = p.sources || len(found.GoFiles) > 0
		p.tests = merge(p.tests, found.TestGoFiles, found.XTestGoFiles)
		p.imports = merge(p.imports, found.Imports)
		p.testImports = merge(p.testImports, found.TestImports, found.XTestImports)
		p.embeds = merge(p.embeds, found.EmbedPatterns)
		p.testEmbeds = merge(p.testEmbeds, found.TestEmbedPatterns, found.XTestEmbedPatterns)
	}
	return p, nil
}

// directives returns what the //bazel: comments of the files say.
func (g *generator) directives(files []string) (data, tags []string, err error) {
	for _, name := range files {
		f, err := os.Open(filepath.Join(g.root, g.dir, name))
		if err != nil {
			return nil, nil, err
		}
		for scanner := bufio.NewScanner(f); err == nil && scanner.Scan(); err = scanner.Err() {
			text, ok := strings.CutPrefix(scanner.Text(), "//bazel:")
			if !ok {
				continue
			}
			switch words := strings.Fields(text); {
			case len(words) > 1 && words[0] == "data":
				data = merge(data, words[1:])
			case len(words) > 1 && words[0] == "tags":
				tags = merge(tags, words[1:])
			default:
				err = fmt.Errorf("%s: //bazel:%s: want //bazel:data LABEL... or //bazel:tags TAG...", name, text)
			}
			if err != nil {
				break
			}
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, nil, err
		}
	}
	return data, tags, nil
}

// hasOtherFiles reports whether the package has files that are not Go's, for tests of other packages to name.
func (g *generator) hasOtherFiles() (bool, error) {
	found := false
	top := filepath.Join(g.root, g.dir)
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != top:
			names, err := filepath.Glob(filepath.Join(p, "*.go"))
			if err != nil {
				return err
			}
			if len(names) > 0 && d.Name() != "testdata" {
				return fs.SkipDir
			}
		case !d.IsDir() && !strings.HasSuffix(p, ".go") && d.Name() != fileName:
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}

// embedded returns the expression for go:embed's patterns: a directory stands for what is in it.
func (g *generator) embedded(patterns []string) string {
	var files, globs []string
	for _, pattern := range patterns {
		pattern = strings.TrimPrefix(pattern, "all:")
		info, err := os.Stat(filepath.Join(g.root, g.dir, pattern))
		switch {
		case err == nil && info.IsDir():
			globs = append(globs, path.Join(pattern, "**"))
		case strings.ContainsAny(pattern, "*?["):
			globs = append(globs, pattern)
		default:
			files = append(files, pattern)
		}
	}
	var terms []string
	if len(files) > 0 {
		terms = append(terms, list(files))
	}
	if len(globs) > 0 {
		terms = append(terms, "glob("+list(globs)+")")
	}
	return strings.Join(terms, " + ")
}

// labels returns the targets of those imports that are packages of this module.
func (g *generator) labels(imports []string) []string {
	var labels []string
	for _, i := range imports {
		if strings.HasPrefix(i, g.module+"/") {
			labels = append(labels, g.label(i))
		}
	}
	return merge(nil, labels)
}

// label returns the target of a package of this module; its name is the directory's, which Bazel lets one leave out.
func (g *generator) label(importPath string) string {
	return "//" + strings.TrimPrefix(importPath, g.module+"/")
}

// attribute is one argument of a rule; one with an empty value is left out.
type attribute struct{ name, value string }

func rule(kind string, attributes ...attribute) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s(\n", kind)
	for _, a := range attributes {
		if a.value != "" {
			fmt.Fprintf(&b, "    %s = %s,\n", a.name, a.value)
		}
	}
	b.WriteString(")\n")
	return b.String()
}

func quote(s string) string {
	return "\"" + s + "\""
}

// list returns a list expression in the layout of Bazel's formatter, or "" for none.
func list(values []string) string {
	switch len(values) {
	case 0:
		return ""
	case 1:
		return "[" + quote(values[0]) + "]"
	}
	var b strings.Builder
	b.WriteString("[\n")
	for _, v := range values {
		fmt.Fprintf(&b, "        %s,\n", quote(v))
	}
	b.WriteString("    ]")
	return b.String()
}

// merge returns the sorted set of all the strings.
func merge(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func union(a, b map[string]string) []string {
	return merge(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
}
