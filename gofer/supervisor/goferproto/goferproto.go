// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package goferproto is what the supervisor and its gofer child say to each
// other over their socketpair.
//
// Trust differs by direction. The gofer trusts the supervisor, its parent. The
// supervisor does not trust the gofer: that process handles bytes of FS servers
// and sandboxes, so everything it sends is decoded strictly (known fields only,
// bounded sizes and counts) and its text is made printable before anyone sees
// it.
//
// The conversation: the supervisor sends one Config and the windows that there are;
// the gofer answers with one Reply that holds Ready or Error. From then on the supervisor sends Requests,
// each answered by a Reply with its ID, and the gofer may send Replies with ID 0
// that hold Failed or Idle. One message is one packet of at most MaxMessage bytes.
package goferproto

import (
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"fsva/gofer/attach"
	"fsva/gofer/latency"
	"fsva/gofer/listen"
	"fsva/gofer/window"
)

// File descriptors of a gofer child.
const (
	// FDControl is the gofer's end of the SOCK_SEQPACKET socketpair.
	FDControl = 3
	// FDListener is the listening gofer.sock (SOCK_STREAM).
	FDListener = 4
	// FDChannel is the gofer's end of the FUSE channel. It is open only when
	// Config.InProcess is empty.
	FDChannel = 5
	// FDGuests is the first of the listening sockets of Config.Listen, which
	// follow each other.
	FDGuests = 6
)

const (
	// Version is what Config.Version must be.
	Version = 1
	// MaxMessage bounds one message in bytes.
	MaxMessage = 64 << 10

	maxText    = 1024 // bytes in a one-line text
	maxName    = 256  // bytes in a container's name or a destination's path
	maxClients = 64   // clients listed in a Stat
	maxOps     = 48   // kinds of requests in a Reply
	maxOpName  = 32   // bytes in the name of one
)

// Config tells a gofer what to serve. It is the first message on FDControl.
type Config struct {
	Version int `json:"version"`
	// Volume is what volume.json says.
	Volume attach.Info `json:"volume"`
	// StableIno is set when the FS server's inode numbers identify files.
	StableIno bool `json:"stableIno,omitempty"`
	// NodePerName is set when the FS server has a node for each name of a file.
	NodePerName bool `json:"nodePerName,omitempty"`
	// ListsXattrs is set when the FS server lists all extended attributes it has.
	ListsXattrs bool `json:"listsXattrs,omitempty"`
	// ParallelDirops is set when the FS server takes several requests for one
	// directory at a time, whatever it says.
	ParallelDirops bool `json:"parallelDirops,omitempty"`
	// MaxRead is the largest read in bytes to ask the FS server for; 0 means any.
	MaxRead int `json:"maxRead,omitempty"`
	// WriteBack is set when writes may be acknowledged before the FS server has
	// them; only an exclusive volume that is not read-only can do that.
	WriteBack bool `json:"writeBack,omitempty"`
	// KeepsWrites is set when writes that the file system has acknowledged are not
	// lost with the gofer, nor with an FS server that ends without order.
	KeepsWrites bool `json:"keepsWrites,omitempty"`
	// InProcess is "dir", "mem", "zip" or "tar" for a file system inside the gofer,
	// and empty when an FS server is at the other end of FDChannel.
	InProcess string `json:"inProcess,omitempty"`
	// Source is the path of the in-process file system's source in the gofer's
	// root; empty when it has none.
	Source string `json:"source,omitempty"`
	// Binds are the host paths that the gofer makes part of its root before it
	// gives up everything else.
	Binds []Bind `json:"binds,omitempty"`
	// Listen says where guests come from; the sockets are at FDGuests.
	Listen []listen.Spec `json:"listen,omitempty"`
	// Windows is how many Requests with OpWindow follow the Config at once, which
	// are not answered.
	Windows int `json:"windows,omitempty"`
	// Options are the appliance's options for an in-process file system.
	Options map[string]string `json:"options,omitempty"`
	// CacheLimit is what the buffer cache may take to begin with, in bytes.
	CacheLimit int64 `json:"cacheLimit"`
	// ReportIdle asks for a Reply with Idle whenever the last client has gone.
	ReportIdle bool `json:"reportIdle,omitempty"`
	// InitTimeoutMs is the deadline for FUSE INIT.
	InitTimeoutMs int64 `json:"initTimeoutMs"`
	// LogLevel is a slog level: "DEBUG", "INFO", "WARN" or "ERROR".
	LogLevel string `json:"logLevel,omitempty"`
}

// Bind is one host path in the gofer's root.
type Bind struct {
	Host     string `json:"host"`
	Target   string `json:"target"` // absolute, in the gofer's root
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Op names what the supervisor asks for.
type Op string

const (
	// OpStat asks for a Stat.
	OpStat Op = "stat"
	// OpRPCs, OpGuests and OpFUSE ask for Reply.Ops: the requests of sandboxes by
	// lisafs' names, and those of guests and to the FS server by FUSE's. All at
	// once would not fit.
	OpRPCs   Op = "rpcs"
	OpGuests Op = "guests"
	OpFUSE   Op = "fuse"
	// OpCacheLimit sets the limit of the buffer cache to Request.Bytes and asks
	// for Reply.Cache, as it is then.
	OpCacheLimit Op = "cache-limit"
	// OpWindow gives the gofer the window Request.Window, whose descriptor is
	// Request.Memory, and OpWindowGone says that its hypervisor is gone.
	OpWindow     Op = "window"
	OpWindowGone Op = "window-gone"
	// OpStop ends the service: the gofer stops accepting, closes what clients
	// have open so that it is flushed, sends DESTROY, replies and exits.
	OpStop Op = "stop"
)

// Request is a message from the supervisor.
type Request struct {
	ID    uint64 `json:"id"` // never 0
	Op    Op     `json:"op"`
	Bytes int64  `json:"bytes,omitempty"` // of OpCacheLimit
	// Window is that of OpWindow and OpWindowGone.
	Window *Window `json:"window,omitempty"`
	// Memory is what came with OpWindow, or is to be sent with it; nil for other
	// requests. The receiver owns it, the sender keeps it.
	Memory *os.File `json:"-"`
}

// Window is memory that the gofer shares with one guest.
type Window struct {
	ID   window.ID `json:"id"`
	Size int64     `json:"size"` // in bytes
}

// Reply is a message from the gofer. At most one of the pointers, the map and the
// texts is set; a Reply to OpWindow, OpWindowGone or OpStop has only its ID, or an
// Error; to OpStop, when not everything could be flushed.
type Reply struct {
	ID    uint64 `json:"id,omitempty"`
	Ready *Ready `json:"ready,omitempty"`
	Stat  *Stat  `json:"stat,omitempty"`
	Cache *Cache `json:"cache,omitempty"`
	// Ops is absent when there were no requests.
	Ops map[string]latency.Op `json:"ops,omitempty"`
	// Error is why the service could not start (ID 0, before Ready) or why a
	// request failed. One line.
	Error string `json:"error,omitempty"`
	// Failed is why the file system can no longer be used: the FS server is
	// gone, or it misbehaved. One line, ID 0, sent at most once, after Ready.
	Failed string `json:"failed,omitempty"`
	// Idle says that the last client has gone; ID 0. There may be another by now.
	Idle bool `json:"idle,omitempty"`
}

// Ready says that clients can attach.
type Ready struct {
	FuseMinor uint32 `json:"fuseMinor,omitempty"` // negotiated; 0 in process
	MaxWrite  uint32 `json:"maxWrite,omitempty"`
	MaxRead   uint32 `json:"maxRead,omitempty"`
	Cache     bool   `json:"cache,omitempty"` // the volume has a buffer cache
}

// Stat is a gofer's account of itself.
type Stat struct {
	// Clients counts the attached sandboxes and guests, Guests the latter.
	// Attached lists the first of all.
	Clients  int      `json:"clients"`
	Guests   int      `json:"guests,omitempty"`
	Attached []Client `json:"attached,omitempty"`
	// Windows counts the windows that guests' hypervisors have, WindowsUsed those
	// that connections use.
	Windows     int `json:"windows,omitempty"`
	WindowsUsed int `json:"windowsUsed,omitempty"`
	// Attaches counts attaches since the start, Refused those refused.
	Attaches uint64 `json:"attaches"`
	Refused  uint64 `json:"refused"`

	// Requests and the rest count messages on the FUSE channel.
	Requests   uint64 `json:"requests"`
	Replies    uint64 `json:"replies"`
	Notifies   uint64 `json:"notifies"`
	BadReplies uint64 `json:"badReplies"`
	InFlight   uint64 `json:"inFlight"`
	BytesRead  uint64 `json:"bytesRead"`
	BytesWrite uint64 `json:"bytesWritten"`

	// Cache is the buffer cache's account; nil when the volume has none.
	Cache *Cache `json:"cache,omitempty"`

	// OpenFDs and Goroutines make leaks visible.
	OpenFDs    int `json:"openFds,omitempty"`
	Goroutines int `json:"goroutines,omitempty"`
}

// Cache is an account of the buffer cache. Sizes are in bytes.
type Cache struct {
	Limit        int64  `json:"limit"` // in force now
	Resident     int64  `json:"resident"`
	Donated      int64  `json:"donated"` // of Resident, in clients' hands
	Dirty        int64  `json:"dirty"`   // of Resident, not yet at the FS server
	Files        int    `json:"files"`
	DonatedFiles int    `json:"donatedFiles"`
	Hits         uint64 `json:"hits"`   // reads answered without a request
	Misses       uint64 `json:"misses"` // and with one
	Fills        uint64 `json:"fills"`  // requests for data
	BytesFilled  uint64 `json:"bytesFilled"`
	Evictions    uint64 `json:"evictions"`
	Donations    uint64 `json:"donations"` // descriptors handed to clients
}

// Client is one attached sandbox or guest.
type Client struct {
	// Container and Destination are of a sandbox, Guest and Via of a guest: who it
	// is, and which listener it came to.
	Container   string `json:"container,omitempty"`
	Destination string `json:"destination,omitempty"`
	Guest       string `json:"guest,omitempty"`
	Via         string `json:"via,omitempty"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	Since       int64  `json:"since"` // Unix seconds
}

// check reports why the supervisor cannot be understood.
func (c *Config) check() error {
	if c.Version != Version {
		return fmt.Errorf("config version %d, want %d: the gofer and the supervisor are different builds", c.Version, Version)
	}
	for _, b := range c.Binds {
		if !strings.HasPrefix(b.Host, "/") || !strings.HasPrefix(b.Target, "/") {
			return fmt.Errorf("bind %q on %q: paths must be absolute", b.Host, b.Target)
		}
	}
	if len(c.Listen) > listen.Max {
		return fmt.Errorf("%d listeners, the most is %d", len(c.Listen), listen.Max)
	}
	if c.Windows < 0 || c.Windows > window.MaxWindows {
		return fmt.Errorf("%d windows, the most is %d", c.Windows, window.MaxWindows)
	}
	return nil
}

// sanitize makes a Reply fit to be shown and stored: its texts are one
// printable line each and bounded. It reports what cannot be repaired.
func (r *Reply) sanitize() error {
	set := 0
	for _, is := range []bool{r.Ready != nil, r.Stat != nil, r.Cache != nil, r.Ops != nil, r.Error != "", r.Failed != "", r.Idle} {
		if is {
			set++
		}
	}
	if set > 1 {
		return fmt.Errorf("reply %d says %d things at once", r.ID, set)
	}
	r.Error = Line(r.Error, maxText)
	r.Failed = Line(r.Failed, maxText)
	if err := checkOps(r.Ops); err != nil {
		return fmt.Errorf("reply %d: %w", r.ID, err)
	}
	if !r.Cache.ok() || r.Stat != nil && !r.Stat.Cache.ok() {
		return fmt.Errorf("reply %d has a cache of a negative size", r.ID)
	}
	if s := r.Stat; s != nil {
		if min(s.Clients, s.Guests, s.Windows, s.WindowsUsed, s.OpenFDs, s.Goroutines) < 0 {
			return fmt.Errorf("reply %d has a negative count", r.ID)
		}
		*s = s.Bound()
	}
	return nil
}

// ok reports whether a cache, if there is one, can be as it says.
func (c *Cache) ok() bool {
	return c == nil || min(c.Limit, c.Resident, c.Donated, c.Dirty, int64(c.Files), int64(c.DonatedFiles)) >= 0
}

// checkOps refuses what is not an account of requests.
func checkOps(ops map[string]latency.Op) error {
	if len(ops) > maxOps {
		return fmt.Errorf("%d kinds of requests", len(ops))
	}
	for name, op := range ops {
		if name == "" || name != Line(name, maxOpName) {
			return fmt.Errorf("a kind of request is called %.64q", name)
		}
		if len(op.Latency.Buckets) > latency.MaxBuckets {
			return fmt.Errorf("the histogram of %s has %d buckets", name, len(op.Latency.Buckets))
		}
	}
	return nil
}

// Bound returns s with at most as many clients listed as a Reply may hold, and
// with their names made fit to be shown and cut to size.
func (s Stat) Bound() Stat {
	s.Attached = append([]Client(nil), s.Attached[:min(len(s.Attached), maxClients)]...)
	for i := range s.Attached {
		c := &s.Attached[i]
		for _, text := range []*string{&c.Container, &c.Destination, &c.Guest, &c.Via} {
			*text = Line(*text, maxName)
		}
	}
	return s
}

// Line returns s as one printable line of at most limit bytes: control and
// invalid characters become spaces or '?', a cut end is marked by "...".
func Line(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			r = ' '
		case r == utf8.RuneError || r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r)+len("...") > limit {
			b.WriteString("...")
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
