// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// minMaxRead is the least that a READ can ask for: a page.
const minMaxRead = 4 << 10

// maxManifest bounds a manifest's size: they are a page of text.
const maxManifest = 64 << 10

// ParseError is a mistake in a manifest and where it is. Its text is one line.
type ParseError struct {
	File         string
	Line, Column int // 1 based
	Reason       string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Reason)
}

// Parse reads a manifest. Keys that are not known are mistakes. file is only used in errors, which are *ParseError.
func Parse(file string, data []byte) (Manifest, error) {
	if len(data) > maxManifest {
		return Manifest{}, &ParseError{File: file, Line: 1, Column: 1, Reason: fmt.Sprintf("the manifest is larger than %d bytes", maxManifest)}
	}
	var m Manifest
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&m)
	if err != nil {
		return Manifest{}, decodeError(file, err)
	}
	if key, reason := m.check(); reason != "" {
		line, column := locate(data, key)
		return Manifest{}, &ParseError{File: file, Line: line, Column: column, Reason: reason}
	}
	if m.InProcess == "" && m.Isolation != IsolationVM && m.Root == "" {
		m.Root = RootImage
	}
	if len(m.Image.Packages) != 0 && m.Image.Suite == "" {
		m.Image.Suite = DefaultSuite
	}
	return m, nil
}

// decodeError turns what the TOML library says into one line with a position.
func decodeError(file string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := &strict.Errors[0]
		row, column := e.Position()
		key := e.Key()
		reason := fmt.Sprintf("unknown key %q", strings.Join(key, "."))
		if len(key) > 0 {
			known := manifestKeys
			switch key[0] {
			case "option":
				known = optionKeys
			case "image":
				known = imageKeys
			}
			reason += didYouMean(key[len(key)-1], known)
		}
		return &ParseError{File: file, Line: row, Column: column, Reason: reason}
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, column := decode.Position()
		return &ParseError{File: file, Line: row, Column: column, Reason: oneLine(strings.TrimPrefix(decode.Error(), "toml: "))}
	}
	return &ParseError{File: file, Line: 1, Column: 1, Reason: oneLine(strings.TrimPrefix(err.Error(), "toml: "))}
}

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// packagePattern is the Debian policy manual's (5.6.7), so that no package is taken for an option of apt.
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
	suitePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	varPattern     = regexp.MustCompile(`\$\{[^}]*\}?`)

	manifestKeys = tomlKeys(Manifest{})
	optionKeys   = tomlKeys(OptionSpec{})
	imageKeys    = tomlKeys(ImageSpec{})

	isolations = []string{IsolationGVisor, IsolationProcess, IsolationNone, IsolationVM}
	coherences = []string{CoherenceExclusive, CoherenceShared}
	caches     = []string{CacheWritethrough, CacheWriteback}
	mounts     = []string{MountFD, MountHelper, MountSyscall}
	inProcess  = []string{InProcessDir, InProcessMem, InProcessZip, InProcessTar}
	sources    = []string{SourceFile, SourceDirectory, SourceRemote, SourceDirectoryOrRemote, SourceVM, SourceNone}
	types      = []string{TypeString, TypeInt, TypeBool, TypeEnum, TypeSize, TypeMode, TypeFile, TypeDir, TypeSecretFile}
)

// check returns the key at fault and the reason, or an empty reason. A key is a path as locate takes it.
func (m *Manifest) check() (key []any, reason string) {
	at := func(k ...any) []any { return k }
	oneOf := func(k, v string, known []string) string {
		switch {
		case v == "":
			return fmt.Sprintf("%q is missing: one of %s", k, list(known))
		case !slices.Contains(known, v):
			return fmt.Sprintf("%s %q is not one of %s%s", k, v, list(known), didYouMean(v, known))
		}
		return ""
	}
	switch {
	case m.Name == "":
		return at("name"), `"name" is missing`
	case !namePattern.MatchString(m.Name):
		return at("name"), fmt.Sprintf("name %q must be lower-case letters, digits and dashes, at most 63", m.Name)
	case m.Description == "" || strings.ContainsAny(m.Description, "\n\r"):
		return at("description"), `"description" must be one line of text`
	case m.InProcess == "" && len(m.Command) == 0:
		return at("command"), `either "command" or "in-process" is needed`
	case m.InProcess != "" && len(m.Command) != 0:
		return at("command"), `"command" and "in-process" exclude each other`
	}
	for _, c := range []struct {
		key, value string
		known      []string
		required   bool
	}{
		{"in-process", m.InProcess, inProcess, false},
		{"mount", m.Mount, mounts, m.InProcess == ""},
		{"isolation", m.Isolation, isolations, true},
		{"coherence", m.Coherence, coherences, true},
		{"cache", m.Cache, caches, false},
		{"source", m.Source, sources, true},
	} {
		if c.value != "" || c.required {
			if r := oneOf(c.key, c.value, c.known); r != "" {
				return at(c.key), r
			}
		}
	}
	if m.CacheLimit != "" {
		if _, err := ParseCacheLimit(m.CacheLimit); err != nil {
			return at("cache-limit"), err.Error()
		}
	}
	if m.InProcess != "" {
		switch {
		case m.Isolation != IsolationNone:
			return at("isolation"), `isolation of an in-process file system must be "none"`
		case m.Mount != "":
			return at("mount"), `"mount" has no meaning for an in-process file system`
		case m.Root != "":
			return at("root"), `"root" has no meaning for an in-process file system`
		case m.Image.Packages != nil || m.Image.Suite != "":
			return at("image"), `"image" has no meaning for an in-process file system`
		case len(m.Env) != 0:
			return at("env"), `"env" has no meaning for an in-process file system`
		case len(m.Capabilities) != 0:
			return at("capabilities"), `"capabilities" have no meaning for an in-process file system`
		case m.State:
			return at("state"), `"state" has no meaning for an in-process file system`
		case m.Network:
			return at("network"), `"network" has no meaning for an in-process file system`
		}
	} else {
		switch {
		case m.Isolation == IsolationNone:
			return at("isolation"), `isolation "none" is for in-process file systems`
		case (m.Isolation == IsolationVM) != (m.Source == SourceVM):
			return at("source"), `isolation "vm" and source "vm" go together`
		case m.Isolation == IsolationVM && m.Root != "":
			return at("root"), `"root" has no meaning with isolation "vm"`
		case m.Isolation == IsolationVM && (m.Image.Packages != nil || m.Image.Suite != ""):
			return at("image"), `"image" has no meaning with isolation "vm"`
		case m.Isolation == IsolationVM:
		case m.Root != "" && m.Root != RootImage && m.Root != RootHost && !strings.HasPrefix(m.Root, "/"):
			return at("root"), fmt.Sprintf("root %q is neither \"image\", \"host\" nor an absolute directory", m.Root)
		case strings.Contains(m.Command[0], "${"):
			return at("command"), "the first element of command must be the program itself"
		case m.State != strings.Contains(strings.Join(m.Command, " "), "${state}"):
			return at("command"), "${state} in command and state = true go together"
		}
	}
	if key, reason := m.Image.check(); reason != "" {
		return at("image", key), reason
	}
	if m.MaxRead != 0 && (m.InProcess != "" || m.MaxRead < minMaxRead) {
		return at("max-read"), fmt.Sprintf(`"max-read" is for servers and at least %d`, minMaxRead)
	}
	if m.Batch && (m.InProcess != "" || m.Mount == MountHelper) {
		return at("batch"), `"batch" is for servers with mount = "fd" or "syscall"`
	}
	if len(m.SourceSuffixes) != 0 && m.Source != SourceFile {
		return at("source-suffixes"), `"source-suffixes" needs source = "file"`
	}
	for i, c := range m.Capabilities {
		if !slices.Contains(capabilityNames, c) {
			return at("capabilities"), fmt.Sprintf("capabilities[%d]: unknown capability %q%s", i, c, didYouMean(c, capabilityNames))
		}
	}
	for k, v := range m.Env {
		if !envPattern.MatchString(k) {
			return at("env", k), fmt.Sprintf("env: %q is not a variable name", k)
		}
		if strings.ContainsRune(v, 0) {
			return at("env", k), fmt.Sprintf("env %s contains a NUL", k)
		}
	}
	for _, c := range []struct {
		key  string
		args []string
		vars []string
	}{
		{"command", m.Command, []string{"${source}", "${mountpoint}", "${options}", "${state}"}},
		{"read-only-args", m.ReadOnlyArgs, nil},
		{"read-write-args", m.ReadWriteArgs, nil},
	} {
		if r := checkArgs(c.key, c.args, c.vars); r != "" {
			return at(c.key), r
		}
	}
	if m.InProcess == "" && !slices.Contains(m.Command, "${options}") && (len(m.Options) != 0 || len(m.ReadOnlyArgs) != 0 || len(m.ReadWriteArgs) != 0) {
		return at("command"), "command has no ${options} element, so options and modes would be lost"
	}
	seen := map[string]bool{}
	for i := range m.Options {
		o := &m.Options[i]
		if k, r := o.check(m.InProcess != ""); r != "" {
			return at("option", i, k), r
		}
		if seen[o.Name] {
			return at("option", i, "name"), fmt.Sprintf("option %q is declared twice", o.Name)
		}
		seen[o.Name] = true
	}
	return nil, ""
}

// check returns the key at fault and the reason, or an empty reason.
func (i *ImageSpec) check() (key, reason string) {
	if i.Packages == nil && i.Suite == "" {
		return "", ""
	}
	if len(i.Packages) == 0 {
		return "packages", `image without "packages": a list of Debian packages`
	}
	for n, p := range i.Packages {
		if !packagePattern.MatchString(p) {
			return "packages", fmt.Sprintf("packages[%d]: %q is not a Debian package's name", n, p)
		}
		if slices.Contains(i.Packages[:n], p) {
			return "packages", fmt.Sprintf("packages[%d]: %q is there twice", n, p)
		}
	}
	if i.Suite != "" && !suitePattern.MatchString(i.Suite) {
		return "suite", fmt.Sprintf("suite %q is not a Debian release such as %s", i.Suite, DefaultSuite)
	}
	return "", ""
}

// check returns the key at fault and the reason, or an empty reason.
func (o *OptionSpec) check(inProcess bool) (key, reason string) {
	switch {
	case o.Name == "":
		return "name", `option without a "name"`
	case !namePattern.MatchString(o.Name):
		return "name", fmt.Sprintf("option name %q must be lower-case letters, digits and dashes", o.Name)
	case o.Description == "" || strings.ContainsAny(o.Description, "\n\r"):
		return "description", fmt.Sprintf("option %q: \"description\" must be one line of text", o.Name)
	case !slices.Contains(types, o.Type):
		return "type", fmt.Sprintf("option %q: type %q is not one of %s%s", o.Name, o.Type, list(types), didYouMean(o.Type, types))
	case (o.Type == TypeEnum) != (len(o.Values) != 0):
		return "values", fmt.Sprintf("option %q: \"values\" belong to type enum, and only there", o.Name)
	case o.Type != TypeInt && (o.Min != nil || o.Max != nil):
		return "type", fmt.Sprintf("option %q: \"min\" and \"max\" belong to type int", o.Name)
	case o.Type != TypeDir && o.Writable:
		return "writable", fmt.Sprintf("option %q: \"writable\" belongs to type dir", o.Name)
	case o.Source && (o.Type != TypeDir || o.Writable):
		return "source", fmt.Sprintf("option %q: \"source\" belongs to type dir, and not beside \"writable\"", o.Name)
	case len(o.Make) != 0 && !o.Writable:
		return "make", fmt.Sprintf("option %q: \"make\" needs writable = true", o.Name)
	case slices.ContainsFunc(o.Make, func(d string) bool { return !plainName.MatchString(d) }):
		return "make", fmt.Sprintf("option %q: \"make\" takes plain names, such as \"upper\"", o.Name)
	case o.List && (o.Type == TypeBool || o.Default != ""):
		return "list", fmt.Sprintf("option %q: a list is not of type bool and has no default", o.Name)
	case o.Separator != "" && !o.List:
		return "separator", fmt.Sprintf("option %q: \"separator\" needs list = true", o.Name)
	case o.Type != TypeEnum && len(o.ValueArgs) != 0:
		return "value-args", fmt.Sprintf("option %q: \"value-args\" belong to type enum", o.Name)
	case o.Required && o.Default != "":
		return "default", fmt.Sprintf("option %q: a required option has no default", o.Name)
	case o.isPath() && o.Default != "":
		return "default", fmt.Sprintf("option %q: a %s has no default", o.Name, o.Type)
	case inProcess && (len(o.Args) != 0 || len(o.ValueArgs) != 0):
		return "args", fmt.Sprintf("option %q: \"args\" have no meaning for an in-process file system", o.Name)
	case !inProcess && len(o.Args) == 0 && len(o.ValueArgs) == 0:
		return "args", fmt.Sprintf("option %q has no \"args\", so it would do nothing", o.Name)
	}
	vars := []string{"${value}"}
	if o.Type == TypeBool {
		vars = nil
	}
	if r := checkArgs("option "+o.Name+": args", o.Args, vars); r != "" {
		return "args", r
	}
	for v, args := range o.ValueArgs {
		if !slices.Contains(o.Values, v) {
			return "value-args", fmt.Sprintf("option %q: value-args for %q, which is not one of its values", o.Name, v)
		}
		if r := checkArgs("option "+o.Name+": value-args", args, nil); r != "" {
			return "value-args", r
		}
	}
	if o.Default != "" {
		if _, err := o.scalar(o.Default); err != nil {
			return "default", fmt.Sprintf("option %q: default %s", o.Name, err)
		}
	}
	return "", ""
}

// checkArgs reports what is wrong with a list of arguments in which the variables vars may be used.
func checkArgs(key string, args, vars []string) string {
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			return fmt.Sprintf("%s[%d] contains a NUL", key, i)
		}
		for _, v := range varPattern.FindAllString(a, -1) {
			if !slices.Contains(vars, v) {
				known := "none may be used here"
				if len(vars) > 0 {
					known = "known are " + strings.Join(vars, ", ")
				}
				return fmt.Sprintf("%s[%d]: unknown variable %s: %s", key, i, v, known)
			}
			if v == "${options}" && a != v {
				return fmt.Sprintf("%s[%d]: ${options} must be an element of its own", key, i)
			}
		}
	}
	return ""
}

// capabilityNames are those that an FS server may be given: what touches files, and identities. None of them reaches
// beyond the server's own namespaces.
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "LINUX_IMMUTABLE", "MKNOD", "SETFCAP", "SETGID", "SETUID",
}
