// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package runscconfig

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// shimOptions is the file that the shim reads, an example of which users find
// beside this file.
//
//go:embed containerd-runsc.toml
var shimOptions string

// examplePath is where the example says that our binaries are.
const examplePath = "/usr/local/lib/fsva/bin"

// criTables are the tables of runtimes by the version of the file.
var criTables = map[int64][]string{
	1: {"plugins", "cri", "containerd", "runtimes"},
	2: {"plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"},
	3: {"plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"},
}

// criPlugins are the names by which disabled_plugins knows the plugin that
// serves Kubernetes.
var criPlugins = []string{"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}

// shimOptionsFile is the file of options for this runtime, beside the
// configuration file.
func (j *job) shimOptionsFile() string {
	return filepath.Join(filepath.Dir(j.ConfigFile), j.Runtime+".toml")
}

func installContainerd(j *job) error {
	if file := j.shimOptionsFile(); file == j.ConfigFile {
		return fmt.Errorf("runtime %q would have its options in %s itself: choose another name with --runtime", j.Runtime, file)
	}
	err := j.edit(j.shimOptionsFile(), func(before []byte) ([]byte, error) {
		if before == nil {
			return j.shimOptions(), nil
		}
		if name, err := binaryName(before); err != nil {
			return nil, err
		} else if name != j.Runsc {
			return nil, fmt.Errorf("it exists and its binary_name is not %s; it stays as it is: choose another name with --runtime", j.Runsc)
		}
		return before, nil // as somebody may have changed it
	})
	if err != nil {
		return err
	}
	return j.edit(j.ConfigFile, func(before []byte) ([]byte, error) {
		doc, err := parseContainerdTOML(before)
		if err != nil {
			return nil, err
		}
		if entry, ok := doc.runtime(j.Runtime); ok {
			if j.isOurs(entry) {
				return before, nil
			}
			return nil, j.conflict()
		}
		if doc.disabledCRI {
			j.plan.Notes = append(j.plan.Notes, fmt.Sprintf("%s disables containerd's CRI plugin (disabled_plugins), so Kubernetes cannot use any runtime; ctr and docker are not affected", j.ConfigFile))
		}
		after := appendTables(before, doc, j.stanza(doc.version))
		return after, doc.checkDifference(after, j.Runtime, true, "add the runtime by hand (runsc-config/README.md)")
	})
}

func uninstallContainerd(j *job) (bool, error) {
	found := false
	err := j.restore(j.ConfigFile, func(before []byte, r recordedFile) ([]byte, error) {
		doc, err := parseContainerdTOML(before)
		if err != nil {
			return nil, err
		}
		entry, ok := doc.runtime(j.Runtime)
		if !ok || !j.isOurs(entry) {
			return before, nil
		}
		if doc.defaultRuntime == j.Runtime {
			return nil, fmt.Errorf("containerd's default_runtime_name is %q: change that first", j.Runtime)
		}
		found = true
		after, err := removeTables(before, append(slices.Clone(criTables[doc.version]), j.Runtime))
		if err != nil {
			return nil, err
		}
		if err := doc.checkDifference(after, j.Runtime, false, "remove the runtime by hand"); err != nil {
			return nil, err
		}
		rest, err := parseContainerdTOML(after)
		if err != nil {
			return nil, err
		}
		delete(rest.all, "version")
		if r.Created && len(rest.all) == 0 {
			return nil, nil
		}
		return after, nil
	})
	if err != nil {
		return false, err
	}
	err = j.restore(j.shimOptionsFile(), func(before []byte, r recordedFile) ([]byte, error) {
		if name, err := binaryName(before); err != nil || name != j.Runsc {
			return before, nil // not ours, or not any more
		}
		return nil, nil
	})
	return found || len(j.plan.Changes) > 0, err
}

func registeredContainerd(j *job, data []byte) ([]string, error) {
	doc, err := parseContainerdTOML(data)
	if err != nil {
		return nil, err
	}
	runtimes, err := subtable(doc.all, criTables[doc.version])
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range runtimes {
		entry, _ := doc.runtime(name)
		options, _ := entry["options"].(map[string]any)
		file, _ := options["ConfigPath"].(string)
		if !filepath.IsAbs(file) {
			continue
		}
		c, err := readChange(j.Prefix, file)
		if err != nil {
			return nil, err
		}
		if binary, err := binaryName(c.Before); err == nil && binary == j.Runsc {
			names = append(names, name)
		}
	}
	return names, nil
}

// shimOptions is the file of options for this runsc.
func (j *job) shimOptions() []byte {
	return []byte(strings.ReplaceAll(shimOptions, quoteTOML(filepath.Join(examplePath, "runsc")), quoteTOML(j.Runsc)))
}

// binaryName returns what the file of options says is runsc.
func binaryName(data []byte) (string, error) {
	var options struct {
		BinaryName string `toml:"binary_name"`
	}
	if err := toml.Unmarshal(data, &options); err != nil {
		return "", tomlError(err)
	}
	return options.BinaryName, nil
}

// stanza is what is added to the configuration file.
func (j *job) stanza(version int64) string {
	table := tableName(append(slices.Clone(criTables[version]), j.Runtime))
	var b strings.Builder
	b.WriteString(stanzaComment + "\"fsva install containerd\".\n")
	fmt.Fprintf(&b, "[%s]\n", table)
	fmt.Fprintf(&b, "  runtime_type = \"io.containerd.runsc.v1\"\n")
	fmt.Fprintf(&b, "  runtime_path = %s\n", quoteTOML(j.shim()))
	fmt.Fprintf(&b, "  [%s.options]\n", table)
	fmt.Fprintf(&b, "    TypeUrl = \"io.containerd.runsc.v1.options\"\n")
	fmt.Fprintf(&b, "    ConfigPath = %s\n", quoteTOML(j.shimOptionsFile()))
	return b.String()
}

// isOurs reports whether entry is a runtime that stanza has described,
// whatever was added to it.
func (j *job) isOurs(entry map[string]any) bool {
	options, _ := entry["options"].(map[string]any)
	return entry["runtime_path"] == j.shim() && options["ConfigPath"] == j.shimOptionsFile()
}

// containerdTOML is what we know of a config.toml.
type containerdTOML struct {
	version        int64
	all            map[string]any
	defaultRuntime string
	disabledCRI    bool
}

// parseContainerdTOML reads a config.toml.
func parseContainerdTOML(data []byte) (*containerdTOML, error) {
	d := &containerdTOML{}
	if err := toml.Unmarshal(data, &d.all); err != nil {
		return nil, tomlError(err)
	}
	if d.all == nil {
		d.all = make(map[string]any)
	}
	switch v := d.all["version"].(type) {
	case nil:
		d.version = 1
		if len(d.all) == 0 {
			d.version = 2 // which we then say
		}
	case int64:
		d.version = v
	default:
		return nil, fmt.Errorf("not what containerd accepts: version is %v", v)
	}
	if criTables[d.version] == nil {
		return nil, fmt.Errorf("its version is %d; versions 1 to 3 are known here", d.version)
	}
	cri, err := subtable(d.all, criTables[d.version][:3])
	if err != nil {
		return nil, err
	}
	d.defaultRuntime, _ = cri["default_runtime_name"].(string)
	if _, err := subtable(d.all, criTables[d.version]); err != nil {
		return nil, err
	}
	disabled, _ := d.all["disabled_plugins"].([]any)
	for _, name := range disabled {
		if s, ok := name.(string); ok && slices.Contains(criPlugins, s) {
			d.disabledCRI = true
		}
	}
	return d, nil
}

// subtable returns the table at path, nil if there is none.
func subtable(t map[string]any, path []string) (map[string]any, error) {
	for i, key := range path {
		next, ok := t[key]
		if !ok {
			return nil, nil
		}
		if t, ok = next.(map[string]any); !ok {
			return nil, fmt.Errorf("not what containerd accepts: %s is not a table", tableName(path[:i+1]))
		}
	}
	return t, nil
}

// runtime returns the runtime of that name.
func (d *containerdTOML) runtime(name string) (map[string]any, bool) {
	runtimes, err := subtable(d.all, criTables[d.version])
	if err != nil {
		return nil, false // parseContainerdTOML has refused it
	}
	entry, ok := runtimes[name]
	if !ok {
		return nil, false
	}
	table, _ := entry.(map[string]any) // else somebody else's
	return table, true
}

// checkDifference returns an error, with advice, unless after says what d does,
// with the runtime of that name, or without it, and is otherwise the same.
func (d *containerdTOML) checkDifference(after []byte, name string, with bool, advice string) error {
	got, err := parseContainerdTOML(after)
	if err != nil {
		return fmt.Errorf("its tables are written in a way that cannot be edited here (%w): %s", err, advice)
	}
	if _, ok := got.runtime(name); ok != with {
		return fmt.Errorf("its tables are written in a way that cannot be edited here: %s", advice)
	}
	path := append(slices.Clone(criTables[d.version]), name)
	if got.version != d.version || !reflect.DeepEqual(without(d.all, path), without(got.all, path)) {
		return errors.New("the edited text would say something else: " + advice)
	}
	return nil
}

// without returns a copy of t without the table at path, the tables that are
// empty then, and without the version.
func without(t map[string]any, path []string) map[string]any {
	copied := make(map[string]any, len(t))
	for key, value := range t {
		if sub, ok := value.(map[string]any); ok && len(path) > 0 && key == path[0] {
			if len(path) == 1 {
				continue
			}
			if sub = without(sub, path[1:]); len(sub) == 0 {
				continue
			}
			value = sub
		}
		if key == "version" {
			if _, isNumber := value.(int64); isNumber {
				continue
			}
		}
		copied[key] = value
	}
	return copied
}

// appendTables adds stanza at the end of the text.
func appendTables(before []byte, doc *containerdTOML, stanza string) []byte {
	after := bytes.Clone(before)
	if len(after) > 0 && after[len(after)-1] != '\n' {
		after = append(after, '\n')
	}
	if len(doc.all) == 0 {
		after = append(after, fmt.Sprintf("version = %d\n", doc.version)...)
	}
	return append(after, "\n"+stanza...)
}

// removeTables removes the table at path, and those below it, from the text:
// each from its header to its last key, with our comment above it. Comments that
// follow stay.
func removeTables(data []byte, path []string) ([]byte, error) {
	type span struct{ from, to int }
	var (
		spans  []span
		inside bool
		p      unstable.Parser
	)
	p.KeepComments = false
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			var key []string
			at := -1
			for it := e.Key(); it.Next(); {
				n := it.Node()
				key = append(key, string(n.Data))
				if at < 0 {
					at = int(n.Raw.Offset)
				}
			}
			if inside = len(key) >= len(path) && slices.Equal(key[:len(path)], path); inside {
				spans = append(spans, span{startOfComment(data, at), endOfLine(data, at)})
			}
		case unstable.KeyValue:
			if inside {
				spans[len(spans)-1].to = endOfLine(data, endOfNode(e))
			}
		}
	}
	if err := p.Error(); err != nil {
		return nil, tomlError(err)
	}
	after := data
	for _, s := range slices.Backward(spans) {
		after = splice(after, s.from, s.to, "")
	}
	return after, nil
}

// endOfNode returns an offset in the last line of a key and its value.
func endOfNode(n *unstable.Node) int { return int(n.Raw.Offset + n.Raw.Length) }

// stanzaComment begins the comment above our tables.
const stanzaComment = "# gVisor with FSVA volumes, by "

// startOfComment returns where the line of the offset at begins, or our comment
// right above it, and the empty line above that.
func startOfComment(data []byte, at int) int {
	start := startOfLine(data, at)
	for _, ours := range []func(line []byte) bool{
		func(line []byte) bool { return bytes.HasPrefix(line, []byte(stanzaComment)) },
		func(line []byte) bool { return len(line) == 0 },
	} {
		if start == 0 {
			break
		}
		if from := startOfLine(data, start-1); ours(bytes.TrimSpace(data[from:start])) {
			start = from
		}
	}
	return start
}

// startOfLine returns the offset of the line that has the offset at.
func startOfLine(data []byte, at int) int { return bytes.LastIndexByte(data[:at], '\n') + 1 }

// endOfLine returns the offset after the line that has the offset at.
func endOfLine(data []byte, at int) int {
	if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(data)
}

// tomlError is a parser's error as one line.
func tomlError(err error) error {
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, column := decode.Position()
		return fmt.Errorf("line %d, column %d: %s", row, column, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return err
}

// tableName is a path as TOML writes it.
func tableName(path []string) string {
	words := make([]string, len(path))
	for i, key := range path {
		words[i] = key
		if strings.ContainsFunc(key, func(r rune) bool {
			return !(r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
		}) {
			words[i] = quoteTOML(key)
		}
	}
	return strings.Join(words, ".")
}

// quoteTOML is a basic string; JSON's escapes are TOML's, too.
func quoteTOML(s string) string { return quote(s) }
