// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/fusemount"
	"fsva/gofer/fusestream"
	"fsva/gofer/listen"
	"fsva/gofer/vsock"
	"fsva/gofer/window"
)

// mountHelpers are the names under which mount(8) starts us, for file systems of type
// fuse.fsva or fsva.
var mountHelpers = []string{"mount.fuse.fsva", "mount.fsva"}

// fsType is what mount(8) shows, after "fuse.".
const fsType = "fsva"

// readAhead is how far the kernel reads ahead of sequential readers, in bytes: four of
// the largest requests, so that some are under way while one is used. (64 MiB over a unix
// socket: 128 KiB, the kernel's default, 280 ms; 1 MiB, one request at a time, 740 ms;
// 4 MiB 230 ms.)
const readAhead = 4 << 20

// leastProcs is how many goroutines of the mount run at a time, at least.
const leastProcs = 4

// readyVar tells a process that a parent waits for its word on descriptor 3.
const readyVar = "FSVA_MOUNT_READY"

// mountFlags are the flags of `fsva mount`.
type mountFlags struct {
	options    []string
	foreground bool
}

// newMountCommand is `fsva mount`.
func newMountCommand() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount ADDRESS MOUNTPOINT [-o OPTIONS]",
		Short: "mount a volume that listens for guests, in a virtual machine or on a Linux host",
		Long: `mount mounts a volume with this machine's FUSE. ADDRESS is where the volume
listens (fsva serve --listen): vsock:CID:PORT from a virtual machine, whose host
is CID 2, or unix:PATH.

It returns when the volume is mounted and goes on in the background, unless
--foreground is given. SIGTERM and SIGINT unmount; umount(8) works as well. When the
volume is started anew, the mount comes back: applications wait meanwhile.

Options, separated by commas:
  ro, nosuid, nodev, noexec, noatime, …  as for mount(8)
  volume=NAME        refuse another volume than this
  secret-file=PATH   file with the secret that the volume wants
  nowindow           do not use the memory that is shared with the host
  patience=TIME      how long applications wait for a volume that is gone (60s)
  retry=TIME         how long to try at the start (0s)
  log-level=LEVEL    debug, info, warn or error
  log-format=FORMAT  text or json
  log-file=PATH      log to this file; without it, the system's log (syslog) gets
                     what is logged in the background

With a link from /sbin/mount.fuse.fsva to fsva it works in /etc/fstab:
  vsock:2:3782  /data  fuse.fsva  ro,nofail,retry=30s  0 0`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return mount(cmd, f, args[0], args[1]) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVarP(&f.options, "options", "o", nil, "mount options, separated by commas; may be repeated")
	fl.BoolVarP(&f.foreground, "foreground", "f", false, "stay in the foreground; SIGTERM and SIGINT unmount")
	return cmd
}

// mountHelperArgs turns mount(8)'s way to call a helper (mount.fuse.fsva ADDRESS
// MOUNTPOINT -o OPTIONS [-sfnv] [-t TYPE] [-N NAMESPACE]) into arguments of `fsva mount`.
// done is true if there is nothing to do (a dry run).
func mountHelperArgs(args []string) (out []string, done bool, err error) {
	var places []string
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-o" || a == "-t" || a == "-N":
			if i++; i == len(args) {
				return nil, false, fmt.Errorf("%s takes a value", a)
			}
			if a == "-N" {
				return nil, false, errors.New("other mount namespaces are not supported")
			}
			if a == "-o" {
				out = append(out, "-o", args[i])
			}
		case strings.HasPrefix(a, "-") && strings.Trim(a[1:], "sfnvrw") == "" && a != "-":
			done = done || strings.Contains(a, "f")
			if strings.Contains(a, "r") {
				out = append(out, "-o", "ro")
			}
		case strings.HasPrefix(a, "-"):
			return nil, false, fmt.Errorf("unknown flag %s", a)
		default:
			places = append(places, a)
		}
	}
	return append(append([]string{"mount"}, out...), places...), done, nil
}

// mountOptions are what the options say.
type mountOptions struct {
	relay    fusestream.RelayOptions
	mount    fusemount.Options
	retry    time.Duration
	noWindow bool
	level    slog.Level
	format   string // of the log
	logFile  string // absolute, or ""
}

// parseMountOptions parses the options of `fsva mount`.
func parseMountOptions(lists []string) (mountOptions, error) {
	o := mountOptions{format: "text", mount: fusemount.Options{Type: fsType, Flags: unix.MS_NOSUID | unix.MS_NODEV}}
	for option := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		name, value, _ := strings.Cut(option, "=")
		var err error
		switch name {
		case "volume":
			o.relay.Volume = value
		case "secret-file":
			o.relay.Secret, err = listen.ReadSecret(value)
		case "nowindow":
			o.noWindow = true
		case "patience":
			o.relay.Patience, err = time.ParseDuration(value)
		case "retry":
			o.retry, err = time.ParseDuration(value)
		case "log-level":
			o.level, err = parseLogLevel(value)
		case "log-format":
			o.format = value
		case "log-file":
			if value == "" {
				err = errors.New("the path is missing")
			} else {
				o.logFile, err = filepath.Abs(value)
			}
		default:
			var known bool
			if o.mount.Flags, known = fusemount.Flag(option, o.mount.Flags); !known {
				err = errors.New("there is no such option")
			}
		}
		if err != nil {
			return o, usageError{fmt.Errorf("option %q: %w", option, err)}
		}
	}
	o.mount.ReadOnly = o.mount.Flags&unix.MS_RDONLY != 0
	o.relay.ReadOnly = o.mount.ReadOnly
	return o, nil
}

// mount carries `fsva mount` out.
func mount(cmd *cobra.Command, f mountFlags, address, mountpoint string) error {
	o, err := parseMountOptions(f.options)
	if err != nil {
		return err
	}
	addr, err := vsock.ParseAddr(address)
	if err != nil {
		return usageError{err}
	}
	if mountpoint, err = filepath.Abs(mountpoint); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if !f.foreground && os.Getenv(readyVar) == "" {
		return mountInBackground(cmd.ErrOrStderr())
	}
	output, err := newMountLog(o.logFile, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	log, err := newLogger(output, o.level, o.format)
	if err != nil {
		return usageError{fmt.Errorf("option log-format: %w", err)}
	}
	o.mount.Source = address
	o.relay.Log = log
	o.relay.Dial = func(ctx context.Context) (net.Conn, error) { return vsock.Dial(ctx, addr, vsock.Options{}) }
	if !o.noWindow && addr.Kind == vsock.Kernel {
		o.relay.Windows = windows(log)
	}
	// Threads that wait for the kernel count as running for a while; the others need a
	// place, too, on the smallest machine.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), leastProcs))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)

	relay, err := connect(cmd.Context(), o, signals)
	if err != nil {
		return explain(err, addr)
	}
	o.mount.ReadOnly = o.mount.ReadOnly || relay.Info().ReadOnly
	fd, err := fusemount.Mount(cmd.Context(), mountpoint, o.mount)
	if err != nil {
		relay.Close()
		return err
	}
	go unmountOnSignals(signals, mountpoint, log)
	err = relay.Serve(cmd.Context(), fd, func() {
		if err := fusemount.SetReadAhead(mountpoint, readAhead); err != nil {
			log.Debug("the kernel reads ahead as it likes", "err", err)
		}
		if err := mounted(cmd.OutOrStdout(), relay.Volume(), mountpoint, output, log); err != nil {
			log.Warn("say that it is mounted", "err", err)
		}
	})
	if err != nil {
		// Nobody serves it: whoever uses it shall not wait.
		if uerr := fusemount.Unmount(mountpoint, true); uerr != nil {
			log.Warn("unmount", "err", uerr)
		}
		return fmt.Errorf("%s: %w", mountpoint, err)
	}
	return nil
}

// windows returns the memory that this machine shares with its host.
func windows(log *slog.Logger) map[[16]byte]fusestream.GuestWindow {
	devices, err := window.Devices()
	if err != nil {
		log.Warn("a window cannot be used; data goes over the connection", "err", err)
	}
	m := make(map[[16]byte]fusestream.GuestWindow)
	for _, d := range devices {
		m[d.ID] = d
	}
	return m
}

// connect makes the first connection, and tries again for as long as it was told.
func connect(ctx context.Context, o mountOptions, signals <-chan os.Signal) (*fusestream.Relay, error) {
	end := time.Now().Add(o.retry)
	for {
		relay, err := fusestream.Connect(ctx, o.relay)
		if err == nil || errors.Is(err, fusestream.ErrRefused) || !time.Now().Before(end) {
			return relay, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case s := <-signals:
			return nil, fmt.Errorf("stopped by %s: %w", s, err)
		}
	}
}

// explain adds what to do to the error of a first connection, if that is known.
func explain(err error, addr vsock.Addr) error {
	advice := ""
	switch {
	case errors.Is(err, unix.ENOENT) && addr.Path != "":
		advice = "fsva ls on the host shows what is served, fsva serve --listen " + addr.String() + " makes this socket; -o retry=TIME waits for it"
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		advice = "nothing listens there any more; fsva ls on the host shows what is served, and -o retry=TIME waits for it"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EAFNOSUPPORT):
		advice = "this machine has no vsock device, or its driver is not loaded: modprobe vmw_vsock_virtio_transport"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

// unmountOnSignals unmounts when it is told to: if the mount is in use, so that it ends
// with its last user; another signal ends the process.
func unmountOnSignals(signals <-chan os.Signal, mountpoint string, log *slog.Logger) {
	<-signals
	err := fusemount.Unmount(mountpoint, false)
	if errors.Is(err, unix.EBUSY) {
		log.Warn("the mount is in use; it ends with its last user")
		err = fusemount.Unmount(mountpoint, true)
	}
	if err != nil {
		log.Error("unmount", "err", err)
	}
	<-signals
	os.Exit(1)
}

// mounted says that the volume can be used: to the parent that waits, or the user.
func mounted(out io.Writer, volume, mountpoint string, output *mountLog, log *slog.Logger) error {
	if os.Getenv(readyVar) == "" {
		_, err := fmt.Fprintf(out, "fsva: volume %q mounted at %s\n", volume, mountpoint)
		return err
	}
	if err := output.detach(openSyslog); err != nil {
		log.Info("nothing is logged from now on; the option log-file=PATH changes that", "err", err)
	}
	ready := os.NewFile(3, "ready")
	_, err := ready.WriteString("ready\n")
	return errors.Join(err, ready.Close(), detach(output.file))
}

// detach gives up what a daemon has no use for: the terminal and the directory. What the
// runtime writes to stderr at a crash goes to logFile, if there is one.
func detach(logFile *os.File) error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if logFile == nil {
		logFile = null
	}
	for fd, f := range []*os.File{null, logFile, logFile} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// mountInBackground starts this command again in a session of its own, and waits until
// the volume is mounted there or cannot be.
func mountInBackground(stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the fsva binary: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := os.Args
	if slices.Contains(mountHelpers, filepath.Base(args[0])) {
		helper, _, err := mountHelperArgs(args)
		if err != nil {
			return usageError{err}
		}
		args = append([]string{"fsva"}, helper...)
	}
	child := exec.Command(self, args[1:]...)
	child.Args[0] = "fsva"
	child.Env = append(os.Environ(), readyVar+"=1")
	child.Stderr = os.Stderr
	child.ExtraFiles = []*os.File{w}
	child.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = child.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	word, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("wait for the mount: %w", err)
	}
	if string(word) == "ready\n" {
		return child.Process.Release()
	}
	// It has said why.
	var exit *exec.ExitError
	if err := child.Wait(); errors.As(err, &exit) {
		return silentError{exit.ExitCode()}
	}
	return errors.New("the mount ended at once")
}

// silentError is a failure that has been reported already.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit status %d", e.code) }
