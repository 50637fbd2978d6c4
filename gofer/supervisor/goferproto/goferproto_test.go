// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package goferproto

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fsva/gofer/attach"
	"fsva/gofer/latency"
	"fsva/gofer/listen"
	"fsva/gofer/window"
)

func pair(t *testing.T) (sup, gofer *Conn) {
	t.Helper()
	a, b, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	if sup, err = NewConn(a); err != nil {
		t.Fatal(err)
	}
	if gofer, err = NewConn(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sup.Close(); gofer.Close() })
	return sup, gofer
}

func testConfig() Config {
	return Config{
		Version:       Version,
		Volume:        attach.Info{Version: 1, Name: "v", Appliance: "dir", Coherence: "shared"},
		InProcess:     "dir",
		Source:        "/source",
		Binds:         []Bind{{Host: "/srv/x", Target: "/source", ReadOnly: true}},
		Options:       map[string]string{"a": "b"},
		Listen:        []listen.Spec{{Kind: "vhost-user-vsock", Path: "/run/x", Port: 1, CIDs: []uint32{3}}},
		InitTimeoutMs: 30000,
		LogLevel:      "INFO",
	}
}

func TestConversation(t *testing.T) {
	sup, gofer := pair(t)
	cfg := testConfig()
	if err := sup.SendConfig(cfg); err != nil {
		t.Fatal(err)
	}
	got, err := gofer.RecvConfig()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(cfg, got); d != "" {
		t.Errorf("config changed on the way (-sent +got):\n%s", d)
	}

	var clients []Client
	for range 10 * maxClients {
		clients = append(clients, Client{Container: strings.Repeat("\n<", 2000), Destination: "/data"})
	}
	for _, r := range []Reply{
		{Ready: &Ready{FuseMinor: 31, MaxWrite: 1 << 20}},
		{ID: 7, Stat: &Stat{Clients: len(clients), Attached: clients}},
		{ID: 8},
		{Failed: strings.Repeat("two\nlines ", 1000)},
	} {
		if err := gofer.SendReply(r); err != nil {
			t.Fatal(err)
		}
		got, err := sup.RecvReply()
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != r.ID || (got.Ready == nil) != (r.Ready == nil) {
			t.Errorf("got %+v, want %+v", got, r)
		}
		if s := got.Stat; s != nil && (s.Clients != len(clients) || len(s.Attached) != maxClients) {
			t.Errorf("stat counts %d clients and lists %d", s.Clients, len(s.Attached))
		}
		if strings.Contains(got.Failed, "\n") || len(got.Failed) > maxText {
			t.Errorf("text is not one bounded line: %d bytes", len(got.Failed))
		}
	}

	if err := sup.SendRequest(Request{ID: 1, Op: OpStop}); err != nil {
		t.Fatal(err)
	}
	if r, err := gofer.RecvRequest(); err != nil || r != (Request{ID: 1, Op: OpStop}) {
		t.Errorf("request: %+v, %v", r, err)
	}
	sup.Close()
	if _, err := gofer.RecvRequest(); err != io.EOF {
		t.Errorf("after close: %v, want io.EOF", err)
	}
}

// A descriptor comes with its request, and with no other.
func TestMemory(t *testing.T) {
	sup, gofer := pair(t)
	memory, id, err := window.Create(window.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for _, r := range []Request{
		{ID: 1, Op: OpStat},
		{ID: 2, Op: OpWindow, Window: &Window{ID: id, Size: window.MinSize}, Memory: memory},
		{ID: 3, Op: OpWindowGone, Window: &Window{ID: id, Size: window.MinSize}},
	} {
		if err := sup.SendRequest(r); err != nil {
			t.Fatal(err)
		}
		got, err := gofer.RecvRequest()
		if err != nil {
			t.Fatal(err)
		}
		if (got.Memory != nil) != (r.Memory != nil) {
			t.Fatalf("%s came with %v", r.Op, got.Memory)
		}
		if got.Memory != nil {
			var s window.Set
			if err := s.Add(int(got.Memory.Fd()), got.Window.ID, got.Window.Size); err != nil {
				t.Errorf("what came is not the window: %v", err)
			}
			if _, err := s.Claim(id); err != nil {
				t.Errorf("the window's ID changed on the way: %v", err)
			}
			got.Memory.Close()
		}
		got.Memory, r.Memory = nil, nil
		if d := cmp.Diff(r, got); d != "" {
			t.Errorf("request changed on the way (-sent +got):\n%s", d)
		}
	}
}

func TestOldConfigIsRefused(t *testing.T) {
	sup, gofer := pair(t)
	cfg := testConfig()
	cfg.Version++
	if err := sup.SendConfig(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := gofer.RecvConfig(); err == nil || !strings.Contains(err.Error(), "different builds") {
		t.Errorf("got %v", err)
	}
}

func TestReadDeadline(t *testing.T) {
	sup, _ := pair(t)
	sup.SetReadDeadline(time.Now())
	if _, err := sup.RecvReply(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}

func TestMalformedReplies(t *testing.T) {
	for name, msg := range map[string]string{
		"not json":         "hello",
		"array":            "[]",
		"null":             "null",
		"two objects":      `{"id":1}{"id":2}`,
		"unknown field":    `{"id":1,"x":1}`,
		"two things":       `{"error":"a","failed":"b"}`,
		"negative":         `{"id":1,"stat":{"clients":-1,"attaches":0,"refused":0}}`,
		"negative cache":   `{"id":1,"cache":{"limit":1,"resident":-1}}`,
		"negative limit":   `{"id":1,"stat":{"cache":{"limit":-1}}}`,
		"nameless request": `{"id":1,"ops":{"":{}}}`,
		"odd request":      `{"id":1,"ops":{"READ\n":{}}}`,
		"many requests":    `{"id":1,"ops":{` + manyOps(maxOps+1) + `}}`,
		"long histogram":   `{"id":1,"ops":{"READ":{"latency":{"buckets":[[1,1]` + strings.Repeat(",[1,1]", 26) + `]}}}}`,
		"too long":         `{"error":"` + strings.Repeat("x", MaxMessage) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			sup, gofer := pair(t)
			if _, err := gofer.f.Write([]byte(msg)); err != nil {
				t.Fatal(err)
			}
			if r, err := sup.RecvReply(); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v, want ErrMalformed", r, err)
			}
		})
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                 "plain",
		" a\nb\t\x1b[31mc\x00 ": "a b ?[31mc?",
		"\xff\u202e":            "??",
		"0123456789abcdef":      "0123456...",
	} {
		if got := Line(in, 10); len(in) == 16 && got != want {
			t.Errorf("Line(%q, 10) = %q, want %q", in, got, want)
		} else if got := Line(in, 100); len(in) != 16 && got != want {
			t.Errorf("Line(%q, 100) = %q, want %q", in, got, want)
		}
	}
}

func manyOps(n int) string {
	var ops []string
	for i := range n {
		ops = append(ops, fmt.Sprintf(`"R%d":{}`, i))
	}
	return strings.Join(ops, ",")
}

// The largest account of requests there can be fits into a message.
func TestLargestOps(t *testing.T) {
	full := latency.Summary{Count: math.MaxUint64, SumNs: math.MaxUint64, P50Ns: math.MaxUint64, P90Ns: math.MaxUint64, P99Ns: math.MaxUint64, MaxNs: math.MaxUint64}
	for range latency.MaxBuckets {
		full.Buckets = append(full.Buckets, [2]uint64{1 << 24, math.MaxUint64})
	}
	r := Reply{ID: math.MaxUint64, Ops: map[string]latency.Op{}}
	for i := range maxOps {
		name := fmt.Sprint(i)
		r.Ops[strings.Repeat("x", maxOpName-len("...")-len(name))+name] = latency.Op{Requests: math.MaxUint64, Errors: math.MaxUint64, Latency: full}
	}
	sup, gofer := pair(t)
	if err := gofer.SendReply(r); err != nil {
		t.Fatal(err)
	}
	got, err := sup.RecvReply()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Errorf("changed on the way (-sent +got):\n%s", d)
	}
}

// FuzzReply checks that whatever a gofer sends is refused or made harmless.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"ready":{"fuseMinor":31}}`))
	f.Add([]byte(`{"id":3,"stat":{"clients":1,"attached":[{"container":"c","destination":"/d","since":1}]}}`))
	f.Add([]byte(`{"failed":"\u001b[2J"}`))
	f.Add([]byte(`{"id":4,"cache":{"limit":5,"resident":4,"donated":3}}`))
	f.Add([]byte(`{"id":5,"ops":{"READ":{"requests":2,"latency":{"count":1,"maxNs":3,"buckets":[[1,1]]}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reply
		if decode(b, &r) != nil || r.sanitize() != nil {
			return
		}
		for _, s := range []string{r.Error, r.Failed} {
			if len(s) > maxText || strings.ContainsAny(s, "\n\r\x00\x1b") {
				t.Errorf("unsafe text %q", s)
			}
		}
		if r.Stat != nil && len(r.Stat.Attached) > maxClients {
			t.Errorf("%d clients listed", len(r.Stat.Attached))
		}
		for name := range r.Ops {
			if len(name) > maxOpName || strings.ContainsAny(name, "\n\r\x00\x1b") {
				t.Errorf("unsafe name %q", name)
			}
		}
	})
}
