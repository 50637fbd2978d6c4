// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package runscconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// dockerRuntime is an entry of "runtimes" in daemon.json.
type dockerRuntime struct {
	Path string `json:"path"`
}

const dockerRuntimes = "runtimes"

func installDocker(j *job) error {
	return j.edit(j.ConfigFile, func(before []byte) ([]byte, error) {
		doc, err := parseDaemonJSON(before)
		if err != nil {
			return nil, err
		}
		if found, ok := doc.runtime(j.Runtime); ok {
			if found.Path == j.Runsc {
				return before, nil
			}
			return nil, j.conflict()
		}
		entry, err := json.Marshal(dockerRuntime{Path: j.Runsc})
		if err != nil {
			return nil, err
		}
		after := before
		if len(bytes.TrimSpace(before)) == 0 {
			after = []byte("{}\n")
		}
		if j.addedParent = !doc.hasRuntimes; j.addedParent {
			after, err = setMember(after, nil, dockerRuntimes, []byte(`{`+quote(j.Runtime)+`:`+string(entry)+`}`))
		} else {
			after, err = setMember(after, []string{dockerRuntimes}, j.Runtime, entry)
		}
		if err != nil {
			return nil, err
		}
		return after, doc.checkDifference(after, j.Runtime, true)
	})
}

func uninstallDocker(j *job) (bool, error) {
	found := false
	err := j.restore(j.ConfigFile, func(before []byte, r recordedFile) ([]byte, error) {
		doc, err := parseDaemonJSON(before)
		if err != nil {
			return nil, err
		}
		entry, ok := doc.runtime(j.Runtime)
		if !ok || entry.Path != j.Runsc {
			return before, nil // not there any more, or somebody else's
		}
		if doc.defaultRuntime == j.Runtime {
			return nil, fmt.Errorf("docker's default-runtime is %q: change that first", j.Runtime)
		}
		found = true
		after, err := removeMember(before, []string{dockerRuntimes}, j.Runtime)
		if err != nil {
			return nil, err
		}
		if err := doc.checkDifference(after, j.Runtime, false); err != nil {
			return nil, err
		}
		if rest, err := parseDaemonJSON(after); err != nil {
			return nil, err
		} else if len(rest.runtimes) == 0 && (r.Created || r.AddedParent) {
			if after, err = removeMember(after, nil, dockerRuntimes); err != nil {
				return nil, err
			}
			if r.Created && len(rest.other) == 0 {
				return nil, nil
			}
		}
		return after, nil
	})
	return found || len(j.plan.Changes) > 0, err
}

func registeredDocker(j *job, data []byte) ([]string, error) {
	doc, err := parseDaemonJSON(data)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range doc.runtimes {
		if entry, _ := doc.runtime(name); entry.Path == j.Runsc {
			names = append(names, name)
		}
	}
	return names, nil
}

// daemonJSON is what we know of a daemon.json.
type daemonJSON struct {
	hasRuntimes    bool
	runtimes       map[string]json.RawMessage
	other          map[string]json.RawMessage // but runtimes
	defaultRuntime string
}

// parseDaemonJSON reads a daemon.json; dockerd takes an empty one as "{}".
func parseDaemonJSON(data []byte) (*daemonJSON, error) {
	d := &daemonJSON{}
	if len(bytes.TrimSpace(data)) == 0 {
		return d, nil
	}
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &d.other); err != nil {
		return nil, fmt.Errorf("not what docker accepts: %w", err)
	}
	if d.other == nil {
		return nil, errors.New("not what docker accepts: null instead of an object")
	}
	if raw, ok := d.other[dockerRuntimes]; ok {
		if err := json.Unmarshal(raw, &d.runtimes); err != nil {
			return nil, fmt.Errorf("not what docker accepts: %q: %w", dockerRuntimes, err)
		}
		if d.runtimes == nil {
			return nil, fmt.Errorf("%q is null: make it an object, or remove it", dockerRuntimes)
		}
		d.hasRuntimes = true
		delete(d.other, dockerRuntimes)
	}
	if raw, ok := d.other["default-runtime"]; ok {
		if err := json.Unmarshal(raw, &d.defaultRuntime); err != nil {
			return nil, fmt.Errorf("not what docker accepts: %q: %w", "default-runtime", err)
		}
	}
	return d, nil
}

// runtime returns the runtime of that name.
func (d *daemonJSON) runtime(name string) (dockerRuntime, bool) {
	raw, ok := d.runtimes[name]
	if !ok {
		return dockerRuntime{}, false
	}
	var r dockerRuntime
	// What is no such object is somebody else's.
	if json.Unmarshal(raw, &r) != nil {
		return dockerRuntime{}, true
	}
	return r, true
}

// checkDifference returns an error unless after says what d does, with the
// runtime of that name, or without it, and is otherwise the same.
func (d *daemonJSON) checkDifference(after []byte, name string, with bool) error {
	got, err := parseDaemonJSON(after)
	if err != nil {
		return fmt.Errorf("the edited text would be wrong: %w", err)
	}
	if _, ok := got.runtime(name); ok != with {
		return errors.New("the edited text would not have the right runtimes")
	}
	delete(got.runtimes, name)
	same := maps.EqualFunc(d.other, got.other, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
	for key, raw := range d.runtimes {
		same = same && (key == name || bytes.Equal(raw, got.runtimes[key]))
		delete(got.runtimes, key)
	}
	if !same || len(got.runtimes) > 0 {
		return errors.New("the edited text would say something else")
	}
	return nil
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always encodes
	}
	return string(b)
}
