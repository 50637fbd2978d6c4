// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fsserver

import (
	"errors"
	"os"
	"path/filepath"
)

// hostDirs are what a program needs of a machine's root to run at all.
var hostDirs = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/opt"}

// hostEtc are the parts of /etc that programs need. It is a list of what to
// show: /etc also holds password hashes and private keys, and an FS server runs
// as uid 0.
var hostEtc = []string{
	"alternatives", "bindresvport.blacklist", "ca-certificates", "ca-certificates.conf",
	"default/locale", "ethertypes", "fuse.conf", "gai.conf", "group", "host.conf", "hosts",
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "locale.alias", "locale.conf",
	"magic", "mime.types", "mke2fs.conf", "netconfig", "networks", "nsswitch.conf",
	"os-release", "passwd", "pki/ca-trust", "pki/tls/certs", "protocols", "resolv.conf",
	"rpc", "services", "ssh/ssh_config", "ssh/ssh_config.d", "ssh/ssh_known_hosts",
	"ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone",
}

// bindHost shows those parts of this machine's root.
func (t *tree) bindHost(hide []string) error {
	for _, dir := range hostDirs {
		if err := t.show(dir, dir, hide); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, name := range hostEtc {
		p := filepath.Join("/etc", name)
		// Often a link out of /etc, as resolv.conf to /run: the file itself is
		// what the server needs.
		real, err := filepath.EvalSymlinks(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := t.show(real, p, hide); err != nil {
			return err
		}
	}
	return nil
}
