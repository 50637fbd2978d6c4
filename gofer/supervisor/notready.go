// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// notReady is the error of a volume that an FS server or a gofer says text about
// instead of being ready. It names the source, and files as they are called here
// and not in the root of whoever speaks.
func (v *volume) notReady(text string) error {
	hosts := map[string]string{}
	for _, b := range v.cfg.Gofer.Binds {
		hosts[b.Target] = b.Host
	}
	if v.cfg.Server != nil {
		for _, b := range v.cfg.Server.Binds {
			hosts[b.Target] = b.Host
		}
	}
	text = hostPaths(text, hosts)
	if v.cfg.Source == "" {
		return errors.New(text)
	}
	return fmt.Errorf("source %s: %s", v.cfg.Source, text)
}

// absolutePath matches an absolute path, and what is before it.
var absolutePath = regexp.MustCompile(`(^|[^\w./-])(/[^\s'",;:()]+)`)

// hostPaths replaces the beginnings of paths in text: hosts has what to put in the
// place of each.
func hostPaths(text string, hosts map[string]string) string {
	return absolutePath.ReplaceAllStringFunc(text, func(match string) string {
		slash := strings.IndexByte(match, '/')
		before, path := match[:slash], match[slash:]
		path = strings.TrimRight(path, ".") // the end of a sentence
		rest := match[slash+len(path):]
		// The longest one that is the path, or a directory that it goes through.
		for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '/') {
			if host, ok := hosts[path[:end]]; ok {
				return before + host + path[end:] + rest
			}
		}
		return match
	})
}
