// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxControlConns bounds the connections to a control socket at one time.
const maxControlConns = 16

// listenControl makes a control socket, mode 0600. The name may be at the end
// of a path that is too long for a socket address.
func listenControl(dir, name string) (net.Listener, error) {
	path := filepath.Join(dir, name)
	dirFD, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(dirFD)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("create control socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: socketAddr(dirFD, name)})
	if err == nil {
		// In time: nobody can connect before listen.
		err = unix.Fchmodat(dirFD, name, 0o600, 0)
	}
	if err == nil {
		err = unix.Listen(fd, maxControlConns)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &boundedListener{Listener: l, slots: make(chan struct{}, maxControlConns)}, nil
}

// socketAddr is a short path to a socket in a directory.
func socketAddr(dirFD int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dirFD) + "/" + name
}

// boundedListener has at most cap(slots) connections open; more wait in the
// backlog.
type boundedListener struct {
	net.Listener
	slots chan struct{}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type boundedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// serveControl serves the control API until ctx ends. It owns l.
func (v *volume) serveControl(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/stat", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v.status(r.Context())); err != nil {
			v.log.Debug("control: reply not delivered", "err", err)
		}
	})
	mux.HandleFunc("POST /v1/cache-limit", func(w http.ResponseWriter, r *http.Request) {
		// Without bytes, the default.
		text, bytes := r.URL.Query().Get("bytes"), int64(0)
		if text != "" {
			var err error
			if bytes, err = strconv.ParseInt(text, 10, 64); err != nil || bytes <= 0 {
				http.Error(w, fmt.Sprintf("%q is not a number of bytes", text), http.StatusBadRequest)
				return
			}
		}
		reply, err := v.setCacheLimit(r.Context(), bytes)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			v.log.Debug("control: reply not delivered", "err", err)
		}
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		v.requestStop(r.URL.Query().Get("hard") == "true")
		w.WriteHeader(http.StatusAccepted)
	})
	s := &http.Server{
		Handler:           http.MaxBytesHandler(mux, 4<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		v.log.Error("control socket", "err", err)
		return
	case <-ctx.Done():
	}
	// A reply on its way, such as that to the stop itself, gets a moment.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.Close()
	}
	<-done
}
