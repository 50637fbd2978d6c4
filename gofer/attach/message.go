// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The values of Request.Op.
const (
	// OpCheck asks whether an attach would be accepted now.
	OpCheck = "check"
	// OpAttach hands over a lisafs socket.
	OpAttach = "attach"
)

// Bounds of the texts in messages; paths on Linux are below 4096 bytes.
const (
	maxContainer   = 1024
	maxDestination = 4096
	maxRefusal     = 1024
)

// Request is what runsc asks of a gofer.
type Request struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
	// Container is the container's id, for messages and `fsva stat`.
	Container string `json:"container"`
	// Destination is where the container sees the volume.
	Destination string `json:"destination"`
	// ReadOnly reports whether this client only reads.
	ReadOnly bool `json:"readOnly"`
	// Descriptors is how many descriptors of file data this client's sandbox has
	// room for. The gofer hands it no more at a time.
	Descriptors int `json:"descriptors"`
}

// reply answers a Request; an empty Error accepts.
type reply struct {
	Error string `json:"error"`
}

// encodeLine returns v as one line.
func encodeLine(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(data)+1 > maxLine {
		return nil, protocolErrorf("message of %d bytes is too long", len(data))
	}
	return append(data, '\n'), nil
}

// decodeRequest decodes one request line, its newline included.
func decodeRequest(line []byte) (Request, error) {
	var r Request
	if err := decodeLine(line, &r); err != nil {
		return Request{}, err
	}
	switch {
	case r.Version != Version:
		return Request{}, protocolErrorf("request version %d, this gofer speaks version %d", r.Version, Version)
	case r.Op != OpCheck && r.Op != OpAttach:
		return Request{}, protocolErrorf("unknown request %.32q", r.Op)
	case len(r.Container) > maxContainer:
		return Request{}, protocolErrorf("container id of %d bytes", len(r.Container))
	case len(r.Destination) > maxDestination:
		return Request{}, protocolErrorf("destination of %d bytes", len(r.Destination))
	case r.Descriptors < 0:
		return Request{}, protocolErrorf("room for %d descriptors", r.Descriptors)
	}
	return r, nil
}

// decodeReply decodes one reply line, its newline included, to nil or the
// gofer's *RefusedError.
func decodeReply(line []byte) error {
	var r reply
	if err := decodeLine(line, &r); err != nil {
		return err
	}
	if r.Error == "" {
		return nil
	}
	return &RefusedError{Text: cleanText(r.Error)}
}

func decodeLine(line []byte, v any) error {
	if i := bytes.IndexByte(line, '\n'); i != len(line)-1 || len(line) > maxLine {
		return protocolErrorf("not one line of at most %d bytes", maxLine)
	}
	if err := decodeStrict(line, v); err != nil {
		return protocolErrorf("bad message: %.200v", err)
	}
	return nil
}

// cleanText returns s as one printable line of bounded length: it goes to
// terminals and logs.
func cleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxRefusal {
		s = strings.ToValidUTF8(s[:maxRefusal], "")
	}
	if s = strings.TrimSpace(s); s == "" {
		return "refused without a reason"
	}
	return s
}
