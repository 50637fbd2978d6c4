// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package lisaserver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	glog "gvisor.dev/gvisor/pkg/log"
)

const (
	// gvisorLogBurst and gvisorLogEvery limit gVisor's lines: clients can trigger
	// many of them at will.
	gvisorLogBurst = 20
	gvisorLogEvery = time.Second
)

// RouteGvisorLog sends what gVisor's packages log for the whole process, lisafs
// among them, to log instead of stderr: warnings only, and about one a second in
// the long run. A process that serves clients calls it once, from main.
func RouteGvisorLog(log *slog.Logger) {
	glog.SetLevel(glog.Warning)
	glog.SetTarget(&gvisorLog{log: log, left: gvisorLogBurst, now: time.Now})
}

// gvisorLog implements gVisor's log.Emitter: a token bucket in front of slog.
type gvisorLog struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	left    int       // lines that may be written now; guarded by mu
	last    time.Time // when left grew last; guarded by mu
	dropped int       // lines dropped since the last one written; guarded by mu
}

// Emit implements log.Emitter.Emit.
func (g *gvisorLog) Emit(_ int, level glog.Level, _ time.Time, format string, v ...any) {
	dropped, ok := g.take()
	if !ok {
		return
	}
	attrs := []any{"from", "gvisor"}
	if dropped > 0 {
		attrs = append(attrs, "dropped", dropped)
	}
	to := slog.LevelWarn
	if level != glog.Warning {
		to = slog.LevelDebug
	}
	g.log.Log(context.Background(), to, fmt.Sprintf(format, v...), attrs...)
}

// take reports whether a line may be written, and how many were not before it.
func (g *gvisorLog) take() (dropped int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if grown := int(now.Sub(g.last) / gvisorLogEvery); grown > 0 {
		g.left = min(g.left+grown, gvisorLogBurst)
		g.last = now
	}
	if g.left == 0 {
		g.dropped++
		return 0, false
	}
	g.left--
	dropped, g.dropped = g.dropped, 0
	return dropped, true
}
