// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// holdRetry is how long after a gofer has not answered it is asked again.
const holdRetry = time.Second

// group is the name of a volume's cgroup. There may be volumes of the same name in
// another RUNDIR.
func (d Dirs) group(name string) string {
	sum := sha256.Sum256([]byte(d.Run))
	return hex.EncodeToString(sum[:4]) + "-" + name
}

// watchHold stops an instance when nobody holds it any more: its starter has closed
// its end of the pipe, or has died, and it has no client.
func (v *volume) watchHold(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { v.cfg.Hold.SetReadDeadline(time.Now()) })
	defer stop()
	// Nothing is ever written. An error other than the end of file is the end, too: a
	// pipe that cannot be read holds nothing.
	v.cfg.Hold.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return
	}
	for v.attached(ctx) {
	}
	v.log.Info("the container has gone, so the instance stops", "volume", v.cfg.Info.Name)
	v.requestStop(false /* hard */)
}

// attached reports whether the instance has a client, after waiting for a reason to
// think otherwise.
func (v *volume) attached(ctx context.Context) bool {
	v.mu.Lock()
	g, starting := v.gofer, v.state == Starting
	v.mu.Unlock()
	if starting {
		return false // its starter is gone too early
	}
	stat, err := g.stat(ctx)
	if err == nil && stat.Clients == 0 {
		return false
	}
	var retry <-chan time.Time
	if err != nil {
		retry = time.After(holdRetry)
	}
	select {
	case <-g.idle:
	case <-retry:
	case <-g.gone:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}
