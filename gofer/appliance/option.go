// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fsva/gofer/bytesize"
	"fsva/gofer/listen"
)

// scalar checks a value against the option's type and returns it in the form that goes into arguments. For a path
// type it only checks the text.
func (o *OptionSpec) scalar(value string) (string, error) {
	if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return "", fmt.Errorf("%q contains a control character", value)
	}
	switch o.Type {
	case TypeInt:
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
			return "", fmt.Errorf("%q is not a whole number", value)
		case o.Min != nil && n < *o.Min:
			return "", fmt.Errorf("%d is below the least allowed, %d", n, *o.Min)
		case o.Max != nil && n > *o.Max:
			return "", fmt.Errorf("%d is above the largest allowed, %d", n, *o.Max)
		}
		return strconv.FormatInt(n, 10), nil
	case TypeBool:
		if value != "true" && value != "false" {
			return "", fmt.Errorf("%q is neither true nor false", value)
		}
	case TypeEnum:
		if !slices.Contains(o.Values, value) {
			return "", fmt.Errorf("%q is not one of %s%s", value, list(o.Values), didYouMean(value, o.Values))
		}
	case TypeSize:
		n, err := bytesize.Parse(value)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(n, 10), nil
	case TypeMode:
		if n, err := strconv.ParseUint(value, 8, 32); err != nil || n > 0o7777 {
			return "", fmt.Errorf("%q is not permission bits in octal such as 022", value)
		}
	default:
		switch {
		case value == "":
			return "", errors.New("is empty")
		case holdsPassword(value):
			return "", errors.New("has a password in it, which everybody could read")
		}
	}
	return value, nil
}

// expand returns the arguments for a value that scalar accepted, or for a path type the path inside the root.
func (o *OptionSpec) expand(value string) ([]string, error) {
	if o.Type == TypeBool && value != "true" {
		return nil, nil
	}
	if args, ok := o.ValueArgs[value]; ok && o.Type == TypeEnum {
		return args, nil
	}
	out := make([]string, 0, len(o.Args))
	for i, a := range o.Args {
		if strings.Contains(a, "${value}") {
			switch {
			case inMountOptions(o.Args, i) && strings.ContainsAny(value, `,\`):
				return nil, fmt.Errorf("%q contains a comma or a backslash, which would end the mount option", value)
			case strings.HasPrefix(a, "${value}") && strings.HasPrefix(value, "-"):
				return nil, fmt.Errorf("%q starts with a dash, so it would be taken for an argument", value)
			}
		}
		out = append(out, strings.ReplaceAll(a, "${value}", value))
	}
	return out, nil
}

// arguments checks and records the values of an option, which are one unless it is a list, and returns what they add to
// the command line.
func (o *OptionSpec) arguments(values []string, p *Plan) ([]string, error) {
	settings, inside := make([]string, len(values)), make([]string, len(values))
	for i, v := range values {
		v, err := o.scalar(v)
		if err != nil {
			return nil, err
		}
		settings[i], inside[i] = v, v
		if !o.isPath() {
			continue
		}
		path := RootFiles + "/" + o.Name
		if o.List {
			path += "/" + strconv.Itoa(i)
		}
		if settings[i], err = o.bind(v, path, p); err != nil {
			return nil, err
		}
		inside[i] = path
	}
	if o.Separator != "" {
		for _, v := range inside {
			if strings.Contains(v, o.Separator) {
				return nil, fmt.Errorf("%q contains %q, which separates the values of the list", v, o.Separator)
			}
		}
		inside = []string{strings.Join(inside, o.Separator)}
	}
	p.Settings[o.Name] = strings.Join(settings, cmp.Or(o.Separator, ","))
	var args []string
	for _, v := range inside {
		a, err := o.expand(v)
		if err != nil {
			return nil, err
		}
		args = append(args, a...)
	}
	return args, nil
}

// bind checks a path on the host, adds it to the plan's binds as path, and returns it without symbolic links.
func (o *OptionSpec) bind(value, path string, p *Plan) (string, error) {
	host, info, err := hostPath(value)
	if err != nil {
		return "", fmt.Errorf("%s: %w", value, err)
	}
	switch {
	case o.Type == TypeDir && !info.IsDir():
		return "", fmt.Errorf("%s is a %s, not a directory", value, kindOf(info))
	case o.Type != TypeDir && !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is a %s, not a file", value, kindOf(info))
	}
	if o.Type == TypeSecretFile {
		if err := listen.CheckSecretFile(value, info); err != nil {
			return "", err
		}
	}
	p.bind(host, path, !o.Writable && (!o.Source || p.ReadOnly))
	if o.Type != TypeDir {
		p.grantAccess(info, false)
	}
	for _, sub := range o.Make {
		p.Make = append(p.Make, filepath.Join(host, sub))
	}
	return host, nil
}

// inMountOptions reports whether args[i] is (part of) a comma-separated list of mount options.
func inMountOptions(args []string, i int) bool {
	return (i > 0 && args[i-1] == "-o") || (strings.HasPrefix(args[i], "-o") && args[i] != "-o")
}

// setting is one --option of a volume.
type setting struct{ name, value string }

// parseSettings splits NAME=VALUE texts. NAME alone is short for NAME=true. A name may be there more than once.
func parseSettings(texts []string) ([]setting, error) {
	var out []setting
	for _, t := range texts {
		name, value, found := strings.Cut(t, "=")
		if !found {
			value = "true"
		}
		if name == "" {
			return nil, fmt.Errorf("option %q has no name: write --option NAME=VALUE", t)
		}
		out = append(out, setting{name, value})
	}
	return out, nil
}

// optionNames lists an appliance's options for a message.
func (m *Manifest) optionNames() []string {
	var names []string
	for i := range m.Options {
		names = append(names, m.Options[i].Name)
	}
	return names
}
