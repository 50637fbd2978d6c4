// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/cgroup"
	"fsva/gofer/pressure"
	"fsva/gofer/supervisor/goferproto"
	"fsva/gofer/vsock"
)

const (
	// serverGrace is how long an FS server may take to end after its channel
	// did, and again after SIGTERM.
	serverGrace = 5 * time.Second
	// goferGrace is the same for a gofer that has said it is done.
	goferGrace = 5 * time.Second
	// flushTimeout bounds the flush of what clients have open.
	flushTimeout = 60 * time.Second
	// signalPause is how long after the first signal another one still belongs
	// to it: timeout(1) signals its child, and then its process group.
	signalPause = time.Second
	// maxRestarts is how often a gofer is started again within restartWindow: one
	// that does not stay is not worth the trouble.
	maxRestarts   = 5
	restartWindow = time.Minute
	// blameWait is how long a failed start waits to learn whether the FS server
	// is to blame, because its end explains more than the gofer's view of it.
	blameWait = 3 * time.Second
)

// State of a volume.
type State string

// States. Restarting means that the gofer has died and another one is being
// started; Failed, that clients get errors and only a stop makes sense.
const (
	Starting   State = "starting"
	Serving    State = "ready"
	Restarting State = "restarting"
	Failed     State = "failed"
	Stopping   State = "stopping"
	// Unknown is in answers for volumes whose supervisor does not answer.
	Unknown State = "unknown"
)

// States are all that a volume can be in.
func States() []State {
	return []State{Starting, Serving, Restarting, Failed, Stopping, Unknown}
}

// volume is one volume while it is served.
type volume struct {
	cfg     Config
	log     *slog.Logger
	runsc   string // empty unless isolation is gvisor
	started time.Time

	cgroups []string // of Config.Limits; immutable when there is a control socket

	spawner *spawner
	cache   *cacheLimit // of no use unless hasCache
	windows *windows

	// Of the processes that there are now. Written by the goroutine of serve,
	// which reads them as it likes; guarded by mu for others.
	server  *server // nil when in process
	gofer   *gofer
	spawned time.Time // when they were started
	// listener is gofer.sock and guests are the sockets of Config.Listen. The
	// supervisor has a copy of each for the next gofer, until the last one is gone:
	// then who connects must notice. Used by the goroutine of serve only.
	listener *os.File
	guests   []*os.File
	// devices are guests' vsock devices. Their processes outlive the gofer. Immutable
	// when there is a control socket.
	devices []*vsockDevice

	stop     chan struct{} // closed when asked to stop
	stopOnce sync.Once
	hard     context.Context // ends when asked to stop at once
	hardStop context.CancelFunc

	mu     sync.Mutex
	state  State
	reason string // why Failed
	ready  *goferproto.Ready
	// restarts are the times at which the gofer was started again.
	restarts []time.Time
}

// Serve serves a volume until it is asked to stop, by a signal or over the
// control socket. When it returns, no process, mount, socket or file of the
// volume is left; nil means that the volume was ready and has been stopped.
// Errors are one line.
func Serve(ctx context.Context, c Config) (err error) {
	name := c.Info.Name
	if err := CheckName(name); err != nil {
		return err
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("volume %q: serving needs root: it makes namespaces and mounts for the FS server", name)
	}
	if err := c.Dirs.create(); err != nil {
		return fmt.Errorf("volume %q: %w", name, err)
	}
	unlock, err := c.Dirs.lockNames()
	if err != nil {
		return fmt.Errorf("volume %q: volume directory not writable: %w", name, err)
	}
	l, err := acquire(c.Dirs.lock(name))
	unlock()
	var used *inUseError
	if errors.As(err, &used) {
		return fmt.Errorf("name in use: volume %q is %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("volume %q: volume directory not writable: %w", name, err)
	}
	defer func() {
		if rerr := l.release(); err == nil {
			err = rerr
		}
	}()
	v := &volume{cfg: c, log: c.Log.With(volumeKey, name), started: time.Now(), spawner: newSpawner(), stop: make(chan struct{}), state: Starting}
	defer v.spawner.close()
	v.hard, v.hardStop = context.WithCancel(context.Background())
	defer v.hardStop()
	if err := v.serve(ctx); err != nil {
		return fmt.Errorf("volume %q: %w", name, err)
	}
	return nil
}

// serve is Serve with the name locked.
func (v *volume) serve(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { v.watchSignals(ctx) })

	name, d := v.cfg.Info.Name, v.cfg.Dirs
	if v.cfg.Isolation == IsolationGVisor {
		if v.runsc = v.cfg.Runsc; v.runsc == "" {
			if v.runsc, err = FindRunsc(); err != nil {
				return err
			}
		}
		if err := checkRunsc(ctx, v.runsc); err != nil {
			return err
		}
	}
	if err := cleanName(ctx, d, name, v.runsc); err != nil {
		return err
	}
	group, err := cgroup.Enter(d.group(name), v.cfg.Limits)
	if err != nil {
		return err
	}
	v.cgroups = group.Dirs()
	defer func() { // the processes have ended
		if rerr := group.Leave(); err == nil {
			err = rerr
		}
	}()
	defer func() {
		if rerr := removeFiles(d, name); rerr != nil {
			v.log.Error("clean up", "err", rerr)
			if err == nil {
				err = rerr
			}
		}
	}()
	// In the cgroup: the default is a part of the memory there is.
	if err := v.newCacheLimit(); err != nil {
		return err
	}
	defer v.closeListeners()
	defer v.endDevices()
	if v.listener, err = v.makeFiles(); err != nil {
		return err
	}
	defer func() {
		if rerr := v.removeGuestSockets(); err == nil {
			err = rerr
		}
	}()
	if err := v.bindGuestSockets(); err != nil {
		return err
	}
	if v.windows, err = newWindows(v.cfg.Window, v.log); err != nil {
		return err
	}
	background.Go(func() { v.windows.serve(ctx) })
	control, err := listenControl(d.control(), controlSocket(name))
	if err != nil {
		return err
	}
	background.Go(func() { v.serveControl(ctx, control) })
	if v.cfg.Hold != nil {
		background.Go(func() { v.watchHold(ctx) })
	}

	started := v.start(ctx)
	if started == nil {
		if v.hasCache() {
			background.Go(func() { v.cache.watch(ctx, v.residentBytes) })
		} else if v.cfg.CacheLimit != 0 {
			v.log.Warn("a limit was given for the cache, but the volume has none")
		}
		v.watch(ctx)
	}
	v.closeListeners()
	return join(started, v.shutDown(started == nil))
}

// bindGuestSockets makes the sockets for guests.
func (v *volume) bindGuestSockets() error {
	for _, l := range v.cfg.Listen {
		f, err := l.Bind()
		if err != nil {
			return err
		}
		v.guests = append(v.guests, f)
		if l.Kind == vsock.VhostUser {
			d, gofer, err := startDevice(v.spawner, l, f, v.log)
			if err != nil {
				return err
			}
			v.devices, v.guests[len(v.guests)-1] = append(v.devices, d), gofer
		}
	}
	return nil
}

// endDevices ends the processes with vsock devices. They have nothing to flush.
func (v *volume) endDevices() {
	for _, d := range v.devices {
		d.end()
	}
}

// removeGuestSockets removes the files of those that were made.
func (v *volume) removeGuestSockets() error {
	var errs []error
	for i := range v.guests {
		if path := v.cfg.Listen[i].SocketPath(); path != "" {
			errs = append(errs, remove(path))
		}
	}
	return join(errs...)
}

// closeListeners makes connecting fail once the gofer is gone, too.
func (v *volume) closeListeners() {
	for _, f := range append(v.guests[:len(v.guests):len(v.guests)], v.listener) {
		if f != nil {
			f.Close() // for the second time, perhaps
		}
	}
}

// currentGofer returns the gofer that there is now.
func (v *volume) currentGofer() *gofer {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.gofer
}

// makeFiles makes the private directory and, in it, what becomes the volume
// directory.
func (v *volume) makeFiles() (listener *os.File, err error) {
	private := v.cfg.Dirs.private(v.cfg.Info.Name)
	volumeDir := private + "/" + privateVolume
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{private, 0o700}, {private + "/" + privateRoot, 0o700}, {private + "/" + privateBundle, 0o700}, {volumeDir, 0o755}} {
		if err := os.Mkdir(dir.path, dir.mode); err != nil {
			return nil, fmt.Errorf("volume directory not writable: %w", err)
		}
	}
	if err := attach.WriteInfo(volumeDir, v.cfg.Info); err != nil {
		return nil, fmt.Errorf("volume directory not writable: %w", err)
	}
	return attach.Listen(volumeDir)
}

// start starts the processes and waits until sandboxes can attach.
func (v *volume) start(ctx context.Context) error {
	if err := v.startProcesses(ctx); err != nil {
		return err
	}
	dir := v.cfg.Dirs.Volume(v.cfg.Info.Name)
	// Not os.Rename, which refuses an existing directory even if it is empty:
	// docker makes one for a volume that was not there yet.
	if err := unix.Rename(v.cfg.Dirs.private(v.cfg.Info.Name)+"/"+privateVolume, dir); err != nil {
		return fmt.Errorf("volume directory not writable: %w", err)
	}
	v.startLogging()
	if v.cfg.Ready != nil {
		v.cfg.Ready(dir)
	}
	if err := Notify("READY=1\nSTATUS=serving " + dir); err != nil {
		v.log.Warn("readiness", "err", err)
	}
	return nil
}

// startLogging passes on what the processes write from now on.
func (v *volume) startLogging() {
	v.gofer.out.startLogging()
	if v.server != nil {
		v.server.out.startLogging()
	}
	for _, d := range v.devices {
		d.startLogging()
	}
}

// startProcesses starts the processes and waits until clients are served.
func (v *volume) startProcesses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.StartTimeout+blameWait)
	defer cancel()
	if err := v.spawnProcesses(); err != nil {
		return err
	}
	return v.waitReady(ctx)
}

func (v *volume) spawnProcesses() error {
	v.spawned = time.Now()
	cfg := v.cfg.Gofer
	cfg.Version = goferproto.Version
	cfg.Volume = v.cfg.Info
	cfg.Listen = v.cfg.Listen
	cfg.ReportIdle = v.cfg.Hold != nil
	cfg.CacheLimit = v.cache.get().Effective
	cfg.InitTimeoutMs = v.cfg.StartTimeout.Milliseconds()
	var ours, theirs *os.File
	if v.cfg.Server != nil {
		var err error
		if ours, theirs, err = newChannel(); err != nil {
			return err
		}
		// Only the children keep an end, so each notices when the other ends.
		defer ours.Close()
		defer theirs.Close()
		s, err := startServer(v.spawner, v.cfg, v.runsc, theirs, v.log)
		if err != nil {
			return err
		}
		v.mu.Lock()
		v.server = s
		v.mu.Unlock()
	}
	g, err := v.windows.start(func(held []heldWindow) (*gofer, error) {
		return startGofer(v.spawner, cfg, goferFiles{v.listener, ours, v.guests, held}, v.log)
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.gofer = g
	v.mu.Unlock()
	return nil
}

// goferCrashed reports whether the gofer ends within blameWait without a word.
func (v *volume) goferCrashed(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, blameWait)
	defer cancel()
	select {
	case <-v.gofer.failed:
		return false
	case <-ctx.Done():
		return false
	case <-v.gofer.gone:
	}
	select {
	case <-v.gofer.failed:
		return false
	default:
		v.gofer.kill() // it may have closed the connection only
		return true
	}
}

// waitReady waits for the gofer's readiness and explains why there is none.
func (v *volume) waitReady(ctx context.Context) error {
	select {
	case r := <-v.gofer.ready:
		v.mu.Lock()
		v.ready, v.state, v.reason = &r, Serving, ""
		v.mu.Unlock()
		return nil
	case text := <-v.gofer.failed:
		return v.blame(ctx, text)
	case <-v.serverDone():
		// A server that ends well may have seen its channel end with the gofer.
		if v.server.succeeded() && v.goferCrashed(ctx) {
			return v.notReady(v.gofer.status("before it was ready"))
		}
		return v.notReady(v.server.status("before it was ready"))
	case <-v.gofer.gone:
		select {
		case text := <-v.gofer.failed: // said, then ended: both were ready
			return v.blame(ctx, text)
		default:
		}
		v.gofer.kill() // it may have closed the connection only
		return v.notReady(v.gofer.status("before it was ready"))
	case <-v.stop:
		return errors.New("stopped before it was ready")
	case <-ctx.Done():
		if ctx.Err() == context.Canceled {
			return errors.New("stopped before it was ready")
		}
		return fmt.Errorf("not ready within %v (--start-timeout)", v.cfg.StartTimeout)
	}
}

// blame explains the gofer's words: before the deadline, an FS server that ends
// with an error is the cause and not the effect.
func (v *volume) blame(ctx context.Context, text string) error {
	if v.server == nil || !time.Now().Before(v.spawned.Add(v.cfg.StartTimeout)) {
		return v.notReady(text)
	}
	ctx, cancel := context.WithTimeout(ctx, blameWait)
	defer cancel()
	if !v.server.wait(ctx) {
		return v.notReady(text)
	}
	if v.server.succeeded() {
		return v.notReady(text + "; " + v.server.status(""))
	}
	v.log.Debug("start", "gofer", text)
	return v.notReady(v.server.status("before it was ready"))
}

// succeeded reports whether the process ended with status 0.
//
// Preconditions: it has ended.
func (c *child) succeeded() bool { return c.cmd.ProcessState.Success() }

// serverDone is closed when the FS server has ended; never when there is none.
func (v *volume) serverDone() <-chan struct{} {
	if v.server == nil {
		return nil
	}
	return v.server.done
}

// watch starts a gofer that has died again, notes another failure, and waits until
// the volume is asked to stop.
func (v *volume) watch(ctx context.Context) {
	for {
		reason, died := v.awaitFailure()
		if reason == "" {
			return
		}
		if died && v.cfg.Hold != nil {
			v.setFailed(reason)
			v.log.Error("the instance ends; its container has lost the volume", "volume", v.cfg.Info.Name, "reason", reason)
			v.requestStop(false /* hard */)
			return
		}
		if died && v.mayRestart() {
			err := v.restart(ctx, reason)
			if err == nil {
				continue
			}
			if v.stopping() {
				return
			}
			reason += "; start it again: " + err.Error()
		}
		v.closeListeners()
		v.setFailed(reason)
		v.log.Error("volume failed", "reason", reason)
		if err := Notify("STATUS=failed: " + reason); err != nil {
			v.log.Warn("status", "err", err)
		}
		<-v.stop
		return
	}
}

// mayRestart reports whether the gofer has not died too often of late, and counts.
func (v *volume) mayRestart() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := len(v.restarts); n >= maxRestarts && time.Since(v.restarts[n-maxRestarts]) < restartWindow {
		return false
	}
	v.restarts = append(v.restarts, time.Now())
	return true
}

// restart replaces the processes after the end of the gofer: an FS server's channel
// ends with it, and so does the server. After an error there are no processes.
func (v *volume) restart(ctx context.Context, reason string) error {
	v.mu.Lock()
	v.state, v.reason = Restarting, reason
	v.mu.Unlock()
	v.log.Error("the gofer is started again; sandboxes have lost the volume, guests connect again", "reason", reason)
	err := v.endProcesses()
	if err == nil {
		err = v.startProcesses(ctx)
	}
	if err != nil {
		return join(err, v.endProcesses())
	}
	v.startLogging()
	if v.hasCache() {
		// The limit may have changed since the gofer's configuration was written.
		if _, err := v.cache.change(ctx, func(*pressure.Limiter) {}); err != nil {
			v.log.Warn("limit of the cache", "err", err)
		}
	}
	return nil
}

// endProcesses ends what is left of the processes after the end of the gofer.
func (v *volume) endProcesses() error {
	v.gofer.kill()
	v.gofer.close()
	if v.server == nil {
		return nil
	}
	v.server.end(v.hard, serverGrace)
	if err := v.server.delete(context.Background()); err != nil {
		return fmt.Errorf("remove the FS server's sandbox: %w", err)
	}
	return nil
}

// awaitFailure waits for one and says why, and whether the gofer has died; the
// reason is empty when asked to stop.
//
// The end of one process is soon followed by that of the other, or by the
// gofer's view of it, in any order: what comes first is shown at once, but the
// cause is known only with the rest. A gofer that ends is always the cause, and
// may do so after its word and after the FS server, whose channel ends with it.
// The FS server's end is, unless it ended well: then the gofer has given it up.
func (v *volume) awaitFailure() (reason string, died bool) {
	var text string
	var timeout <-chan time.Time
	serverDone := v.serverDone()
	for {
		select {
		case <-v.stop:
			return "", false
		case <-v.gofer.gone:
			v.gofer.kill() // it may have closed the connection only
			return v.gofer.status(""), true
		case text = <-v.gofer.failed:
		case <-serverDone:
			serverDone = nil
		case <-timeout:
			return reason, false
		}
		serverEnded := serverDone == nil && v.server != nil
		reason = text
		if serverEnded && (text == "" || !v.server.succeeded()) {
			reason = v.server.status("")
		}
		v.setFailed(reason)
		if serverEnded && text != "" && !v.server.succeeded() {
			return reason, false
		}
		if timeout == nil {
			timeout = time.After(blameWait)
		}
	}
}

// stopping reports whether the volume was asked to stop.
func (v *volume) stopping() bool {
	select {
	case <-v.stop:
		return true
	default:
		return false
	}
}

// setFailed makes the volume's state Failed.
func (v *volume) setFailed(reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, v.reason = Failed, reason
}

// requestStop asks for the end; hard for one without waiting for flushes.
func (v *volume) requestStop(hard bool) {
	v.stopOnce.Do(func() { close(v.stop) })
	if hard {
		v.hardStop()
	}
}

// watchSignals turns the first signal into a stop and the second into a hard
// one.
func (v *volume) watchSignals(ctx context.Context) {
	var first time.Time
	for {
		select {
		case <-v.cfg.Signals:
			if first.IsZero() {
				first = time.Now()
				v.requestStop(false /* hard */)
			} else if time.Since(first) >= signalPause {
				v.requestStop(true /* hard */)
			}
		case <-ctx.Done():
			v.requestStop(false /* hard */)
			return
		}
	}
}

// shutDown stops the processes in order: the gofer flushes what clients have
// open and sends DESTROY, then the FS server ends because its channel does.
// wasReady is false after a failed start, when there is nothing to flush.
func (v *volume) shutDown(wasReady bool) error {
	v.mu.Lock()
	failed := v.state == Failed
	v.state = Stopping
	v.mu.Unlock()
	if wasReady {
		if err := Notify("STOPPING=1"); err != nil {
			v.log.Warn("stopping", "err", err)
		}
	}
	var errs []error
	if v.gofer != nil {
		if wasReady && !v.gofer.exited() && v.hard.Err() == nil {
			ctx, cancel := context.WithTimeout(v.hard, flushTimeout)
			// After a failure the gofer cannot flush, which everybody knows.
			if _, err := v.gofer.ask(ctx, goferproto.Request{Op: goferproto.OpStop}); err != nil && !failed {
				errs = append(errs, fmt.Errorf("stop: %w", err))
			}
			cancel()
			ctx, cancel = context.WithTimeout(v.hard, goferGrace)
			if !v.gofer.wait(ctx) {
				v.log.Warn("gofer does not end, killing it", "pid", v.gofer.pid())
			}
			cancel()
		}
		v.gofer.kill()
		v.gofer.close()
	}
	if v.server != nil {
		if wasReady {
			v.server.end(v.hard, serverGrace)
		} else {
			v.server.kill()
		}
		// Not bounded by hard: this is what leaves nothing behind.
		if err := v.server.delete(context.Background()); err != nil {
			errs = append(errs, fmt.Errorf("remove the FS server's sandbox: %w", err))
		}
	}
	return join(errs...)
}
