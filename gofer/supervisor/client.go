// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor/goferproto"
)

const (
	controlTimeout = 10 * time.Second
	maxStatus      = 1 << 20
	maxReason      = 1 << 10
)

// List describes all volumes that are being served, by name, and removes what
// dead supervisors have left. Volumes are listed even if there is an error.
func List(ctx context.Context, d Dirs) ([]Status, error) {
	alive, err := cleanLeftovers(ctx, d)
	return survey(ctx, d, alive), err
}

// Survey describes all volumes that are being served, by name. Unlike List it
// changes nothing, and so needs no more than to connect to the control sockets. A
// volume that does not answer before ctx ends is among them, in the state Unknown.
func Survey(ctx context.Context, d Dirs) ([]Status, error) {
	names, err := Running(d)
	if err != nil {
		return nil, err
	}
	return survey(ctx, d, names), nil
}

// Running names the volumes that have a control socket, sorted. A supervisor that
// was killed leaves its own, so that not all of them need be served.
func Running(d Dirs) ([]string, error) {
	entries, err := os.ReadDir(d.control())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if n, ok := controlled(e.Name()); ok {
			seen[n] = true
		}
	}
	return sortedKeys(seen), nil
}

// survey asks all volumes at once, so that none waits for another one. Those that
// are just beginning, or just gone, are left out.
func survey(ctx context.Context, d Dirs, names []string) []Status {
	answers := make([]*Status, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			s, err := query(ctx, d, name)
			if errors.Is(err, ErrUnknownVolume) {
				return
			}
			if err != nil {
				s = Status{Name: name, State: Unknown, Reason: err.Error()}
			}
			answers[i] = &s
		})
	}
	wg.Wait()
	all := []Status{}
	for _, s := range answers {
		if s != nil {
			all = append(all, *s)
		}
	}
	return all
}

// Stat describes one volume.
func Stat(ctx context.Context, d Dirs, name string) (Status, error) {
	if err := CheckName(name); err != nil {
		return Status{}, err
	}
	return query(ctx, d, name)
}

// Stop asks a volume's supervisor to stop and waits until it has. With hard set
// the supervisor kills instead of waiting for flushes.
func Stop(ctx context.Context, d Dirs, name string, hard bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	// Opened first: it is removed at the end, and its lock is what to wait for.
	lock, err := os.Open(d.lock(name))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return unknownVolume(name)
	}
	if err != nil {
		return err
	}
	path := "/v1/stop"
	if hard {
		path += "?hard=true"
	}
	if err := call(ctx, d, name, http.MethodPost, path, nil); err != nil {
		lock.Close()
		return err
	}
	released := make(chan error, 1)
	go func() { released <- waitReleased(lock) }() // ends with the supervisor
	select {
	case err := <-released:
		return err
	case <-ctx.Done():
		return fmt.Errorf("volume %q is still stopping: %w", name, ctx.Err())
	}
}

// SetCacheLimit changes how much a volume's cache may hold, to so many bytes or,
// with 0, to the default. What clients hold beyond that stays until they give it
// up.
func SetCacheLimit(ctx context.Context, d Dirs, name string, bytes int64) (CacheLimitReply, error) {
	if err := CheckName(name); err != nil {
		return CacheLimitReply{}, err
	}
	path := "/v1/cache-limit"
	if bytes != 0 {
		path += "?bytes=" + strconv.FormatInt(bytes, 10)
	}
	var r CacheLimitReply
	err := call(ctx, d, name, http.MethodPost, path, &r)
	return r, err
}

func query(ctx context.Context, d Dirs, name string) (Status, error) {
	var s Status
	err := call(ctx, d, name, http.MethodGet, "/v1/stat", &s)
	return s, err
}

// call makes one request to a volume's supervisor and decodes the JSON reply
// into out, unless that is nil.
func call(ctx context.Context, d Dirs, name, method, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialControl(ctx, d.control(), controlSocket(name))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://fsva"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTDIR) {
		return unknownVolume(name)
	}
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("volume %q: its supervisor does not answer: %w", name, ctx.Err())
		}
		return fmt.Errorf("volume %q: ask its supervisor: %w", name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusConflict {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
		if err != nil {
			return fmt.Errorf("volume %q: read its supervisor's answer: %w", name, err)
		}
		return fmt.Errorf("volume %q: %s", name, goferproto.Line(string(text), maxReason))
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("volume %q: its supervisor answers %s", name, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(out); err != nil {
		return fmt.Errorf("volume %q: read its supervisor's answer: %w", name, err)
	}
	return nil
}

func dialControl(ctx context.Context, dir, name string) (net.Conn, error) {
	dirFD, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dirFD)
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", socketAddr(dirFD, name))
}
