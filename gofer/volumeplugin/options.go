// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"fsva/gofer/bytesize"
	"fsva/gofer/volume"
)

// An option of `docker volume create` that is not the appliance's own, named like the
// flags of `fsva volume create`.
type option struct {
	name string
	set  func(d *volume.Definition, value string) error
	get  func(d volume.Definition) any
}

var options = []option{
	text("appliance", func(d *volume.Definition) *string { return &d.Appliance }),
	text("source", func(d *volume.Definition) *string { return &d.Source }),
	text("isolation", func(d *volume.Definition) *string { return &d.Isolation }),
	text("coherence", func(d *volume.Definition) *string { return &d.Coherence }),
	text("network", func(d *volume.Definition) *string { return &d.Network }),
	text("cache", func(d *volume.Definition) *string { return &d.Cache }),
	text("cache-limit", func(d *volume.Definition) *string { return &d.CacheLimit }),
	text("root", func(d *volume.Definition) *string { return &d.Root }),
	flag("readonly", func(d *volume.Definition) *bool { return &d.ReadOnly }),
	flag("strict-fsync", func(d *volume.Definition) *bool { return &d.StrictFsync }),
	flag("dedicated", func(d *volume.Definition) *bool { return &d.Dedicated }),
	flag("runc", func(d *volume.Definition) *bool { return &d.HostMount }),
	{"cpus", func(d *volume.Definition, v string) (err error) {
		d.Limits.CPU, err = strconv.ParseFloat(v, 64)
		return err
	}, func(d volume.Definition) any { return d.Limits.CPU }},
	{"memory", func(d *volume.Definition, v string) (err error) {
		d.Limits.Memory, err = bytesize.Parse(v)
		return err
	}, func(d volume.Definition) any { return d.Limits.Memory }},
	{"pids", func(d *volume.Definition, v string) (err error) {
		d.Limits.Pids, err = strconv.ParseInt(v, 10, 64)
		return err
	}, func(d volume.Definition) any { return d.Limits.Pids }},
}

func text(name string, field func(*volume.Definition) *string) option {
	return option{name,
		func(d *volume.Definition, value string) error { *field(d) = value; return nil },
		func(d volume.Definition) any { return *field(&d) },
	}
}

// flag is an option that is true when it has no value.
func flag(name string, field func(*volume.Definition) *bool) option {
	return option{name,
		func(d *volume.Definition, value string) (err error) {
			*field(d) = true
			if value != "" {
				*field(d), err = strconv.ParseBool(value)
			}
			return err
		},
		func(d volume.Definition) any { return *field(&d) },
	}
}

// parseOptions makes a definition of docker's options. Those that are none of ours are
// the appliance's; whether it has them is for the definition's own check.
func parseOptions(name string, opts map[string]string) (volume.Definition, error) {
	d := volume.Definition{Name: name}
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		value := opts[key]
		i := slices.IndexFunc(options, func(o option) bool { return o.name == key })
		switch {
		case i >= 0:
			if err := options[i].set(&d, value); err != nil {
				return d, fmt.Errorf("option %s: %q: %w", key, value, cause(err))
			}
		case key == "" || strings.Contains(key, "="):
			return d, fmt.Errorf("%q is not the name of an option", key)
		case value == "":
			d.Options = append(d.Options, key)
		default:
			d.Options = append(d.Options, key+"="+value)
		}
	}
	switch {
	case d.Appliance == "" && d.Isolation != "vm":
		return d, errors.New("its appliance is missing: add -o appliance=NAME")
	case d.HostMount && d.Dedicated:
		return d, errors.New("it cannot be both dedicated, an instance for each container of our runsc, and for runc")
	}
	return d, nil
}

// difference names the first option in which two definitions differ; empty if they say
// the same.
func difference(a, b volume.Definition) string {
	for _, o := range options {
		if o.get(a) != o.get(b) {
			return o.name
		}
	}
	x, y := slices.Sorted(slices.Values(a.Options)), slices.Sorted(slices.Values(b.Options))
	for i := range max(len(x), len(y)) {
		switch {
		case i == len(x):
			return before(y[i])
		case i == len(y) || x[i] != y[i]:
			return before(x[i])
		}
	}
	return ""
}

// before returns what stands before the "=": values may be long.
func before(option string) string {
	name, _, _ := strings.Cut(option, "=")
	return name
}

// cause is what is wrong with a number, without the name of Go's function.
func cause(err error) error {
	var e *strconv.NumError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
