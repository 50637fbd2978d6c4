// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volumeplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"fsva/gofer/volume"
)

const (
	contentType = "application/vnd.docker.plugins.v1.1+json"
	// maxRequest bounds a request's body, in bytes. The longest are the options of a volume.
	maxRequest = 1 << 20
	// Docker gives up on Create and Mount after two minutes, on the others after one.
	longTimeout  = 110 * time.Second
	shortTimeout = 50 * time.Second
)

// Requests and replies, named as in docker's documentation.
type (
	nameRequest   struct{ Name string }
	createRequest struct {
		Name string
		Opts map[string]string
	}
	mountRequest struct{ Name, ID string }

	empty         struct{}
	errorReply    struct{ Err string }
	activateReply struct{ Implements []string }
	mountReply    struct{ Mountpoint string }
	getReply      struct{ Volume volumeReply }
	listReply     struct{ Volumes []volumeReply }
	volumeReply   struct {
		Name       string
		Mountpoint string         `json:",omitempty"`
		Status     map[string]any `json:",omitempty"`
	}
	capabilitiesReply struct{ Capabilities capabilities }
	capabilities      struct{ Scope string }
)

// Handler returns the protocol's endpoints.
func (p *Plugin) Handler() http.Handler {
	mux := http.NewServeMux()
	handle(mux, p, "Plugin.Activate", shortTimeout, func(context.Context, empty) (activateReply, error) {
		return activateReply{Implements: []string{"VolumeDriver"}}, nil
	})
	handle(mux, p, "VolumeDriver.Capabilities", shortTimeout, func(context.Context, empty) (capabilitiesReply, error) {
		return capabilitiesReply{capabilities{Scope: "local"}}, nil
	})
	handle(mux, p, "VolumeDriver.Create", longTimeout, func(ctx context.Context, r createRequest) (empty, error) {
		return empty{}, p.Create(ctx, r.Name, r.Opts)
	})
	handle(mux, p, "VolumeDriver.Remove", shortTimeout, func(ctx context.Context, r nameRequest) (empty, error) {
		return empty{}, p.Remove(ctx, r.Name)
	})
	handle(mux, p, "VolumeDriver.Mount", longTimeout, func(ctx context.Context, r mountRequest) (mountReply, error) {
		dir, err := p.Mount(ctx, r.Name, r.ID)
		return mountReply{dir}, err
	})
	handle(mux, p, "VolumeDriver.Unmount", shortTimeout, func(ctx context.Context, r mountRequest) (empty, error) {
		return empty{}, p.Unmount(ctx, r.Name, r.ID)
	})
	handle(mux, p, "VolumeDriver.Path", shortTimeout, func(ctx context.Context, r nameRequest) (mountReply, error) {
		dir, err := p.Path(ctx, r.Name)
		return mountReply{dir}, err
	})
	handle(mux, p, "VolumeDriver.Get", shortTimeout, func(ctx context.Context, r nameRequest) (getReply, error) {
		e, err := p.Get(ctx, r.Name)
		return getReply{e.reply()}, err
	})
	handle(mux, p, "VolumeDriver.List", shortTimeout, func(ctx context.Context, _ empty) (listReply, error) {
		all, err := p.List(ctx)
		r := listReply{Volumes: []volumeReply{}}
		for _, e := range all {
			r.Volumes = append(r.Volumes, e.reply())
		}
		return r, err
	})
	return mux
}

func (e Entry) reply() volumeReply {
	return volumeReply{Name: e.Name, Mountpoint: e.Mountpoint, Status: e.Status}
}

// handle adds the endpoint that decodes a Request, calls do and encodes the Reply or the error. What was begun
// ends by itself or by its timeout, not with the connection: dockerd may go at any time, and a volume must not be
// left half-way.
func handle[Request, Reply any](mux *http.ServeMux, p *Plugin, method string, timeout time.Duration, do func(context.Context, Request) (Reply, error)) {
	mux.HandleFunc("POST /"+method, func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if err := decode(http.MaxBytesReader(w, r.Body, maxRequest), &request); err != nil {
			p.reply(w, method, http.StatusBadRequest, errorReply{fmt.Sprintf("%s: %v", method, err)})
			return
		}
		who := callerOf(r.Context())
		who.request = r.Context()
		ctx, cancel := context.WithTimeout(context.WithValue(context.WithoutCancel(r.Context()), callerKey{}, who), timeout)
		defer cancel()
		reply, err := do(ctx, request)
		if err != nil {
			text := strings.ReplaceAll(err.Error(), "\n", "; ")
			level := slog.LevelWarn
			if errors.Is(err, volume.ErrNotDefined) {
				level = slog.LevelDebug // docker asks before it creates
			}
			p.log.Log(ctx, level, "refused", "method", method, "err", text)
			// An error must not have the status 200: podman then takes it for a success.
			p.reply(w, method, http.StatusInternalServerError, errorReply{text})
			return
		}
		p.reply(w, method, http.StatusOK, reply)
	})
}

// decode reads one JSON value; none is the zero value. Fields of later versions of the protocol are ignored.
func decode(r io.Reader, out any) error {
	d := json.NewDecoder(r)
	err := d.Decode(out)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("there is more after the value")
		}
	}
	return fmt.Errorf("the request is not what the protocol says: %w", err)
}

func (p *Plugin) reply(w http.ResponseWriter, method string, status int, value any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		p.log.Warn("answer docker", "method", method, "err", err)
	}
}

// Serve answers on l, which it owns, until ctx ends; then it waits for what is under way. Volumes go on.
func (p *Plugin) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           p.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withPeer,
	}
	watching, stopWatching := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(watching)
	}()
	defer func() { <-watched }()
	defer stopWatching()
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), longTimeout)
		defer cancel()
		stopped <- server.Shutdown(wait)
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve docker: %w", err)
	}
	return <-stopped
}
