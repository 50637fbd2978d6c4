// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor"
)

const (
	// Path is where the metrics are.
	Path = "/metrics"
	// DefaultTimeout is how long a scrape waits for the volumes: longer than a
	// supervisor waits for its gofer, shorter than Prometheus waits by default.
	DefaultTimeout = 5 * time.Second

	maxScrapes = 4 // at one time
	// scrapeMargin is what is left of Prometheus's own timeout to bring it the
	// answer.
	scrapeMargin = 500 * time.Millisecond
)

// Options say how to answer.
type Options struct {
	Dirs supervisor.Dirs
	// Timeout is how long a scrape waits for the volumes; less if Prometheus says
	// that it waits less.
	Timeout time.Duration
	Build   Build
	Log     *slog.Logger
}

// Handler answers GET /metrics.
func Handler(o Options) http.Handler {
	slots := make(chan struct{}, maxScrapes)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, fmt.Sprintf("%d scrapes are under way already", maxScrapes), http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout(r, o.Timeout))
		defer cancel()
		// A registry for each scrape, because a collector has no other way to
		// learn of the deadline.
		registry := prometheus.NewRegistry()
		registry.MustRegister(&collector{ctx: ctx, dirs: o.Dirs, build: o.Build})
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{
			ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelError),
		}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "fsva: metrics for Prometheus are at %s\n", Path)
	})
	return mux
}

// timeout is how long a scrape may take.
func timeout(r *http.Request, most time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || !(seconds > 0) || seconds > most.Seconds() {
		return most
	}
	theirs := time.Duration(seconds * float64(time.Second))
	return max(theirs-scrapeMargin, theirs/2)
}

// Listen makes the socket that address names: unix:PATH, whose mode is 0600, or
// HOST:PORT with a host that is this machine only.
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q is neither unix:PATH nor HOST:PORT", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("address %q is not this machine's alone: use 127.0.0.1 or [::1], and a proxy that knows whom to let in", address)
	}
	return net.Listen("tcp", address)
}

// listenUnix replaces a socket that nobody listens on any more.
func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New("address unix: has no path")
	}
	// Whoever could connect before its mode is set would find a socket nobody else
	// may use: the umask is the process's, and it has nothing else to create.
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if fi, serr := os.Lstat(path); serr != nil || fi.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	c, derr := net.Dial("unix", path)
	if derr == nil {
		c.Close()
	}
	if !errors.Is(derr, unix.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Serve answers scrapes until ctx ends. It owns l.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	s := &http.Server{
		Handler:           http.MaxBytesHandler(Handler(o), 4<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      o.Timeout + 10*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Shutdown(end); err != nil {
		s.Close()
	}
	<-done
	return nil
}
